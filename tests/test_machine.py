"""Any order of arrivals, runs, reruns, expiries and crashes leaves the tables that a model in plain Python has."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import oracle
import polars as pl
import pytest
import shapely
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import travelcard as tc
from travelcard.batch import run_cards, run_stays
from travelcard.retention import REJECTS_DAYS, expire

TZ = "Asia/Shanghai"
DAYS = [date(2022, 8, 1) + timedelta(days=n) for n in range(5)]
WINDOW = 3
POLICY = replace(tc.Policy.preset("card-2022-07-08"), id="three", days=WINDOW)
COLOURS = [{"colour": "yellow", "if": "abroad"}, {"colour": "green", "if": "places", "places": ()}]
COUNTRIES = {"440": "JPN", "310": "USA", "454": "HKG"}
PLACES = tc.places.from_polygons(["330100"], ["左市"], ["浙江省"], [shapely.box(110, 30, 111, 31)])

pings_ = st.lists(
    st.tuples(
        st.sampled_from((1, 2, 7, 13800001234, None)),
        st.sampled_from((0, 1, 599, 3600, 4 * 3600, 8 * 3600, 8 * 3600 + 1, 86_399, 86_400)),
        st.sampled_from(("44010", "31000", "45400", "46000")),
    ),
    min_size=1,
    max_size=6,
)
days = st.sampled_from(DAYS)


class Crash(Exception):
    """Where a process would have ended."""


class Nights(RuleBasedStateMachine):
    """The store beside: what arrived of each day, what was run of it and when, what the cards were made from."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = tc.Store(self.folder / "store", asked={"buckets": 2})
        self.arrived: dict[date, list] = {}
        self.stays: dict[date, list] = {}
        self.rejects: dict[date, list] = {}
        self.edition: dict[date, int] = {}  # of the stays of a day: which run made them
        self.cards: dict[date, tuple[dict, dict]] = {}  # (editions, cards)
        self.runs = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # ---------------------------------------------------------------------------------------- what is done

    @initialize(rows=st.tuples(*[pings_] * 3))
    def some_days(self, rows):
        self.arrived = dict(zip(DAYS, map(list, rows), strict=False))
        for day in DAYS[:3]:
            self._did_run(day, self._until(None, lambda day=day: self._run(day)))

    @rule(day=days, rows=pings_)
    def more_files(self, day, rows):
        self.arrived.setdefault(day, []).extend(rows)

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def fewer_people(self, data):
        day = data.draw(st.sampled_from(sorted(self.arrived)))
        self.arrived[day] = [row for row in self.arrived[day] if row[0] != 7] or self.arrived[day]

    @precondition(lambda self: self.arrived)
    @rule(data=st.data(), crash=st.sampled_from((None, None, 1, 2, 3)))
    def run_a_day(self, data, crash):
        day = data.draw(st.sampled_from(sorted(self.arrived)))
        self._did_run(day, self._until(crash, lambda: self._run(day)))

    def _did_run(self, day: date, done: int) -> None:
        pings, rejects = self._clean(day)
        # with no reject nothing is written of them, and the day's old ones go all the same
        if done >= 1:
            self.rejects[day] = rejects
        if done >= 2:
            self.stays[day], self.runs = oracle.stays(pings, TZ), self.runs + 1
            self.edition[day] = self.runs
            if not self.stays[day]:
                del self.edition[day], self.stays[day]

    @precondition(lambda self: self.stays)
    @rule(data=st.data(), crash=st.sampled_from((None, None, 1, 2)))
    def make_cards(self, data, crash):
        last = data.draw(st.sampled_from(sorted(self.stays)))
        as_of = last + timedelta(days=data.draw(st.integers(1, WINDOW)))
        if self._until(crash, lambda: self._cards(as_of)) >= 1:
            self.cards[as_of] = self._model_cards(as_of)

    @rule()
    def make_stale_cards(self):
        for as_of in self.store.stale():
            if self._editions(as_of):
                self._cards(as_of)
                self.cards[as_of] = self._model_cards(as_of)
            else:
                with pytest.raises(tc.InputError, match="ever run"):
                    self._cards(as_of)

    @precondition(lambda self: self.store.exists)
    @rule(day=days, margin=st.integers(0, 2))
    def expire(self, day, margin):
        expire(self.store, as_of=day, days=WINDOW, margin=margin)
        first = day - timedelta(days=WINDOW + margin)
        self.stays = {d: rows for d, rows in self.stays.items() if d >= first}
        self.edition = {d: n for d, n in self.edition.items() if d >= first}
        self.rejects = {d: rows for d, rows in self.rejects.items() if d >= day - timedelta(days=REJECTS_DAYS)}
        self.cards = {d: made for d, made in self.cards.items() if d >= day - timedelta(days=margin)}

    @precondition(lambda self: self.stays)
    @rule()
    def a_second_writer_is_refused(self):
        day = min(self.stays)
        with tc.Store(self.store.root).writing("a test"), pytest.raises(tc.Busy):
            self._run(day) if day in self.arrived else self._cards(day + timedelta(days=1))

    # ---------------------------------------------------------------------------------------- how

    def _run(self, day: date) -> None:
        begin = oracle.midnight(day, TZ)
        table = pl.DataFrame(
            {
                "subscriber": [row[0] for row in self.arrived[day]],
                "time": [datetime.fromtimestamp(begin + row[1], UTC) for row in self.arrived[day]],
                "plmn": [row[2] for row in self.arrived[day]],
            },
            schema_overrides={"subscriber": pl.Int64},
        )
        run_stays(self.store, day=day, pings=table, places=PLACES, max_rejected=1)

    def _cards(self, as_of: date) -> None:
        run_cards(self.store, as_of=as_of, policy=POLICY, places=PLACES)

    def _until(self, crash: int | None, step) -> int:
        """Do a step that crashes before a commit (None: it does not): how many commits it made."""
        real, made = self.store.publish, 0

        def publish(*arguments):
            nonlocal made
            if made + 1 == crash:
                raise Crash
            real(*arguments)
            made += 1

        self.store.publish = publish
        try:
            step()
        except Crash:
            pass
        finally:
            self.store.publish = real
        return made

    def _clean(self, day: date) -> tuple[list, list]:
        begin = oracle.midnight(day, TZ)
        rows = [{"subscriber": who, "time": begin + at, "plmn": plmn} for who, at, plmn in self.arrived[day]]
        return oracle.clean(rows, day=day, tz=TZ, unit="s", country=COUNTRIES.get)

    def _editions(self, as_of: date) -> dict[date, int]:
        first, last = oracle.window(as_of, WINDOW)
        return {day: n for day, n in self.edition.items() if first <= day <= last}

    def _model_cards(self, as_of: date) -> tuple[dict, dict]:
        editions = self._editions(as_of)
        rules = {"days": WINDOW, "rule": "continuous", "colours": COLOURS}
        seen: dict = {}
        for row in oracle.visits([stay for day in editions for stay in self.stays[day]], as_of, rules, tz=TZ):
            seen.setdefault(row[0], []).append(row)
        cards = {}
        for who, rows in seen.items():
            colour, shown = oracle.card(rows, rules, as_of)
            cards[who] = colour, [place for place, _ in shown]
        return editions, cards

    # ---------------------------------------------------------------------------------------- what holds

    @invariant()
    def the_stays_are_those_of_what_was_run(self):
        held = self.store.frame("stays").drop("bucket")
        have = {
            (day, who, place, int(arrive.timestamp()), int(depart.timestamp()), pings, inner)
            for day, who, place, arrive, depart, pings, inner in held.select(
                "day", "subscriber", "place", "arrive", "depart", "pings", "inner"
            ).iter_rows()
        }
        assert have == {(day, *stay) for day, stays in self.stays.items() for stay in stays}
        assert len(held) == len(have)

    @invariant()
    def the_rejects_too(self):
        held = self.store.frame("rejects").select("day", "row", "reason").rows()
        assert sorted(held) == sorted((day, *reject) for day, rejects in self.rejects.items() for reject in rejects)

    @invariant()
    def the_cards_are_those_of_the_stays_they_were_made_from(self):
        have: dict = {}
        for as_of, who, colour, visits in (
            self.store.frame("cards").select("as_of", "subscriber", "colour", "visits").iter_rows()
        ):
            have.setdefault(as_of, {})[who] = colour, [v["place"] for v in visits if not v.get("transit")]
        assert have == {as_of: cards for as_of, (_, cards) in self.cards.items()}

    @invariant()
    def what_was_run_again_makes_cards_stale(self):
        model = [as_of for as_of, (editions, _) in self.cards.items() if editions != self._editions(as_of)]
        assert self.store.stale() == sorted(model)


Nights.TestCase.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestNights = Nights.TestCase
