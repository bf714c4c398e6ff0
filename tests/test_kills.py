"""A run, the cards, an expiry, killed at hundreds of points: whole days at every look, nothing left, nothing lost."""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import nights
import polars as pl
import pytest
from nights import AS_OF, DAYS, LAST, OLD, copied, good, listing, rows, told, trial, without_late_files

import travelcard as tc
from travelcard import erasure
from travelcard.check import check

PARTS = 8  # of the kills, each for itself
AT_ONCE = 3  # kills, one after another, before the run that succeeds; some then find nothing left to do


@dataclass(frozen=True)
class Step:
    """What is killed: from which states, how many commits, files written, files removed, spills and seconds it has."""

    words: tuple[object, ...]
    states: tuple[str, ...]
    commits: int
    files: int = 0
    removed: int = 0
    spills: int = 0
    seconds: float = 1.0
    plain: int = 25  # kills at any moment, and as many half as often told to stop


STEPS = [
    Step(("run", LAST), ("two", "three", "fewer"), commits=5, files=30, spills=6, seconds=1.2, plain=60),
    Step(("stays", LAST), ("two", "three", "fewer"), commits=3, files=15, spills=6, seconds=0.9),
    Step(("cards", AS_OF), ("bare",), commits=2, files=12, seconds=0.8),
    Step(("cards", "--stale"), ("late",), commits=6, files=40, seconds=1.1),
    Step(("expire", OLD), ("three",), commits=12, removed=60, seconds=0.6, plain=35),
]


def planned(seed: int) -> list[tuple[Step, str]]:
    """Every kill: before, during and after each commit and removal, in half-written files, and at any moment."""
    dice = random.Random(seed)
    plan = []
    for step in STEPS:
        numbers = [("", n) for n in range(1, step.commits + 1)]
        numbers += [("-delete", dice.randint(1, step.removed)) for _ in range(8) if step.removed]
        for what, n in numbers:
            plan += [(step, f"before{what} {n}"), (step, f"after{what} {n}")]
            plan += [(step, f"during{what} {n} {dice.randrange(10_000)}") for _ in range(2)]
        plan += [(step, f"file {dice.randint(1, step.files)}") for _ in range(8) if step.files]
        plan += [(step, f"spilling spill {dice.randint(1, step.spills)}") for _ in range(6) if step.spills]
        plan += [(step, f"at {dice.randrange(100, int(1000 * step.seconds))}") for _ in range(step.plain)]
        plan += [(step, f"term {dice.randrange(100, int(1000 * step.seconds))}") for _ in range(step.plain // 2)]
    dice.shuffle(plan)
    return plan


@pytest.fixture(scope="module")
def countries(tmp_path_factory):
    """A country in every state that something is killed in, what it comes to, and what it holds when it is old."""
    folder = tmp_path_factory.mktemp("countries")
    two, three = nights.two_and_three(folder)
    fewer, late, bare, old = (copied(three, folder / name) for name in ("fewer", "late", "bare", "old"))
    without_late_files(fewer, "run", days=[LAST])
    without_late_files(late, "run", days=DAYS)
    for day in DAYS:
        good(late, "stays", day)
    tc.Store(bare / "store").publish(tc.schema.CARDS, [], {"as_of": AS_OF})
    good(old, "expire", OLD)
    states = {"two": two, "three": three, "fewer": fewer, "late": late, "bare": bare}
    return states, rows(tc.Store(three / "store")), rows(tc.Store(old / "store"))


@pytest.mark.heavy
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_killed_leaves_whole_days_and_the_next_run_succeeds(countries, tmp_path, part):
    """The parts together are the 300 and more kills of docs/reliability.md."""
    states, truth, old = countries
    mine = planned(seed=2022)[part::PARTS]
    groups = []
    for step in STEPS:
        points = [point for at, point in mine if at is step]
        groups += [(step, points[i : i + AT_ONCE]) for i in range(0, len(points), AT_ONCE)]

    def one(number: int) -> Counter:
        step, points = groups[number]
        folder = copied(states[step.states[number % len(step.states)]], tmp_path / f"trial{number}")
        store = tc.Store(folder / "store")
        after = old if step.words[0] == "expire" else truth
        killed = trial(
            folder, store, step.words, points, after, lambda: listing(folder / "store"), without_map=number % 3 == 0
        )
        shutil.rmtree(folder)
        return Counter({(" ".join(map(str, step.words)), kind): n for kind, n in killed.items()})

    with ThreadPoolExecutor(2) as pool:
        killed = sum(pool.map(one, range(len(groups))), Counter())
    sys.stdout.write(f"part {part}: {killed.total()} of {len(mine)} killed: {sorted(killed.items())}\n")
    assert killed.total() > len(mine) / 2


OWED = [*range(1, 9)], [150, 250, 350, 450, 550, 650]  # commits; milliseconds
FEW = [pytest.param("few"), pytest.param("many", marks=pytest.mark.heavy)]


def owed(how: str, seed: int) -> list[str]:
    """Kills of what a person asked for: before, during and after each commit and at any moment; or a few of them."""
    dice = random.Random(seed)
    commits, moments = OWED
    points = [f"{when} {n}" for n in commits for when in ("before", "after")]
    points += [f"during {n} {dice.randrange(10_000)}" for n in commits] + [f"at {ms}" for ms in moments]
    return points if how == "many" else dice.sample(points[:16], 4)


@pytest.mark.parametrize("how", FEW)
def test_a_forgetting_that_is_killed_is_ended_by_whoever_comes_next(countries, tmp_path, how):
    states, truth, _ = countries
    number = truth["cards"]["subscriber"][7]
    without = {name: rows.filter(pl.col("subscriber") != number) for name, rows in truth.items() if name != "rejects"}
    without["rejects"] = truth["rejects"]
    killed = 0
    for n, point in enumerate(owed(how, seed=6)):
        folder = copied(states["three"], tmp_path / str(n))
        store = tc.Store(folder / "store")
        done = nights.command(folder, "forget", number, point=point)
        killed += done.returncode != 0
        nights.whole(store, truth, without)
        some = store.frame("cards").filter(pl.col("subscriber") == number)
        begun = store.note(erasure.FORGETTING) is not None or done.returncode == 0
        for words in (("cards", AS_OF), ("expire", DAYS[0])):  # whoever comes next
            good(folder, *words)
        assert nights.same(rows(store), without if begun or some.is_empty() else truth)
        good(folder, "forget", number)
        assert nights.same(rows(store), without)
        assert listing(folder / "store") == nights.named(store)
        assert not [one for one in check(store, as_of=AS_OF, days=3) if one.wrong]
        shutil.rmtree(folder)
    sys.stdout.write(f"forget: {killed} killed\n")
    assert killed >= 3


@pytest.mark.parametrize("how", FEW)
def test_a_rekey_that_is_killed_is_ended_by_the_next_with_nothing_lost(countries, tmp_path, how):
    states, truth, _ = countries
    keys = {"TRAVELCARD_KEY": "5a" * 32, "TRAVELCARD_NEW_KEY": "c3" * 32}
    old, new = map(tc.Pseudonyms, keys.values())
    keyed = copied(states["two"], tmp_path / "keyed")
    shutil.rmtree(keyed / "store")
    for day in DAYS:
        assert nights.command(keyed, "run", day, env=keys).returncode == 0
    killed = 0
    for n, point in enumerate(owed(how, seed=7)):
        folder = copied(keyed, tmp_path / str(n))
        killed += nights.command(folder, "rekey", point=point, env=keys).returncode != 0
        done = nights.command(folder, "run", LAST, env=keys)  # of both keys, or of another one than its own
        assert done.returncode == (0 if tc.Store(folder / "store").keys == (old.id,) else 1), done.stderr
        done = nights.command(folder, "rekey", env=keys)
        assert done.returncode == 0, done.stderr
        store = tc.Store(folder / "store", key=new)
        held = rows(store)
        for name in ("stays", "cards"):
            back = pl.from_arrow(new.back(held[name]["subscriber"].to_arrow())).alias("subscriber")
            day = held[name].columns[0]
            by = [day, "bucket", "subscriber", *(["arrive", "place"] if name == "stays" else [])]
            assert held[name].with_columns(back).sort(by).equals(truth[name].sort(by))
        assert listing(folder / "store") == nights.named(store)
        assert not [one for one in check(store, as_of=AS_OF, days=3) if one.wrong]
        shutil.rmtree(folder)
    sys.stdout.write(f"rekey: {killed} killed\n")
    assert killed >= 3


@pytest.mark.parametrize("point", ["before 1", "after 1", "at 300", "at 400"])
def test_a_correction_that_is_killed_is_on_record_or_not(countries, tmp_path, point):
    states, truth, _ = countries
    folder = copied(states["three"], tmp_path / "country")
    store, number = tc.Store(folder / "store"), truth["cards"]["subscriber"][7]
    words = ("correct", number, "330100", "--from", DAYS[0], "--to", LAST, "--reason", "killed")
    nights.command(folder, *words, point=point)
    known = {"before 1": [0], "after 1": [1]}  # at any moment it is either
    assert len(store.frame("corrections")) in known.get(point, [0, 1])
    good(folder, *words)
    assert len(store.corrections()) == 1
    good(folder, "expire", DAYS[0])
    assert listing(folder / "store") == nights.named(store)


@pytest.mark.parametrize("point", ["at 300", "at 350", "at 400"])
def test_a_purge_that_is_killed_has_not_begun_or_is_ended_by_the_next(countries, tmp_path, point):
    states, truth, _ = countries
    folder = copied(states["three"], tmp_path / "country")
    nights.command(folder, "purge", "--yes", point=point)
    if (folder / "store" / "purged.json").exists():
        assert "was purged" in nights.command(folder, "card", truth["cards"]["subscriber"][7]).stderr
    else:
        assert nights.same(rows(tc.Store(folder / "store")), truth)
    good(folder, "purge", "--yes")
    assert [path.name for path in (folder / "store").rglob("*")] == ["purged.json"]


def test_a_run_is_killed_when_pings_are_on_disk(countries, tmp_path):
    """The kills in spills are what they say: without one before it, there would be none."""
    states, truth, _ = countries
    folder = copied(states["two"], tmp_path / "country")
    store = tc.Store(folder / "store")
    points = [f"spilling spill {n}" for n in (1, 3)]
    killed = trial(folder, store, ("run", LAST), points, truth, lambda: listing(folder / "store"))
    assert killed == {"spill": 2}
    told(folder, 'memory = "1KiB"')
    done = nights.command(folder, "run", LAST, point="spilling")
    assert '"spilled": 0' not in done.stdout
    assert done.returncode == 0, done.stderr
    assert nights.same(rows(store), truth)
