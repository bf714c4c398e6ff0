"""Any order of arrivals, runs, reruns, expiries and crashes leaves the tables that a model in plain Python has."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import oracle
import polars as pl
import pytest
import shapely
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from nights import listing, named, same
from nights import rows as rows_of

import travelcard as tc
from travelcard import erasure, ledger
from travelcard.batch import run_cards, run_stays
from travelcard.check import check
from travelcard.retention import REJECTS_DAYS, expire

TZ = "Asia/Shanghai"
DAYS = [date(2022, 8, 1) + timedelta(days=n) for n in range(5)]
WINDOW = 3
POLICY = replace(tc.Policy.preset("card-2022-07-08"), id="three", days=WINDOW)
COLOURS = [{"colour": "yellow", "if": "abroad"}, {"colour": "green", "if": "places", "places": ()}]
COUNTRIES = {"440": "JPN", "310": "USA", "454": "HKG"}
PLACES = tc.places.from_polygons(["330100"], ["左市"], ["浙江省"], [shapely.box(110, 30, 111, 31)])

PEOPLE = (1, 2, 7, 13800001234)

pings_ = st.lists(
    st.tuples(
        st.sampled_from((*PEOPLE, None)),
        st.sampled_from((0, 1, 599, 3600, 4 * 3600, 8 * 3600, 8 * 3600 + 1, 86_399, 86_400)),
        st.sampled_from(("44010", "31000", "45400", "46000")),
    ),
    min_size=1,
    max_size=6,
)
days = st.sampled_from(DAYS)
late_days = st.sampled_from([DAYS[-1] + timedelta(days=n) for n in (1, 3, REJECTS_DAYS + 1)])


KEYS = (tc.Pseudonyms("5a" * 32), tc.Pseudonyms("c3" * 32))


def run_day(store: tc.Store, day: date, rows: list) -> None:
    begin = oracle.midnight(day, TZ)
    table = pl.DataFrame(
        {
            "subscriber": [row[0] for row in rows],
            "time": [datetime.fromtimestamp(begin + row[1], UTC) for row in rows],
            "plmn": [row[2] for row in rows],
        },
        schema_overrides={"subscriber": pl.Int64},
    )
    run_stays(store, day=day, pings=table, places=PLACES, max_rejected=1)


def make_cards(store: tc.Store, as_of: date) -> None:
    run_cards(store, as_of=as_of, policy=POLICY, places=PLACES)


class Crash(Exception):
    """Where a process would have ended."""


class Nights(RuleBasedStateMachine):
    """The store beside: what arrived of each day, what was run of it and when, what the cards were made from."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = tc.Store(self.folder / "store", asked={"buckets": 2})
        self.key = None
        self.corrections: list = []  # in force: (subscriber, place, from, to)
        self.arrived: dict[date, list] = {}
        self.stays: dict[date, list] = {}
        self.rejects: dict[date, list] = {}
        self.edition: dict[date, int] = {}  # of the stays of a day: which run made them
        self.cards: dict[date, tuple[dict, dict]] = {}  # (editions, cards)
        self.now = 0  # commits so far
        self.published: dict[tuple[str, date], int] = {}  # when a table's day was last written
        self.recorded: dict[tuple[str, date], tuple[int, dict]] = {}  # when a step last ended, and what it counted
        self.expired: list[tuple[int, dict]] = []  # when, and the first day that was kept of each table
        self.known = None  # the ledger when it was last looked at

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # ---------------------------------------------------------------------------------------- what is done

    @initialize(rows=st.tuples(*[pings_] * 3), keyed=st.booleans())
    def some_days(self, rows, keyed):
        self.key = KEYS[0] if keyed else None
        self.store = tc.Store(self.folder / "store", asked={"buckets": 2}, key=self.key)
        self.arrived = dict(zip(DAYS, map(list, rows), strict=False))
        for day in DAYS[:3]:
            self._did_run(day, self._until(None, lambda day=day: self._run(day)))
        for as_of in filter(self._editions, (DAYS[2], DAYS[4])):  # of a day that is not run yet, too
            self._did_make(as_of, self._until(None, lambda as_of=as_of: self._cards(as_of)))

    @rule(day=days, rows=pings_, crash=st.sampled_from((None, None, 1, 2, 3)))
    def more_files(self, day, rows, crash):
        self.arrived.setdefault(day, []).extend(rows)
        self._did_run(day, self._until(crash, lambda: self._run(day)))

    @rule(data=st.data(), crash=st.sampled_from((None, 1, 2, 3)))
    def fewer_people(self, data, crash):
        day = data.draw(st.sampled_from(sorted(self.arrived)))
        self.arrived[day] = [row for row in self.arrived[day] if row[0] != 7] or self.arrived[day]
        self._did_run(day, self._until(crash, lambda: self._run(day)))

    def _did_run(self, day: date, done: int) -> None:
        pings, rejects = self._clean(day)
        # with no reject nothing is written of them, and the day's old ones go all the same
        if done >= 1:
            self.rejects[day] = rejects
            self._commit("rejects", day)
        if done >= 2:
            self.stays[day] = oracle.stays(pings, TZ)
            self.edition[day] = self._commit("stays", day)
            if not self.stays[day]:
                del self.edition[day], self.stays[day]
        if done >= 3:
            self._record(
                "stays",
                day,
                read=len(self.arrived[day]),
                clean=len(self.arrived[day]) - len(rejects),
                rejected=Counter(reason for _, reason in rejects),
                subscribers=len({stay[0] for stay in self.stays.get(day, [])}),
            )

    @precondition(lambda self: self.stays)
    @rule(data=st.data(), crash=st.sampled_from((None, None, 1, 2)))
    def make_cards(self, data, crash):
        last = data.draw(st.sampled_from(sorted(self.stays)))
        as_of = last + timedelta(days=data.draw(st.integers(1, WINDOW)))
        self._did_make(as_of, self._until(crash, lambda: self._cards(as_of)))

    def _did_make(self, as_of: date, done: int) -> None:
        if done >= 1:
            self.cards[as_of] = self._model_cards(as_of)
            self._commit("cards", as_of)
        if done >= 2:
            cards = self.cards[as_of][1]
            colours = Counter(colour for colour, _ in cards.values())
            self._record("cards", as_of, subscribers=len(cards), cards=colours)

    @rule()
    def make_stale_cards(self):
        before, stale = self.store.editions("cards"), self.store.stale()
        made = set()
        for as_of in stale:
            if self._editions(as_of):
                made.add(as_of)
                self._did_make(as_of, self._until(None, lambda as_of=as_of: self._cards(as_of)))
            else:
                with pytest.raises(tc.InputError, match="ever run"):
                    self._cards(as_of)
        after = self.store.editions("cards")
        assert {as_of for as_of in before if after[as_of] != before[as_of]} == made

    @precondition(lambda self: self.store.exists)
    @rule(day=st.one_of(days, late_days), margin=st.integers(0, 2), crash=st.sampled_from((None, None, 1, 2, 3)))
    def expire(self, day, margin, crash):
        kept = {
            "stays": day - timedelta(days=WINDOW + margin),
            "rejects": day - timedelta(days=REJECTS_DAYS),
            "cards": day - timedelta(days=margin),
        }
        tables = {"stays": self.stays, "rejects": self.rejects, "cards": self.cards}
        old = [(name, d) for name, held in tables.items() for d in sorted(held) if d < kept[name] and held[d]]
        done = self._until(crash, lambda: expire(self.store, as_of=day, days=WINDOW, margin=margin))
        for name, d in old[:done]:
            del tables[name][d]
            self._commit(name, d)
            if name == "stays":
                del self.edition[d]
        if done > len(old):
            self._record("expire", day)
            self.expired.append((self.now, kept))
            assert listing(self.folder / "store") == named(self.store), "files that no table names"

    @precondition(lambda self: self.store.exists)
    @rule(who=st.sampled_from(PEOPLE), place=st.sampled_from(sorted(COUNTRIES.values())), first=days, last=days)
    def correct(self, who, place, first, last):
        first, last = min(first, last), max(first, last)
        one = (who, place, first, last)
        undo = one in self.corrections
        tc.correct(self.store, who, place, first=first, last=last, reason="a test", undo=undo)
        (self.corrections.remove if undo else self.corrections.append)(one)
        self.now += 1

    def _others(self, who: int) -> bool:
        """Whether others than a subscriber are in every day and on the cards of every date."""
        days_ = [{stay[0] for stay in stays} for stays in self.stays.values()]
        return all(held - {who} for held in [*days_, *(set(cards) for _, cards in self.cards.values())])

    @precondition(lambda self: self.store.exists)
    @rule(who=st.sampled_from(PEOPLE), crash=st.sampled_from((None, 1, 2, 3, 4)))
    def forget(self, who, crash):
        if not self._others(who):
            return
        crashed = self._until(crash, lambda: tc.forget(self.store, who))
        with erasure.writing(self.store, "whatever comes next"):  # which ends what was begun
            pass
        assert self.store.note(erasure.FORGETTING) is None
        for held in (self.stays, self.arrived):
            for day in held:
                held[day] = [row for row in held[day] if held is self.arrived or row[0] != who]
        for as_of, (editions, cards) in self.cards.items():
            self.cards[as_of] = editions, {one: card for one, card in cards.items() if one != who}
        self.corrections = [one for one in self.corrections if one[0] != who]
        self._record("forget", datetime.now(ZoneInfo(TZ)).date())
        with pytest.raises(tc.NotFound):
            self.store.card(who)
        assert crashed is not None

    @precondition(lambda self: self.key is not None and self.store.exists)
    @rule(crash=st.sampled_from((None, 1, 2, 3)))
    def rekey(self, crash):
        old, new = self.key, KEYS[self.key is KEYS[0]]
        self.store = tc.Store(self.store.root, key=new)
        self._until(crash, lambda: tc.rekey(self.store, old))
        if len(self.store.keys) > 1:
            for one in (old, new):
                with (
                    pytest.raises(tc.InputError, match="rekey"),
                    erasure.writing(tc.Store(self.store.root, key=one), "a"),
                ):
                    pass
            self.store = tc.Store(self.store.root, key=new)
            tc.rekey(self.store, old)
        if self.store.keys == (new.id,):
            self.key = new
            self._record("rekey", datetime.now(ZoneInfo(TZ)).date())
        else:
            self.store = tc.Store(self.store.root, key=old)

    @precondition(lambda self: self.stays)
    @rule()
    def a_second_writer_is_refused(self):
        day = min(self.stays)
        with tc.Store(self.store.root, key=self.key).writing("a test"), pytest.raises(tc.Busy):
            self._run(day) if day in self.arrived else self._cards(day + timedelta(days=1))

    # ---------------------------------------------------------------------------------------- how

    def _run(self, day: date) -> None:
        run_day(self.store, day, self.arrived[day])

    def _cards(self, as_of: date) -> None:
        make_cards(self.store, as_of)

    def _until(self, crash: int | None, step) -> int:
        """Do a step that crashes before a commit (None: it does not): how many commits it made."""
        made, real = 0, {name: getattr(self.store, name) for name in ("publish", "swap")}

        def counted(commit):
            def one(*arguments):
                nonlocal made
                if made + 1 == crash:
                    raise Crash
                commit(*arguments)
                made += 1

            return one

        for name, commit in real.items():
            setattr(self.store, name, counted(commit))
        try:
            step()
        except Crash:
            pass
        finally:
            for name, commit in real.items():
                setattr(self.store, name, commit)
        return made

    def _held(self, name: str) -> pl.DataFrame:
        """A table of the store, its subscribers by their numbers."""
        held = self.store.frame(name)
        if self.key is None:
            return held
        return held.with_columns(pl.from_arrow(self.key.back(held["subscriber"].to_arrow())).alias("subscriber"))

    def _commit(self, table: str, day: date) -> int:
        self.now += 1
        self.published[table, day] = self.now
        return self.now

    def _record(self, what: str, day: date, **counts) -> None:
        self.now += 1
        self.recorded[what, day] = (
            self.now,
            {"read": 0, "clean": 0, "rejected": {}, "subscribers": 0, "cards": {}} | counts,
        )

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
        stays = [stay for day in editions for stay in self.stays[day]]
        for row in oracle.visits(stays, as_of, rules, self.corrections, TZ):
            seen.setdefault(row[0], []).append(row)
        cards = {stay[0]: ("unknown", []) for stay in stays}  # of whom all was corrected away
        for who, rows in seen.items():
            colour, shown = oracle.card(rows, rules, as_of)
            cards[who] = colour, [place for place, _ in shown]
        return editions, cards

    # ---------------------------------------------------------------------------------------- what holds

    @invariant()
    def the_stays_are_those_of_what_was_run(self):
        held = self._held("stays").drop("bucket")
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
            self._held("cards").select("as_of", "subscriber", "colour", "visits").iter_rows()
        ):
            have.setdefault(as_of, {})[who] = colour, [v["place"] for v in visits if not v.get("transit")]
        assert have == {as_of: cards for as_of, (_, cards) in self.cards.items()}

    @invariant()
    def what_was_run_again_makes_cards_stale(self):
        model = [as_of for as_of, (editions, _) in self.cards.items() if editions != self._editions(as_of)]
        assert self.store.stale() == sorted(model)

    def _changed(self) -> dict[date, set[date]]:
        out = {}
        for as_of, (editions, _) in sorted(self.cards.items()):
            now = self._editions(as_of)
            out[as_of] = {day for day in {*editions, *now} if editions.get(day) != now.get(day)}
        return out

    @invariant()
    def what_changed_since_is_known_and_so_is_every_day(self):
        changed = self._changed()
        assert self.store.changed() == changed
        newest = max(self.cards, default=date.min)
        for one in ledger.days(self.store, DAYS[0] - timedelta(days=1), DAYS[-1]):
            if one.day not in self.stays:
                state = "missing"
            elif any(one.day in days for days in changed.values()):
                state = "late"
            else:
                shown = one.day + timedelta(days=1)
                state = "stale" if changed.get(shown) or shown > newest else "complete"
            assert (one.day, one.state) == (one.day, state)

    @invariant()
    def the_ledger_is_only_added_to_and_its_newest_rows_are_true(self):
        rows = self.store.runs()
        if self.known is not None:
            assert rows.head(len(self.known)).equals(self.known), "a row on record is another one now"
        self.known = rows
        have = {}
        for row in rows.iter_rows(named=True):
            counts = {name: row[name] for name in ("read", "clean", "subscribers")}
            maps = {name: {k: n for k, n in row[name].items() if n} for name in ("rejected", "cards")}
            have[row["what"], row["day"]] = counts | maps
        assert have == {key: counts for key, (_, counts) in self.recorded.items()}

    @invariant()
    def a_check_finds_what_is_wrong_and_nothing_else(self):
        if not self.store.days("stays") and not self.store.days("cards"):
            return
        found = [one for one in check(self.store, as_of=DAYS[-1], days=4) if one.wrong and one.what != "disk"]
        assert {one.where for one in found if one.what == "ledger"} == self._unfinished()
        assert {one.where for one in found if one.what == "cards"} == {
            str(d) for d, days in self._changed().items() if days
        }
        late = set().union(*self._changed().values())
        said = {one.where for one in found if one.what == "days"}
        for day in DAYS[:-1]:
            unshown = day + timedelta(days=1) > max(self.cards, default=date.min)
            assert (str(day) in said) == (day not in self.stays or day in late or unshown), day
        assert {one.what for one in found} <= {"ledger", "cards", "days"}

    def _unfinished(self) -> set[str]:
        """The days of tables that are not as the newest row on record says."""
        out = set()
        for table, held, what in (
            ("stays", self.stays, "stays"),
            ("rejects", self.rejects, "stays"),
            ("cards", self.cards, "cards"),
        ):
            for day in {*held, *(day for kind, day in self.recorded if kind == what)}:
                at, counts = self.recorded.get((what, day), (0, {}))
                if held.get(day):
                    wrong = self.published[table, day] > at
                else:
                    some = counts.get("rejected" if table == "rejects" else "subscribers")
                    wrong = some and not any(when > at and day < kept[table] for when, kept in self.expired)
                if wrong:
                    out.add(f"{table} of {day}")
        return out


def of_size(examples: int, steps: int) -> settings:
    """How many nights of how many steps. A failure is shown as it was found: to make it smaller took five minutes."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


TestNights = type("TestNights", (Nights.TestCase,), {"settings": of_size(15, 12)})
TestManyNights = pytest.mark.heavy(type("TestManyNights", (Nights.TestCase,), {"settings": of_size(40, 25)}))


# ---------------------------------------------------------------------------------------------------- any order


def in_any_order(data):
    """Files come late, days are run early and again, cards are made of any state: `--stale` brings all to one end."""
    files = data.draw(st.lists(st.tuples(st.sampled_from(DAYS[:4]), pings_), min_size=3, max_size=6))
    dates = data.draw(st.sets(st.sampled_from(DAYS), min_size=1, max_size=3))
    arrivals = [("file", day, number, rows) for number, (day, rows) in enumerate(files)]
    more = [("run", day) for day, _ in files] + 2 * [("cards", as_of) for as_of in dates]
    with tempfile.TemporaryDirectory() as folder:
        first, other = (
            in_an_order(tc.Store(f"{folder}/{number}", asked={"buckets": 2}), order, dates)
            for number, order in enumerate((arrivals, data.draw(st.permutations([*arrivals, *more]))))
        )
    assert same(first, other)


test_in_any_order_the_tables_are_the_same = of_size(8, 1)(given(data=st.data())(in_any_order))
test_in_many_orders_the_tables_are_the_same = pytest.mark.heavy(of_size(100, 1)(given(data=st.data())(in_any_order)))


def in_an_order(store: tc.Store, order: list, dates: set[date]) -> dict[str, pl.DataFrame]:
    """What a store holds after files arrived, days were run and cards made in an order, and what was left to do is."""
    arrived: dict[date, dict[int, list]] = {}

    def run(day: date) -> None:
        run_day(store, day, [row for _, rows in sorted(arrived[day].items()) for row in rows])

    def make(as_of: date) -> None:
        first, last = oracle.window(as_of, WINDOW)
        if any(first <= day <= last for day in store.days("stays")):
            make_cards(store, as_of)

    for what, day, *file in order:
        if what == "file":
            arrived.setdefault(day, {})[file[0]] = file[1]
        elif what == "cards":
            make(day)
        elif day in arrived:
            run(day)
    for day in arrived:
        run(day)
    before, stale = store.editions("cards"), store.stale()
    for as_of in stale:
        make_cards(store, as_of)
    after = store.editions("cards")
    assert {as_of for as_of in dates if after.get(as_of) != before.get(as_of)} == set(stale)
    assert store.stale() == []
    for as_of in dates - set(after):
        make(as_of)
    return rows_of(store)
