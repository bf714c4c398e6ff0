"""What the tests of nights that go wrong have in common: a small country, its command line, what a store holds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

import travelcard as tc
from travelcard import synth

ROOT = Path(__file__).parent
DAYS = [date(2022, 3, 12) + timedelta(days=n) for n in range(3)]
LAST, AS_OF = DAYS[-1], DAYS[-1] + timedelta(days=1)
OLD = DAYS[1] + timedelta(days=14)  # on which the first day's stays are past, and all rejects and cards
TABLES = ("stays", "rejects", "cards")
_KEPT = re.compile(
    r"\w+/_delta_log/(\d{20}(\.checkpoint)?\.\w+|_last_checkpoint)|\.travelcard/(store\.lock|cells/\w+\.parquet)"
)


def command(
    folder: Path,
    *words: object,
    point: str | None = None,
    before: Callable[[], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command of travelcard from a folder, killed at a point if one is given; `before` is done in its process."""
    head = ["-m", "travelcard"] if point is None else [str(ROOT / "killed.py"), point]
    config = ["--config", str(folder / "travelcard.toml")]
    return subprocess.run(
        [sys.executable, *head, *map(str, words), *config],
        capture_output=True, text=True, check=False, cwd=folder, preexec_fn=before, env={**os.environ, **(env or {})},
    )  # fmt: skip


def good(folder: Path, *words: object) -> str:
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(folder: Path, *words: object) -> tuple[int, set[str]]:
    """What a command exits with, and the modules that it loads."""
    done = command(folder, *words, env={"PYTHONPROFILEIMPORTTIME": "1"})
    return done.returncode, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def short_chunks(patch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 pings, so that a few fill an arena; what waits on disk lies in the cache, which takes any length."""
    patch.setattr("travelcard.buckets.OPEN_CHUNKS", 64)
    patch.setattr("travelcard.buckets.LEAST", 64)
    patch.delattr("os.O_DIRECT", raising=False)


def rows(store: tc.Store) -> dict[str, pl.DataFrame]:
    """What the tables hold, whoever wrote it and when, and wherever the pings lay."""
    rejects = store.frame("rejects")
    return {
        "stays": store.frame("stays").sort("day", "bucket", "subscriber", "arrive", "place"),
        "rejects": rejects.with_columns(pl.col("file").str.split("/").list.last()).sort("day", "file", "row"),
        "cards": store.frame("cards").sort("as_of", "bucket", "subscriber"),
    }


def same(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> bool:
    return all(one[name].equals(other[name]) for name in TABLES)


def listing(folder: Path) -> set[str]:
    """The files of a store, but for its logs and its lock and map of cells."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if not _KEPT.fullmatch(path)}


def named(store: tc.Store) -> set[str]:
    """The files that are part of a table."""
    return {f"{name}/{path}" for name in (*TABLES, "corrections", "runs") for _, path in store.files(name)}


def country(folder: Path, run: int = 2, buckets: int = 16) -> Path:
    """Three days of a small country, some of them run."""
    synth.write(folder, subscribers=400, days=DAYS, pings_per_subscriber=20, cells=1500, files=3, seed=5)
    told(folder, f"buckets = {buckets}")
    for day in DAYS[:run]:
        good(folder, "run", day)
    return folder


def told(folder: Path, *lines: str) -> Path:
    """A country with these lines in its configuration, in the place of what was said of their keys."""
    file = folder / "travelcard.toml"
    keys = tuple(line.split()[0] for line in lines)
    file.write_text("\n".join([*lines, *(line for line in file.read_text().splitlines() if not line.startswith(keys))]))
    return folder


def two_and_three(folder: Path) -> tuple[Path, Path]:
    """A country whose last day was not run, and the same one where it was."""
    two = country(folder / "two")
    three = copied(two, folder / "three")
    good(three, "run", LAST)
    return two, three


def without_late_files(folder: Path, *words: str, days: Sequence[date]) -> None:
    """Do something for some days before the last file of each has come."""
    for day in days:
        late = sorted((folder / "pings" / str(day)).iterdir())[-1]
        late.rename(folder / late.name)
        good(folder, *words, day)
        (folder / late.name).rename(late)


def copied(folder: Path, name: Path) -> Path:
    subprocess.run(["cp", "-r", folder, name], check=True)
    return name


# ---------------------------------------------------------------------------------------------------- killed


def whole(store: tc.Store, *versions: dict[str, pl.DataFrame]) -> None:
    """Every day of every table is as one of the versions has it, to the row, or is in none of those without it."""
    now = rows(store)
    for name in TABLES:
        key = {"cards": "as_of"}.get(name, "day")
        *had, has = (_by_day(version[name], key) for version in (*versions, now))
        for day in {day for version in had for day in version}:
            one = has.get(day)
            assert any(
                one is None if version.get(day) is None else one is not None and one.equals(version[day])
                for version in had
            ), f"{name} of {day} is neither what it was nor what it is to be"
    store.stale()
    store.runs()


def _by_day(frame: pl.DataFrame, key: str) -> dict[date, pl.DataFrame]:
    return {day: rows for (day,), rows in frame.group_by(key, maintain_order=True)}


def trial(
    folder: Path,
    store: tc.Store,
    words: Sequence[object],
    points: Sequence[str],
    after: dict[str, pl.DataFrame],
    left: Callable[[], set[str]],
    *,
    without_map: bool = False,
) -> Counter[str]:
    """A few kills of a command, then it in peace; then the rows are right and nothing is there that no table names.

    Returns how many were killed at each kind of point.
    """
    killed: Counter[str] = Counter()
    before = rows(store)
    for point in points:
        if without_map:
            shutil.rmtree(store.scratch / "cells", ignore_errors=True)
        done = command(folder, *words, point=point)
        kind = point.removeprefix("spilling ").split()[0]
        if kind == "term":  # before travelcard listens, it is Python that ends
            assert done.returncode in (0, 143, -signal.SIGTERM), done.stderr
            assert (done.stderr == "stopped: nothing more was published\n") == (done.returncode == 143), done.stderr
        else:
            assert done.returncode in (0, -signal.SIGKILL), done.stderr
        killed[kind] += done.returncode != 0
        whole(tc.Store(store.root), before, after)
    healed(folder, store, words, after, left)
    return killed


def healed(
    folder: Path,
    store: tc.Store,
    words: Sequence[object],
    after: dict[str, pl.DataFrame],
    left: Callable[[], set[str]],
) -> None:
    """A command in peace: the rows are right, and nothing is left that no table names."""
    good(folder, *words)
    if words[0] == "stays":
        good(folder, "cards", AS_OF)
    assert same(rows(store), after)
    assert store.stale() == []
    good(folder, "expire", DAYS[0])
    assert same(rows(store), after)
    assert left() ^ named(store) == set()
    assert store.writer() is None
