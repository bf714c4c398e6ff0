"""Nights that go wrong: two at once, late hours, expiry, a stop; what a reader sees is always the last good version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import nights
import polars as pl
import pytest
from nights import AS_OF, DAYS, LAST, command, good, listing, named, rows, same

import travelcard as tc
from travelcard.lock import held


@pytest.fixture
def country(tmp_path):
    return nights.country(tmp_path / "country")


# ---------------------------------------------------------------------------------------------------- two at once


def test_who_writes_is_alone(tmp_path):
    path = tmp_path / ".travelcard" / "store.lock"
    refused = pytest.raises(tc.Busy, match=rf"the run of 2022-03-14.*{os.getpid()}")
    with held(path, "the run of 2022-03-14"), refused, held(path, "the cards"):
        pass
    with held(path, "the cards"):
        pass
    with pytest.raises(tc.GateError), held(path, "a run that is refused"):
        raise tc.GateError
    assert path.read_text() == "", "only one that died leaves its name"


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
    half = country / "store" / ".travelcard" / "cells" / "map.parquet.123"
    log = country / "store" / "stays" / "_delta_log"
    for path in (stray, half, log / "_commit_0a1b.json.tmp", log / f"{7:020}.json#1"):
        path.write_bytes(b"half a file")
    before = rows(store)
    as_of = DAYS[1] + timedelta(days=14)
    step = json.loads(good(country, "expire", as_of))
    assert step["expired"] == {
        "stays": [str(DAYS[0])], "rejects": list(map(str, DAYS)), "cards": [str(d + timedelta(days=1)) for d in DAYS],
    }  # fmt: skip
    after = rows(store)
    assert after["stays"].equals(before["stays"].filter(pl.col("day") >= DAYS[1]))
    assert listing(country / "store") == named(store)
    assert [path for path in (country / "store").rglob("*") if path.is_dir() and not list(path.iterdir())] == []
    assert json.loads(good(country, "expire", as_of))["expired"] == {"stays": [], "rejects": [], "cards": []}


# ---------------------------------------------------------------------------------------------------- killed


def test_sigterm_stops_a_run_and_publishes_nothing_more(country):
    store = tc.Store(country / "store")
    before = rows(store)
    arguments = ["-m", "travelcard", "run", str(LAST), "--config", str(country / "travelcard.toml")]
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (store.writer() or ("", False))[1]:  # until it is at work
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert (process.returncode, said.strip()) == (143, "stopped: nothing more was published")
    assert same(rows(tc.Store(country / "store")), before)


SWALLOWED = {
    "an error of its own, as pydantic does": """
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt as stopped:
        raise ValueError(stopped)
""",
    "nothing in a callback, as numba does": """
    ctypes.CFUNCTYPE(None)(lambda: [os.kill(os.getpid(), signal.SIGTERM), os.getpid()] and None)()
    time.sleep(60)
""",
}


@pytest.mark.parametrize("made", SWALLOWED)
def test_an_interrupt_of_which_a_library_makes_something_else_is_a_stop_all_the_same(made):
    program = f"import ctypes, os, signal, time\nfrom travelcard import cli, __main__\ndef main():{SWALLOWED[made]}"
    program += "cli.main = main\n__main__.command()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (143, "stopped: nothing more was published\n")
