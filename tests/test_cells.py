"""CellMap: every row of an inventory gets its place by the polygons, or one error says why it cannot."""

import os
from datetime import date

import h3.api.basic_int as h3
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from shapely.geometry import box

from travelcard import places
from travelcard.cells import CellMap
from travelcard.config import Config
from travelcard.errors import InputError
from travelcard.inventory import silent
from travelcard.locations import locations_of, sieve
from travelcard.names import Known, _texts, _words
from travelcard.schema import REASONS

TOY = places.from_polygons(
    ["330100", "330200"], ["甲市", "乙市"], ["浙江省"] * 2, [box(120, 30, 121, 31), box(121, 30, 122, 31)]
)
D = date(2022, 3, 14)


def inventory(**columns):
    rows = len(columns["cell"])
    return pl.DataFrame({"lat": [30.5] * rows, "lon": [120.5] * rows} | columns).select("cell", pl.exclude("cell"))


def refused(**columns):
    with pytest.raises(InputError) as caught:
        CellMap.build(inventory(**columns), TOY)
    return str(caught.value)


def test_every_cell_gets_its_place_its_h3_and_its_inner_flag():
    built = CellMap.build(
        inventory(
            cell=[5, 4, 3, 2, 1, 0],
            lon=[120.5, 120.995, 120.995, 121.0, 122.03, 125.0],
            range=[None, None, 300.0, 0.0, 1.0, 1.0],
        ),
        places=TOY,
    )
    frame = built.frame
    assert frame.columns == [
        "cell",
        "lat",
        "lon",
        "range",
        "valid_date_start",
        "valid_date_end",
        "h3",
        "place",
        "inner",
    ]
    assert frame.schema["h3"] == pl.UInt64
    assert frame["cell"].to_list() == [0, 1, 2, 3, 4, 5]
    assert frame["place"].to_list() == [None, "330200", "330100", "330100", "330100", "330100"]
    assert frame["inner"].to_list() == [False, True, False, True, False, True]
    assert frame["range"].to_list() == [1.0, 1.0, 0.0, 300.0, 1000.0, 1000.0]
    assert frame["h3"].to_list() == [h3.latlng_to_cell(y, x, 9) for y, x in frame.select("lat", "lon").iter_rows()]
    assert built.outside["cell"].to_list() == [0]
    assert (built.snap, built.places) == (5000.0, TOY.digest)


def test_snap_is_passed_on():
    off_shore = inventory(cell=["a", "b"], lon=[122.01, 120.5])
    assert CellMap.build(off_shore, TOY).outside.height == 0
    assert CellMap.build(off_shore, TOY, snap=0).outside["cell"].to_list() == ["a"]


def test_china_by_the_polygons():
    china = places.china()
    rng = np.random.default_rng(2)
    lat, lon = rng.uniform(28, 33, 20_000), rng.uniform(115, 123, 20_000)
    frame = CellMap.build(pa.table({"cell": pa.array(range(20_000)), "lat": lat, "lon": lon}), china).frame
    at = china.locate(lat, lon)
    assert frame["place"].to_list() == [china.codes[i] if i >= 0 else None for i in at]
    assert frame["inner"].to_list() == china.inner(lat, lon, 1000.0, at).tolist()
    whole = china.of_h3(frame["h3"].to_numpy())
    assert (whole[whole >= 0] == at[whole >= 0]).all()


def test_validity_is_inclusive_and_null_is_open():
    built = CellMap.build(
        inventory(
            cell=["a", "a", "b"],
            lon=[120.5, 121.5, 120.5],
            valid_date_start=[None, date(2022, 3, 15), D],
            valid_date_end=[D, None, D],
        ),
        TOY,
    )
    assert built.on(D).rows() == [("a", "330100", True), ("b", "330100", True)]
    assert built.on(date(2022, 3, 15)).rows() == [("a", "330200", True)]
    assert built.on(date(2020, 1, 1)).rows() == [("a", "330100", True)]
    assert built.on(D).columns == ["cell", "place", "inner"]


@pytest.mark.parametrize(
    ("starts", "ends"),
    [
        ([None, None], [None, None]),
        ([None, D], [D, None]),  # both valid on that one day
        ([date(2022, 1, 1), D], [date(2022, 12, 31), D]),
        ([D, None], [None, None]),
    ],
)
def test_overlapping_validity_names_the_id(starts, ends):
    text = refused(
        cell=["x", "x"],
        valid_date_start=pl.Series(starts, dtype=pl.Date),
        valid_date_end=pl.Series(ends, dtype=pl.Date),
    )
    assert text == "the cells table cannot be used: 1 problem\n  1 ids are valid twice on one day: x"


def test_rows_without_a_usable_location_are_named_and_the_rest_counted():
    text = refused(
        cell=list(range(12)), lat=[None, float("nan"), 91.0] + [30.5] * 9, lon=[120.5] * 9 + [181.0, None, 120.5]
    )
    assert "no usable location: 0 in row 0 (lat None, lon 120.5), 1 in row 1 (lat nan" in text
    many = refused(cell=list(range(30)), lat=[None] * 12 + [30.5] * 18)
    assert many.endswith("4 in row 4 (lat None, lon 120.5) and 7 more")


def test_all_problems_come_at_once():
    text = refused(
        cell=["a", "a", "b", "", "c"],
        range=[1.0, 1.0, -1.0, float("nan"), float("inf")],
        valid_date_start=[None] * 4 + [D],
        valid_date_end=[None] * 4 + [date(2022, 3, 13)],
    )
    assert "4 problems" in text
    for line in (
        "cell is empty:  in row 3",
        "range is not 0 or more metres: b in row 2 (-1.0),  in row 3 (nan), c in row 4 (inf)",
        "validity ends before it starts: c in row 4 (2022-03-14 to 2022-03-13)",
        "1 ids are valid twice on one day: a",
    ):
        assert line in text


def test_many_duplicate_ids_are_counted():
    assert "20 ids are valid twice on one day: 0, 1, 2, 3, 4 and 15 more" in refused(cell=[*range(20), *range(20)])


def test_swapped_coordinates_are_refused_and_told():
    with pytest.raises(
        InputError, match="latitude and longitude are swapped: 0 of 2 cells lie in a place as they are, 2"
    ):
        CellMap.build(inventory(cell=[1, 2], lat=[120.5, 121.5], lon=[30.5, 30.5]), TOY)
    west = inventory(cell=[1], lat=[87.6], lon=[43.8])  # Urumqi: in range both ways
    with pytest.raises(InputError, match="swapped"):
        CellMap.build(west, places.china())
    right = {"lat": "lon", "lon": "lat"}
    assert CellMap.build(west, places.china(), columns=right).frame["place"].to_list() == ["650100"]
    one_wrong = inventory(cell=[1, 2, 3], lat=[30.5, 30.5, 120.5], lon=[120.5, 121.5, 30.5])
    with pytest.raises(InputError, match="no usable location: 3 in row 2"):
        CellMap.build(one_wrong, TOY)


def test_float_ids_and_missing_columns_are_refused_by_the_schema():
    assert "ids read as floats have lost digits" in refused(cell=[1.0, 2.0])
    with pytest.raises(InputError, match="lat  expected float or integer, missing"):
        CellMap.build(pl.DataFrame({"cell": [1], "lon": [1.0]}), TOY)


def test_inventory_files(tmp_path):
    rows = inventory(cell=["00123", "460"], range=[None, 500.0])
    rows.write_parquet(tmp_path / "c.parquet")
    rows.write_csv(tmp_path / "c.csv")
    for name in ("c.parquet", "c.csv"):
        assert CellMap.build(tmp_path / name, TOY).frame["cell"].to_list() == ["00123", "460"]
    (tmp_path / "i.csv").write_text(
        "cgi,lat,lon,range,valid_date_start,valid_date_end\n460000000001,30.5,120.5,,2022-03-01,\n7,30.5,121,5,,2022-03-02\n"
    )
    frame = CellMap.build(str(tmp_path / "i.csv"), TOY, columns={"cell": "cgi"}).frame
    assert frame["cell"].to_list() == [7, 460000000001]
    assert frame["range"].to_list() == [5.0, 1000.0]
    assert frame["valid_date_start"].to_list() == [None, date(2022, 3, 1)]
    (tmp_path / "e.csv").write_text("cell,lat,lon,range\n1,30.5,120.5,\n")
    assert CellMap.build(tmp_path / "e.csv", TOY).frame["range"].to_list() == [1000.0]
    with pytest.raises(InputError, match=r"absent.csv cannot be read as a table"):
        CellMap.build(tmp_path / "absent.csv", TOY)


@pytest.mark.parametrize("ids", [[2, 1], ["b", "a"]])
def test_save_and_load(tmp_path, ids):
    built = CellMap.build(inventory(cell=ids, lon=[120.5, 125.0]), TOY, snap=10.0)
    built.save(tmp_path / "m.parquet")
    loaded = CellMap.load(tmp_path / "m.parquet")
    assert_frame_equal(loaded.frame, built.frame)
    assert (loaded.places, loaded.snap) == (TOY.digest, 10.0)
    pq.write_table(pa.table({"cell": [1]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="is no cell map"):
        CellMap.load(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="cannot be read as a cell map"):
        CellMap.load(tmp_path / "absent.parquet")


def test_a_map_that_is_damaged_is_refused(tmp_path):
    path = tmp_path / "m.parquet"
    CellMap.build(inventory(cell=list(range(1000))), TOY).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="cannot be read as a cell map"):
        CellMap.load(path)
    path.write_bytes(whole[:4] + bytes(500) + whole[504:])
    with pytest.raises(InputError, match="cannot be read to its end"):
        CellMap.load(path).on(D)


def test_the_map_of_an_inventory_is_kept_in_the_store_and_made_anew_when_either_has_changed(tmp_path, monkeypatch):
    inventory(cell=[1, 2], lon=[120.2, 87.6], lat=[30.3, 43.8]).write_parquet(tmp_path / "cells.parquet")
    (tmp_path / "travelcard.toml").write_text('[cells]\npath = "cells.parquet"\n')
    config = Config.read(tmp_path / "travelcard.toml")
    store = config.open_store()
    made = []
    build = CellMap.build
    monkeypatch.setattr(CellMap, "build", lambda *a, **k: made.append(1) or build(*a, **k))

    def run():
        return config.cell_map(store).on(D)["place"].to_list(), len(made)

    assert [run(), run()] == [(["330100", "650100"], 1)] * 2
    (kept,) = (store.scratch / "cells").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert [run(), run()] == [(["330100", "650100"], 2)] * 2
    was = (tmp_path / "cells.parquet").stat()
    inventory(cell=[1, 2], lon=[87.6, 120.2], lat=[43.8, 30.3]).write_parquet(tmp_path / "cells.parquet")
    os.utime(tmp_path / "cells.parquet", ns=(was.st_atime_ns, was.st_mtime_ns))
    assert [run(), run()] == [(["650100", "330100"], 3)] * 2


def test_an_empty_inventory_is_an_empty_map():
    empty = pl.DataFrame(schema={"cell": pl.Int64, "lat": pl.Float64, "lon": pl.Float64})
    built = CellMap.build(empty, TOY)
    assert built.frame.height == 0
    assert built.on(D).height == 0


class Laid:
    """An inventory as it lies in memory: rows of (cell, place, inner, whether a day has it), cut into chunks."""

    def __init__(self, rows: list[tuple], cuts: list[int], *, coded: bool) -> None:
        parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
        kind = pa.string() if any(isinstance(row[0], str) for row in rows) else pa.int64()
        self.valid = np.array([row[3] for row in rows], np.bool_)
        self.table = pa.concat_tables(
            pa.table(
                {
                    "cell": pa.array([row[0] for row in part], kind),
                    "place": pa.array([row[1] for row in part], pa.string()).dictionary_encode()
                    if coded
                    else pa.array([row[1] for row in part], pa.string()),
                    "inner": pa.array([row[2] for row in part], pa.bool_()),
                }
            )
            for part in parts
        )

    def dated(self, _: date) -> tuple[pa.Table, np.ndarray]:
        return self.table, self.valid


ROWS = st.lists(
    st.tuples(
        st.integers(-2, 12), st.sampled_from(["330100", "310000", None]), st.sampled_from([True, False, None]),
        st.booleans(),
    ),
    max_size=25,
)  # fmt: skip


@given(
    ROWS, st.sets(st.integers(0, 25)), st.booleans(), st.sampled_from(["near", "far", "text"]),
    st.sets(st.integers(0, 13)), st.integers(0, 4),
)  # fmt: skip
def test_cells_mean_what_their_rows_of_the_day_say_and_the_others_are_silent(rows, cuts, coded, kind, named, most):
    def cell(number: int) -> int | str:
        return number if kind == "near" else (number + 2) << 50 if kind == "far" else f"{number + 2:02}号"

    once: set[int] = set()
    made = []
    for number, place, inner, today in sorted(rows, key=lambda row: row[0]):  # one row of an id is valid at most
        made.append((cell(number), place, inner, today and number not in once))
        once |= {number} if today else set()
    cuts = sorted(cut for cut in cuts if cut <= len(made))
    here = sieve(D, cells=Laid(made, cuts, coded=coded), places=None, tz="UTC")
    known = {row[0]: row for row in made if row[3] and not (kind == "near" and row[0] < 0)}

    def meaning(one: int | str) -> tuple:
        found = known.get(one)
        if found is None:
            return ("unknown_cell",)
        return (found[1], bool(found[2])) if found[1] is not None else ("no_place",)

    def unheard() -> tuple[int, list]:
        left = silent(here.cells)
        return left.total, left.first.to_pylist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("travelcard.inventory._NAMED", most)
        assert unheard() == (len(known), sorted(known)[:most])
        asked = [cell(number) for number in sorted(named)]
        kinds = pa.string() if kind == "text" else pa.int64()
        ids = pa.array([*asked, *asked], kinds)
        if coded and kind == "text":  # a dictionary, some of whose words no row has
            ids = pa.concat_arrays([pa.array([cell(number) for number in range(14)]), ids]).dictionary_encode()[14:]
        told, _ = locations_of({"cell": ids}, len(ids), here)
        said = [(here.codes[i >> 1], bool(i & 1)) if i >= 0 else (REASONS[-1 - i],) for i in told.tolist()]
        assert said == [meaning(one) for one in asked] * 2
        rest = sorted(known.keys() - set(asked))
        assert unheard() == (len(rest), rest[:most])


def test_a_text_that_is_null_names_no_cell_whatever_its_bytes_say():
    here = sieve(D, cells=Laid([("a", "330100", True, True)], [], coded=True), places=None, tz="UTC")
    bits, ends = np.zeros(1, np.uint8), np.array([0, 1, 1], np.int32)
    cells = pa.StringArray.from_buffers(2, *map(pa.py_buffer, (ends, b"a", bits)))
    assert cells.to_pylist() == [None, None]
    told, _ = locations_of({"cell": cells.slice(0, 1)}, 1, here)
    assert [REASONS[-1 - i] for i in told] == ["null_cell"]
    assert here.cells.find(pa.array(["", None, "b"])).tolist()[:2] == [-1 - REASONS.index("null_cell")] * 2
    assert here.cells.find(cells).tolist() == [-1 - REASONS.index("null_cell")] * 2
    assert silent(here.cells).first.to_pylist() == ["a"]


def test_ids_whose_words_agree_in_the_half_that_a_table_holds_are_told_apart():
    ids = pa.array(np.random.default_rng(1).integers(0, 1 << 62, 1 << 20))
    half = _words(*_texts(ids)) & 0xFFFFFFFF
    order = np.argsort(half)
    same = np.flatnonzero(half[order][1:] == half[order][:-1])
    assert len(same) > 50  # a fourth of which begin to be looked for at the same place of so small a table
    for one, other in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
        a, b = ids.take(pa.array([one])), ids.take(pa.array([other]))
        assert Known.of(pa.chunked_array([a])).rows(pa.concat_arrays([b, a])).tolist() == [-1, 0]
        assert Known.of(pa.chunked_array([a, b])).rows(pa.concat_arrays([b, a])).tolist() == [1, 0]
