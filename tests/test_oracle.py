"""The oracle, checked by eye against the worked cases of DESIGN section 3; it needs nothing of travelcard.

Times are written as hours from midnight of 2022-03-14 in Shanghai, so that a case can be read like the design.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from oracle import (
    card,
    clean,
    colour,
    day_of,
    is_abroad,
    marked,
    merge,
    midnight,
    pieces,
    risk_in_force,
    status_holds,
    stays,
    stitch,
    visits,
    window,
    without_flicker,
)

HOUR = 3600
DAY = date(2022, 3, 14)
AS_OF = date(2022, 3, 15)
ZERO = midnight(DAY, "Asia/Shanghai")
A, B, C = "330100", "310000", "110000"


def at(hours: float) -> int:
    return ZERO + round(hours * HOUR)


def pings(*rows):
    """(hours, place[, inner]) of subscriber 7."""
    return [(7, at(hours), place, bool(inner and inner[0])) for hours, place, *inner in rows]


def shown(some_stays):
    return [(place, (arrive - ZERO) / HOUR, (depart - ZERO) / HOUR, n) for _, place, arrive, depart, n, _ in some_stays]


def listed(day_stays, corrections=(), as_of=AS_OF, **policy):
    """The places visited."""
    return [row[1] for row in visits(day_stays, as_of, policy, corrections) if not row[6]]


def test_words():
    assert [is_abroad(place) for place in ("330100", "HKG", "MAC", "TWN", "JPN")] == [False] * 4 + [True]


# ---------------------------------------------------------------------------------------------- 3.1 clean pings

CELLS = {1: (A, True), 2: (B, False), 3: (None, False)}


def reasons(*rows, **options):
    options = {
        "day": DAY,
        "cell": lambda cell, _: CELLS.get(cell),
        "locate": lambda lat, _: A if lat < 60 else None,
        "inner": lambda _lat, _lon, metres, _place: metres < 1000,
        "country": {"440": "JPN", "901": "XXX", "454": "HKG", "460": "CHN"}.get,
        **options,
    }
    found, rejects = clean(list(rows), **options)
    assert len(found) + len(rejects) == len(rows)
    assert [row for row, _ in rejects] == sorted(row for row, _ in rejects)
    return found, [reason for _, reason in rejects]


NOON = datetime(2022, 3, 14, 4, tzinfo=UTC)


def row(**changes):
    return {"subscriber": 7, "time": NOON, "cell": None, "lat": None, "lon": None, "accuracy": None, **changes}


def test_reasons_in_order_and_the_first_that_applies():
    faults = {
        "null_subscriber": {"subscriber": None},
        "null_time": {"time": None},
        "bad_time": {"time": "yesterday"},
        "outside_day": {"time": NOON - timedelta(days=1)},
        "null_cell": {},
    }
    for number, reason in enumerate(faults):
        later = list(faults.values())[number + 1 :]
        for also in ({}, *later):
            assert reasons(row(**{**also, **faults[reason]}))[1] == [reason]
    assert reasons(row(lat=91.0))[1] == ["bad_position"]
    assert reasons(row(cell=9))[1] == ["unknown_cell"]
    assert reasons(row(cell=3))[1] == ["no_place"]


@pytest.mark.parametrize("subscriber", [None, "", float("nan"), -1, -0.5, 7.5, 2**63, 1e19, float("inf")])
def test_no_subscriber(subscriber):
    assert reasons(row(subscriber=subscriber, cell=1))[1] == ["null_subscriber"]


@pytest.mark.parametrize("subscriber", [0, 2**63 - 1, "0", "a", "\uff5e"])
def test_a_subscriber(subscriber):
    assert reasons(row(subscriber=subscriber, cell=1))[0] == [(subscriber, at(12), A, True)]


@pytest.mark.parametrize(
    ("time", "options"),
    [
        (NOON + timedelta(microseconds=999_999), {}),
        (datetime(2022, 3, 14, 12, tzinfo=timezone(timedelta(hours=8))), {"timezone": "Europe/Berlin"}),
        (datetime(2022, 3, 14, 4), {}),
        (datetime(2022, 3, 14, 12), {"timezone": "Asia/Shanghai"}),
        ("2022-03-14T04:00:00.5", {}),
        ("2022-03-14T12:00:00+08:00", {}),
        (ZERO + 12 * HOUR, {"unit": "s"}),
        ((ZERO + 12 * HOUR) * 1000 + 999, {"unit": "ms"}),
        ((ZERO + 12 * HOUR) * 1_000_000 + 999_999, {"unit": "us"}),
    ],
)
def test_a_time_is_floored_to_the_whole_second_utc(time, options):
    assert reasons(row(time=time, cell=1), **options)[0] == [(7, at(12), A, True)]


def test_times_before_1970_are_floored_down():
    time = datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    assert reasons(row(time=time, cell=1), day=None)[0][0][1] == -1
    assert reasons(row(time=-500, cell=1), day=None, unit="ms")[0][0][1] == -1


def test_the_hour_that_the_clock_skips_is_no_time():
    skipped = row(time=datetime(2022, 3, 27, 2, 30), cell=1)
    assert reasons(skipped, timezone="Europe/Berlin", day=None)[1] == ["bad_time"]


def test_a_day_is_a_calendar_day_of_the_zone():
    assert reasons(row(time=ZERO, unit="s", cell=1), unit="s")[1] == []
    assert reasons(row(time=ZERO - 1, cell=1), unit="s")[1] == ["outside_day"]
    assert reasons(row(time=ZERO + 24 * HOUR - 1, cell=1), unit="s")[1] == []
    assert reasons(row(time=ZERO + 24 * HOUR, cell=1), unit="s")[1] == ["outside_day"]
    assert reasons(row(time=ZERO, cell=1), unit="s", tz="UTC")[1] == ["outside_day"]
    assert day_of(ZERO, "UTC") == DAY - timedelta(days=1)
    assert midnight(date(2022, 3, 13), "America/Havana") + 23 * HOUR == midnight(DAY, "America/Havana")


@pytest.mark.parametrize(
    "position",
    [
        {"lat": 30.0},
        {"lon": 120.0},
        {"lat": 90.1, "lon": 120.0},
        {"lat": 30.0, "lon": -180.1},
        {"lat": float("nan"), "lon": 120.0},
        {"lat": 30.0, "lon": float("inf")},
        {"lat": 30.0, "lon": 120.0, "accuracy": -1.0},
        {"lat": 30.0, "lon": 120.0, "accuracy": float("nan")},
        {"lat": 61.0, "lon": 181.0, "plmn": "44010"},  # no falling back
    ],
)
def test_bad_positions(position):
    assert reasons(row(**position))[1] == ["bad_position"]


def test_cell_before_position_before_plmn_with_no_falling_back():
    position, plmn = {"lat": 30.0, "lon": 120.0}, {"plmn": "44010"}
    assert reasons(row(cell=2, **position, **plmn))[0][0][2:] == (B, False)
    assert reasons(row(cell=9, **position, **plmn))[1] == ["unknown_cell"]
    assert reasons(row(cell=3, **position, **plmn))[1] == ["no_place"]
    assert reasons(row(**position, **plmn))[0][0][2:] == (A, True)
    assert reasons(row(lat=61.0, lon=120.0, **plmn))[1] == ["no_place"]
    assert reasons(row(**plmn))[0][0][2:] == ("JPN", True)
    assert reasons(row(accuracy=5.0))[1] == ["null_cell"]


def test_inner_of_a_position_is_the_disc_of_its_accuracy():
    assert reasons(row(lat=30.0, lon=120.0, accuracy=1000.0))[0][0][3] is False
    assert reasons(row(lat=30.0, lon=120.0))[0][0][3] is True


def test_plmns():
    for plmn in ("46000", "46111", "90112", "99999", "12345"):
        assert reasons(row(plmn=plmn))[1] == ["no_place"]
    assert reasons(row(plmn="45400"))[0][0][2] == "HKG"


def test_same_subscriber_second_and_place_is_one_ping_inner_if_any_is():
    found, merged = merge([(7, 5, A, False), (7, 5, A, True), (7, 5, A, False), (8, 5, A, False), (7, 6, A, False)])
    assert merged == 2
    assert found == [(7, 5, A, True), (7, 6, A, False), (8, 5, A, False)]


def test_same_second_different_places_is_the_order_of_bytes():
    assert [place for _, _, place, _ in merge(pings((0, "USA"), (0, "HKG"), (0, A), (0, C)))[0]] == [C, A, "HKG", "USA"]
    names = ["\U0001f600", "a10", "\uff5e", "é", "a", "B", "a2"]
    found = [who for who, *_ in merge([(name, 0, A, True) for name in names])[0]]
    assert found == ["B", "a", "a10", "a2", "é", "\uff5e", "\U0001f600"]


# ---------------------------------------------------------------------------------------------------- 3.3 stays


def test_a_stay_is_a_maximal_run():
    assert shown(stays(pings((3, A), (1, A), (5, B), (6, A)))) == [(A, 1, 3, 2), (B, 5, 5, 1), (A, 6, 6, 1)]


def test_a_gap_of_exactly_max_silence_is_inside():
    assert shown(stays(pings((1, A), (13, A)))) == [(A, 1, 13, 2)]
    assert len(stays(pings((1, A), (13 + 1 / HOUR, A)))) == 2


def test_stays_count_their_inner_pings():
    assert stays(pings((1, A, True), (2, A), (3, A, True)))[0][4:] == (3, 2)


def test_a_stay_lies_in_one_day_and_stitching_joins_the_days():
    found = stays(pings((23, A), (24, A), (25, A)))
    assert shown(found) == [(A, 23, 23, 1), (A, 24, 25, 2)]
    assert shown(stitch(found)) == [(A, 23, 25, 3)]


def test_stitching_does_not_join_over_another_place_nor_over_a_long_silence():
    assert shown(stitch(stays(pings((20, A), (23, B), (25, A))))) == [(A, 20, 20, 1), (B, 23, 23, 1), (A, 25, 25, 1)]
    assert shown(stitch(stays(pings((20, A), (32, A))))) == [(A, 20, 32, 2)]
    assert len(stitch(stays(pings((20, A), (32 + 1 / HOUR, A))))) == 2


def test_the_tie_within_a_second_breaks_a_run_in_the_order_of_places():
    # C sorts before A: A, then C and A in the shared second.
    assert shown(stays(pings((1, A), (2, A), (2, C), (3, A)))) == [(A, 1, 1, 1), (C, 2, 2, 1), (A, 2, 3, 2)]


# -------------------------------------------------------------------------------------------------- 3.4 flicker


def of(*some):
    """Stays of (place, arrive, depart) in minutes."""
    return [(7, place, arrive * 60, depart * 60, 1, 0) for place, arrive, depart in some]


def test_an_alternation_becomes_one_stay_in_a():
    alternation = of((A, 0, 1), (B, 2, 3), (A, 4, 5), (B, 6, 7), (A, 8, 9))
    # Candidates are the 2nd to the 4th; the 1st and 3rd of that run go.
    assert [(s[1], s[2]) for s in without_flicker(alternation, 600)] == [(A, 0), (A, 240), (A, 480)]
    assert stitch(alternation, flicker=600) == [(7, A, 0, 540, 3, 0)]


def test_an_alternation_that_ends_in_the_other_place_ends_there():
    found = stitch(of((A, 0, 1), (B, 2, 3), (A, 4, 5), (B, 6, 7)), flicker=600)
    assert found == [(7, A, 0, 300, 2, 0), (7, B, 360, 420, 1, 0)]


def test_what_comes_back_after_exactly_flicker_is_a_candidate():
    assert len(stitch(of((A, 0, 0), (B, 5, 5), (A, 10, 10)), flicker=600)) == 1
    assert len(stitch(of((A, 0, 0), (B, 5, 5), (A, 11, 11)), flicker=600)) == 3


def test_zero_turns_flicker_off():
    tie = [(7, A, 0, 0, 1, 0), (7, "HKG", 0, 0, 1, 0), (7, A, 0, 9, 1, 0)]
    assert without_flicker(tie, 0) != tie  # the definition alone would have a candidate
    some = [(7, A, 0, 0, 1, 0), (7, "HKG", 0, 0, 1, 0), (7, A, 1, 1, 1, 0)]
    assert stitch(some, flicker=0) == some


def test_one_pass_only():
    # A B C B A: C is the only candidate, since B lies between A and C; B B join, and nothing is looked at again.
    found = stitch(of((A, 0, 0), (B, 1, 1), (C, 2, 2), (B, 3, 3), (A, 4, 4)), flicker=600)
    assert [(s[1], s[4]) for s in found] == [(A, 1), (B, 2), (A, 1)]


def test_runs_of_candidates_are_apart_where_a_stay_is_none():
    # A B A (long) A B A: the stay between is a candidate of neither.
    found = stitch(of((A, 0, 0), (B, 1, 1), (A, 2, 60), (B, 61, 61), (A, 62, 62)), flicker=600)
    assert [(s[1], s[2], s[3]) for s in found] == [(A, 0, 62 * 60)]
    # With the middle one a candidate too, positions 1 and 3 of one run go.
    found = stitch(of((A, 0, 0), (B, 1, 1), (A, 2, 9), (B, 10, 10), (A, 11, 11)), flicker=600)
    assert [(s[1], s[2], s[3]) for s in found] == [(A, 0, 11 * 60)]
    # B A B between two C: candidates are the A and nothing else.
    found = stitch(of((C, 0, 0), (B, 1, 1), (A, 2, 2), (B, 3, 3), (C, 4, 4)), flicker=600)
    assert [s[1] for s in found] == [C, B, C]


def test_the_pings_of_a_removed_stay_belong_to_no_stay():
    assert stitch(of((A, 0, 1), (B, 2, 3), (A, 4, 5)), flicker=600)[0][4] == 2


# --------------------------------------------------------------------------------------------------- 3.5 visits


def test_the_window_of_14_days_as_of_2022_03_15():
    assert window(date(2022, 3, 15), 14) == (date(2022, 3, 1), date(2022, 3, 14))
    opens, closes = midnight(date(2022, 3, 1), "Asia/Shanghai"), midnight(AS_OF, "Asia/Shanghai")
    assert datetime.fromtimestamp(opens, UTC) == datetime(2022, 2, 28, 16, tzinfo=UTC)
    some = [(7, opens - 1, C, True), (7, opens, A, True), (7, closes - 1, B, True), (7, closes, "HKG", True)]
    assert [row[1] for row in visits(stays(some), AS_OF)] == [A, B]


def test_windows_of_facts():
    assert window(date(2020, 3, 5), 14) == (date(2020, 2, 20), date(2020, 3, 4))
    assert window(date(2022, 9, 8), 7) == (date(2022, 9, 1), date(2022, 9, 7))
    assert window(date(2022, 9, 15), 14) == (date(2022, 9, 1), date(2022, 9, 14))


def test_day_span_is_last_less_first_whatever_lies_between():
    train = stays(pings((8, A), (12, B), (19, A)))
    assert listed(train) == [A]
    assert listed(train, rule="continuous") == listed(train, rule="cumulative") == []
    assert listed(stays(pings((7, A), (12, A)))) == [A]  # the operator's own example: once at 7, once at 12
    assert listed(stays(pings((-3, A), (0, A), (3, A)))) == []  # two 3-hour stays on two days


def test_min_stay_is_at_least():
    for rule in ("day_span", "continuous", "cumulative"):
        assert listed(stays(pings((8, A), (12, A))), rule=rule) == [A]
        assert listed(stays(pings((8, A), (12 - 1 / HOUR, A))), rule=rule) == []


def test_a_silence_across_midnight_counts_for_both_days_under_cumulative():
    night = stays(pings((20, A), (28, A)))  # one ping at 20:00, one at 04:00
    as_of = date(2022, 3, 16)
    assert pieces(stitch(night)[0], "Asia/Shanghai") == [(DAY, 4 * HOUR), (AS_OF, 4 * HOUR)]
    assert listed(night, rule="cumulative", as_of=as_of) == [A]
    assert listed(night, rule="continuous", as_of=as_of) == [A]
    assert listed(night, rule="day_span", as_of=as_of) == []
    assert listed(night, rule="continuous", as_of=AS_OF) == []  # the second day is not in the window


def test_cumulative_adds_up_within_a_day_and_no_further():
    assert listed(stays(pings((1, A), (3, A), (4, B), (5, A), (7, A))), rule="cumulative") == [A]
    assert listed(stays(pings((-3, A), (-1, A), (0, B), (5, A), (7, A))), rule="cumulative") == []


def test_min_stay_0_wants_a_stay_that_is_left():
    flicker = stays(pings((0, A), (0.05, B), (0.1, A)))
    zero = {"min_stay": 0}
    assert listed(flicker, rule="continuous", **zero) == [A]
    assert listed(flicker, rule="cumulative", **zero) == [A]
    assert listed(flicker, rule="day_span", **zero) == [A, B]
    assert listed(flicker, rule="continuous", flicker=0, **zero) == [A, B]


def test_border():
    day = stays(pings((0, A, True), (1, B), (6, B), (7, A)))
    assert listed(day) == [A, B]
    assert listed(day, border="inner") == [A]
    found = visits(day, AS_OF, {"border": "inner", "rule": "continuous"})
    # B is left out before stitching, so A is one stay; its days, first and last still count.
    assert found == [(7, A, at(0), at(7), 1, 7 * HOUR, False, 1), (7, B, at(1), at(6), 1, 0, True, 1)]


def test_border_needs_an_inner_ping_somewhere_domestic_on_that_day():
    assert listed(stays(pings((0, A), (1, B), (6, B))), border="inner") == [B]
    assert listed(stays(pings((0, "JPN", True), (1, B), (6, B))), border="inner") == ["JPN", B]
    assert listed(stays(pings((0, "HKG", True), (1, B), (6, B))), border="inner") == []
    assert listed(stays(pings((-1, A, True), (1, B), (6, B))), border="inner") == [B]  # on the day before


def test_abroad_is_any_ping_from_the_policys_date():
    day = stays(pings((0, A), (0.05, "JPN"), (0.1, A)))
    assert listed(day) == ["JPN"]
    assert listed(day, abroad_from=AS_OF) == ["JPN"]
    assert listed(day, abroad_from=AS_OF + timedelta(days=1)) == []
    seen = visits(day, AS_OF, {"abroad_from": date.max})
    assert [(row[1], row[6]) for row in seen] == [(A, True), ("JPN", True)]
    assert visits(day, AS_OF)[1][5] == 0  # it flickers: no stay is left


def test_hong_kong_follows_the_rule_of_cities():
    assert listed(stays(pings((0, "HKG"), (1, "HKG")))) == []
    assert listed(stays(pings((0, "HKG"), (4, "HKG")))) == ["HKG"]


def test_days_and_days_seen_count_every_ping_in_the_window():
    found = visits(stays(pings((-30, A), (-5, A), (0, B), (5, A), (9, A))), AS_OF)
    assert [(row[1], row[4], row[7]) for row in found] == [(A, 3, 3), (B, 1, 3)]


def test_a_stay_across_midnight_is_refused():
    with pytest.raises(ValueError, match="midnight"):
        visits([(7, A, at(23), at(24), 2, 0)], AS_OF)


# ------------------------------------------------------------------------------ 3.6 corrections, marks and colours


def test_a_correction_is_before_all_else():
    day = stays(pings((0, A), (2, B, True), (5, A)))
    record = (7, B, DAY, DAY)
    assert listed(day, border="inner", rule="continuous") == []
    assert listed(day, [record], border="inner", rule="continuous") == [A]
    assert [row[1] for row in visits(day, AS_OF, {}, [record])] == [A]
    assert len(visits(day, AS_OF, {}, [(8, B, DAY, DAY), (7, C, DAY, DAY), (7, B, AS_OF, AS_OF)])) == 2
    assert visits(stays(pings((0, A))), AS_OF, {}, [(7, A, date(2022, 1, 1), date(2022, 12, 31))]) == []


CARD = {
    "marks": ("high", "medium"),
    "colours": (
        {"colour": "yellow", "if": "abroad"},
        {"colour": "orange", "if": "status", "statuses": ("close_contact",), "last": 10},
        {"colour": "red", "if": "status", "statuses": ("confirmed",)},
        {"colour": "red", "if": "places", "places": ("420100",)},
    ),
}


def seen(*places, transit=()):
    return [(7, place, at(i), at(i), 1, 0, place in transit, 1) for i, place in enumerate(places)]


def test_marks_are_of_cities_by_the_list_in_force():
    lists = {date(2022, 3, 10): {A: ("high",)}, date(2022, 3, 15): {B: ("medium",)}, date(2022, 3, 16): {}}
    assert risk_in_force(lists, date(2022, 3, 14))[0] == date(2022, 3, 10)
    assert risk_in_force(lists, AS_OF)[1] == {B: ("medium",)}
    assert risk_in_force(lists, date(2022, 3, 1)) == (None, None)
    levels = {A: ("low",), B: ("low", "medium"), "HKG": ("high",), "JPN": ("high",)}
    assert [marked(place, levels, CARD["marks"]) for place in (A, B, C, "HKG", "JPN")] == [0, 1, 0, 0, 0]
    assert not marked(B, levels, ())


def test_a_status_holds_from_its_first_to_its_last_day():
    assert status_holds(AS_OF, None, AS_OF)
    assert status_holds(DAY, AS_OF, AS_OF)
    assert not status_holds(DAY, DAY, AS_OF)
    assert not status_holds(AS_OF + timedelta(days=1), None, AS_OF)
    # "n days" counts the from day as day 1, and the earlier end wins
    assert status_holds(date(2022, 3, 6), None, AS_OF, last=10)
    assert not status_holds(date(2022, 3, 5), None, AS_OF, last=10)
    assert not status_holds(date(2022, 3, 6), DAY, AS_OF, last=10)
    # days 8 to 10
    assert [status_holds(date(2022, 3, 8) - timedelta(days=n), None, AS_OF, 8, 10) for n in range(-1, 4)] == [
        False, True, True, True, False,
    ]  # fmt: skip


def test_the_most_severe_colour_wins():
    contact, case = ("close_contact", DAY, None), ("confirmed", DAY, None)
    assert colour(seen(A), CARD, AS_OF) == "green"
    assert colour(seen(A, "HKG", "TWN"), CARD, AS_OF) == "green"
    assert colour(seen(A, "JPN"), CARD, AS_OF) == "yellow"
    assert colour(seen(A, "JPN"), CARD, AS_OF, [contact]) == "orange"
    assert colour(seen(A, "JPN"), CARD, AS_OF, [contact, case]) == "red"
    assert colour(seen(A, "420100"), CARD, AS_OF) == "red"
    assert colour(seen(A, "420100", transit=["420100"]), CARD, AS_OF) == "green"
    assert colour(seen(A, "JPN", transit=["JPN"]), CARD, AS_OF) == "green"


def test_risk_rules_at_the_visit_and_as_of_the_card():
    policy = {"colours": ({"colour": "red", "if": "risk", "levels": ("high",)},)}
    then = {"colours": ({"colour": "red", "if": "risk_at_visit", "levels": ("high",)},)}
    assert colour(seen(A), policy, AS_OF, levels={A: ("high",)}) == "red"
    assert colour(seen(A), then, AS_OF, levels={A: ("high",)}) == "green"
    assert colour(seen(A), then, AS_OF, levels_at_visit={A: ("high",)}) == "red"


def test_without_a_ping_a_card_is_unknown_and_never_green():
    assert colour([], CARD, AS_OF) == "unknown"
    assert colour([], CARD, AS_OF, [("confirmed", DAY, None)]) == "red"
    assert colour([], {"colours": ({"colour": "green", "if": "status", "statuses": ("any",)},)}, AS_OF, [
        ("any", DAY, None)
    ]) == "unknown"  # fmt: skip
    assert card(seen(A, transit=[A]), CARD, AS_OF) == ("green", [])


def test_places_on_a_card_come_by_first_ping_then_by_code():
    some = [(7, place, at(hours), at(9), 1, 0, False, 1) for place, hours in (("JPN", 3), (A, 3), (B, 1), ("HKG", 3))]
    assert [place for place, _ in card(some, CARD, AS_OF)[1]] == [B, A, "HKG", "JPN"]
