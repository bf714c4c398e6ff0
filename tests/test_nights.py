"""Nights that go wrong: two at once, late hours, killed ones; what a reader sees is always the last good version."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

import travelcard as tc
from travelcard import synth
from travelcard.lock import held

ROOT = Path(__file__).parent
DAYS = [date(2022, 3, 12) + timedelta(days=n) for n in range(3)]
LAST, AS_OF = DAYS[-1], DAYS[-1] + timedelta(days=1)
TABLES = ("stays", "rejects", "cards")


def command(folder: Path, *words: object, point: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of travelcard, killed at a point if one is given."""
    head = ["-m", "travelcard"] if point is None else [str(ROOT / "killed.py"), point]
    config = ["--config", str(folder / "travelcard.toml")]
    return subprocess.run(
        [sys.executable, *head, *map(str, words), *config], capture_output=True, text=True, check=False
    )


def good(folder: Path, *words: object) -> str:
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(store: tc.Store) -> dict[str, pl.DataFrame]:
    """What the tables hold, whoever wrote it and when."""
    return {
        "stays": store.frame("stays").sort("day", "bucket", "subscriber", "arrive", "place"),
        "rejects": store.frame("rejects").sort("day", "file", "row"),
        "cards": store.frame("cards").sort("as_of", "bucket", "subscriber"),
    }


def same(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> bool:
    return all(one[name].equals(other[name]) for name in TABLES)


def listing(folder: Path) -> set[Path]:
    """The Parquet files of a store."""
    return {path.relative_to(folder) for path in folder.rglob("*.parquet") if ".travelcard" not in path.parts}


def named(store: tc.Store) -> set[Path]:
    """The files that are part of a table."""
    return {Path(name) / path for name in (*TABLES, "runs") for _, path in store.files(name)}


@pytest.fixture
def country(tmp_path):
    """Three days of a small country, two of them run."""
    folder = tmp_path / "country"
    synth.write(folder, subscribers=400, days=DAYS, pings_per_subscriber=20, cells=1500, files=3, seed=5)
    for day in DAYS[:2]:
        good(folder, "run", day)
    return folder


# ---------------------------------------------------------------------------------------------------- two at once


def test_who_writes_is_alone(tmp_path):
    path = tmp_path / ".travelcard" / "store.lock"
    refused = pytest.raises(tc.Busy, match=rf"the run of 2022-03-14.*{os.getpid()}")
    with held(path, "the run of 2022-03-14"), refused, held(path, "the cards"):
        pass
    with held(path, "the cards"):
        pass


def test_the_lock_of_a_dead_process_is_none(tmp_path):
    path = tmp_path / "store.lock"
    holder = f"""
import time, pathlib, travelcard.lock
with travelcard.lock.held(pathlib.Path({str(path)!r}), "it"):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(tc.Busy), held(path, "another"):
        pass
    process.kill()
    process.communicate()
    assert json.loads(path.read_text())["process"] == process.pid, "it died without a word"
    with held(path, "another"):
        pass


def test_a_second_run_is_refused_at_once(country):
    with tc.Store(country / "store").writing("the run of 2022-03-13"):
        for words in (("run", LAST), ("stays", LAST), ("cards", AS_OF), ("expire", AS_OF)):
            done = command(country, *words)
            assert done.returncode == 1
            assert "is being written" in done.stderr
            assert f"process {os.getpid()}" in done.stderr


# ---------------------------------------------------------------------------------------------------- late hours


def test_late_hours_make_cards_stale_and_stale_cards_are_made_anew(country):
    store = tc.Store(country / "store")
    good(country, "run", LAST)
    assert store.stale() == []
    first = rows(store)
    hours = sorted((country / "pings" / str(DAYS[1])).glob("*.parquet"))
    late = hours[-1].rename(country / "late.parquet")
    done = command(country, "stays", DAYS[1])
    assert done.returncode == 0
    assert store.stale() == [DAYS[1] + timedelta(days=1), AS_OF], "the cards before that day are as they were"
    assert f"cards as of {DAYS[2]}, {AS_OF}" in done.stderr
    late.rename(hours[-1])
    good(country, "stays", DAYS[1])
    assert [json.loads(line)["day"] for line in good(country, "cards", "--stale").splitlines()] == [
        str(DAYS[2]), str(AS_OF),
    ]  # fmt: skip
    assert store.stale() == []
    assert same(rows(store), first)
    assert good(country, "cards", "--stale") == ""


@pytest.mark.parametrize("words", [("cards",), ("cards", AS_OF, "--stale")])
def test_cards_are_of_one_date_or_of_every_stale_one(country, words):
    done = command(country, *words)
    assert done.returncode == 1
    assert "--stale" in done.stderr


# ---------------------------------------------------------------------------------------------------- expiry


def test_what_is_older_than_the_window_goes_and_so_does_what_no_table_names(country):
    good(country, "run", LAST)
    store = tc.Store(country / "store")
    stray = country / "store" / "stays" / "day=2022-03-12" / "bucket=0" / "stray.parquet"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"half a file")
    before = rows(store)
    as_of = DAYS[1] + timedelta(days=14)
    step = json.loads(good(country, "expire", as_of))
    assert step["expired"] == {
        "stays": [str(DAYS[0])], "rejects": list(map(str, DAYS)), "cards": [str(d + timedelta(days=1)) for d in DAYS],
    }  # fmt: skip
    after = rows(store)
    assert after["stays"].equals(before["stays"].filter(pl.col("day") >= DAYS[1]))
    assert listing(country / "store") == named(store)
    assert json.loads(good(country, "expire", as_of))["expired"] == {"stays": [], "rejects": [], "cards": []}


# ---------------------------------------------------------------------------------------------------- killed


def test_sigterm_stops_a_run_and_publishes_nothing_more(country):
    store = tc.Store(country / "store")
    before = rows(store)
    arguments = ["-m", "travelcard", "run", str(LAST), "--config", str(country / "travelcard.toml")]
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert (process.returncode, said.strip()) == (143, "stopped: nothing more was published")
    assert same(rows(tc.Store(country / "store")), before)


def points(dice: random.Random, commits: int, files: int, seconds: float) -> str:
    kind = dice.choice(("before", "after", "during", "file", "at"))
    if kind == "at":
        return f"at {dice.randrange(int(1000 * seconds))}"
    if kind == "file":
        return f"file {dice.randint(1, files)}"
    return f"{kind} {dice.randint(1, commits)}" + (f" {dice.randrange(60_000)}" if kind == "during" else "")


@pytest.mark.heavy
def test_three_hundred_kills(country, tmp_path):
    """Whatever is killed, wherever: whole versions at every look, the next run's rows, no file left after expiry."""
    good(country, "run", LAST)
    truth = rows(tc.Store(country / "store"))
    for day in DAYS[:2]:  # without the last day: what a killed night began from
        assert len(truth["stays"].filter(pl.col("day") == day))
    expired = AS_OF
    killed = {}

    def trial(seed: int) -> None:
        dice = random.Random(seed)
        folder = tmp_path / f"trial{seed}"
        subprocess.run(["cp", "-r", country, folder], check=True)
        store = tc.Store(folder / "store")
        step = dice.choice(("run", "cards", "expire", "stays"))
        if step != "expire" and dice.random() < 0.5:  # a day that is there already, or one that is new
            for table in ("stays", "rejects"):
                store.publish(getattr(__import__("travelcard.schema").schema, table.upper()), [], {"day": LAST})
        before = rows(store)
        words = {
            "run": ("run", LAST),
            "stays": ("stays", LAST),
            "cards": ("cards", AS_OF),
            "expire": ("expire", expired),
        }
        for _ in range(dice.choice((1, 1, 2))):
            point = points(dice, {"run": 5, "stays": 3, "cards": 2, "expire": 4}[step], 70, 2.0)
            done = command(folder, *words[step], point=point)
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
            killed[step, point.split()[0]] = killed.get((step, point.split()[0]), 0) + (done.returncode != 0)
            now = rows(tc.Store(folder / "store"))
            for name in TABLES:
                key = {"cards": "as_of"}.get(name, "day")
                new = {day: frame for (day,), frame in truth[name].group_by(key)}
                old = {day: frame for (day,), frame in before[name].group_by(key)}
                for (day,), frame in now[name].group_by(key):
                    assert any(version.get(day) is not None and frame.equals(version[day]) for version in (old, new)), (
                        f"{name} of {day} is neither what it was nor what it is to be"
                    )
        good(folder, "run", LAST)
        good(folder, "expire", expired)
        store = tc.Store(folder / "store")
        assert same(rows(store), truth_expired)
        assert listing(folder / "store") == named(store)
        left = [path for path in (folder / "store" / ".travelcard").rglob("*") if path.is_file()]
        assert {path.suffix for path in left} <= {".parquet", ".lock"}, left
        subprocess.run(["rm", "-rf", folder], check=True)

    whole = tmp_path / "whole"
    subprocess.run(["cp", "-r", country, whole], check=True)
    good(whole, "expire", expired)
    truth_expired = rows(tc.Store(whole / "store"))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(trial, range(400)))
    assert sum(killed.values()) >= 300, killed
