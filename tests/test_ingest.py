"""Files and tables of pings to clean pings and rejects: every reason, every form, every refusal."""

from __future__ import annotations

import gzip
import random
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import travelcard as tc
from travelcard import ingest
from travelcard.batch import run_stays
from travelcard.errors import InputError
from travelcard.ledger import newest
from travelcard.schema import REASONS

DAY = date(2022, 3, 14)
NOON = datetime(2022, 3, 14, 4, tzinfo=UTC)  # noon in Shanghai


@pytest.fixture(scope="module")
def places():
    squares = [shapely.box(110, 30, 111, 31), shapely.box(111, 30, 112, 31)]
    return tc.places.from_polygons(["330100", "330200"], ["左市", "右市"], ["浙江省", "浙江省"], squares)


def inventory(ids) -> pl.DataFrame:
    """A cell deep inside the left square, one in the right square at the border, one outside every place."""
    return pl.DataFrame({"cell": ids, "lat": [30.5, 30.5, 35.0], "lon": [110.5, 111.001, 110.5]})


@pytest.fixture(scope="module")
def cells(places):
    return tc.CellMap.build(inventory([1, 2, 3]), places=places)


def read(table, **options):
    options.setdefault("day", DAY)
    return tc.read_pings(table, **options)


def test_every_reason_and_only_the_first_that_applies(cells, places):
    rows = [
        # subscriber, time, cell, lat, lon, accuracy, plmn -> place or reason
        (7, NOON, 1, None, None, None, None, "330100"),
        (None, None, None, None, None, None, None, "null_subscriber"),
        (-1, NOON, 1, None, None, None, None, "null_subscriber"),
        (7, None, None, None, None, None, None, "null_time"),
        (7, NOON - timedelta(days=1), None, None, None, None, None, "outside_day"),
        (7, NOON + timedelta(hours=12), 1, None, None, None, None, "outside_day"),
        (7, NOON + timedelta(hours=12, microseconds=-1), 2, None, None, None, None, "330200"),
        (7, NOON - timedelta(hours=12), 2, None, None, None, None, "330200"),
        (7, NOON - timedelta(hours=12, microseconds=1), 2, None, None, None, None, "outside_day"),
        (7, NOON, None, None, None, None, None, "null_cell"),
        (7, NOON, None, None, None, 5.0, None, "null_cell"),
        (7, NOON, None, 30.5, None, None, None, "bad_position"),
        (7, NOON, None, None, 110.5, None, "44010", "bad_position"),
        (7, NOON, None, float("nan"), 110.5, None, None, "bad_position"),
        (7, NOON, None, 91.0, 110.5, None, None, "bad_position"),
        (7, NOON, None, 30.5, 181.0, None, None, "bad_position"),
        (7, NOON, None, 30.5, 110.5, -1.0, None, "bad_position"),
        (7, NOON, None, 30.5, 110.5, float("inf"), None, "bad_position"),
        (7, NOON, 9, 30.5, 110.5, None, "44010", "unknown_cell"),
        (7, NOON, 3, 30.5, 110.5, None, None, "no_place"),
        (7, NOON, None, 35.0, 110.5, None, "44010", "no_place"),
        (7, NOON, None, None, None, None, "46000", "no_place"),
        (7, NOON, None, None, None, None, "90112", "no_place"),
        (7, NOON, None, None, None, None, "44010", "JPN"),
        (7, NOON, None, 30.5, 110.5, None, "44010", "330100"),
        (7, NOON, 2, 30.5, 110.5, None, "44010", "330200"),
    ]
    names = ["subscriber", "time", "cell", "lat", "lon", "accuracy", "plmn"]
    table = pl.DataFrame([row[:-1] for row in rows], schema=names, orient="row", strict=False)
    pings, rejects = read(table, cells=cells, places=places)
    assert len(pings) + len(rejects) == len(rows)
    expected = [(i, row[-1]) for i, row in enumerate(rows) if row[-1] in REASONS]
    assert rejects.select("row", "reason").rows() == expected
    assert pings["place"].to_list() == [row[-1] for row in rows if row[-1] not in REASONS]
    values = dict(rejects.select("row", "value").rows())
    assert values[1] is None
    assert values[9] is None
    assert values[18] == "9"
    assert values[20] == "35,110.5"
    assert values[21] == "46000"


def test_inner_is_the_cells_or_the_discs(cells, places):
    table = pl.DataFrame(
        {
            "subscriber": [1, 2, 3, 4, 5],
            "time": [NOON] * 5,
            "cell": [1, 2, None, None, None],
            "lat": [None, None, 30.5, 30.5, None],
            "lon": [None, None, 110.999, 110.999, None],
            "accuracy": [None, None, None, 500.0, None],
            "plmn": [None, None, None, None, "44010"],
        }
    )
    pings, rejects = read(table, cells=cells, places=places)
    assert rejects.is_empty()
    assert pings["inner"].to_list() == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("time", "options"),
    [
        (pl.Series([NOON, NOON + timedelta(seconds=1.9)]), {}),
        (pl.Series([NOON, NOON + timedelta(seconds=1.9)]).cast(pl.Datetime("ms", "UTC")), {}),
        (pl.Series([NOON, NOON + timedelta(seconds=1.9)]).cast(pl.Datetime("ns", "UTC")), {}),
        (pl.Series([NOON, NOON + timedelta(seconds=1.9)]).dt.convert_time_zone("America/New_York"), {}),
        (pl.Series([1647230400, 1647230401]), {"time_unit": "s"}),
        (pl.Series([1647230400, 1647230401], dtype=pl.Int32), {"time_unit": "s"}),
        (pl.Series([1647230400000, 1647230401900]), {"time_unit": "ms"}),
        (pl.Series([1647230400000000, 1647230401900000]), {"time_unit": "us"}),
        (pl.Series([datetime(2022, 3, 14, 4), datetime(2022, 3, 14, 4, 0, 1)]), {"timezone": "UTC"}),
        (pl.Series([datetime(2022, 3, 14, 4), datetime(2022, 3, 14, 4, 0, 1)]), {}),
        (pl.Series([datetime(2022, 3, 14, 12), datetime(2022, 3, 14, 12, 0, 1)]), {"timezone": "Asia/Shanghai"}),
        (pl.Series(["2022-03-14T04:00:00Z", "2022-03-14 12:00:01.999+08:00"]), {}),
        (pl.Series(["2022-03-14T04:00", "2022-03-14 04:00:01"]), {}),
        (pl.Series(["2022-03-14T12:00:00", "2022-03-14T12:00:01,5"]), {"timezone": "Asia/Shanghai"}),
        (pl.Series(["2022-03-13T23:00:00-0500", "2022-03-13T23:00:01-05"]), {}),
    ],
)
def test_times_in_every_form_are_floored_utc_seconds(time, options, cells):
    pings, rejects = read(pl.DataFrame({"subscriber": [7, 7], "time": time, "cell": [1, 1]}), cells=cells, **options)
    assert rejects.is_empty()
    assert pings["time"].to_list() == [NOON, NOON + timedelta(seconds=1)]


def test_text_times_agree_with_the_standard_librarys_reading(cells):
    texts = [
        f"2022-03-14T{hour}:{hour}:{hour}{fraction}{offset}"
        for hour in ("00", "07", "15", "23")
        for fraction in ("", ".5", ".123456")
        for offset in ("Z", "+00:00", "-03:30", "+08:00", "+0545")
    ]
    pings, rejects = read(pl.DataFrame({"subscriber": 7, "time": texts, "cell": 1}), cells=cells)
    seconds = [datetime.fromisoformat(text).astimezone(UTC).replace(microsecond=0) for text in texts]
    start = datetime(2022, 3, 14, tzinfo=timezone(timedelta(hours=8)))
    assert pings["time"].to_list() == [s for s in seconds if start <= s < start + timedelta(days=1)]
    assert set(rejects["reason"]) == {"outside_day"}


@pytest.mark.parametrize(
    "text",
    [
        "?",
        "2022-03-14T04:00:60Z",
        "2022-13-14T00:00:00Z",
        "2022-03-14T25:00:00Z",
        "14.03.2022",
        "2022-03-14T04:00:00+99:00",
    ],
)
def test_text_that_is_no_time_is_bad_time(text, cells):
    _, rejects = read(pl.DataFrame({"subscriber": [7], "time": [text], "cell": [1]}), cells=cells)
    assert rejects.select("reason", "value").rows() == [("bad_time", text)]


def test_hour_that_does_not_exist_is_bad_time(cells):
    table = pl.DataFrame({"subscriber": [7], "time": [datetime(2022, 3, 27, 2, 30)], "cell": [1]})
    _, rejects = read(table, cells=cells, day=date(2022, 3, 27), timezone="Europe/Berlin", tz="Europe/Berlin")
    assert rejects["reason"].to_list() == ["bad_time"]


@pytest.mark.parametrize("ids", [[1, 2, 3], ["1", "2", "3"]])
@pytest.mark.parametrize("kind", [pl.Int64, pl.UInt64, pl.Int32, pl.String])
def test_integer_and_text_cell_ids_meet(ids, kind, places):
    cells = tc.CellMap.build(inventory(ids), places=places)
    table = pl.DataFrame({"subscriber": [7, 7, 7], "time": [NOON] * 3, "cell": pl.Series([1, 2, 9]).cast(kind)})
    pings, rejects = read(table, cells=cells)
    assert pings["place"].to_list() == ["330100", "330200"]
    assert rejects["reason"].to_list() == ["unknown_cell"]


def test_validity_dates_decide_which_row_of_the_inventory_a_cell_means(places):
    moved = pl.DataFrame(
        {
            "cell": [1, 1], "lat": [30.5, 30.5], "lon": [110.5, 111.5],
            "valid_date_start": [None, DAY], "valid_date_end": [DAY - timedelta(days=1), DAY],
        }
    )  # fmt: skip
    cells = tc.CellMap.build(moved, places=places)
    found = []
    for back in (1, 0, -1):
        table = pl.DataFrame({"subscriber": [7], "time": [NOON - timedelta(days=back)], "cell": [1]})
        pings, rejects = read(table, cells=cells, day=DAY - timedelta(days=back))
        found += pings["place"].to_list() + rejects["reason"].to_list()
    assert found == ["330100", "330200", "unknown_cell"]


@pytest.mark.parametrize("far", [1 << 40, (1 << 47) - 8, 1 << 47, 1 << 62])
def test_cell_ids_may_lie_far_apart(far, places):
    cells = tc.CellMap.build(inventory([7, far, far + 7]), places=places)
    asked = [7, far, far + 7, 8, 6, 0, far - 1, far + 8, 2**63 - 1, -1, None]
    table = pl.DataFrame({"subscriber": [7] * len(asked), "time": NOON, "cell": asked})
    pings, rejects = read(table, cells=cells)
    assert pings["place"].to_list() == ["330100", "330200"]
    assert rejects["reason"].to_list() == ["no_place", *["unknown_cell"] * 7, "null_cell"]


CSV = """msisdn,time,cell
7,2022-03-14T04:00:00Z,1
NaN,2022-03-14T04:00:00Z,1
1.5,x,1
-7,x,1
99999999999999999999,x,1
7,,1
7,x,1
7,2022-03-14T04:00:00Z,
7,2022-03-14T04:00:00Z,abc
,,
"""


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.zst"])
def test_csv(ending, tmp_path, cells):
    raw = CSV.encode()
    packed = {"csv": raw, "csv.gz": gzip.compress(raw), "csv.zst": pa.compress(raw, codec="zstd", asbytes=True)}[ending]
    (tmp_path / f"a.{ending}").write_bytes(packed)
    pings, rejects = read(tmp_path / "*", cells=cells, columns={"subscriber": "msisdn"})
    assert pings["subscriber"].to_list() == [7]
    reasons = ["null_subscriber"] * 4 + ["null_time", "bad_time", "null_cell", "unknown_cell", "null_subscriber"]
    assert rejects["reason"].to_list() == reasons
    assert rejects["row"].to_list() == list(range(1, 10))
    assert set(rejects["file"]) == {str(tmp_path / f"a.{ending}")}


def test_string_subscribers_stay_strings(cells):
    table = pl.DataFrame({"subscriber": ["a1", "", None, "号"], "time": [NOON] * 4, "cell": [1] * 4})
    pings, rejects = read(table, cells=cells)
    assert pings["subscriber"].to_list() == ["a1", "号"]
    assert rejects["reason"].to_list() == ["null_subscriber"] * 2


@pytest.mark.parametrize(
    "make", [pl.DataFrame.to_arrow, pl.DataFrame.to_pandas, pl.DataFrame.lazy, lambda frame: frame]
)
def test_any_table_is_read(make, cells):
    table = pl.DataFrame({"subscriber": [7, 8], "time": [NOON, NOON], "cell": [1, 9]})
    pings, rejects = read(make(table), cells=cells)
    assert (len(pings), len(rejects)) == (1, 1)


def test_dictionary_columns_and_many_row_groups(tmp_path, cells):
    rows = 150_000
    table = pa.table(
        {
            "subscriber": pa.array(np.arange(rows) % 50),
            "time": pa.array([NOON] * rows).cast(pa.timestamp("us", "UTC")),
            "cell": pa.array(["1", "9"] * (rows // 2)).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=40_000)
    pings, rejects = read(str(tmp_path / "*.parquet"), cells=cells)
    assert len(pings) == len(rejects) == rows // 2
    assert rejects["row"].to_list() == list(range(1, rows, 2))


# -------------------------------------------------------------------------------------------------------- refusals


def refused(table, *words, **options):
    with pytest.raises(InputError) as error:
        read(table, **options)
    message = str(error.value)
    assert all(word in message for word in words), message
    return message


def test_wrong_columns_come_in_one_message(cells):
    table = pl.DataFrame({"msisdn": [7], "ts": [NOON], "cgi": [1.0]})
    message = refused(
        table, "2 problems", "subscriber", "time", "msisdn, ts, cgi", 'columns={"subscriber"', cells=cells
    )
    assert message.count("\n") == 2
    refused(table.rename({"msisdn": "subscriber", "ts": "time"}), "where a ping was", cells=cells)
    refused(table, "lost digits", columns={"subscriber": "msisdn", "time": "ts", "cell": "cgi"}, cells=cells)
    refused(table, "no column of pings", columns={"subscribers": "msisdn"}, cells=cells)


def test_ids_read_as_floats_are_refused(cells):
    table = pd.DataFrame({"subscriber": [7, None], "time": [NOON, NOON], "cell": [1, 1]})
    refused(table, "subscriber", "got double", "lost digits", cells=cells)


def test_integer_times_want_a_unit(cells):
    refused(pl.DataFrame({"subscriber": [7], "time": [1], "cell": [1]}), "time_unit", cells=cells)


def test_unknown_time_zone_and_unit(cells):
    table = pl.DataFrame({"subscriber": [7], "time": [NOON], "cell": [1]})
    refused(table, "no time zone", cells=cells, timezone="Asia/Shangai")
    refused(table, "no time zone", cells=cells, tz="Shanghai")
    refused(table, "time_unit", cells=cells, time_unit="minutes")


def test_cells_without_an_inventory_and_positions_without_places(cells):
    refused(pl.DataFrame({"subscriber": [7], "time": [NOON], "cell": [1]}), "inventory")
    refused(pl.DataFrame({"subscriber": [7], "time": [NOON], "lat": [1.0], "lon": [1.0]}), "places", cells=cells)


def test_a_day_without_files(tmp_path):
    refused(tmp_path / "{day}" / "*.parquet", "no file", "2022-03-14")
    refused([], "no file")


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz", "csv.zst"])
def test_truncated_and_empty_files_are_named(ending, tmp_path, cells):
    rng = np.random.default_rng(0)
    table = pl.DataFrame({"subscriber": rng.integers(0, 1 << 40, 20_000), "time": "2022-03-14T04:00:00Z", "cell": 1})
    path = tmp_path / f"broken.{ending}"
    text = table.write_csv().encode()
    if ending == "parquet":
        table.write_parquet(path)
    else:
        path.write_bytes(
            {
                "csv": text + b"1,2",
                "csv.gz": gzip.compress(text),
                "csv.zst": pa.compress(text, codec="zstd", asbytes=True),
            }[ending]
        )
    if ending != "csv":
        path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "broken." + ending, "cannot be read", cells=cells)
    path.write_bytes(b"")
    refused(path, "broken." + ending, cells=cells)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_without_rows_is_refused(ending, tmp_path, cells):
    empty = pl.DataFrame(schema={"subscriber": pl.Int64, "time": pl.String, "cell": pl.Int64})
    path = tmp_path / f"none.{ending}"
    (empty.write_parquet if ending == "parquet" else empty.write_csv)(path)
    refused(path, "none." + ending, "empty", cells=cells)


def test_swapped_coordinates_are_told(places):
    table = pl.DataFrame({"subscriber": [7] * 3, "time": [NOON] * 3, "lat": [110.5, 110.6, 111.2], "lon": [30.5] * 3})
    refused(table, "swapped", "3 of 3", places=places)
    _, rejects = read(
        table.with_columns(lat=pl.Series([35.0, 35.1, 110.5]), lon=pl.Series([110.5, 110.5, 30.5])), places=places
    )
    assert len(rejects) == 3  # most are not found either way: rejects, no refusal


def test_local_times_taken_for_utc_are_told(cells):
    local = [datetime(2022, 3, 14) + timedelta(seconds=60 * i) for i in range(1440)]
    table = pl.DataFrame({"subscriber": 7, "time": local, "cell": 1})
    refused(table, "no time zone", 'timezone = "Asia/Shanghai"', cells=cells)
    pings, _ = read(table, cells=cells, timezone="Asia/Shanghai")
    assert len(pings) == 1440
    pings, rejects = read(table, cells=cells, timezone="UTC")
    assert (len(pings), len(rejects)) == (960, 480)


def test_files_are_read_in_order_and_named(tmp_path: Path, cells):
    for i in (1, 0):
        pl.DataFrame({"subscriber": [i], "time": [NOON], "cell": [9]}).write_parquet(tmp_path / f"part-{i}.parquet")
    _, rejects = read(tmp_path / "part-*.parquet", cells=cells)
    assert [Path(f).name for f in rejects["file"]] == ["part-0.parquet", "part-1.parquet"]


# ------------------------------------------------------------------------------------- what is in files that do not fit


def chain(error: BaseException | None) -> str:
    """Everything that a traceback of this error would print of messages."""
    return (
        ""
        if error is None
        else f"{error}\n{chain(error.__cause__ or (None if error.__suppress_context__ else error.__context__))}"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("subscriber,time,plmn\n13800001234,2022-03-14T01:00:00Z\n", "expected 3 columns, got 2"),
        ("subscriber,time,plmn\n13800001234,2022-03-14T01:00:00Z,44010,1\n", "expected 3 columns, got 4"),
        ('subscriber,time,plmn\n"13800001234,2022-03-14T01:00:00Z,44010\n', "cannot be read"),
        ("13800001234,2022-03-14T01:00:00Z,44010\n13800001234,2022-03-14T01:00:00Z,44010\n", "138****1234"),
        ("subscriber,time,plmn,plmn\n1,2022-03-14T01:00:00Z,44010,44010\n", "name of 2 columns"),
    ],
)
def test_no_number_of_a_csv_file_that_does_not_fit_is_in_its_error(text, words, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"a\.csv") as caught:
        read(tmp_path / "a.csv")
    assert words in str(caught.value)
    assert "13800001234" not in chain(caught.value)


def test_a_csv_file_that_is_not_in_utf_8_is_named(tmp_path):
    for header in ("备注", "x"):
        text = f"subscriber,time,plmn,{header}\n1,2022-03-14T01:00:00Z,44010,备\n"
        (tmp_path / "a.csv").write_bytes(text.encode("gb18030"))
        refused(tmp_path / "a.csv", "a.csv", "UTF-8")


def test_files_with_integer_and_with_text_subscribers_are_no_day(tmp_path):
    for name, ids in (("a", [1]), ("b", ["1"])):
        table = pl.DataFrame({"subscriber": ids, "time": [NOON], "plmn": ["44010"]})
        table.write_parquet(tmp_path / f"{name}.parquet")
    refused(str(tmp_path / "*.parquet"), "subscriber_type")
    assert len(read(str(tmp_path / "*.parquet"), subscriber_type="string")[0]) == 2


def test_a_dictionary_of_integers_is_integers():
    ids = pa.array([5, -5]).dictionary_encode()
    table = pa.table({"subscriber": ids, "time": pa.array([NOON, NOON]), "plmn": ["44010", "44010"]})
    pings, rejects = read(table)
    assert pings["subscriber"].to_list() == [5]
    assert rejects["reason"].to_list() == ["null_subscriber"]


@pytest.mark.parametrize("kind", [pl.Int64, pl.UInt32, pl.String, pl.Categorical])
def test_plmns_are_text_or_integers(kind):
    table = pl.DataFrame({"subscriber": [7], "time": [NOON], "plmn": pl.Series(["44010"]).cast(kind, strict=False)})
    if kind in (pl.Int64, pl.UInt32):
        table = table.with_columns(plmn=pl.lit(44010, kind))
    assert read(table)[0]["place"].to_list() == ["JPN"]


def test_a_column_without_any_value_may_have_no_type(cells):
    table = pd.DataFrame({"subscriber": [1], "time": [NOON], "cell": [1], "plmn": [None]})
    assert pa.table(table).schema.field("plmn").type == pa.null()
    assert len(read(table, cells=cells)[0]) == 1
    _, rejects = read(pa.table(table).set_column(0, "subscriber", pa.nulls(1)), cells=cells)
    assert rejects["reason"].to_list() == ["null_subscriber"]


def test_positions_may_be_decimals(places):
    point = {"lat": pl.Series(["30.5"]).cast(pl.Decimal(9, 6)), "lon": pl.Series(["110.5"]).cast(pl.Decimal(9, 6))}
    assert (
        read(pl.DataFrame({"subscriber": [7], "time": [NOON], **point}), places=places)[0]["place"].item() == "330100"
    )


@pytest.mark.parametrize("day", ["2022-03-14", None, datetime(2022, 3, 14), date(9999, 12, 31), date(1, 1, 1)])
def test_a_day_is_a_date(day, cells):
    refused(
        pl.DataFrame({"subscriber": [7], "time": [NOON], "cell": [1]}), "day: expected a date", day=day, cells=cells
    )


ISO = st.one_of(
    st.datetimes(datetime(1890, 1, 1), datetime(2150, 1, 1)).map(lambda t: t.isoformat(sep="T")),
    st.tuples(
        st.datetimes(datetime(1969, 12, 31), datetime(2100, 1, 2)),
        st.sampled_from(["", "Z", "z", "+08:00", "-03:30", "+0545", "+08", "+24:00", "+08:60", " Z", "+8:00", "-"]),
        st.sampled_from(["T", " ", "t", "_"]),
        st.sampled_from(["auto", "seconds", "milliseconds"]),
    ).map(lambda p: p[0].isoformat(sep=p[2], timespec=p[3]) + p[1]),
    st.from_regex(
        r"(19|20|21)\d\d-[01]\d-[0-3]\d[T ][0-2]\d:[0-6]\d:[0-6]\d([.,]\d{0,3})?(Z|[+-]\d\d:\d\d)?", fullmatch=True
    ),
)


@given(st.lists(ISO, min_size=1, max_size=20), st.sampled_from([None, "UTC", "Asia/Shanghai", "Europe/Berlin"]))
def test_the_quick_reading_of_iso_text_is_the_whole_one(texts, timezone):
    """The compiled reader of the commonest form, and the expression that reads every form, say the same."""
    quick, _ = ingest._text_times(pa.array(texts), timezone)
    whole = ingest._iso_seconds(pl.Series(texts), timezone or "UTC").fill_null(ingest._BAD_TIME)
    assert quick.tolist() == whole.to_list()


@pytest.mark.parametrize(
    "text", ["20220314T040000Z", "2022-03-14T04Z", "20220314T12+08", "2022-03-14T0400Z", "20220314 04:00:00.5Z"]
)
def test_the_basic_format_and_hours_alone_are_iso_too(text, cells):
    pings, _ = read(pl.DataFrame({"subscriber": [7], "time": [text], "cell": [1]}), cells=cells)
    assert pings["time"].to_list() == [NOON]


def test_the_number_in_a_shifted_field_is_not_kept():
    table = pl.DataFrame({"subscriber": ["13800001234"], "time": ["13800001234"], "plmn": ["44010"]})
    _, rejects = read(table)
    assert rejects.select("reason", "value").rows() == [("bad_time", None)]


@pytest.mark.parametrize(
    "form", ["a dictionary's indices", "texts", "a dictionary in memory", "texts in memory", "categories", "an enum"]
)
def test_a_night_of_text_cells_is_that_of_their_numbers(form, tmp_path, places):
    dice, rows, minute = random.Random(5), 3000, timedelta(minutes=1)
    numbers = [dice.choice([1, 2, 3, 99, None]) for _ in range(rows)]
    table = pa.table(
        {
            "subscriber": [dice.choice([7, 8, 9, -1, None]) for _ in range(rows)],
            "time": [NOON + dice.randrange(-1000, 1000) * minute for _ in range(rows)],
            "cell": pa.array([None if n is None else f"460-00-{n:05}" for n in numbers]),
            "plmn": [dice.choice(["44010", None]) for _ in range(rows)],
        }
    )
    path = tmp_path / "pings.parquet"
    pq.write_table(table, path, use_dictionary="indices" in form, row_group_size=1000)
    coded = table.set_column(2, "cell", table["cell"].dictionary_encode())
    given = {"a dictionary in memory": coded, "texts in memory": table}
    for name, kind in (("categories", pl.Categorical), ("an enum", pl.Enum(table["cell"].unique().drop_null()))):
        halves = [pl.DataFrame(half).with_columns(pl.col("cell").cast(kind)) for half in (table[:9], table[9:])]
        given[name] = pl.concat(halves, rechunk=False)
    texts = tc.CellMap.build(inventory([f"460-00-{n:05}" for n in (1, 2, 3)]), places=places)
    told = tc.CellMap.build(inventory([1, 2, 3]), places=places)
    nights = {
        "text": (texts, given.get(form, path)),
        "number": (told, table.set_column(2, "cell", pa.array(numbers))),
    }
    made = {}
    for kind, (cells, pings) in nights.items():
        store = tc.Store(tmp_path / kind)
        run_stays(store, day=DAY, pings=pings, cells=cells)
        rejects = store.read("rejects", [name for _, name in store.files("rejects")]).drop(["file", "value"])
        stays = store.read("stays", sorted((name for _, name in store.files("stays")), key=lambda n: n.split("/")[1]))
        (row,) = newest(store, "stays")
        made[kind] = [stays.to_pylist(), rejects.to_pylist(), row["silent"], row["hours"]]
    assert made["text"] == made["number"]
    assert len(made["text"][1]) > 1000


def test_a_bit_that_turned_over_among_text_cells_is_no_traceback(tmp_path, places):
    dice, rows, told = random.Random(1), 2000, 0
    names = [f"cell {n:04}" for n in range(33)]  # of six bits for each index, some mean nothing
    columns = {"subscriber": range(rows), "time": [NOON] * rows, "cell": [dice.choice(names) for _ in range(rows)]}
    path = tmp_path / "pings.parquet"
    pq.write_table(pa.table(columns), path, compression="none")
    here = pl.DataFrame({"cell": names, "lat": 30.5, "lon": 110.5})
    cells, raw = tc.CellMap.build(here, places=places), path.read_bytes()
    column, store = pq.read_metadata(path).row_group(0).column(2), tc.Store(tmp_path / "store", asked={"buckets": 1})
    for _ in range(40):
        at = column.dictionary_page_offset + dice.randrange(column.total_compressed_size)
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :])
        try:
            run_stays(store, day=DAY, pings=path, cells=cells)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017  it may be raised or not
            told += 1
    assert told > 3
