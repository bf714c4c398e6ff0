"""Days of stays side by side: what is decoded here is what Arrow decodes, whatever the file; and damage is told."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from travelcard import parquet, walk
from travelcard.errors import InputError
from travelcard.schema import STAYS

LOCAL = pa.fs.LocalFileSystem()
PLACES = [f"{n:06d}" for n in range(110000, 110300)]
EVERYTHING = ["subscriber", "place", "arrive", "depart", "inner"]


def stays(dice: random.Random, rows: int, *, text: bool = False, far: int = 1 << 34) -> pa.Table:
    """A day, sorted, with its places as a dictionary of its own."""
    who = sorted(dice.randrange(far) for _ in range(rows))
    names = sorted(f"{one}号" for one in who)
    arrive = [dice.randrange(0, 86_400) * 1_000_000 for _ in range(rows)]
    few = dice.sample(PLACES, dice.randrange(1, 200))
    columns = {
        "subscriber": pa.array(names if text else who),
        "place": pa.DictionaryArray.from_arrays(pa.array([dice.randrange(len(few)) for _ in who], pa.int16()), few),
        "arrive": arrive,
        "depart": [at + dice.randrange(0, 10_000) * 1_000_000 for at in arrive],
        "pings": [dice.randrange(1, 1000) for _ in who],
        "inner": [dice.randrange(0, 1000) for _ in who],
    }
    schema = STAYS.arrow(ids=pa.string() if text else pa.int64())
    return pa.table(columns).cast(schema.set(1, pa.field("place", columns["place"].type)))


def written(path: Path, table: pa.Table) -> None:
    parquet.write(str(path), STAYS, table, None, ids=table["subscriber"].type, filesystem=LOCAL)


def walked(paths: list[Path], rows: int, *, ids: pa.DataType, inner: bool) -> list[list[list[tuple]]]:
    """Of each range the rows of each day; and that no row is out of its range."""
    found = []
    with ExitStack() as stack:
        days = []
        for path in paths:
            with parquet.naming("stays", path.name):
                file = stack.enter_context(parquet.opened(str(path), STAYS, LOCAL, ["place"]))
                raw = stack.enter_context(LOCAL.open_input_file(str(path)))
                days.append(walk.Day(path.name, parquet.Footer.of(file), raw))
        for low, high, runs in walk.walked(days, rows, ids, inner=inner):
            who = runs.ids if runs.names is None else np.array(runs.names.to_pylist(), object)[runs.ids]
            place = np.array(runs.codes, object)[runs.place] if len(runs.codes) else []
            columns = [who, place, runs.arrive, runs.depart, *([runs.inner] if inner else [])]
            every = list(zip(*(np.asarray(column).tolist() for column in columns), strict=True))
            parts = [every[a:b] for a, b in zip(runs.begins.tolist(), runs.ends.tolist(), strict=True)]
            assert all(
                (low is None or row[0] >= low) and (high is None or row[0] < high) for part in parts for row in part
            )
            found.append(parts)
    return found


def rows_of(table: pa.Table, *, inner: bool) -> list[tuple]:
    plain = table.select(EVERYTHING if inner else EVERYTHING[:-1])
    columns = [
        column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in plain.itercolumns()
    ]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def no_arrow(*_: object) -> None:
    raise AssertionError("a file as the store writes it was left to Arrow")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), days=st.integers(0, 4), group=st.sampled_from([1, 7, 8_000]),
    rows=st.sampled_from([1, 20, 1 << 19]), kind=st.sampled_from(["pages", "arrow", "text"]), inner=st.booleans(),
)  # fmt: skip
def test_every_row_of_every_day_comes_once_in_its_range(tmp_path_factory, seed, days, group, rows, kind, inner):
    dice, folder, text = random.Random(seed), tmp_path_factory.mktemp("days"), kind == "text"
    tables = [stays(dice, dice.randrange(0, 150), text=text, far=dice.choice([30, 1 << 34])) for _ in range(days)]
    paths = [folder / f"{d}.parquet" for d in range(days)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parquet.GROUP, "stays", group)
        if kind == "pages":
            patch.setattr(walk.Day, "_left_to_arrow", no_arrow)
        elif kind == "arrow":
            patch.setattr(walk.Day, "_decoded", lambda *_: False)
        for path, table in zip(paths, tables, strict=True):
            written(path, table)
        ids = pa.string() if text else pa.int64()
        found = walked(paths, rows, ids=ids, inner=inner)
    for day, table in enumerate(tables):
        assert [row for parts in found for row in parts[day]] == rows_of(table, inner=inner)
    if rows == 1 and group == 1:
        assert len(found) >= max(1, len({low for table in tables for low in table["subscriber"].to_pylist()}))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False, ["place"], ["subscriber"]])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", {"place": "zstd"}])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("nullable", [False, True])
def test_a_file_that_others_have_written_anew_holds_the_same(tmp_path, version, dictionary, codec, delta, nullable):
    """With pages and row groups that end where they like."""
    dice, path = random.Random(3), tmp_path / "0.parquet"
    table = stays(dice, 3_000).cast(STAYS.arrow())
    fields = [field.with_nullable(nullable) for field in table.schema]
    numbers = [name for name in table.schema.names if name != "place"]
    coded = set(table.schema.names if dictionary is True else dictionary or [])
    with pq.ParquetWriter(
        path, pa.schema(fields), compression=codec, data_page_version=version, use_dictionary=sorted(coded) or False,
        column_encoding=dict.fromkeys(set(numbers) - coded, "DELTA_BINARY_PACKED") if delta else None,
        data_page_size=400, write_batch_size=64,
    ) as file:  # fmt: skip
        for at in range(0, 3_000, 700):
            file.write_table(table.slice(at, 700).cast(pa.schema(fields)), row_group_size=300)
    found = walked([path], 500, ids=pa.int64(), inner=True)
    assert [row for parts in found for row in parts[0]] == rows_of(table, inner=True)


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 1 << 50) | st.integers(0, 9), min_size=1),
    seed=st.integers(0, 1 << 32), rows=st.integers(1, 600),
)  # fmt: skip
def test_differences_are_summed_as_arrow_does_or_left_to_it(tmp_path_factory, values, seed, rows):
    dice, path = random.Random(seed), tmp_path_factory.mktemp("summed") / "0.parquet"
    who = np.sort(np.array([dice.choice(values) for _ in range(rows)], np.int64))
    table = stays(dice, rows).set_column(0, STAYS.arrow().field(0), pa.array(who))
    written(path, table)
    assert walked([path], 1 << 19, ids=pa.int64(), inner=True) == [[rows_of(table, inner=True)]]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("group", [50, 8_000])
def test_a_bit_that_turned_over_is_told_or_changes_nothing(tmp_path, group, text, monkeypatch):
    """Any bit of a file's pages and their headers."""
    monkeypatch.setitem(parquet.GROUP, "stays", group)
    dice, path = random.Random(5), tmp_path / "0.parquet"
    table = stays(dice, 200, text=text)
    written(path, table)
    sound, told = path.read_bytes(), 0
    pages = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    for bit in dice.sample(range(8 * pages), 3_000):
        raw = bytearray(sound)
        raw[bit >> 3] ^= 1 << (bit & 7)
        path.write_bytes(raw)
        try:
            found = walked([path], 60, ids=pa.string() if text else pa.int64(), inner=True)
        except InputError as error:
            assert str(error).startswith("stays/0.parquet is gone or damaged")  # noqa: PT017  either is right
            told += 1
        else:
            assert [row for parts in found for row in parts[0]] == rows_of(table, inner=True)
    assert told > 1_500
