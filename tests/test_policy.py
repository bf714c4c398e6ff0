"""Policies: the ten presets as FACTS 7 has them, what a policy file may hold, and how each fault is told."""

from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from travelcard import window
from travelcard.errors import InputError, NotFound
from travelcard.policy import VISIT_RULES, Policy, Rule

D = date.fromisoformat
YELLOW_ABROAD = [("yellow", "abroad", None, None), ("green", "", None, None)]
# FACTS 7, row by row: from, to, days, rule, marks, form of the mark, abroad_from, colours (colour, on what, days).
PRESETS = {
    "sms-2020-02": ("2020-02-13", "2020-02-28", 14, "day_span", (), "none", date.max, [], "P4 P5"),
    "card-2020-spring": (
        "2020-02-29", "2020-11-09", 14, "day_span", (), "none", D("2020-03-06"),
        [("red", "confirmed", 1, None), ("red", "suspected", 1, None), ("orange", "close_contact", 1, None),
         ("yellow", "41", None, None), ("green", "", None, None)],
        "P6 P7",
    ),
    "card-2020-11": (
        "2020-11-10", "2021-01-08", 14, "day_span", ("high", "medium"), "red_name", None,
        [("orange", "close_contact", 1, None), *YELLOW_ABROAD],
        "P8 P9",
    ),
    "card-2021-01": (
        "2021-01-09", "2022-01-15", 14, "day_span", ("high", "medium"), "bracket", None, YELLOW_ABROAD, "P6 P10 P15",
    ),
    "card-2022-01": (
        "2022-01-16", "2022-06-28", 14, "day_span", ("high", "medium"), "star", None, YELLOW_ABROAD, "P1 P2 P11",
    ),
    "card-2022-06-29": ("2022-06-29", "2022-07-07", 14, "continuous", (), "none", None, YELLOW_ABROAD, "P13"),
    "card-2022-07-08": ("2022-07-08", "2022-12-12", 7, "continuous", (), "none", None, YELLOW_ABROAD, "P14 P12"),
    "healthcode-hangzhou-2020": (
        "2020-02-11", None, 14, "day_span", (), "none", None,
        [*(("red", s, 1, 14) for s in ("confirmed", "suspected", "close_contact", "false_declaration")),
         ("red", "42", None, None), ("yellow", "symptoms", 1, 7), ("yellow", "time_space", 1, 7),
         ("green", "", None, None)],
        "H1 H2",
    ),
    "healthcode-hubei-2022": (
        "2022-11-11", "2022-12-06", 7, "continuous", (), "none", None,
        [*(("red", s, 1, None)
           for s in ("confirmed", "asymptomatic", "close_contact", "inbound_central", "from_high_risk")),
         *(("yellow", s, 1, None) for s in ("inbound_home", "fever", "home_monitoring")), ("green", "", None, None)],
        "H7",
    ),
    "healthcode-9th": (
        "2022-06-28", "2022-11-10", 7, "continuous", (), "none", None,
        [*(("red", s, 1, None) for s in ("confirmed", "asymptomatic", "suspected")), ("red", "close_contact", 1, 10),
         ("red", "secondary_contact", 1, 7), ("red", "inbound", 1, 7), ("red", "from_high_risk", 1, 7),
         ("yellow", "discharged", 1, 7), ("yellow", "inbound", 8, 10), ("yellow", "from_medium_risk", 1, 7),
         ("yellow", "fever", 1, None), ("green", "from_low_risk", 1, None), ("green", "", None, None)],
        "H8 R1 R4",
    ),
}  # fmt: skip
THE_41 = """
    USA ESP ITA DEU FRA GBR IRN TUR BEL NLD CHE CAN BRA RUS PRT AUT ISR KOR SWE IRL IND ECU AUS CHL PER NOR POL JPN
    CZE DNK ROU PAK MYS PHL SAU IDN MEX ARE NGA THA KHM
"""


def looks_at(rule):
    on = {"abroad": "abroad", "statuses": "".join(rule.statuses), "": ""}
    if rule.condition == "places":
        return "41" if list(rule.places) == THE_41.split() else "".join(rule.places)
    return on[rule.condition]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_row_in_the_table(name):
    begin, end, days, rule, marks, form, abroad_from, colours, source = PRESETS[name]
    p = Policy.preset(name)
    assert (p.id, p.in_force_from, p.in_force_to) == (name, D(begin), end and D(end))
    assert (p.days, p.rule, p.marks, p.mark_form, p.abroad_from) == (days, rule, marks, form, abroad_from)
    assert (p.min_stay, p.flicker, p.border) == (timedelta(hours=4), timedelta(minutes=10), "any")
    assert p.source == tuple(source.split())
    got = [(r.colour, looks_at(r), *((r.day_from, r.day_to) if r.statuses else (None, None))) for r in p.colours]
    assert got == colours
    assert p.needs_risk == bool(marks)
    assert p.form == ("healthcode" if name.startswith("health") else name[: name.index("-")])


def test_there_are_ten_presets_and_no_other():
    assert set(Policy.presets()) == set(PRESETS)
    with pytest.raises(NotFound, match="no preset 'dated': there are card-2020-11, card-2020-spring"):
        Policy.preset("dated")


@pytest.mark.parametrize("name", [n for n in PRESETS if n.startswith(("sms", "card"))])
def test_dated_is_the_card_in_force_on_its_first_and_last_day(name):
    begin, end = D(PRESETS[name][0]), D(PRESETS[name][1])
    assert Policy.in_force(begin).id == Policy.in_force(end).id == name


@pytest.mark.parametrize("day", ["2020-02-12", "2022-12-13", "2019-01-01"])
def test_a_date_that_no_card_covers_is_refused(day):
    with pytest.raises(InputError, match=f"no card was in force on {day}.*name a preset"):
        Policy.in_force(D(day))


def test_every_day_of_the_cards_is_covered_once():
    day = D("2020-02-13")
    cards = [Policy.preset(n) for n in PRESETS if n.startswith(("sms", "card"))]
    while day <= D("2022-12-12"):
        assert sum(p.holds_on(day) for p in cards) == 1
        day += timedelta(days=1)


def test_words_and_window_are_those_of_the_kernel():
    assert VISIT_RULES == window.RULES
    p = Policy.preset("card-2022-01")
    assert p.window(D("2022-03-15")) == window.window_of(D("2022-03-15"), 14) == (D("2022-03-01"), D("2022-03-14"))


def test_abroad_counts_from_the_policys_date_on():
    spring, sms = Policy.preset("card-2020-spring"), Policy.preset("sms-2020-02")
    assert [spring.abroad_counts(D(day)) for day in ("2020-03-05", "2020-03-06")] == [False, True]
    assert not sms.abroad_counts(D("2022-01-01"))
    assert Policy.preset("card-2022-01").abroad_counts(D("2020-01-01"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_policy_comes_back_from_its_dict_with_its_hash(name):
    p = Policy.preset(name)
    again = Policy.from_dict(p.as_dict())
    assert again == p
    assert again.hash == p.hash
    assert len(p.hash) == 64


CHANGES = {
    "days": st.integers(1, 366),
    "rule": st.sampled_from(VISIT_RULES),
    "min_stay": st.integers(0, 90000).map(lambda s: timedelta(seconds=s)),
    "flicker": st.integers(0, 90000).map(lambda s: timedelta(seconds=s)),
    "border": st.sampled_from(["any", "inner"]),
    "abroad_from": st.none() | st.dates(),
    "in_force_to": st.none() | st.dates(min_value=date(2022, 1, 16)),
    "source": st.lists(st.text(min_size=1), unique=True).map(tuple),
    "id": st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True),
}


@given(st.fixed_dictionaries({}, optional=CHANGES))
def test_the_hash_stands_for_every_field(changes):
    p = Policy.preset("card-2022-01")
    variant = p.replace(**changes)
    assert (variant.hash == p.hash) == (variant == p)
    assert Policy.from_dict(variant.as_dict()) == variant


@pytest.mark.parametrize(
    "changes",
    [
        {"days": 0}, {"days": True}, {"days": 14.0}, {"rule": "any"}, {"min_stay": timedelta(seconds=-1)},
        {"min_stay": 14400}, {"min_stay": timedelta(milliseconds=1)}, {"border": "outer"}, {"marks": ("severe",)},
        {"marks": ()}, {"mark_form": "none"}, {"in_force_to": date(2021, 1, 1)}, {"stay": 3}, {"id": "A B"},
        {"marks": "high"}, {"colours": (Rule("blue", "x"),)}, {"colours": (Rule("red", "x"),)},
        {"colours": (Rule("red", "no_ping", abroad=True),)}, {"form": "page"},
        {"colours": (Rule("red", "x", abroad=True), Rule("yellow", "x", abroad=True))},
        {"colours": (Rule("green", "a"), Rule("green", "b"))},
        {"colours": (Rule("red", "x", abroad=True, statuses=("fever",)),)},
        {"colours": (Rule("red", "x", places=("330",)),)},
        {"colours": (Rule("red", "x", levels=("high",), at="then"),)},
        {"colours": (Rule("red", "x", abroad=True, at="visit"),)},
        {"colours": (Rule("red", "x", statuses=("fever",), day_from=3, day_to=2),)},
        {"colours": (Rule("red", "x", abroad=True, day_to=2),)},
    ],
)  # fmt: skip
def test_replace_refuses_what_no_policy_can_be(changes):
    with pytest.raises(InputError, match="the policy: 1 problem"):
        Policy.preset("card-2022-01").replace(**changes)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'id = "mine"\ndays = 10\nmin_stay_s = 3600\nabroad_from = "never"\nmarks = ["high"]\nmark_form = "star"\n'
        '[[colours]]\ncolour = "yellow"\nid = "hubei"\nplaces = ["42", "JPN"]\n'
    )
    p = Policy.read(path)
    assert (p.days, p.min_stay, p.abroad_from, p.green) == (10, timedelta(hours=1), date.max, "green")
    assert p.colours == (Rule("yellow", "hubei", places=("42", "JPN")),)


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'dayz = 3\ndays = 0\nrule = "daily"\nmin_stay_s = "4h"\nmin_stay = 3\nin_force_from = "soon"\n'
        '[[colours]]\ncolour = "blue"\nid = "x"\n[[colours]]\nid = "y"\nwhen = 3\n'
    )
    with pytest.raises(InputError) as caught:
        Policy.read(path)
    text = str(caught.value)
    assert f"{path}: 10 problems" in text
    for part in ("id  is missing", "dayz", "days  expected", "rule  expected", "min_stay_s  expected", "min_stay  is",
                 "in_force_from", "colours.x.colour", "colours.y.when", "colours.y.colour  is missing"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("content", [b"days = ", b"\xff\xfe", None])
def test_a_file_that_is_no_policy_is_named(tmp_path, content):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.toml cannot be read as a policy"):
        Policy.read(path)


def test_presets_say_nothing_twice():
    folder = Path(window.__file__).parent / "presets"
    for name in PRESETS:
        assert Policy.read(folder / f"{name}.toml") == Policy.preset(name)
