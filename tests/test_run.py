"""The run's compiled way through a day against the frames': pings of every kind of column, read both ways."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from nights import short_chunks

import travelcard as tc
from travelcard.batch import run_stays
from travelcard.sources import Reading
from travelcard.store import Store

DAY = date(2022, 3, 14)
BEGIN = int(datetime(2022, 3, 13, 16, tzinfo=UTC).timestamp())
NUMBERS = (
    (0, 1, 7, 13800001234, 2**31 - 1, 2**32, 2**63 - 1, -1, None),
    (13800001234, 13800001235, 19999999999, 13000000000, -1, None),
    (5, 6, 7, 5 + 2**36 - 2, None),  # the largest that shares a word with an event, see Packing
    (5, 6, 7, 5 + 2**36 - 1, None),
)
NAMES = ("a", "号码", "x" * 16, "x" * 17, "x" * 40, "13800001234", "", None)
FAR = (1, 7, 10**6, 2**40, 2**46, 2**50, 2**62)  # cell ids, more or less far apart


@pytest.fixture(scope="module")
def places():
    squares = [shapely.box(110, 30, 111, 31), shapely.box(111, 30, 112, 31)]
    return tc.places.from_polygons(["330100", "330200"], ["左市", "右市"], ["浙江省"] * 2, squares)


def subscribers(dice: random.Random, n: int) -> pa.Array:
    kind = dice.choice((pa.int64(), pa.uint64(), pa.int32(), pa.string(), pa.large_string()))
    if not pa.types.is_integer(kind):
        return pa.array(dice.choices(NAMES, k=n), kind)
    numbers = dice.choice(NUMBERS)
    unsigned = {-1: 2**63 + 5} if kind == pa.uint64() else {}
    small = {number: 5 for number in numbers if number is not None and number >= 2**31} if kind == pa.int32() else {}
    array = pa.array([{**unsigned, **small}.get(number, number) for number in dice.choices(numbers, k=n)], kind)
    return array.dictionary_encode() if dice.random() < 0.2 else array


def times(dice: random.Random, n: int) -> tuple[pa.Array, dict[str, str]]:
    """A column of times round the day, and what must be said of it."""
    edges = [0, 1, 43_200, 86_399, 86_400, -1, None]
    seconds = [dice.choice(edges) if dice.random() < 0.3 else dice.randrange(86_400) for _ in range(n)]
    seconds = [None if s is None else BEGIN + s for s in seconds]
    unit = dice.choice(("s", "ms", "us", "ns", "integers", "text"))
    if unit == "text":
        zones = [timezone(timedelta(hours=hours)) for hours in (0, 8)]
        return pa.array(
            [None if s is None else datetime.fromtimestamp(s, dice.choice(zones)).isoformat() for s in seconds]
        ), {}
    if unit == "integers":
        return pa.array([None if s is None else 1000 * s + 999 for s in seconds], pa.int64()), {"time_unit": "ms"}
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    array = pa.array([None if s is None else s * factor for s in seconds], pa.int64())
    return array.cast(pa.timestamp(unit, dice.choice(("UTC", "Asia/Tokyo")))), {}


@pytest.mark.parametrize("seed", range(80))
def test_a_run_and_the_frames_say_the_same(seed, places, tmp_path, monkeypatch):
    short_chunks(monkeypatch)  # so that arenas fill and spill
    dice = random.Random(seed)
    monkeypatch.setattr("travelcard.engine.SLICE", dice.choice((3, 1 << 21)))  # and buckets are reduced in slices
    n = dice.choice((1, 3, 50, 400, 3000))
    ids = sorted({dice.choice(FAR) + k for k in range(6)})
    inventory = pl.DataFrame(
        {
            "cell": [str(i) for i in ids] if dice.random() < 0.2 else ids,
            "lat": 30.5,
            "lon": dice.choices((110.5, 110.999, 111.5, 120.0), k=len(ids)),
        }
    )
    cells = tc.CellMap.build(inventory, places=places)
    asked = pa.array(dice.choices([*ids, 3, 0, 2**63 - 1, None], k=n), pa.int64())
    time, options = times(dice, n)
    columns = {
        "subscriber": subscribers(dice, n),
        "time": time,
        "cell": asked.cast(dice.choice((pa.int64(), pa.uint64(), pa.string()))),
    }
    if dice.random() < 0.5:
        columns["plmn"] = pa.array(dice.choices((None, "44010", "46000", "99901", ""), k=n), pa.string())
    if dice.random() < 0.3:
        columns["lat"] = pa.array(dice.choices((None, 30.5, 99.0, 35.0), k=n), pa.float64())
        columns["lon"] = pa.array(dice.choices((None, 110.5, 111.2), k=n), pa.float64())
    table, half = pa.table(columns), n // 2
    for name, part in (("a", table[:half]), ("b", table[half:])):
        if len(part):
            size, said = dice.choice((7, 100, 10**6)), dice.random() < 0.8
            pq.write_table(part, tmp_path / f"{name}.parquet", row_group_size=size, write_statistics=said)
    source = str(Path(tmp_path) / "*.parquet")

    pings, rejects = tc.read_pings(source, day=DAY, cells=cells, places=places, **options)
    store = Store(tmp_path / "store", asked={"buckets": dice.choice((1, 4, 64))})
    step = run_stays(
        store, day=DAY, pings=source, cells=cells, places=places, reading=Reading(**options), max_rejected=1,
        memory=dice.choice((1, 1 << 30)),
    )  # fmt: skip
    assert (step.counts["read"], step.counts["clean"]) == (n, len(pings))
    for bucket in store.frame("stays").partition_by("bucket"):
        assert bucket.rows() == bucket.sort("subscriber", "arrive", "place").rows()
    held = store.frame("stays").drop("day", "bucket").sort("subscriber", "arrive", "place")
    assert held.rows() == tc.stays(pings).rows()
    assert store.frame("rejects").drop("day").sort("file", "row").equals(rejects.sort("file", "row"))


def test_ids_that_are_not_as_the_statistics_say_are_refused(places, tmp_path, monkeypatch):
    rows = {"subscriber": [1, 2**40], "time": [BEGIN * 1000] * 2, "plmn": ["44010"] * 2}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    monkeypatch.setattr("travelcard.sources._span", lambda *_: (1, 2))
    store = Store(tmp_path / "store")
    with pytest.raises(tc.InputError, match="statistics"):
        run_stays(store, day=DAY, pings=str(tmp_path / "a.parquet"), places=places, reading=Reading(time_unit="ms"))
    assert not store.days("stays")
