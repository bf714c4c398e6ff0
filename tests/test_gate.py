"""The quality gate: what it measures, which limit is broken when, and that nothing is published then."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from statistics import fmean, stdev

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import travelcard as tc
from travelcard.batch import run_cards, run_stays
from travelcard.gate import Gate, Limit, measures
from travelcard.ledger import newest
from travelcard.store import Store

FIRST = date(2022, 3, 1)
POLICY = tc.Policy.preset("card-2022-07-08")


def pings(day: date, people: int, hours: range = range(24), plmn: str = "44010") -> pl.DataFrame:
    """One ping an hour of each of some people, on a day of UTC+8."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=8)
    rows = [(7 + n, midnight + timedelta(hours=h, minutes=n % 60), plmn) for n in range(people) for h in hours]
    return pl.DataFrame(
        rows, schema={"subscriber": pl.Int64, "time": pl.Datetime("us", "UTC"), "plmn": pl.String}, orient="row"
    )


def night(store: Store, n: int, people: int = 10, *, limits: dict[str, Limit] | None = None, **options):
    day = FIRST + timedelta(days=n)
    return run_stays(
        store, day=day, pings=pings(day, people, **options.pop("pings", {})), gate=Gate(limits or {}), **options
    )


def test_what_is_measured_of_a_day(tmp_path):
    store = Store(tmp_path)
    rows = pl.concat([pings(FIRST, 4, range(6, 24)), pings(FIRST, 1, range(2), plmn="?")])
    cells = tc.CellMap.build(pl.DataFrame({"cell": [1, 2, 3], "lat": 31.2, "lon": 121.5}), tc.places.china())
    named = rows.with_columns(cell=pl.when(pl.col("subscriber") == 8).then(2))
    run_stays(store, day=FIRST, pings=named, cells=cells)
    (row,) = newest(store, "stays")
    assert row["hours"] == [0] * 6 + [4] * 18
    assert (row["silent"], row["silent_cells"]) == (2, ["1", "3"])
    measured = measures(row)
    assert measured["pings"] == 74
    assert measured["subscribers"] == 4
    assert measured["empty_hours"] == 6
    assert measured["silent"] == 2
    assert measured["rejected"] == measured["rejected.no_place"] == pytest.approx(2 / 74)


def test_silent_text_cells_are_known_by_name(tmp_path):
    inventory = pl.DataFrame({"cell": ["b", "a", "c"], "lat": 31.2, "lon": 121.5})
    cells = tc.CellMap.build(inventory, tc.places.china())
    run_stays(Store(tmp_path), day=FIRST, pings=pings(FIRST, 1).with_columns(cell=pl.lit("b")), cells=cells)
    assert [row["silent_cells"] for row in newest(Store(tmp_path), "stays")] == [["a", "c"]]


def test_a_broken_limit_publishes_nothing_unless_somebody_says_why(tmp_path):
    store = Store(tmp_path)
    limits = {"pings": Limit(min=200, fall=0.5), "empty_hours": Limit(max=0)}
    night(store, 0, limits=limits)
    files = set(tmp_path.rglob("*.parquet"))
    short = {"hours": range(4)}
    with pytest.raises(tc.GateError) as refused:
        night(store, 1, limits=limits, pings=short)
    lines = str(refused.value).splitlines()
    assert [line.split(" ")[1] for line in lines[:-1]] == ["pings", "pings", "empty_hours"]
    assert "is below 200" in lines[0]
    assert "more than 50 % below the mean of 1 days, 240" in lines[1]
    assert "20 is above 0" in lines[2]
    assert set(tmp_path.rglob("*.parquet")) == files, "what was written is taken back"
    assert store.days("stays") == [FIRST]
    night(store, 1, limits=limits, pings=short, accept="a cable was cut")
    assert store.days("stays") == [FIRST, FIRST + timedelta(days=1)]
    kept = [row["accepted"] for row in newest(store, "stays")]
    assert kept[0] is None
    assert "a cable was cut" in kept[1]
    assert "is below 200" in kept[1]


def test_a_day_is_beside_the_days_before_it_as_they_were_last_run(tmp_path):
    store = Store(tmp_path)
    for n, people in enumerate((100, 1, 10, 10)):
        night(store, n, people)
    night(store, 0, 10)  # run again
    night(store, 1, 10)
    limits = {"subscribers": Limit(rise=0.1, fall=0.1)}
    night(store, 4, 10, limits=limits)
    night(store, 2, 9, limits=limits)
    with pytest.raises(tc.GateError, match="subscribers 12 is more than 10 % above the mean of 4 days"):
        night(store, 4, 12, limits=limits)


def test_a_list_that_loses_half_its_cities_marks_nobody(tmp_path):
    store = Store(tmp_path)
    for n in range(2):
        night(store, n)
    rules = tc.Policy.preset("card-2022-01")

    def listed(n: int, places: list[str]) -> tc.Risk:
        table = pl.DataFrame({"place": places, "level": "medium"})
        return tc.read_risk(table, day=FIRST + timedelta(days=n), places=tc.places.china())

    cities = ["110000", "310000", "330100", "330200", "440100", "440300"]
    china = tc.places.china()
    run_cards(store, as_of=FIRST + timedelta(days=1), policy=rules, places=china, risk=listed(1, cities))
    again = {"as_of": FIRST + timedelta(days=2), "policy": rules, "places": china, "risk": listed(2, cities[:1])}
    with pytest.raises(tc.GateError, match="risk 1 is more than 80 % below"):
        run_cards(store, **again)
    assert store.days("cards") == [FIRST + timedelta(days=1)]
    run_cards(store, **again, accept="they were all let go")
    assert json.loads(newest(store, "cards")[-1]["settings"])["policy"]["id"] == rules.id


numbers = st.floats(0, 1e9)


@given(numbers, st.lists(numbers, max_size=10), st.floats(0.1, 6), st.floats(0, 1), st.floats(0, 3))
def test_a_limit_is_broken_by_its_own_words(value, past, sigmas, fall, rise):
    limit = Limit(min=5, max=1e8, sigmas=sigmas, fall=fall, rise=rise)
    expected = (value < 5) + (value > 1e8)
    if past:
        mean = fmean(past)
        expected += (value < mean * (1 - fall)) + (value > mean * (1 + rise))
        if len(past) >= 5:
            expected += abs(value - mean) > sigmas * (max(stdev(past), mean / 100) or 1)
    assert abs(len(list(limit.broken(value, past))) - expected) <= (1 if past else 0) * _near(value, past, sigmas)


def _near(value: float, past: list[float], sigmas: float) -> bool:
    """Whether rounding may decide whether the spread is exceeded."""
    if len(past) < 5:
        return False
    spread = max(stdev(past), fmean(past) / 100) or 1
    return abs(abs(value - fmean(past)) - sigmas * spread) <= 1e-9 * max(spread, 1)


def test_what_is_not_measured_has_no_limit():
    with pytest.raises(tc.InputError, match=r"nothing is called cards\.purple; there are pings"):
        Gate({"cards.purple": Limit(max=1)})
