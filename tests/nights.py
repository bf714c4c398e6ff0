"""What the tests of nights that go wrong have in common: a small country, its command line, what a store holds."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import polars as pl

import travelcard as tc
from travelcard import synth

ROOT = Path(__file__).parent
DAYS = [date(2022, 3, 12) + timedelta(days=n) for n in range(3)]
LAST, AS_OF = DAYS[-1], DAYS[-1] + timedelta(days=1)
TABLES = ("stays", "rejects", "cards")
_KEPT = re.compile(
    r"\w+/_delta_log/(\d{20}(\.checkpoint)?\.\w+|_last_checkpoint)|\.travelcard/(store\.lock|cells/\w+\.parquet)"
)


def command(folder: Path, *words: object, point: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of travelcard from a folder, killed at a point if one is given."""
    head = ["-m", "travelcard"] if point is None else [str(ROOT / "killed.py"), point]
    config = ["--config", str(folder / "travelcard.toml")]
    return subprocess.run(
        [sys.executable, *head, *map(str, words), *config], capture_output=True, text=True, check=False, cwd=folder
    )


def good(folder: Path, *words: object) -> str:
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def listing(folder: Path) -> set[Path]:
    """The files of a store, but for its logs and its lock and map of cells."""
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path for path in files if not _KEPT.fullmatch(str(path))}


def named(store: tc.Store) -> set[Path]:
    """The files that are part of a table."""
    return {Path(name) / path for name in (*TABLES, "runs") for _, path in store.files(name)}


def country(folder: Path, run: int = 2) -> Path:
    """Three days of a small country, some of them run."""
    synth.write(folder, subscribers=400, days=DAYS, pings_per_subscriber=20, cells=1500, files=3, seed=5)
    for day in DAYS[:run]:
        good(folder, "run", day)
    return folder


def two_and_three(folder: Path) -> tuple[Path, Path]:
    """A country whose last day was not run, and the same one where it was."""
    two = country(folder / "two")
    three = copied(two, folder / "three")
    good(three, "run", LAST)
    return two, three


def copied(folder: Path, name: Path) -> Path:
    subprocess.run(["cp", "-r", folder, name], check=True)
    return name
