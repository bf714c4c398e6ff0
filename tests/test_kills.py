"""A run, the cards, an expiry, killed at hundreds of points: whole days at every look, nothing left, nothing lost."""

from __future__ import annotations

import random
import shutil
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import nights
import polars as pl
import pytest
from nights import AS_OF, DAYS, LAST, TABLES, command, copied, good, listing, named, rows, same

import travelcard as tc
from travelcard.retention import expire

PARTS = 8  # of the kills, each for itself: a part is a minute
AT_ONCE = 4  # kills, one after another, before the run that succeeds
OLD = DAYS[1] + timedelta(days=14)  # on which the first day's stays are past, and all rejects and cards
WORDS = {"run": ("run", LAST), "stays": ("stays", LAST), "cards": ("cards", AS_OF), "expire": ("expire", OLD)}
COMMITS = {"run": 5, "stays": 3, "cards": 2, "expire": 8}
FILES = {"run": 110, "stays": 60, "cards": 50, "expire": 1}  # a few fewer than an undisturbed one writes
SECONDS = {"run": 1.2, "stays": 0.9, "cards": 0.8, "expire": 0.6}
PLAIN = {"run": 80, "stays": 40, "cards": 45, "expire": 60}  # kills at any moment
HALF = {"run": 15, "stays": 10, "cards": 10, "expire": 1}  # kills while a file is written


def planned(seed: int) -> list[tuple[str, str]]:
    """(step, point) of every kill: before, during and after each commit, in half-written files, and at any moment."""
    dice = random.Random(seed)
    plan = []
    for step, commits in COMMITS.items():
        for commit in range(1, commits + 1):
            plan += [(step, f"before {commit}"), (step, f"after {commit}")]
            plan += [(step, f"during {commit} {dice.randrange(10_000)}") for _ in range(4)]
        plan += [(step, f"at {dice.randrange(100, int(1000 * SECONDS[step]))}") for _ in range(PLAIN[step])]
        plan += [(step, f"file {dice.randint(1, FILES[step])}") for _ in range(HALF[step])]
    for table in range(1, 6):  # an expiry commits nothing of what it removes last: the files that no table names
        plan += [("expire", f"before-vacuum {table}"), ("expire", f"after-vacuum {table}")]
        plan += [("expire", f"during-vacuum {table} {dice.randrange(5_000)}") for _ in range(2)]
    dice.shuffle(plan)
    return plan


@pytest.fixture(scope="module")
def countries(tmp_path_factory):
    """A country whose last day was not run, one where it was, what that holds, and what it holds when it is old."""
    folder = tmp_path_factory.mktemp("countries")
    two, three = nights.two_and_three(folder)
    truth = rows(tc.Store(three / "store"))
    old = copied(three, folder / "old")
    good(old, "expire", OLD)
    return {False: two, True: three}, truth, rows(tc.Store(old / "store"))


def by_day(frame: pl.DataFrame, key: str) -> dict:
    return {day: rows for (day,), rows in frame.group_by(key, maintain_order=True)}


def whole(store: tc.Store, *versions: dict) -> None:
    """Every day of every table is as one of the versions has it, to the row, or is in none of those without it."""
    now = rows(store)
    for name in TABLES:
        key = {"cards": "as_of"}.get(name, "day")
        *had, has = (by_day(version[name], key) for version in (*versions, now))
        for day in {day for version in had for day in version}:
            one = has.get(day)
            assert any(
                one is None if version.get(day) is None else one is not None and one.equals(version[day])
                for version in had
            ), f"{name} of {day} is neither what it was nor what it is to be"
    store.stale()
    store.runs()


def trial(folder: Path, step: str, points: list[str], truth: dict, old: dict, *, without_map: bool) -> Counter:
    """A few kills, then the same step in peace; then nothing is there that no table names."""
    killed: Counter = Counter()
    before = rows(tc.Store(folder / "store"))
    after = old if step == "expire" else truth
    for point in points:
        if without_map:
            shutil.rmtree(folder / "store" / ".travelcard" / "cells", ignore_errors=True)
        done = command(folder, *WORDS[step], point=point)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        killed[step, point.split()[0]] += done.returncode != 0
        whole(tc.Store(folder / "store"), before, after)
    good(folder, *WORDS[step])
    if step == "stays":
        good(folder, "cards", AS_OF)
    store = tc.Store(folder / "store")
    assert same(rows(store), after)
    assert store.stale() == []
    if step != "expire":
        expire(store, as_of=DAYS[0], days=14)
        assert same(rows(store), truth)
    assert listing(folder / "store") == named(store)
    return killed


@pytest.mark.heavy
@pytest.mark.parametrize("part", range(3))  # the others, when CI has the time
def test_whatever_is_killed_leaves_whole_days_and_the_next_run_succeeds(countries, tmp_path, part):
    """The parts together are the 300 and more kills of docs/reliability.md."""
    stores, truth, old = countries
    mine = planned(seed=2022)[part::PARTS]
    groups = []
    for step in WORDS:
        points = [point for at, point in mine if at == step]
        groups += [(step, points[i : i + AT_ONCE]) for i in range(0, len(points), AT_ONCE)]

    def one(number: int) -> Counter:
        step, points = groups[number]
        ran = step in ("expire", "cards") or number % 2 == 0
        folder = copied(stores[ran], tmp_path / f"trial{number}")
        if step == "cards":
            tc.Store(folder / "store").publish(tc.schema.CARDS, [], {"as_of": AS_OF})
        found = trial(folder, step, points, truth, old, without_map=number % 3 == 0)
        shutil.rmtree(folder)
        return found

    with ThreadPoolExecutor(2) as pool:
        killed = sum(pool.map(one, range(len(groups))), Counter())
    sys.stdout.write(f"part {part}: {killed.total()} of {len(mine)} killed: {sorted(killed.items())}\n")
    assert killed.total() >= 300 / PARTS
