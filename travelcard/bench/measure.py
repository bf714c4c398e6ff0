"""One measurement is one fresh process: its seconds, its processor time, its peak memory; printed, and put on record.

Nothing here imports numpy, polars or pyarrow: on Linux a child's peak memory is never less than what its parent had
resident when it was started, so the parent has to stay small.
"""

from __future__ import annotations

import argparse
import csv
import glob
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from travelcard.errors import TravelcardError

CAVEATS = """\
Read this first. These are times on this machine, now: the same command has taken three times as long an hour later on
a shared machine, and machines differ by as much. Only ratios within one run of this program mean anything. Data are
synthetic. Seconds are of whole processes, start and imports included. The peers' plans are the best that we found.
"""
COLUMNS = (
    "what", "case", "rows", "run", "seconds", "cpu_s", "peak_mib", "found", "checksum", "mib", "floor_s", "ratio",
    "commit", "versions", "cpu", "cores", "date",
)  # fmt: skip
CACHE, RESULTS = Path("build/benchmarks"), Path("benchmarks/results.csv")
PACKAGES = ("travelcard", "numpy", "numba", "pyarrow", "polars", "duckdb", "chdb", "pyspark", "shapely")


class Time(NamedTuple):
    """What a process took: wall seconds, user and system seconds, peak resident MiB, and what it printed."""

    seconds: float
    cpu_s: float
    peak_mib: float
    said: str


class Found(NamedTuple):
    """What the check found in somebody's output: rows, their checksum, and the MiB that they take on disk."""

    rows: int
    checksum: str
    mib: float = 0.0

    @property
    def answer(self) -> tuple[int, str]:
        return self.rows, self.checksum


class Row(NamedTuple):
    """One measurement of a case with so many rows, beside the floor of its round."""

    what: str
    case: str
    size: int
    run: int
    time: Time
    floor_s: float
    found: Found | None = None


class Sitting(NamedTuple):
    """What all rows of one call have in common: only these were measured in turns, so only these may be compared."""

    commit: str
    versions: str
    cpu: str
    cores: int
    date: str


def measured(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Time:
    """Run a command to its end. Raises `TravelcardError` with what it said when it fails.

    The settings of travelcard.toml that the environment holds are left out: the store in them is somebody's own. So is
    one that has Python compile its modules in every process anew, which no night does.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRAVELCARD_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(c) for c in command], stdout=out, stderr=error, env={**inherited, **(env or {})}
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C may have reached us alone; nothing is left running, or writing
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: subprocess need not try
        out.seek(0)
        error.seek(0)
        said = out.read().decode()
        if process.returncode:
            last = (error.read().decode() or said)[-2000:]
            raise TravelcardError(f"{' '.join(map(str, command[1:4]))} ended with {process.returncode}:\n{last}")
    peak = used.ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)
    return Time(seconds, used.ru_utime + used.ru_stime, peak, said)


def listed(text: str, known: Collection[str]) -> list[str]:
    """An option that is some of the known names, comma-separated."""
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: there are {', '.join(known)}")
    return names


def asked(parser: argparse.ArgumentParser, arguments: list[str] | None, csv: Path = RESULTS) -> argparse.Namespace:
    """The options of a benchmark, with those that every one has."""
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=csv)
    return parser.parse_args(arguments)


def opened() -> Sitting:
    """Begin: the caveats come before any number, then where it is measured and with what."""
    sitting = Sitting(_commit(), versions(), _cpu(), cores(), datetime.now(UTC).isoformat(timespec="seconds"))
    print(CAVEATS)
    print(f"{sitting.versions}\n{sitting.cpu}, {sitting.cores} cores\n", flush=True)
    return sitting


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module of ours in a fresh interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def found(pattern: str | Path) -> Found:
    """What is in the Parquet files of a pattern, by a process of its own."""
    rows, digest = measured(python("travelcard.bench.check", pattern)).said.split()
    size = sum(os.path.getsize(path) for path in glob.glob(str(pattern), recursive=True))
    return Found(int(rows), digest, size / (1 << 20))


def removed(*paths: Path) -> None:
    """Remove files and folders, those that are not there included."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    """The processor by its name and generation: hosts rent out very different ones under one name."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().partition("\n\n")[0].splitlines() if info.is_file() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}
    name = said.get("model name", platform.processor())
    return f"{name} (family {said['cpu family']}, model {said['model']})" if "cpu family" in said else name


def _commit() -> str:
    """The commit that is measured, with a + where the package was changed since; nothing outside a clone."""
    here = Path(__file__).parent
    if shutil.which("git") is None:
        return ""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=False).stdout.strip()

    if not git("ls-files", Path(__file__).name):  # installed, perhaps within a clone of something else
        return ""
    return git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "--", here.parent.as_posix()) else ""
    )


def versions() -> str:
    known = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return "; ".join(known)


def right(row: Row, true: Found | None) -> bool:
    """Whether a measurement may be shown: what it found, if it was to find something, is what is true."""
    return true is None or row.found is None or row.found.answer == true.answer


def report(rows: Sequence[Row], *, noun: str, true: Found | None = None) -> bool:
    """Print medians; a `what` whose rows or checksum are not the `true` ones gets no time. Whether all are right."""
    print(f"\n{'what':<20}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'x floor':>9}{noun:>13}  checksum")
    wrong = False
    for what in dict.fromkeys(row.what for row in rows):
        mine = [row for row in rows if row.what == what]
        other = next((row.found for row in mine if not right(row, true)), None)
        if other is not None and true is not None:
            wrong = True
            print(f"{what:<20}no time: {other.rows:,} {noun}, checksum {other.checksum}, "
                  f"instead of {true.rows:,}, {true.checksum}")  # fmt: skip
            continue
        wall, cpu, peak = (median(getattr(r.time, f) for r in mine) for f in ("seconds", "cpu_s", "peak_mib"))
        ratio = median(r.time.seconds / r.floor_s for r in mine)
        got = mine[0].found
        tail = "" if got is None else f"{got.rows:>13,}  {got.checksum}"
        print(f"{what:<20}{wall:>9.4g}{cpu:>9.4g}{peak:>10,.0f}{ratio:>9.2f}{tail}")
    return not wrong


def record(path: Path, rows: Iterable[Row], sitting: Sitting) -> None:
    """Append measurements to a CSV file."""
    appended(path, COLUMNS, [
        (
            what, case, size, run, *(f"{number:.5g}" for number in time[:2]), f"{time.peak_mib:.0f}",
            *(("", "", "") if got is None else (got.rows, got.checksum, f"{got.mib:.5g}")),
            f"{floor:.5g}", f"{time.seconds / floor:.5g}", *sitting,
        )
        for what, case, size, run, time, floor, got in rows
    ])  # fmt: skip


def appended(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Append lines to a CSV file, with its header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.is_file() or not path.stat().st_size
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns] if new else [])
        writer.writerows(rows)
