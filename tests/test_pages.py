"""Parquet pages decoded by ourselves: what Arrow reads of them, and of damaged ones one refusal and no crash."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import gettempdir

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nights import short_chunks

from travelcard.buckets import Arena, gather, ranked, together
from travelcard.decode import Block
from travelcard.engine import Hand, packing_of
from travelcard.errors import InputError
from travelcard.ingest import LOST, QUARTERS
from travelcard.kernel import Room
from travelcard.locations import sieve
from travelcard.pages import Desk
from travelcard.scatter import LANES
from travelcard.sources import Piece, Reading, joined, pieces_of

READING = Reading(columns={"subscriber": "who"}, time_unit="s")


class OneCell:
    """An inventory of a cell that no ping names."""

    def dated(self, _: date) -> tuple[pa.Table, np.ndarray]:
        return pa.table({"cell": [1 << 60], "place": ["330100"], "inner": [False]}), np.ones(1, np.bool_)


SIEVE = sieve(date(1999, 1, 1), cells=OneCell(), places=None, tz="UTC")
WORDS = ["46000", "310260", "", "越南", "x" * 300]


def table(dice: random.Random, rows: int, *, text: bool, required: bool, times: pa.DataType) -> pa.Table:
    """Pings of few or many numbers and cells, some of them missing in each column."""
    gap = 0 if required else dice.choice([0, 0.01, 0.5, 1])
    few = dice.choice([1, 3, 1000, 1 << 40])

    def column(values: list, kind: pa.DataType) -> pa.Array:
        return pa.array([None if dice.random() < gap else value for value in values], kind)

    ids = [dice.randrange(few) - dice.choice([0, 0, 2]) for _ in range(rows)]
    return pa.table(
        [
            column([f"{i}号" for i in ids] if text else ids, pa.string() if text else pa.int64()),
            column([dice.randrange(1 << 50) for _ in range(rows)], times),
            column([dice.randrange(few) for _ in range(rows)], pa.int64()),
            column([dice.choice(WORDS) for _ in range(rows)], pa.string()),
        ],
        pa.schema(
            [
                pa.field("who", pa.string() if text else pa.int64(), not required),
                pa.field("time", times, not required),
                pa.field("cell", pa.int64(), not required),
                pa.field("plmn", pa.string(), not required),
            ]
        ),
    )


def left_over(block: Block, desk: Desk) -> dict[str, pa.Array]:
    """Every row of a block, put aside, since no cell is known: the columns under the file's names."""
    with Arena(1, 1 << 20, block.rows, None, len(SIEVE.codes), Path(gettempdir())) as arena:
        quarters = np.zeros((LANES, QUARTERS), np.int64)
        rest = list(arena.put_block(block, 1, SIEVE, 0, quarters, desk))
    assert not quarters.any()
    whole = joined(rest)
    assert whole.at.tolist() == list(range(block.row, block.row + block.rows))
    return {"who" if name == "subscriber" else name: column for name, column in whole.columns.items()}


def same(path: Path) -> bool:
    """Whether all row groups are decoded as Arrow reads them; a desk is used again."""
    desk, pieces = Desk(), pieces_of(path, READING)
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(g) for g in range(file.num_row_groups)]
    return all(
        column.equals(group[name].combine_chunks().cast(column.type))
        for group, piece in zip(groups, pieces, strict=True)
        for name, column in left_over(piece.block(desk), desk).items()
    )


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), rows=st.integers(1, 3000), text=st.booleans(), required=st.booleans(),
    codec=st.sampled_from(["none", "snappy", "zstd"]), version=st.sampled_from(["1.0", "2.0"]),
    dictionary=st.sampled_from([False, True, ["cell", "plmn"]]), limit=st.sampled_from([1, 200, 1 << 20]),
    page=st.sampled_from([64, 1000, 1 << 20]), group=st.integers(1, 3000), checksum=st.booleans(),
    times=st.sampled_from([pa.int64(), pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.timestamp("ms", "Asia/Tokyo")])
)  # fmt: skip
def test_what_arrow_writes_is_decoded_as_arrow_reads_it(
    tmp_path_factory, seed, rows, text, required, codec, version, dictionary, limit, page, group, checksum, times
):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    made = table(random.Random(seed), rows, text=text, required=required, times=times)
    pq.write_table(
        made, path, row_group_size=group, compression=codec, data_page_version=version, use_dictionary=dictionary,
        dictionary_pagesize_limit=limit, data_page_size=page, write_page_checksum=checksum, write_batch_size=50,
    )  # fmt: skip
    assert same(path)


class SomeCells:
    """An inventory of cells in two cities and in none."""

    def dated(self, _: date) -> tuple[pa.Table, np.ndarray]:
        places = pa.array(["330100", "310000", None] * 10)
        return pa.table({"cell": range(30), "place": places, "inner": [True, False] * 15}), np.ones(30, np.bool_)


NOON_SIEVE = sieve(date(2022, 3, 14), cells=SomeCells(), places=None, tz="UTC")


def day_of(dice: random.Random, rows: int, *, text: bool) -> pa.Table:
    """Pings round a day, of cells that are known, not known or missing, and of countries."""
    gap = dice.choice([0, 0.01, 0.5])
    few = dice.choice([3, 300])

    def column(kind: pa.DataType, one) -> pa.Array:
        return pa.array([None if dice.random() < gap else one() for _ in range(rows)], kind)

    name = (lambda: f"{dice.randrange(few)}号") if text else lambda: dice.randrange(few) - dice.choice([0, 0, 0, 1])
    return pa.table(
        {
            "who": column(pa.string() if text else pa.int64(), name),
            "time": column(pa.int64(), lambda: NOON_SIEVE.start + dice.randrange(-600, 87_000)),
            "cell": column(pa.int64(), lambda: dice.randrange(-1, 33)),
            "plmn": column(pa.string(), lambda: dice.choice(WORDS)),
        }
    )


def test_a_ping_is_one_word_where_the_footer_bounds_its_number(tmp_path):
    def spans(ids: pa.Array, **options) -> list:
        rows = pa.table({"who": ids, "time": range(4), "cell": range(4)})
        pq.write_table(rows, tmp_path / "pings.parquet", row_group_size=2, **options)
        return [piece.span for piece in pieces_of(tmp_path / "pings.parquet", READING)]

    assert spans(pa.array([3, 8, None, 5])) == [(3, 8), (5, 5)]
    assert spans(pa.array([3, 8, None, None])) == [(3, 8), None]  # no number: no smallest, no largest
    assert spans(pa.array([3, 8, 4, 5]), write_statistics=False) == [None, None]
    assert spans(pa.array(["3", "8", "4", "5"])) == [None, None]  # a text's may be cut off


def met(piece: Piece) -> tuple:
    """All that comes of a piece: the pings of each bucket, the counts, the rejects."""
    places = len(NOON_SIEVE.codes)
    with Arena(4, 1 << 10, piece.rows, packing_of([piece], places), places, Path(gettempdir())) as arena:
        hand = Hand(arena, READING, NOON_SIEVE)
        hand.read(piece, 0)
        hand.decide(1)
        names, ranks = ranked([arena])
        pings = [gather([arena], names, ranks, bucket, Room()) for bucket in range(4)]
        counts = hand.counts.by_reason(), hand.counts.clean, hand.counts.quarters.tolist()
        rejects = pa.concat_tables([LOST.empty_table(), *hand.rejects]).sort_by("row").to_pylist()
        words = [(np.sort(together(some, Room())).tolist(), texts and texts.to_pylist()) for some, texts in pings]
        return words, counts, rejects


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), rows=st.integers(1, 3000), text=st.booleans(),
    version=st.sampled_from(["1.0", "2.0"]), dictionary=st.sampled_from([False, True, ["cell", "plmn"]]),
    limit=st.sampled_from([1, 60, 1 << 20]),
    page=st.sampled_from([64, 1000, 1 << 20]), batch=st.sampled_from([7, 50]), stored=st.sampled_from([20, 1 << 16]),
    codec=st.sampled_from(["none", "snappy", "zstd"]),
)  # fmt: skip
def test_a_day_in_pages_becomes_what_it_becomes_in_columns(
    tmp_path_factory, seed, rows, text, version, dictionary, limit, page, batch, stored, codec
):
    """With pages of every column that end where they like; and nothing is cleaner for it."""
    path, dice = tmp_path_factory.getbasetemp() / "day.parquet", random.Random(seed)
    pq.write_table(
        day_of(dice, rows, text=text), path, data_page_version=version, use_dictionary=dictionary,
        dictionary_pagesize_limit=limit, data_page_size=page, write_batch_size=batch, compression=codec,
    )  # fmt: skip
    (piece,) = pieces_of(path, READING)
    assert piece.block is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("travelcard.buckets.PUT_ASIDE", 256 + stored)
        short_chunks(patch)
        assert met(piece) == met(replace(piece, block=None))


@pytest.mark.parametrize("text", [False, True])
def test_so_is_what_polars_and_duckdb_write(tmp_path, text):
    made = table(random.Random(1), 300_000, text=text, required=False, times=pa.timestamp("us", "UTC"))
    pl.from_arrow(made).write_parquet(tmp_path / "polars.parquet", compression="snappy", row_group_size=100_000)
    pl.from_arrow(made).write_parquet(tmp_path / "zstd.parquet")
    duckdb.sql("SET TimeZone = 'UTC'")
    duckdb.from_arrow(made).write_parquet(str(tmp_path / "duckdb.parquet"))
    assert same(tmp_path / "polars.parquet")
    assert same(tmp_path / "zstd.parquet")
    assert same(tmp_path / "duckdb.parquet")


def test_what_most_do_not_write_is_left_to_arrow(tmp_path):
    made = table(random.Random(1), 100, text=False, required=False, times=pa.int64())
    pq.write_table(
        made, tmp_path / "delta.parquet", use_dictionary=False, column_encoding={"who": "DELTA_BINARY_PACKED"}
    )
    pq.write_table(made, tmp_path / "gzip.parquet", compression="gzip")
    pq.write_table(made.set_column(2, "cell", made["cell"].cast(pa.string())), tmp_path / "text.parquet")
    for path in tmp_path.iterdir():
        (piece,) = pieces_of(path, READING)
        assert piece.block is None
        assert sum(map(len, piece.batches())) == 100


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_damaged_page_is_refused_or_read_and_nothing_worse(tmp_path, codec, version, checksum):
    """Bytes of the pages are turned about; with checksums every one is found, but in headers that still make sense."""
    dice, path = random.Random(f"{codec} {version}"), tmp_path / "pings.parquet"
    made = table(dice, 2000, text=checksum, required=False, times=pa.timestamp("us", "UTC"))
    pq.write_table(
        made, path, compression=codec, data_page_version=version, write_page_checksum=checksum, data_page_size=2000,
        dictionary_pagesize_limit=3000, write_batch_size=100,
    )  # fmt: skip
    good, (piece,) = path.read_bytes(), pieces_of(path, READING)
    end = int.from_bytes(good[-8:-4], "little") + 8
    refused, foreign = [], 0
    for _ in range(600):
        bad = bytearray(good)
        for _ in range(dice.choice([1, 1, 1, 5, 50])):
            bad[dice.randrange(4, len(good) - end)] = dice.choice([0, 255, 128, dice.randrange(256)])
        path.write_bytes(bad)
        try:
            block = piece.block(desk := Desk())  # None: an encoding was turned into another one, and Arrow is asked
            read = len(left_over(block, desk)["who"]) if block else sum(map(len, piece.batches()))
            foreign += block is None
        except InputError as error:
            refused.append(str(error))
        else:
            assert read == 2000
    assert len(refused) > 100
    assert foreign < 20
    assert all(str(path) in said for said in refused)


def test_a_file_that_ends_in_the_middle_after_its_footer_was_read_is_refused(tmp_path):
    path = tmp_path / "pings.parquet"
    pq.write_table(table(random.Random(1), 2000, text=False, required=True, times=pa.int64()), path)
    (piece,) = pieces_of(path, READING)
    for size in (2000, 5, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(InputError, match="cannot be read to its end"):
            piece.block(Desk())


def test_what_lies_on_the_desk_is_not_what_was_taken(tmp_path):
    noon = datetime(2022, 3, 14, 4, tzinfo=UTC)
    kinds = {"who": pl.Int64, "time": pl.Datetime("us", "UTC"), "cell": pl.Int64}
    for name, cell in (("a", 1), ("b", 2)):
        pl.DataFrame({"who": [7], "time": [noon], "cell": [cell]}, schema=kinds).write_parquet(tmp_path / name)
    desk = Desk()
    first, second = pieces_of([str(tmp_path / "a"), str(tmp_path / "b")], READING)
    taken = left_over(first.block(desk), desk)
    left_over(second.block(desk), desk)
    assert taken["cell"].to_pylist() == [1]
