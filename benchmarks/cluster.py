"""The stays of a day in Spark's executors, against this machine's threads: the cost of a ping, the bytes shuffled.

``python -m benchmarks.cluster --pings 1e8 --case base,strings``. A session and its processes start once, and a night
goes on: what a ping costs is taken from a second run of the day in the same session. Seconds are of whole processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median

from travelcard.bench.data import CASES
from travelcard.bench.measure import (
    CACHE,
    Row,
    asked,
    found,
    listed,
    measured,
    opened,
    python,
    record,
    removed,
    report,
)
from travelcard.bench.stays import Input, configured, synthetic

ONCE, TWICE = "spark, one run", "spark, two runs"


def child(config: str, day: str, master: str, runs: int) -> None:
    """The stays of a day in a session, as often as is said, each time in a new store; prints the bytes shuffled."""
    from pyspark.sql import SparkSession

    from travelcard.batch import run_stays
    from travelcard.config import Config
    from travelcard.spark import SETTINGS, Cluster

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = Config.read(Path(config))
    with tempfile.TemporaryDirectory() as events:
        logged = {
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": f"file://{events}",
            "spark.ui.enabled": "false",
        }
        session = SparkSession.builder.master(master).config(map=SETTINGS | logged).getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        for _ in range(runs):
            removed(Path(settings.at(settings.store)))
            store = settings.open_store()
            run_stays(
                store, day=date.fromisoformat(day), pings=settings.pings_path,
                cells=settings.cell_map(store), places=settings.boundaries, reading=settings.reading(),
                engine=Cluster(session),
            )  # fmt: skip
        session.stop()
        lines = [line for path in Path(events).rglob("*") if path.is_file() for line in path.read_text().splitlines()]
    print(sum(map(shuffled, lines)) // runs)


def shuffled(line: str) -> int:
    """The bytes that a stage wrote for others, where a line of Spark's log tells of its end."""
    try:
        event = json.loads(line)
    except ValueError:
        return 0  # the log's own marks
    stage = event.get("Stage Info", {}) if event.get("Event") == "SparkListenerStageCompleted" else {}
    told = {one["Name"]: one.get("Value", 0) for one in stage.get("Accumulables", ())}
    return int(told.get("internal.metrics.shuffle.write.bytesWritten", 0))


def compared(day: Input, work: Path, master: str, run: int) -> list[Row]:
    """One round: the floor, the threads, one run of the day in a session, two runs."""
    config, store = configured(work, day)
    floor = measured(python("travelcard.bench.floor", "polars", day.pings, "msisdn", "time", "cell")).seconds
    commands = {"travelcard": python("travelcard", "stays", day.facts["day"], "--config", config)}
    for name, runs in ((ONCE, 1), (TWICE, 2)):
        commands[name] = python("benchmarks.cluster", "--child", config, day.facts["day"], master, runs)
    rows = []
    for what, command in commands.items():
        removed(store)
        time = measured(command)
        stays = found(store / "stays" / "**" / "*.parquet")
        rows.append(Row(what, f"cluster {day.case}", day.facts["rows"], run, time, floor, stays))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--pings", type=float, default=1e7)
    parser.add_argument("--case", default=["base"], type=lambda text: listed(text, CASES))
    parser.add_argument("--master", default="local[2]")
    options = asked(parser, arguments)
    sitting, agreed = opened(), True
    work = CACHE / f"work-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        for case in options.case:
            day = synthetic(case, options.pings, CACHE)
            rows = [row for run in range(1, options.runs + 1) for row in compared(day, work, options.master, run)]
            print(f"\n{day.facts['rows']:,} pings, case {case}, {options.master}, {options.runs} rounds")
            same = report(rows, noun="stays", true=rows[0].found)
            agreed = agreed and same
            record(options.csv, rows if same else [], sitting)
            mine, once, twice = (
                median(row.time.seconds for row in rows if row.what == what) for what in ("travelcard", ONCE, TWICE)
            )
            sent = int(rows[-1].time.said) / rows[-1].size
            print(f"a ping costs {(twice - once) / mine:.2f} times as much; {sent:.2f} bytes of it are shuffled")
    finally:
        removed(work)
    return 0 if agreed else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        sys.exit(main())
