"""One measurement is one fresh process: its seconds, its processor time, its peak memory; printed, and put on record.

Nothing here imports numpy, polars or travelcard: on Linux a child's peak memory is never less than what its parent had
resident when it was started, so the parent has to stay small.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

CAVEATS = """\
Read this first. These are times on this machine, now: the same command has taken three times as long an hour later on
a shared machine, and machines differ by as much. Only ratios within one run of this program mean anything. Data are
synthetic. Seconds are of whole processes, start and imports included. The peers' plans are the best that we found.
"""
COLUMNS = (
    "what", "case", "rows", "run", "seconds", "cpu_s", "peak_mib", "checksum", "floor_s", "ratio", "commit", "versions",
    "cpu", "cores", "date",
)  # fmt: skip
CACHE = Path("build/benchmarks")
PACKAGES = ("travelcard", "numpy", "numba", "pyarrow", "polars", "duckdb", "chdb", "pyspark", "shapely")


class Time(NamedTuple):
    """What a process took: wall seconds, user and system seconds, peak resident MiB, and what it printed."""

    seconds: float
    cpu_s: float
    peak_mib: float
    said: str


class Row(NamedTuple):
    """One measurement beside the floor of its round; `found` is what the check found, rows and checksum."""

    what: str
    run: int
    time: Time
    floor_s: float
    found: tuple[int, str] = (0, "")


def measured(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Time:
    """Run a command to its end. Raises `RuntimeError` with what it said when it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(c) for c in command], stdout=out, stderr=error, env={**os.environ, **(env or {})}
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: subprocess need not try
        out.seek(0)
        error.seek(0)
        said = out.read().decode()
        if process.returncode:
            last = (error.read().decode() or said)[-2000:]
            raise RuntimeError(f"{' '.join(map(str, command[1:4]))} ended with {process.returncode}:\n{last}")
    peak = used.ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
    return Time(seconds, used.ru_utime + used.ru_stime, peak, said)


def asked(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The options of a benchmark, with those that every one has; the caveats come before any number."""
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results.csv"))
    options = parser.parse_args(arguments)
    print(CAVEATS)
    print(versions())
    return options


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module of ours in a fresh interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def found(pattern: str | Path) -> tuple[int, str]:
    """Rows and checksum of the Parquet files of a pattern, by a process of its own."""
    rows, digest = measured(python("benchmarks.check", pattern)).said.split()
    return int(rows), digest


def removed(*paths: Path) -> None:
    """Remove files and folders, those that are not there included."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _commit() -> str:
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "travelcard") else "")


def versions() -> str:
    known = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return "; ".join(known)


def report(rows: Sequence[Row], *, noun: str, true: tuple[int, str] | None = None) -> set[str]:
    """Print medians; a `what` whose rows or checksum are not the `true` ones gets no time and is returned."""
    print(f"\n{'what':<20}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'x floor':>9}{noun:>13}  checksum")
    wrong = set()
    for what in dict.fromkeys(row.what for row in rows):
        mine = [row for row in rows if row.what == what]
        other = next((r.found for r in mine if true is not None and r.found[1] and r.found != true), None)
        if other is not None and true is not None:
            wrong.add(what)
            print(f"{what:<20}no time: {other[0]:,} {noun}, checksum {other[1]}, instead of {true[0]:,}, {true[1]}")
            continue
        wall, cpu, peak = (median(getattr(r.time, f) for r in mine) for f in ("seconds", "cpu_s", "peak_mib"))
        ratio = median(r.time.seconds / r.floor_s for r in mine)
        n, digest = mine[0].found
        tail = f"{n:>13,}  {digest}" if digest else ""
        print(f"{what:<20}{wall:>9.2f}{cpu:>9.2f}{peak:>10,.0f}{ratio:>9.2f}{tail}")
    return wrong


def record(path: Path, rows: Iterable[Row], case: str, size: int) -> None:
    """Append measurements to a CSV file, with its header when it is new."""
    fixed = (_commit(), versions(), _cpu(), cores(), datetime.now(UTC).isoformat(timespec="seconds"))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file() or not path.stat().st_size
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for what, run, t, floor, (_, digest) in rows:
            numbers = (f"{t.seconds:.3f}", f"{t.cpu_s:.3f}", f"{t.peak_mib:.0f}")
            writer.writerow(
                (what, case, size, run, *numbers, digest, f"{floor:.3f}", f"{t.seconds / floor:.3f}", *fixed)
            )
