"""Pings to stays, stays to longer stays: kernel = oracle, and the laws of DESIGN 3.3 and 3.4."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import oracle
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import (
    NAMES,
    NUMBERS,
    alternations,
    crowd,
    cuts,
    day_by_day,
    durations,
    flickers,
    histories,
    ping_frame,
    rows,
    silences,
    stay_frame,
    zones,
)

import travelcard as tc
from travelcard.errors import InputError
from travelcard.kernel import _in_order

HOUR = 3600
NOON = int(datetime(2022, 3, 14, 4, tzinfo=UTC).timestamp())  # noon in Shanghai
STAYS = pl.Schema(
    {
        "subscriber": pl.Int64(),
        "place": pl.String(),
        "arrive": pl.Datetime("us", "UTC"),
        "depart": pl.Datetime("us", "UTC"),
        "pings": pl.Int32(),
        "inner": pl.Int32(),
    }
)


def seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


# ------------------------------------------------------------------------------------------------ kernel = oracle


@given(st.data(), zones, silences)
def test_stays_are_the_oracles(data, tz, silence):
    pings = data.draw(histories(tz=tz))
    found = tc.stays(ping_frame(pings), tz=tz, max_silence=silence)
    assert rows(found) == oracle.stays(pings, tz, seconds(silence))


@given(histories(), silences, flickers)
def test_stitched_stays_are_the_oracles(pings, silence, flicker):
    days = oracle.stays(pings, max_silence=seconds(silence))
    found = tc.stitch(stay_frame(days), max_silence=silence, flicker=flicker)
    assert rows(found) == oracle.stitch(days, seconds(silence), seconds(flicker))


@settings(max_examples=4 * settings().max_examples)  # cheap, and the one rule with a state
@given(alternations(), durations(0, 1, 60, 61, 300, 600, HOUR), durations(0, 1, 2, 61, 62, 300, 600, HOUR))
def test_long_runs_of_flicker_are_the_oracles(days, silence, flicker):
    """Silence and flicker are two numbers: a flicker longer than the silence is no special case."""
    found = tc.stitch(stay_frame(days), max_silence=silence, flicker=flicker)
    assert rows(found) == oracle.stitch(days, seconds(silence), seconds(flicker))


@pytest.mark.parametrize(("people", "mean", "tz"), [(1500, 8, "Asia/Shanghai"), (40, 400, "America/New_York")])
@pytest.mark.parametrize("strings", [False, True])
def test_a_crowd(people, mean, tz, strings):
    pings = crowd(people + strings, people, mean, tz, strings)
    days = oracle.stays(pings, tz)
    found = tc.stays(ping_frame(pings), tz=tz)
    assert rows(found) == days
    joined = tc.stitch(found, flicker=timedelta(minutes=10))
    assert rows(joined) == oracle.stitch(days, flicker=600)


# ---------------------------------------------------------------------------------------------------------- laws


@given(st.data(), zones, silences)
def test_stitched_daily_stays_are_the_stays_of_all_pings(data, tz, silence):
    pings = data.draw(histories(tz=tz))
    daily = [tc.stays(ping_frame(day), tz=tz, max_silence=silence) for day in day_by_day(pings, tz)]
    whole = [
        stay for mine in oracle.by_subscriber(oracle.merge(pings)[0]) for stay in oracle.runs(mine, seconds(silence))
    ]
    assert rows(tc.stitch(daily, max_silence=silence)) == whole if daily else whole == []


@given(st.data(), silences)
def test_pieces_cut_along_time_may_be_grouped_at_will(data, silence):
    pings = data.draw(histories(who=[0, 2**63 - 1]))
    pieces = [tc.stays(ping_frame(piece, pl.Int64()), max_silence=silence) for piece in data.draw(cuts(pings))]
    whole = tc.stitch(pieces, max_silence=silence)
    assert rows(whole) == rows(
        tc.stitch(tc.stays(ping_frame(pings, pl.Int64()), max_silence=silence), max_silence=silence)
    )
    for at in range(1, len(pieces)):
        a, b = pieces[:at], pieces[at:]
        assert tc.stitch([tc.stitch(a, max_silence=silence), *b], max_silence=silence).equals(whole)
        assert tc.stitch([*a, tc.stitch(b, max_silence=silence)], max_silence=silence).equals(whole)


@given(histories(), silences)
def test_a_ping_is_a_stay_of_length_zero(pings, silence):
    merged, _ = oracle.merge(pings)
    single = [(who, place, second, second, 1, int(inner)) for who, second, place, inner in merged]
    from_pings = tc.stitch(stay_frame(single), max_silence=silence)
    assert from_pings.equals(tc.stitch(tc.stays(ping_frame(pings), max_silence=silence), max_silence=silence))


@given(histories(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pings, dice):
    shuffled = dice.sample(pings, len(pings))
    found = tc.stays(ping_frame(pings))
    assert tc.stays(ping_frame(shuffled)).equals(found)
    mixed = dice.sample(rows(found), len(found))
    flicker = timedelta(minutes=10)
    assert tc.stitch(stay_frame(mixed), flicker=flicker).equals(tc.stitch(found, flicker=flicker))


@given(histories(), silences)
def test_stitching_twice_changes_nothing(pings, silence):
    once = tc.stitch(tc.stays(ping_frame(pings)), max_silence=silence)
    assert tc.stitch(once, max_silence=silence).equals(once)


@given(histories())
def test_every_ping_is_counted_once(pings):
    repeated = pings + pings[::2]
    merged, less = oracle.merge(repeated)
    found = tc.stays(ping_frame(repeated))
    assert found["pings"].sum() + less == len(repeated)
    assert found["inner"].sum() == sum(inner for *_, inner in merged)
    assert tc.stitch(found)["pings"].sum() == found["pings"].sum()


@given(histories(), silences)
def test_subscribers_never_meet(pings, silence):
    alone = [rows(tc.stays(ping_frame(mine), max_silence=silence)) for mine in oracle.by_subscriber(pings)]
    assert rows(tc.stays(ping_frame(pings), max_silence=silence)) == [row for part in alone for row in part]


@given(histories(who=[7, 8, 2**31 - 1]), st.sampled_from([pl.Int32, pl.UInt32, pl.Int64, pl.UInt64]))
def test_the_width_of_an_integer_subscriber_does_not_matter(pings, kind):
    found = tc.stays(ping_frame(pings).cast({"subscriber": kind}))
    assert rows(found) == oracle.stays(pings)
    assert found.schema == STAYS


@given(histories(who=list(NUMBERS)), st.just({number: f"{number:020d}" for number in NUMBERS}))
def test_strings_are_another_name_for_the_same_stays(pings, name):
    """Numbers written with leading zeros sort as the numbers do, so the stays come in the same order."""
    named = tc.stays(ping_frame([(name[who], *rest) for who, *rest in pings], pl.String()))
    assert named["subscriber"].dtype == pl.String
    numbers = tc.stays(ping_frame(pings, pl.Int64()))
    assert rows(named) == [(name[who], *rest) for who, *rest in rows(numbers)]


# ------------------------------------------------------------------------------------------------- examples, edges


def stays_of(*pings, **options):
    """(place, arrive, depart, pings) of one subscriber, seconds counted from noon."""
    frame = ping_frame([(7, NOON + second, place, False) for second, place in pings])
    return [(place, a - NOON, d - NOON, n) for _, place, a, d, n, _ in rows(tc.stays(frame, **options))]


def test_a_gap_of_exactly_max_silence_is_inside_a_stay():
    silence = timedelta(hours=1)
    assert stays_of((0, "330100"), (HOUR, "330100"), max_silence=silence) == [("330100", 0, HOUR, 2)]
    assert stays_of((0, "330100"), (HOUR + 1, "330100"), max_silence=silence) == [
        ("330100", 0, 0, 1),
        ("330100", HOUR + 1, HOUR + 1, 1),
    ]


def test_with_no_silence_at_all_every_second_is_a_stay():
    assert stays_of((0, "330100"), (1, "330100"), (1, "330100"), max_silence=timedelta(0)) == [
        ("330100", 0, 0, 1),
        ("330100", 1, 1, 1),
    ]


def test_midnight_of_the_zone_ends_a_stay_and_belongs_to_the_new_day():
    midnight = 12 * HOUR
    pings = (midnight - 1, "330100"), (midnight, "330100"), (midnight + 1, "330100")
    assert stays_of(*pings) == [("330100", midnight - 1, midnight - 1, 1), ("330100", midnight, midnight + 1, 2)]
    assert stays_of(*pings, tz="Europe/Berlin") == [("330100", midnight - 1, midnight + 1, 3)]


def test_within_a_second_places_come_in_the_order_of_their_bytes():
    pings = (0, "USA"), (0, "330100"), (0, "110000"), (0, "HKG")
    assert [place for place, *_ in stays_of(*pings)] == ["110000", "330100", "HKG", "USA"]
    # The run of 330100 goes through the shared second, since it is last in it.
    assert stays_of((-1, "310000"), (0, "330100"), (0, "310000"), (1, "330100")) == [
        ("310000", -1, 0, 2),
        ("330100", 0, 1, 2),
    ]


@example(["\uff5e", "\U0001f600"])
@given(st.permutations(list(NAMES)))
def test_string_subscribers_sort_by_bytes(names):
    found = tc.stays(ping_frame([(name, NOON, "330100", True) for name in names]))
    assert found["subscriber"].to_list() == sorted(names, key=str.encode)


def test_places_of_any_text_sort_by_bytes():
    places = ["\U0001f600", "\uff5e", "z", "Z", "JPN", "330100", "3301"]
    assert [place for place, *_ in stays_of(*[(0, place) for place in places])] == sorted(places, key=str.encode)


def test_the_extremes_of_numbers():
    found = tc.stays(ping_frame([(n, NOON, "330100", True) for n in (2**63 - 1, 0, 1, 2**62)]))
    assert found["subscriber"].to_list() == [0, 1, 2**62, 2**63 - 1]


def test_days_of_23_and_25_hours():
    for day, hours in ((date(2022, 3, 13), 23), (date(2022, 11, 6), 25)):
        tz = "America/New_York"
        begins, ends = oracle.midnight(day, tz), oracle.midnight(day + timedelta(days=1), tz)
        assert ends - begins == hours * HOUR
        pings = [(7, begins + second, "330100", True) for second in range(0, hours * HOUR + 1, HOUR)]
        assert [n for *_, n, _ in rows(tc.stays(ping_frame(pings), tz=tz))] == [hours, 1]


def test_times_before_1970_and_far_from_each_other():
    pings = [(7, second, "330100", True) for second in (-1, 0, 4_000_000_000, -2_000_000_000)]
    assert rows(tc.stays(ping_frame(pings))) == oracle.stays(pings)


def test_stays_with_one_gap_too_long_are_not_joined_by_flicker_alone():
    """A B A whose As are further apart than the silence: B goes, the As stay two."""
    days = [(7, "330100", 0, 0, 1, 0), (7, "310000", 100, 100, 1, 0), (7, "330100", 200, 200, 1, 0)]
    found = tc.stitch(stay_frame(days), max_silence=timedelta(seconds=150), flicker=timedelta(seconds=200))
    assert rows(found) == [days[0], days[2]]


def test_flicker_zero_removes_none_even_within_a_second():
    days = [(7, "330100", 0, 0, 1, 0), (7, "HKG", 0, 0, 1, 0), (7, "330100", 1, 1, 1, 0)]
    assert rows(tc.stitch(stay_frame(days))) == days
    assert rows(tc.stitch(stay_frame(days), flicker=timedelta(seconds=1))) == [(7, "330100", 0, 1, 2, 0)]


# -------------------------------------------------------------------------------------------- tables of every kind


PINGS = [(8, NOON, "330100", True), (7, NOON + 1, "JPN", False), (7, NOON, "330100", False), (7, NOON, "330100", True)]
MAKERS = {
    "polars": lambda frame: frame,
    "lazy": lambda frame: frame.lazy(),
    "pyarrow": lambda frame: frame.to_arrow(),
    "batches": lambda frame: pa.RecordBatchReader.from_batches(
        frame.to_arrow().schema, frame.to_arrow().to_batches(max_chunksize=1)
    ),
    "chunks": lambda frame: pl.concat([frame[:1], frame[1:1], frame[1:]], rechunk=False),
    "pandas": lambda frame: pytest.importorskip("pandas").DataFrame(frame.to_dict(as_series=False)),
    "duckdb": lambda frame: pytest.importorskip("duckdb").from_arrow(frame.to_arrow()),
    "categorical": lambda frame: frame.with_columns(pl.col("place").cast(pl.Categorical)),
    "other order": lambda frame: frame.select("inner", "place", "extra", "time", "subscriber"),
}


@pytest.mark.parametrize("make", MAKERS)
def test_any_table_is_accepted(make):
    frame = ping_frame(PINGS).with_columns(extra=pl.lit("not ours"))
    assert rows(tc.stays(MAKERS[make](frame))) == oracle.stays(PINGS)
    days = oracle.stays(PINGS)
    frame = stay_frame(days).with_columns(extra=pl.lit("not ours"), time=0)
    if make != "other order":
        assert rows(tc.stitch(MAKERS[make](frame))) == oracle.stitch(days)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Shanghai", "America/New_York"])
def test_times_of_any_unit_and_zone_are_instants_floored_to_the_second(unit, zone):
    frame = ping_frame(PINGS).with_columns(pl.col("time").dt.offset_by("999ms").dt.cast_time_unit(unit))
    time = pl.col("time").dt.replace_time_zone(None) if zone is None else pl.col("time").dt.convert_time_zone(zone)
    found = tc.stays(frame.with_columns(time))
    assert rows(found) == oracle.stays(PINGS)
    assert found.schema == STAYS


def test_times_before_1970_are_floored_too():
    frame = ping_frame([(7, -1, "330100", True)]).with_columns(pl.col("time").dt.offset_by("1us"))
    assert rows(tc.stays(frame)) == [(7, "330100", -1, -1, 1, 1)]


def test_nanoseconds_are_floored():
    for nanoseconds, second in ((1_647_219_600_123_456_789, 1_647_219_600), (-1, -1)):
        time = pl.Series([nanoseconds], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))
        found = tc.stays(pl.DataFrame({"subscriber": [7], "time": time, "place": ["330100"]}))
        assert rows(found) == [(7, "330100", second, second, 1, 0)]


def test_without_inner_no_ping_is_known_to_be_inner():
    assert rows(tc.stays(ping_frame(PINGS).drop("inner"))) == oracle.stays([(*ping[:3], False) for ping in PINGS])


@pytest.mark.parametrize("ids", [pl.Int64(), pl.String()])
def test_empty_in_empty_out(ids):
    schema = pl.Schema({**STAYS, "subscriber": ids})
    assert tc.stays(ping_frame([], ids)).schema == schema
    assert tc.stays(ping_frame([], ids)).is_empty()
    assert tc.stitch(stay_frame([], ids)).schema == schema
    assert tc.stitch([stay_frame([], ids), stay_frame([], ids)]).schema == schema
    assert tc.stitch([]).schema.names() == STAYS.names()


def test_the_schema_of_what_is_returned():
    found = tc.stays(ping_frame(PINGS))
    assert found.schema == STAYS
    assert tc.stitch(found).schema == STAYS


# ------------------------------------------------------------------------------------------------------- refusals


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_all_wrong_columns_come_in_one_message():
    frame = ping_frame(PINGS).rename({"subscriber": "msisdn", "time": "ts"}).with_columns(place=1.5)
    message = refusal(tc.stays, frame)
    assert all(word in message for word in ("3 problems", "subscriber", "time", "place", "msisdn"))
    message = refusal(tc.stitch, stay_frame(oracle.stays(PINGS)).drop("depart", "pings"))
    assert all(word in message for word in ("2 problems", "depart", "pings"))


@pytest.mark.parametrize("column", ["subscriber", "time", "place"])
def test_nulls_are_refused(column):
    null = pl.when(pl.col("place") == "JPN").then(None).otherwise(pl.col(column)).alias(column)
    message = refusal(tc.stays, ping_frame(PINGS).with_columns(null))
    assert column in message
    assert "null" in message


def test_float_subscribers_are_refused():
    assert "subscriber" in refusal(tc.stays, ping_frame(PINGS).cast({"subscriber": pl.Float64}))


def test_a_number_too_long_is_refused_and_not_shown():
    frame = ping_frame(PINGS).with_columns(subscriber=pl.lit(2**63 + 13800001234, dtype=pl.UInt64()))
    message = refusal(tc.stays, frame)
    assert "subscriber" in message
    assert str(2**63 + 13800001234) not in message


def test_a_negative_number_and_an_empty_text_are_refused_and_not_shown():
    negative = ping_frame(PINGS).with_columns(subscriber=pl.lit(-13800001234))
    message = refusal(tc.stays, negative)
    assert "subscriber" in message
    assert "13800001234" not in message
    assert "subscriber" in refusal(tc.stays, ping_frame([("", NOON, "330100", True)]))


@pytest.mark.parametrize("option", ["max_silence", "flicker"])
@pytest.mark.parametrize("value", [timedelta(seconds=-1), timedelta(milliseconds=1500)])
def test_durations_are_whole_seconds_from_0(option, value):
    assert option in refusal(tc.stitch, stay_frame(oracle.stays(PINGS)), **{option: value})


def test_an_unknown_zone_is_refused():
    assert "Asia/Peking" in refusal(tc.stays, ping_frame(PINGS), tz="Asia/Peking")


def test_integers_and_strings_do_not_mix():
    refusal(tc.stitch, [stay_frame(oracle.stays(PINGS)), stay_frame([("a", "330100", 0, 0, 1, 0)])])


@pytest.mark.parametrize("thing", [None, 7, "pings.parquet", [1, 2]])
def test_what_is_no_table_is_refused(thing):
    assert "table" in refusal(tc.stays, thing)


@given(st.lists(st.integers(0, 2**32 - 1)) | st.lists(st.integers(0, 3)), st.booleans())
@example([*range(400, 0, -1)], False)  # so far from order that it is not sorted by neighbours
@example([n * 7919 % 1009 for n in range(1009)], False)
@example([5] * 300 + [*range(300)], True)
def test_events_in_any_order_are_sorted(values, nearly):
    events = np.array(sorted(values) if nearly else values, np.uint32)
    if nearly:
        events[:2] = events[:2][::-1]
    _in_order(events)
    assert events.tolist() == sorted(values)
