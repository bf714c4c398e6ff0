"""The synthetic country: deterministic, bounded, its faults labelled row by row, its truth where its pings are."""

import tomllib
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import shapely

from travelcard import places, schema, synth
from travelcard.cells import CellMap
from travelcard.errors import InputError
from travelcard.ingest import read_pings
from travelcard.places import Places
from travelcard.synth.cells import ABROAD
from travelcard.synth.pings import Feed, parts_of

DAY = date(2022, 3, 8)  # the day on which replaced cells have moved
SMALL = {"subscribers": 300, "days": [DAY], "cells": 1500, "files": 6, "pings_per_subscriber": 40}


@pytest.fixture(scope="module")
def squares() -> Places:
    """Twelve cities of one degree each, side by side, and Hong Kong in a corner of the last."""
    codes = [f"{10 + row}{column}000" for row in range(3) for column in range(1, 5)]
    boxes = [shapely.box(100 + c, 30 + r, 101 + c, 31 + r) for r in range(3) for c in range(4)]
    names = [*codes, "HKG"]
    return places.from_polygons(names, names, [None] * 13, [*boxes, shapely.box(103.9, 32.9, 104.2, 33.2)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pings(folder: Path, day: date = DAY) -> pl.DataFrame:
    """All rows of a day, with the name of their file and their number in it."""
    parts = []
    for path in sorted((folder / "pings" / str(day)).iterdir()):
        frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
        name = pl.lit(path.name).alias("file")
        parts.append(frame.select(name, pl.int_range(pl.len(), dtype=pl.Int64).alias("row"), pl.all()))
    return pl.concat(parts)


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path, squares: Places) -> None:
    for name, seed, threads in (("a", 7, 1), ("b", 7, 3), ("c", 8, 1)):
        synth.write(tmp_path / name, **SMALL, seed=seed, threads=threads, places=squares)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert not [name for name in a if a[name] == c[name] and name != "travelcard.toml"]


@pytest.mark.parametrize("how", [{"files": 1}, {"files": 7}, {"order": "shuffled"}, {"part": 500}])
def test_the_pings_of_a_day_do_not_depend_on_how_they_are_cut(
    tmp_path: Path, squares: Places, how: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SMALL | {"places": squares, "faults": 0.0}
    synth.write(tmp_path / "whole", **settings)
    if "part" in how:  # a part holds few rows: the files are still the same pings
        monkeypatch.setattr("travelcard.synth.pings._PART", how["part"])
        monkeypatch.setattr("travelcard.synth.pings._ROW_GROUP", how["part"])
        how = {}
    synth.write(tmp_path / "cut", **(settings | how))
    one, other = (pings(tmp_path / name).drop("file", "row") for name in ("whole", "cut"))
    assert len(one) > 10_000
    assert one.sort(one.columns).equals(other.sort(other.columns))


def test_no_part_is_larger_than_the_memory_it_is_given(squares: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("travelcard.synth.pings._PART", 2000)
    made = synth.country(squares, subscribers=3000, cells=1500)
    feed = Feed(100.0, 4, "time", "cell", "parquet", 0.0, True, None)
    sizes = [len(part[0]) for file in range(4) for part in parts_of(made, feed, DAY, file)]
    assert sum(sizes) > 250_000
    assert max(sizes) <= 4000


def test_files_are_slices_of_the_day_nearly_in_order_and_some_phones_are_late(tmp_path: Path, squares: Places) -> None:
    synth.write(tmp_path / "x", **SMALL | {"subscribers": 3000, "places": squares, "faults": 0.0})
    rows = pings(tmp_path / "x").with_columns(
        local=pl.col("time").dt.convert_time_zone("Asia/Shanghai"), part=pl.col("file").str.slice(5, 2).cast(pl.Int64)
    )
    slices = rows["local"].dt.hour().cast(pl.Int64) // 4
    late = rows["part"] - slices
    assert set(rows["local"].dt.date()) == {DAY}
    assert set(late) == {0, 1, 2}
    assert 0.002 < (late > 0).mean() < 0.03
    within = rows.filter(late == 0).group_by("file").agg((pl.col("local").cum_max() - pl.col("local")).max())
    assert timedelta(seconds=20) < within["local"].max() < timedelta(minutes=2)
    assert rows.drop("file", "row").is_duplicated().mean() > 0.001


def expected(rows: pl.DataFrame, inventory: pl.DataFrame, where: Places, kind: str) -> pl.DataFrame:
    """DESIGN 3.1's reasons by plain expressions, in their order: (file, row, reason) of every row to reject."""
    if rows["time"].dtype == pl.String:
        rows = rows.with_columns(
            at=pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", strict=False, time_zone="UTC"),
            msisdn=pl.col("msisdn").cast(pl.Int64, strict=False),
            cell=pl.col("cell").cast(pl.Int64),
        )
    else:
        rows = rows.with_columns(at=pl.col("time"))
    who = pl.col("msisdn")
    nobody = who.is_null() | ((who == "") if rows["msisdn"].dtype == pl.String else (who < 0))
    mccs = places.country_of_mcc()
    nowhere = pl.col("plmn").is_not_null() & ~pl.col("plmn").str.slice(0, 3).is_in(list(mccs))
    if kind == "cell":
        start, end = pl.col("valid_date_start").fill_null(date.min), pl.col("valid_date_end").fill_null(date.max)
        known = inventory.filter(start <= DAY, end >= DAY)
        assert known["cell"].is_unique().all()
        known = known.with_columns(place=where.locate(known["lat"].to_numpy(), known["lon"].to_numpy()))
        rows = rows.join(known.select("cell", "place", inside=True), on="cell", how="left", maintain_order="left")
        has, bad = pl.col("cell").is_not_null(), pl.lit(False)
    else:
        lat, lon = pl.col("lat"), pl.col("lon")
        has, fits = lat.is_not_null() | lon.is_not_null(), lat.is_between(-90, 90) & lon.is_between(-180, 180)
        bad = has & ~(fits & (pl.col("accuracy") >= 0)).fill_null(False)
        at = where.locate(
            *(rows.select(pl.when(fits).then(c).otherwise(0.0)).to_series().to_numpy() for c in (lat, lon))
        )
        rows = rows.with_columns(place=at, inside=True)
    reason = (
        pl.when(nobody)
        .then(pl.lit("null_subscriber"))
        .when(pl.col("time").is_null())
        .then(pl.lit("null_time"))
        .when(pl.col("at").is_null())
        .then(pl.lit("bad_time"))
        .when(pl.col("at").dt.convert_time_zone("Asia/Shanghai").dt.date() != DAY)
        .then(pl.lit("outside_day"))
        .when(~has & pl.col("plmn").is_null())
        .then(pl.lit("null_cell"))
        .when(bad)
        .then(pl.lit("bad_position"))
        .when(has & pl.col("inside").is_null())
        .then(pl.lit("unknown_cell"))
        .when((has & (pl.col("place") < 0)) | (~has & nowhere))
        .then(pl.lit("no_place"))
    )
    return rows.select("file", "row", reason=reason).drop_nulls("reason")


@pytest.mark.parametrize(
    "how",
    [
        {"kind": "cell"},
        {"kind": "cell", "order": "shuffled", "ids": "string"},
        {"kind": "position"},
        {"kind": "cell", "format": "csv"},
    ],
    ids=["cell", "string", "position", "csv"],
)
def test_the_labelled_rows_are_exactly_the_faulty_ones(tmp_path: Path, squares: Places, how: dict) -> None:
    synth.write(tmp_path / "x", **SMALL | {"subscribers": 1000}, **how, faults=0.02, places=squares)
    labels = pl.read_parquet(tmp_path / "x" / "truth" / str(DAY) / "faults.parquet")
    found = expected(pings(tmp_path / "x"), pl.read_parquet(tmp_path / "x" / "cells.parquet"), squares, how["kind"])
    assert labels.equals(found)
    never = {"bad_time", "unknown_cell" if how["kind"] == "position" else "bad_position"}
    assert set(labels["reason"]) == set(schema.REASONS) - (never - ({"bad_time"} if "format" in how else set()))


@pytest.mark.parametrize("kind", ["cell", "position"])
def test_reading_the_pings_rejects_exactly_the_labelled_rows(tmp_path: Path, squares: Places, kind: str) -> None:
    synth.write(tmp_path / "x", **SMALL, kind=kind, faults=0.02, places=squares)
    columns = tomllib.loads((tmp_path / "x" / "travelcard.toml").read_text())["pings"]["columns"]
    cells = CellMap.build(tmp_path / "x" / "cells.parquet", squares) if kind == "cell" else None
    source = str(tmp_path / "x" / "pings" / str(DAY) / "*.parquet")
    _, rejects = read_pings(source, cells=cells, places=squares, day=DAY, columns=columns)
    found = rejects.select(pl.col("file").str.split("/").list.last(), "row", "reason").sort("file", "row")
    assert found.equals(pl.read_parquet(tmp_path / "x" / "truth" / str(DAY) / "faults.parquet"))


def served(folder: Path, where: Places) -> pl.DataFrame:
    """Every ping with the place of its cell, or the country of its plmn, beside the true place at that second."""
    cells = pl.read_parquet(folder / "cells.parquet").unique("cell", keep="first", maintain_order=True)
    at = where.locate(cells["lat"].to_numpy(), cells["lon"].to_numpy())
    cells = cells.select("cell", here=pl.Series([where.codes[i] if i >= 0 else None for i in at], dtype=pl.String))
    roaming = pl.col("plmn").str.slice(0, 3).replace_strict(places.country_of_mcc(), default=None)
    stays = pl.read_parquet(folder / "truth" / str(DAY) / "stays.parquet").sort("arrive")
    rows = pings(folder).join(cells, on="cell", how="left").sort("time")
    return (
        rows.with_columns(here=pl.coalesce("here", roaming), second=pl.col("time").dt.truncate("1s"))
        .join_asof(
            stays, left_on="second", right_on="arrive", by_left="msisdn", by_right="subscriber", check_sortedness=False
        )
        .with_columns(covered=pl.col("depart") >= pl.col("second"))
    )


def test_without_flicker_every_ping_is_where_its_subscriber_is(tmp_path: Path, squares: Places) -> None:
    synth.write(tmp_path / "x", **SMALL | {"subscribers": 3000, "faults": 0.0, "flicker": 0.0, "places": squares})
    rows = served(tmp_path / "x", squares)
    assert len(rows) > 100_000
    assert rows["covered"].all()
    assert rows["here"].equals(rows["place"], null_equal=False)
    assert set(rows.filter(pl.col("plmn").is_not_null())["here"]) <= {code for code, _ in ABROAD}
    stays = pl.read_parquet(tmp_path / "x" / "truth" / str(DAY) / "stays.parquet")
    assert (stays["arrive"] <= stays["depart"]).all()
    gap = stays.sort("subscriber", "arrive").select(pl.col("arrive") - pl.col("depart").shift().over("subscriber"))
    assert (gap.to_series().drop_nulls() > timedelta(0)).all()


def test_flicker_is_seen_across_a_border_and_mostly_by_border_residents(tmp_path: Path, squares: Places) -> None:
    synth.write(tmp_path / "x", **SMALL | {"subscribers": 3000, "faults": 0.0, "places": squares})
    people = pl.read_parquet(tmp_path / "x" / "truth" / "people.parquet")
    rows = served(tmp_path / "x", squares).join(people, left_on="msisdn", right_on="subscriber")
    wrong = dict(rows.group_by("kind").agg((pl.col("here") != pl.col("place")).mean()).rows())
    assert 0.03 < wrong["border_resident"] < 0.2
    assert all(0 < share < wrong["border_resident"] / 3 for kind, share in wrong.items() if kind != "border_resident")


def test_people_are_of_every_kind_and_move_as_they_should(tmp_path: Path, squares: Places) -> None:
    days = [DAY + timedelta(days=n) for n in range(7)]
    synth.write(
        tmp_path / "x", **SMALL | {"subscribers": 1500, "days": days, "pings_per_subscriber": 1, "places": squares}
    )
    people = pl.read_parquet(tmp_path / "x" / "truth" / "people.parquet")
    stays = pl.concat(pl.read_parquet(tmp_path / "x" / "truth" / str(day) / "stays.parquet") for day in days)
    assert people["subscriber"].to_list() == list(range(19_900_000_000, 19_900_001_500))
    seen = stays.group_by("subscriber").agg(
        pl.col("place").n_unique(), abroad=pl.col("place").is_in(["JPN", "HKG"]).any()
    )
    kinds = people.join(seen, on="subscriber").group_by("kind").agg(pl.col("place").mean(), pl.col("abroad").any())
    per = kinds.rows_by_key("kind", named=True, unique=True)
    assert set(per) == set(synth.KINDS)
    assert per["stay_at_home"]["place"] == per["border_resident"]["place"] == 1
    assert per["rail_passenger"]["place"] > per["commuter"]["place"] > 1
    assert [kind for kind in per if per[kind]["abroad"]] == ["roamer"]
    # a day begins where the one before ended, whoever travels
    ends = stays.sort("subscriber", "arrive").with_columns(last=pl.col("place").shift().over("subscriber"))
    starts = ends.filter(
        pl.col("arrive").dt.convert_time_zone("Asia/Shanghai").dt.hour() == 0, pl.col("last").is_not_null()
    )
    midnights = starts.filter(pl.col("arrive").dt.convert_time_zone("Asia/Shanghai").dt.minute() == 0)
    assert len(midnights) >= 1500 * 5
    assert midnights["last"].equals(midnights["place"])


def test_the_inventory_fits_its_schema_and_stands_on_the_boundaries(squares: Places) -> None:
    table = synth.network(squares, cells=3000, seed=5)
    assert table.equals(synth.network(squares, cells=3000, seed=5))
    assert table.equals(schema.INVENTORY.read(table))
    assert len(table) == 3000
    frame = pl.from_arrow(table)
    at = squares.locate(frame["lat"].to_numpy(), frame["lon"].to_numpy())
    count = Counter(squares.codes[i] if i >= 0 else None for i in at)
    assert min(count[code] for code in squares.codes if code != "HKG") >= 3
    assert count["HKG"] == 0  # a carrier has no network abroad
    assert count[None] >= 4
    assert frame["range"].is_between(500, 5000).all()
    strict = squares.locate(frame["lat"].to_numpy(), frame["lon"].to_numpy(), snap=0.0)
    assert ((at >= 0) & (strict < 0)).sum() > 5  # on piers
    inside = at >= 0
    inner = squares.inner(*(frame[name].to_numpy()[inside] for name in ("lat", "lon", "range")), np.asarray(at)[inside])
    assert 0.02 < (~inner).mean() < 0.4
    twice = frame.filter(pl.col("cell").is_duplicated()).sort("cell", "valid_date_end", nulls_last=True)
    assert len(twice) == 8
    assert (twice[1::2]["valid_date_start"] - twice[::2]["valid_date_end"]).to_list() == [timedelta(days=1)] * 4
    assert (twice[1::2]["lat"] != twice[::2]["lat"]).any()


def test_the_folder_is_a_run_that_can_be_started(tmp_path: Path, squares: Places) -> None:
    counts = synth.write(tmp_path / "x", **SMALL, places=squares)
    config = tomllib.loads((tmp_path / "x" / "travelcard.toml").read_text())
    names = pq.read_schema(next((tmp_path / "x" / "pings" / str(DAY)).iterdir())).names
    assert set(config["pings"]["columns"].values()) == set(names)
    assert (tmp_path / "x" / config["cells"]["path"]).exists()
    assert counts == {DAY: len(pings(tmp_path / "x"))}
    assert 0.85 < counts[DAY] / (300 * 40) < 1.15
    for day in (DAY, DAY + timedelta(days=1)):
        risk = pl.read_csv(tmp_path / "x" / config["risk"]["path"].format(day=day), try_parse_dates=True)
        schema.RISK.check(risk.with_columns(pl.col("place").cast(pl.String)).to_arrow().schema, "risk")
        assert set(risk["level"]) <= {"high", "medium"}
        assert len(risk)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"order": "random"}, "order='random'"),
        ({"kind": "gps"}, "kind='gps'"),
        ({"format": "orc"}, "format='orc'"),
        ({"ids": "uuid"}, "ids='uuid'"),
        ({"days": []}, "at least one day"),
        ({"files": 0}, "files must be"),
        ({"subscribers": 0}, "from 1 to"),
        ({"cells": 20}, "too few for 12 places"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, squares: Places, how: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        synth.write(tmp_path / "x", **SMALL | {"places": squares} | how)


def test_a_folder_in_use_is_left_alone(tmp_path: Path, squares: Places) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(InputError, match="not an empty folder"):
        synth.write(tmp_path, **SMALL, places=squares)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_the_demo_country_stands_on_the_real_boundaries(tmp_path: Path) -> None:
    counts = synth.demo(tmp_path / "demo")
    assert len(counts) == 14
    assert 0.95 < sum(counts.values()) / (2000 * 14 * 100) < 1.05
    china, cells = places.china(), pl.read_parquet(tmp_path / "demo" / "cells.parquet")
    at = china.locate(cells["lat"].to_numpy(), cells["lon"].to_numpy())
    count = Counter(china.codes[i] for i in at[at >= 0])
    assert min(count[code] for code in china.codes if code.isdigit()) >= 3
    assert {"JPN", "HKG", "110000"} <= set(
        pl.read_parquet(tmp_path / "demo" / "truth" / "*" / "stays.parquet")["place"]
    )
