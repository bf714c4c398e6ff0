"""Day-stays to visits: kernel = oracle under every rule, and the edges of DESIGN 3.5."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import oracle
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    AS_OF,
    FIRST_DAY,
    ZONES,
    Rules,
    correction_frame,
    corrections,
    crowd,
    day_by_day,
    histories,
    ping_frame,
    rows,
    rules,
    silences,
    stay_frame,
    zones,
)

import travelcard as tc
from travelcard.errors import InputError

HOUR = 3600
MIDNIGHT = int(datetime(2022, 3, 13, 16, tzinfo=UTC).timestamp())  # of 2022-03-14 in Shanghai
VISITS = pl.Schema(
    {
        "subscriber": pl.Int64(),
        "place": pl.String(),
        "first": pl.Datetime("us", "UTC"),
        "last": pl.Datetime("us", "UTC"),
        "days": pl.Int32(),
        "longest_s": pl.Int32(),
        "transit": pl.Boolean(),
        "days_seen": pl.Int32(),
    }
)


def seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())


# ------------------------------------------------------------------------------------------------ kernel = oracle


def same(day_stays, policy, *, as_of=AS_OF, records=(), tz="Asia/Shanghai", silence=timedelta(hours=12)):
    """The kernel's visits, after they were found to be the oracle's."""
    ids = pl.String() if day_stays and isinstance(day_stays[0][0], str) else pl.Int64()
    found = tc.visits(
        stay_frame(day_stays, ids),
        as_of=as_of,
        policy=policy,
        corrections=correction_frame(records, ids) if records else None,
        tz=tz,
        max_silence=silence,
    )
    assert rows(found) == oracle.visits(day_stays, as_of, policy.plain(), records, tz, seconds(silence))
    return found


@pytest.mark.parametrize("border", ["any", "inner"])
@pytest.mark.parametrize("rule", ["day_span", "continuous", "cumulative"])
@given(data=st.data())
def test_visits_are_the_oracles(data, rule, border):
    pings = data.draw(histories())
    same(oracle.stays(pings), data.draw(rules(rule=rule, border=border)))


@given(st.data(), zones, silences, rules())
def test_visits_are_the_oracles_in_any_zone_and_silence(data, tz, silence, policy):
    pings = data.draw(histories(tz=tz))
    days = oracle.stays(pings, tz, seconds(silence))
    same(days, policy, as_of=ZONES[tz] + timedelta(days=14), tz=tz, silence=silence)


@pytest.mark.parametrize("rule", ["day_span", "continuous", "cumulative"])
@given(data=st.data(), tz=zones)
def test_visits_are_the_oracles_on_both_sides_of_the_longest_min_stay(data, rule, tz):
    """Where a place is a visit by a hair, every second of midnight, silence and flicker counts."""
    days = oracle.stays(data.draw(histories(tz=tz, most=15)), tz)
    as_of = ZONES[tz] + timedelta(days=14)
    policy = data.draw(rules(rule=rule, min_stay=timedelta(0)))

    def listed(min_stay):
        found = oracle.visits(days, as_of, {**policy.plain(), "min_stay": min_stay}, tz=tz)
        return {row[:2] for row in found if not row[6] and not oracle.is_abroad(row[1])}

    if at_all := sorted(listed(0)):
        one = data.draw(st.sampled_from(at_all))
        enough, too_long = 0, 20 * 24 * HOUR
        while too_long - enough > 1:
            middle = (enough + too_long) // 2
            enough, too_long = (middle, too_long) if one in listed(middle) else (enough, middle)
        for min_stay in (enough, too_long):
            same(days, replace(policy, min_stay=timedelta(seconds=min_stay)), as_of=as_of, tz=tz)


@given(st.data(), rules())
def test_visits_are_the_oracles_with_corrections(data, policy):
    pings = data.draw(histories())
    same(oracle.stays(pings), policy, records=data.draw(corrections(pings)))


@pytest.mark.parametrize("rule", ["day_span", "continuous", "cumulative"])
@pytest.mark.parametrize("border", ["any", "inner"])
def test_a_crowd(rule, border):
    for people, mean in ((600, 8), (20, 300)):
        same(oracle.stays(crowd(people, people, mean)), Rules(rule=rule, border=border))


# ---------------------------------------------------------------------------------------------------------- laws


@given(st.data(), rules())
def test_nothing_outside_the_window_matters(data, policy):
    pings = data.draw(histories())
    opens, closes = oracle.window(AS_OF, policy.days)
    within = [ping for ping in pings if opens <= oracle.day_of(ping[1], "Asia/Shanghai") <= closes]
    whole = tc.visits(tc.stays(ping_frame(pings)), as_of=AS_OF, policy=policy)
    assert rows(whole) == rows(tc.visits(tc.stays(ping_frame(within)), as_of=AS_OF, policy=policy))


@given(histories(), rules(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_cut_into_days_do_not_matter(pings, policy, dice):
    whole = tc.stays(ping_frame(pings))
    found = tc.visits(whole, as_of=AS_OF, policy=policy)
    shuffled = stay_frame(dice.sample(rows(whole), len(whole)))
    daily = [tc.stays(ping_frame(day)) for day in day_by_day(pings, "Asia/Shanghai")]
    if pings:
        assert tc.visits(shuffled, as_of=AS_OF, policy=policy).equals(found)
        assert tc.visits(daily[::-1], as_of=AS_OF, policy=policy).equals(found)


@given(histories(), rules())
def test_subscribers_never_meet(pings, policy):
    whole = rows(tc.visits(tc.stays(ping_frame(pings)), as_of=AS_OF, policy=policy))
    alone = [
        rows(tc.visits(tc.stays(ping_frame(mine)), as_of=AS_OF, policy=policy)) for mine in oracle.by_subscriber(pings)
    ]
    assert whole == [row for part in alone for row in part]


@given(histories(), rules())
def test_one_row_for_each_place_with_a_ping_in_the_window(pings, policy):
    opens, closes = oracle.window(AS_OF, policy.days)
    seen = {(who, place) for who, at, place, _ in pings if opens <= oracle.day_of(at, "Asia/Shanghai") <= closes}
    found = rows(tc.visits(tc.stays(ping_frame(pings)), as_of=AS_OF, policy=policy))
    assert len(found) == len(seen)
    assert {row[:2] for row in found} == seen


@given(histories(), rules(flicker=timedelta(0), border="any"))
def test_a_continuous_visit_within_a_day_is_one_by_the_other_rules(pings, policy):
    """Without flicker removal, one day's longest stay is within its sum, and its sum within its span."""
    days = tc.stays(ping_frame([ping for ping in pings if oracle.day_of(ping[1], "Asia/Shanghai") == FIRST_DAY]))

    def visited(rule):
        found = tc.visits(days, as_of=AS_OF, policy=replace(policy, rule=rule))
        return {row[:2] for row in rows(found) if not row[6]}

    assert visited("continuous") <= visited("cumulative") <= visited("day_span")


# ------------------------------------------------------------------------------------------------- examples, edges


def day_stays(*pings, tz="Asia/Shanghai"):
    """Day-stays of subscriber 7 from (hours of 2022-03-14, place[, inner]); hours may go below 0 and over 24."""
    found = [(7, MIDNIGHT + round(hours * HOUR), place, bool(inner and inner[0])) for hours, place, *inner in pings]
    return oracle.stays(found, tz)


def visited(day_stays_, records=(), as_of=AS_OF, **policy):
    found = same(day_stays_, Rules(**policy), as_of=as_of, records=records)
    return found.filter(~pl.col("transit"))["place"].to_list()


def transit(day_stays_, **policy):
    return same(day_stays_, Rules(**policy)).filter("transit")["place"].to_list()


def test_the_window_of_14_days_as_of_2022_03_15_is_the_first_to_the_fourteenth():
    begins, ends = oracle.midnight(date(2022, 3, 1), "Asia/Shanghai"), oracle.midnight(AS_OF, "Asia/Shanghai")
    pings = [(7, begins - 1, "110000", True), (7, begins, "310000", True), (7, ends - 1, "330100", True)]
    found = same(oracle.stays([*pings, (7, ends, "HKG", True)]), Rules(min_stay=timedelta(0)))
    assert found["place"].to_list() == ["310000", "330100"]
    assert found["days_seen"].to_list() == [2, 2]


@pytest.mark.parametrize("rule", ["day_span", "continuous", "cumulative"])
def test_exactly_min_stay_is_enough(rule):
    assert visited(day_stays((8, "330100"), (12, "330100")), rule=rule) == ["330100"]
    assert transit(day_stays((8, "330100"), (12 - 1 / HOUR, "330100")), rule=rule) == ["330100"]


def test_a_train_at_8_and_19_is_a_day_span_only():
    train = day_stays((8, "330100"), (9, "310000"), (18, "310000"), (19, "330100"))
    assert visited(train) == ["330100", "310000"]
    assert visited(train, rule="continuous") == ["310000"]
    assert visited(train, rule="cumulative") == ["310000"]


def test_two_stays_of_2_hours_are_cumulative_only_when_on_one_day():
    one_day = (1, "330100"), (3, "330100"), (4, "310000"), (5, "330100"), (7, "330100")
    assert visited(day_stays(*one_day), rule="cumulative") == ["330100"]
    assert visited(day_stays(*one_day), rule="continuous") == []
    two_days = (-7, "330100"), (-5, "330100"), (-4, "310000"), (1, "330100"), (3, "330100")
    assert visited(day_stays(*two_days), rule="cumulative") == []


def test_a_stay_across_midnight_is_continuous_and_no_days_span():
    night = day_stays((-2, "330100"), (2, "330100"))
    assert visited(night, rule="continuous") == ["330100"]
    assert visited(night, rule="cumulative") == []
    assert visited(night) == []


def test_a_silence_across_midnight_counts_for_both_days():
    night = day_stays((-5, "330100"), (6, "330100"))
    for hours in (5, 6):
        assert visited(night, rule="cumulative", min_stay=timedelta(hours=hours)) == ["330100"]
    assert visited(night, rule="cumulative", min_stay=timedelta(hours=6, seconds=1)) == []


def test_a_day_of_25_hours_has_25_hours():
    tz, first = "America/New_York", date(2022, 11, 6)
    begins, ends = oracle.midnight(first, tz), oracle.midnight(first + timedelta(days=1), tz)
    pings = [(7, second, "USA1", True) for second in range(begins - HOUR, ends + HOUR, HOUR)]
    pings = [(who, at, "330100", inner) for who, at, _, inner in pings]
    for hours, transits in ((25, [False]), (26, [True])):
        policy = Rules(rule="cumulative", min_stay=timedelta(hours=hours))
        found = same(oracle.stays(pings, tz), policy, as_of=first + timedelta(days=2), tz=tz)
        assert found["transit"].to_list() == transits


def test_a_silence_over_max_silence_ends_a_stay_of_the_window():
    away = day_stays((-6, "330100"), (6 + 1 / HOUR, "330100"))
    assert visited(away, rule="continuous") == []
    assert visited(day_stays((-6, "330100"), (6, "330100")), rule="continuous") == ["330100"]


def test_flicker_plays_no_part_in_the_day_span():
    flicker = day_stays((0, "330100"), (1, "330100"), (1.05, "310000"), (1.1, "330100"), (9, "310000"), (10, "310000"))
    assert visited(flicker) == ["310000"]
    found = same(flicker, Rules(rule="continuous"))
    assert found["longest_s"].to_list() == [round(1.1 * HOUR), HOUR]


@pytest.mark.parametrize("rule", ["continuous", "cumulative"])
def test_without_a_stay_left_a_min_stay_of_0_does_not_hold(rule):
    flicker = day_stays((0, "330100"), (0.05, "310000"), (0.1, "330100"))
    assert visited(flicker, rule=rule, min_stay=timedelta(0)) == ["330100"]
    assert visited(flicker, rule=rule, min_stay=timedelta(0), flicker=timedelta(0)) == ["330100", "310000"]
    assert visited(flicker, rule="day_span", min_stay=timedelta(0)) == ["330100", "310000"]
    found = same(flicker, Rules(rule=rule, min_stay=timedelta(0))).row(1, named=True)
    assert (found["place"], found["longest_s"], found["days"]) == ("310000", 0, 1)


def test_border_leaves_out_the_neighbour_that_has_no_inner_ping_on_a_day_with_one():
    day = day_stays((0, "330100", True), (1, "310000"), (6, "310000"), (7, "330100"))
    assert visited(day) == ["330100", "310000"]
    assert visited(day, border="inner") == ["330100"]
    assert visited(day, border="inner", rule="continuous") == ["330100"]  # joined over what was left out
    # Without any inner ping in a domestic place on that day, nothing is left out.
    nowhere = day_stays((0, "330100"), (1, "310000"), (6, "310000"), (7, "330100"))
    assert visited(nowhere, border="inner") == ["330100", "310000"]
    # The next day has none.
    two = day_stays((0, "330100", True), (25, "310000"), (30, "310000"))
    assert visited(two, border="inner", as_of=date(2022, 3, 16)) == ["310000"]


def test_border_looks_at_a_place_and_a_day_not_at_one_stay():
    day = day_stays((0, "310000", True), (1, "330100", True), (2, "310000"), (7, "310000"), (8, "330100"))
    assert visited(day, border="inner", rule="continuous") == ["310000"]


def test_border_is_between_domestic_places():
    # Hong Kong is domestic, Japan is not: its inner pings leave nothing out, and it is never left out.
    assert visited(day_stays((0, "HKG", True), (1, "440300"), (6, "440300")), border="inner") == []
    assert visited(day_stays((0, "JPN", True), (1, "440300"), (6, "440300")), border="inner") == ["JPN", "440300"]
    assert visited(day_stays((0, "440300", True), (1, "JPN")), border="inner") == ["JPN"]


def test_what_border_left_out_is_still_seen():
    day = day_stays((0, "330100", True), (1, "310000"), (6, "310000"))
    found = same(day, Rules(border="inner")).row(1, named=True)
    assert (found["place"], found["days"], found["longest_s"], found["transit"]) == ("310000", 1, 0, True)
    assert (found["last"] - found["first"]).total_seconds() == 5 * HOUR


def test_abroad_any_ping_is_a_visit_from_the_policys_date():
    day = day_stays((0, "330100"), (1, "JPN"), (2, "HKG"))
    assert visited(day) == ["JPN"]
    assert visited(day, abroad_from=AS_OF) == ["JPN"]
    assert visited(day, abroad_from=AS_OF + timedelta(days=1)) == []
    assert visited(day, abroad_from=date.max) == []


def test_hong_kong_macau_and_taiwan_need_a_stay():
    for place in ("HKG", "MAC", "TWN"):
        assert visited(day_stays((0, place), (1, place))) == []
        assert visited(day_stays((0, place), (4, place))) == [place]


def test_a_flickering_ping_abroad_is_a_visit():
    assert visited(day_stays((0, "330100"), (0.05, "JPN"), (0.1, "330100"))) == ["JPN"]


def test_a_correction_comes_before_all_else():
    day = day_stays((0, "330100"), (1, "330100"), (2, "310000"), (5, "330100"))
    record = (7, "310000", date(2022, 3, 14), date(2022, 3, 14))
    assert visited(day, rule="continuous") == []
    assert visited(day, records=[record], rule="continuous") == ["330100"]
    assert same(day, Rules(), records=[record])["place"].to_list() == ["330100"]
    for other in (
        (8, "310000", date(2022, 3, 14), date(2022, 3, 14)),
        (7, "320100", date(2022, 3, 14), date(2022, 3, 14)),
        (7, "310000", date(2022, 3, 12), date(2022, 3, 13)),
        (7, "310000", date(2022, 3, 15), date(2022, 3, 16)),
    ):
        assert same(day, Rules(), records=[other])["place"].to_list() == ["330100", "310000"]


def test_pandas_has_timestamps_for_dates():
    pytest.importorskip("pandas")
    day = day_stays((0, "330100"), (5, "330100"))
    record = correction_frame([(7, "330100", date(2022, 3, 14), date(2022, 3, 14))]).to_pandas()
    assert tc.visits(stay_frame(day), as_of=AS_OF, policy=Rules(), corrections=record).is_empty()
    record["from"] += timedelta(hours=1)
    with pytest.raises(InputError, match="times of day"):
        tc.visits(stay_frame(day), as_of=AS_OF, policy=Rules(), corrections=record)


def test_with_all_corrected_nothing_was_seen():
    day = day_stays((0, "330100"), (5, "330100"))
    assert same(day, Rules(), records=[(7, "330100", date(2022, 1, 1), date(2022, 12, 31))]).is_empty()


def test_an_inner_ping_that_was_corrected_leaves_nothing_out():
    day = day_stays((0, "330100", True), (1, "310000"), (6, "310000"))
    record = (7, "330100", date(2022, 3, 14), date(2022, 3, 14))
    assert visited(day, records=[record], border="inner") == ["310000"]


def test_ties_of_first_come_in_the_order_of_places():
    found = same(day_stays((0, "JPN"), (0, "330100"), (0, "HKG")), Rules())
    assert found["place"].to_list() == ["330100", "HKG", "JPN"]


@pytest.mark.parametrize("ids", [pl.Int64(), pl.String()])
def test_empty_in_empty_out(ids):
    found = tc.visits(stay_frame([], ids), as_of=AS_OF, policy=Rules(), corrections=correction_frame([], ids))
    assert found.schema == pl.Schema({**VISITS, "subscriber": ids})
    assert found.is_empty()
    # Stays, and none in the window.
    stays = stay_frame(oracle.stays([("a" if ids == pl.String() else 7, 0, "330100", True)]), ids)
    assert tc.visits(stays, as_of=AS_OF, policy=Rules()).equals(found)


def test_the_schema_of_what_is_returned():
    assert same(day_stays((0, "330100")), Rules()).schema == VISITS


@pytest.mark.parametrize("kind", [pl.Int32, pl.UInt32])
def test_the_width_of_an_integer_subscriber_does_not_matter(kind):
    days = day_stays((0, "330100"), (5, "330100"), (6, "310000"))
    record = correction_frame([(7, "310000", AS_OF - timedelta(days=1), AS_OF)])
    whole = tc.visits(stay_frame(days), as_of=AS_OF, policy=Rules(), corrections=record)
    narrow = stay_frame(days).cast({"subscriber": kind})
    assert tc.visits(narrow, as_of=AS_OF, policy=Rules(), corrections=record).equals(whole)
    assert tc.visits(
        stay_frame(days), as_of=AS_OF, policy=Rules(), corrections=record.cast({"subscriber": kind})
    ).equals(whole)


@pytest.mark.parametrize("make", [pl.DataFrame.to_arrow, pl.DataFrame.lazy, lambda frame: [frame[:1], frame[1:]]])
def test_any_table_is_accepted(make):
    days = day_stays((0, "330100"), (5, "330100"), (6, "310000"))
    found = tc.visits(make(stay_frame(days)), as_of=AS_OF, policy=Rules())
    assert rows(found) == oracle.visits(days, AS_OF)


# ------------------------------------------------------------------------------------------------------- refusals


def refusal(stays, policy=None, **options) -> str:
    with pytest.raises(InputError) as caught:
        tc.visits(stays, as_of=AS_OF, policy=policy or Rules(), **options)
    return str(caught.value)


def test_a_stay_across_midnight_is_refused_without_its_number():
    for since, until in ((MIDNIGHT - 1, MIDNIGHT), (MIDNIGHT, MIDNIGHT + 24 * HOUR)):
        days = [(13800001234, "330100", since, until, 2, 0), (7, "330100", MIDNIGHT, MIDNIGHT, 1, 0)]
        message = refusal(stay_frame(days))
        assert "midnight" in message
        assert "13800001234" not in message
    whole = [(13800001234, "330100", MIDNIGHT, MIDNIGHT + 24 * HOUR - 1, 2, 0)]
    same(whole, Rules())
    refusal(stay_frame(whole), tz="Europe/Berlin")  # midnights are those of the zone


def test_a_stay_across_midnight_outside_the_window_is_refused_too():
    """It is no day-stay of this store, wherever it lies: a wrong zone should be told on any day."""
    before = MIDNIGHT - 60 * 24 * HOUR
    refusal(stay_frame([(7, "330100", before - 1, before, 2, 0)]))


def test_all_wrong_columns_come_in_one_message():
    frame = stay_frame(day_stays((0, "330100"))).rename({"subscriber": "msisdn", "arrive": "from"})
    message = refusal(frame)
    assert all(word in message for word in ("2 problems", "subscriber", "arrive", "msisdn", "from"))
    message = refusal(
        stay_frame(day_stays((0, "330100"))),
        corrections=correction_frame([(7, "330100", AS_OF, AS_OF)]).drop("from", "to"),
    )
    assert all(word in message for word in ("2 problems", "from", "to"))


def test_a_correction_that_ends_before_it_begins_is_refused_or_removes_nothing():
    days = day_stays((0, "330100"))
    record = correction_frame([(7, "330100", AS_OF, AS_OF - timedelta(days=5))])
    assert tc.visits(stay_frame(days), as_of=AS_OF, policy=Rules(), corrections=record).height == 1


@pytest.mark.parametrize("wrong", [{"min_stay": timedelta(-1)}, {"flicker": timedelta(milliseconds=1500)}])
def test_durations_of_a_policy_are_whole_seconds_from_0(wrong):
    assert next(iter(wrong)) in refusal(stay_frame(day_stays((0, "330100"))), Rules(**wrong))


@pytest.mark.parametrize("wrong", [{"rule": "daily"}, {"border": "outer"}, {"days": 0}])
def test_a_policy_that_says_nothing_known_is_refused(wrong):
    assert all(name in refusal(stay_frame(day_stays((0, "330100"))), Rules(**wrong)) for name in wrong)


def test_strings_and_integers_do_not_mix_in_corrections():
    """A correction that cannot be anybody's would be dropped in silence."""
    refusal(stay_frame(day_stays((0, "330100"))), corrections=correction_frame([("7", "330100", AS_OF, AS_OF)]))
