"""`travelcard stays DAY` against decoding alone, and against what an expert of another engine would write.

``python -m benchmarks.stays --pings 1e8 --runs 3 --case shuffled``
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

from benchmarks.data import CASES, about, made
from benchmarks.floor import READERS
from benchmarks.measure import CACHE, Row, Time, asked, found, measured, python, record, removed, report
from benchmarks.peers import MODULES, Job, installed


def _input(options: argparse.Namespace) -> Path:
    if options.data is not None:
        return options.data
    settings = {"pings_per_subscriber": 100, "files": 24, **CASES[options.case]}
    subscribers = int(options.pings / settings["pings_per_subscriber"])
    folder = CACHE / f"{options.case}-{int(options.pings)}"
    return made("country", folder, subscribers=subscribers, seed=1, **settings)


def _travelcard(work: Path, source: Path, lookup: Path, day: str) -> tuple[Time, tuple[int, str]]:
    """The whole command, on a store that is not there yet."""
    store, config = work / "store", work / "travelcard.toml"
    removed(store)
    text = (source / "travelcard.toml").read_text()
    for key, path in (
        (r"(?m)^store = .*$", f'store = "{store.resolve()}"'),
        (r'"pings/', f'"{source.resolve()}/pings/'),
        (r'"cells\.parquet"', f'"{(lookup / "map.parquet").resolve()}"'),
    ):
        text = re.sub(key, path, text)
    config.write_text(text)
    time = measured(python("travelcard", "stays", day, "--config", config))
    return time, found(store / "stays" / "**" / "*.parquet")


def _peer(name: str, work: Path, job: Job) -> tuple[Time, tuple[int, str]]:
    out = Path(job.out)
    removed(out)
    time = measured(python("benchmarks.peers", name, json.dumps(job._asdict())))
    return time, found(out / "*.parquet" if out.is_dir() else out)


def _peers(text: str) -> list[str]:
    peers = [peer for peer in text.split(",") if peer]
    if unknown := [peer for peer in peers if peer not in MODULES]:
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(unknown)}; there are {', '.join(MODULES)}")
    return peers


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stays", description=__doc__)
    parser.add_argument("--pings", type=float, default=1e6)
    parser.add_argument("--peers", default=",".join(MODULES), type=_peers, help="comma-separated; '' for none")
    parser.add_argument("--case", choices=CASES, default="base")
    parser.add_argument("--data", type=Path, help="a folder that `travelcard synth` wrote, instead of one of ours")
    options = asked(parser, arguments)
    for peer in options.peers:
        if not installed(peer):
            print(f"{peer}: skipped, {MODULES[peer]} is not installed")
    source = _input(options)
    lookup = made("lookup", source / "lookup", source=str(source))
    facts = about(lookup)
    pings = str((source / "pings" / facts["day"] / "*.parquet").resolve())
    work = CACHE / f"work-{os.getpid()}"
    work.mkdir(parents=True)
    out = str((work / "stays.parquet").resolve())
    job = Job(pings, str(lookup.resolve()), facts["cells"], facts["start"], facts["text"], out)
    peers, failed = list(filter(installed, options.peers)), False
    rows, floors = [], []
    try:
        for run in range(1, options.runs + 1):
            decoded = {r: measured(python("benchmarks.floor", r, pings, "msisdn", "time", "cell")) for r in READERS}
            floor = min(time.seconds for time in decoded.values())
            floors.append(min(decoded, key=lambda r: decoded[r].seconds))
            rows += [Row(f"floor {reader}", run, time, floor) for reader, time in decoded.items()]
            time, true = _travelcard(work, source, lookup, facts["day"])
            rows.append(Row("travelcard", run, time, floor, true))
            for peer in list(peers):
                try:
                    time, got = _peer(peer, work, job)
                except RuntimeError as error:
                    print(f"{peer}: {error}")
                    peers.remove(peer)
                    failed = True
                    continue
                rows.append(Row(peer, run, time, floor, got))
    finally:
        removed(work)
    true = next(row.found for row in rows if row.what == "travelcard")
    print(f"\n{facts['rows']:,} pings, case {options.case}, {options.runs} rounds; floor: {', '.join(floors)}")
    wrong = report(rows, noun="stays", true=true)
    record(options.csv, (row for row in rows if row.what not in wrong), options.case, facts["rows"])
    return 1 if wrong or failed else 0


if __name__ == "__main__":
    sys.exit(main())
