"""Where the time of `travelcard stays` goes, in nanoseconds of processor time a ping, stage by stage.

``python -m benchmarks.profile --pings 1e7,1e8``. One process, one thread at a time: what is timed are functions of the
package, wrapped from outside. The clock is the process's. A stage within a stage counts for itself where it is one of
WITHIN, otherwise for the outer one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

from travelcard.bench.data import CASES
from travelcard.bench.measure import CACHE, appended, asked, listed, measured, opened, python, removed
from travelcard.bench.stays import configured, synthetic

COLUMNS = ("stage", "case", "rows", "run", "ns", "commit", "versions", "cpu", "cores", "date")
PROFILE = Path("benchmarks/profile.csv")
START, REST = "start of the process", "the rest"
WITHIN = ("read", START)  # stages that are timed within others
STAGES = (  # stage, module, name of the function
    ("cells", "travelcard.config", "Config.cell_map"),
    ("cells", "travelcard.batch", "sieve"),
    ("read", "travelcard.decode", "chunk_of"),
    ("packed pages to buckets", "travelcard.buckets", "put_block"),
    ("number texts", "travelcard.names", "_name_on"),
    ("not plainly clean rows", "travelcard.decode", "Block.taken"),
    ("not plainly clean rows", "travelcard.ingest", "decided"),
    ("not plainly clean rows", "travelcard.buckets", "Arena.put"),
    ("number subscribers", "travelcard.kernel", "_number"),
    ("number subscribers", "travelcard.kernel", "_move"),
    ("counting sort", "travelcard.kernel", "_lay"),
    ("runs", "travelcard.kernel", "_runs"),
    ("table, write", "travelcard.engine", "stays_table"),
    ("table, write", "travelcard.store", "Store.write"),
    ("table, write", "travelcard.store", "Store.publish"),
    (START, "travelcard.compiled", "Kernel._loaded"),  # compiled code is loaded at its first call
)


def child(config: str, day: str) -> None:
    """The command as it is, in this process, with every stage wrapped; prints the nanoseconds of each."""
    from travelcard import __main__, cli, memory

    spent: dict[str, int] = defaultdict(int)
    inner: list[int] = []  # of each stage that is open, what was spent in stages within it
    command = cli.main

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if inner and stage not in WITHIN:
                return function(*args, **kwargs)
            inner.append(0)
            began = time.process_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time_ns() - began
                spent[stage] += took - inner.pop()
                if inner:
                    inner[-1] += took

        return call

    def main() -> None:
        memory.threads_here = lambda: 0  # and so one worker
        for stage, module, name in STAGES:
            *home, last = name.split(".")
            owner = attrgetter(*home)(import_module(module)) if home else import_module(module)
            setattr(owner, last, timed(stage, getattr(owner, last)))
        spent[START] = time.process_time_ns()
        command(["stays", day, "--config", config])
        print(json.dumps({**spent, REST: time.process_time_ns() - sum(spent.values())}))

    cli.main = main
    __main__.command()  # which sets the process up, as for a command, and ends it


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--pings", default=[1e7], type=lambda text: [float(n) for n in text.split(",")])
    parser.add_argument("--case", default=["base"], type=lambda text: listed(text, CASES), help=", ".join(CASES))
    options = asked(parser, arguments, csv=PROFILE)
    sitting, work = opened(), CACHE / f"work-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        days = [synthetic(case, pings, CACHE) for pings in options.pings for case in options.case]
        rows = []
        for run in range(options.runs + 1):
            for day in days:
                config, store = configured(work, day)
                removed(store)
                command = python("benchmarks.profile", "--child", config, day.facts["day"])
                said = measured(command).said.splitlines()[-1]
                ns = {stage: spent / day.facts["rows"] for stage, spent in json.loads(said).items()}
                if run:  # the first is not counted: it may have compiled
                    rows += [(stage, day.case, day.facts["rows"], run, f"{n:.4g}", *sitting) for stage, n in ns.items()]
    finally:
        removed(work)
    for day in days:
        size = day.facts["rows"]
        mine = [row for row in rows if row[1:3] == (day.case, size)]
        print(f"\n{size:,} pings, case {day.case}, {options.runs} rounds: nanoseconds of processor time a ping")
        for stage in dict.fromkeys(row[0] for row in mine):
            print(f"  {stage:<28}{median(float(row[4]) for row in mine if row[0] == stage):>8.2f}")
        print(f"  {'together':<28}{sum(float(row[4]) for row in mine) / options.runs:>8.2f}")
    appended(options.csv, COLUMNS, rows)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3])
    else:
        sys.exit(main())
