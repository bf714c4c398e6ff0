"""`travelcard stays DAY` against decoding alone, and against what an expert of another engine would write.

``python -m travelcard.bench.stays --pings 1e7,1e8 --case base,shuffled --runs 3``; `travelcard bench` is the small one.
All inputs that are named take turns in every round, so that sizes and cases can be compared too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from travelcard.bench.data import CASES, PINGS_PER_SUBSCRIBER, about, made
from travelcard.bench.floor import READERS
from travelcard.bench.measure import (
    CACHE,
    Found,
    Row,
    Time,
    asked,
    found,
    listed,
    measured,
    opened,
    python,
    record,
    removed,
    report,
    right,
)
from travelcard.bench.peers import MODULES, Job, installed
from travelcard.errors import TravelcardError


class Input(NamedTuple):
    """A day of pings to measure on: its case, its folders, what is known of it, the pattern of its files."""

    case: str
    source: Path
    lookup: Path
    facts: Mapping[str, Any]
    pings: str


def input_of(source: Path, case: str) -> Input:
    """What is measured on in a folder that `travelcard synth` wrote."""
    lookup = made("lookup", source / "lookup", source=str(source))
    facts = about(lookup)
    return Input(case, source, lookup, facts, str((source / "pings" / facts["day"] / "*.parquet").resolve()))


def synthetic(case: str, pings: float, cache: Path) -> Input:
    """The input of a case with about so many pings, made if it is not there."""
    settings = {"pings_per_subscriber": PINGS_PER_SUBSCRIBER, "files": 24, **CASES[case]}
    subscribers = int(pings / settings["pings_per_subscriber"])
    return input_of(made("country", cache / f"{case}-{int(pings)}", subscribers=subscribers, seed=1, **settings), case)


def configured(work: Path, day: Input) -> tuple[Path, Path]:
    """(travelcard.toml of an input with a store in `work`, that store); its cells are the saved map."""
    store, config = work / "store", work / "travelcard.toml"
    text = (day.source / "travelcard.toml").read_text()
    for key, path in (
        (r"(?m)^store = .*$", f'store = "{store.resolve()}"'),
        (r'"pings/', f'"{day.source.resolve()}/pings/'),
        (r'"cells\.parquet"', f'"{(day.lookup / "map.parquet").resolve()}"'),
    ):
        text = re.sub(key, path, text)
    config.write_text(text)
    return config, store


def _travelcard(work: Path, day: Input) -> tuple[Time, Found]:
    """The whole command, on a store that is not there yet."""
    config, store = configured(work, day)
    removed(store)
    time = measured(python("travelcard", "stays", day.facts["day"], "--config", config))
    return time, found(store / "stays" / "**" / "*.parquet")


def _peer(name: str, work: Path, day: Input) -> tuple[Time, Found]:
    out = (work / "stays.parquet").resolve()
    removed(out)
    facts = day.facts
    job = Job(day.pings, str(day.lookup.resolve()), facts["cells"], facts["start"], facts["text"], str(out))
    time = measured(python("travelcard.bench.peers", name, json.dumps(job._asdict())))
    return time, found(out / "*.parquet" if out.is_dir() else out)


def _round(run: int, day: Input, work: Path, peers: list[str]) -> Iterator[Row]:
    """Floor, library and peers, one after the other; a peer that fails says so and is left out from then on."""
    decoded = {r: measured(python("travelcard.bench.floor", r, day.pings, "msisdn", "time", "cell")) for r in READERS}
    floor = min(time.seconds for time in decoded.values())

    def row(what: str, time: Time, got: Found | None = None) -> Row:
        return Row(what, day.case, day.facts["rows"], run, time, floor, got)

    for reader, time in decoded.items():
        yield row(f"floor {reader}", time)
    yield row("travelcard", *_travelcard(work, day))
    for peer in list(peers):
        try:
            yield row(peer, *_peer(peer, work, day))
        except TravelcardError as error:
            print(f"{peer}: {error}")
            peers.remove(peer)


def compare(days: Iterable[Input], *, peers: Sequence[str], runs: int, cache: Path, csv: Path | None = None) -> bool:
    """Measure everything on every input in turns, print it, append it to `csv`: whether all agreed and none failed."""
    sitting = opened()
    for peer in peers:
        if not installed(peer):
            print(f"{peer}: skipped, {MODULES[peer]} is not installed")
    work = cache / f"work-{os.getpid()}"
    work.mkdir(parents=True)
    rows: list[Row] = []
    try:
        inputs = list(days)  # made now: the caveats come before any word
        wanted = [list(filter(installed, peers)) for _ in inputs]
        # Not counted: the kernels may have to be compiled first, and the files to be read from the disk.
        true = [_travelcard(work, day)[1] for day in inputs]
        for run in range(1, runs + 1):
            for day, answer, left in zip(inputs, true, wanted, strict=True):
                done = list(_round(run, day, work, left))
                rows += done
                if csv is not None:
                    record(csv, (row for row in done if right(row, answer)), sitting)
    finally:
        removed(work)
    agreed = True
    for day, answer in zip(inputs, true, strict=True):
        size = day.facts["rows"]
        print(f"\n{size:,} pings, case {day.case}, {runs} rounds")
        agreed &= report([r for r in rows if (r.case, r.size) == (day.case, size)], noun="stays", true=answer)
    return agreed and all(set(filter(installed, peers)) == set(left) for left in wanted)


def small(*, pings: float, runs: int) -> bool:
    """`compare` on a country of its own, which is removed at the end, however that comes."""
    with tempfile.TemporaryDirectory(prefix="travelcard-bench-") as folder:
        cache = Path(folder)
        return compare((synthetic("base", n, cache) for n in [pings]), peers=list(MODULES), runs=runs, cache=cache)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m travelcard.bench.stays", description=__doc__)
    parser.add_argument("--pings", default=[1e6], type=lambda text: [float(n) for n in text.split(",")])
    parser.add_argument("--case", default=["base"], type=lambda text: listed(text, CASES), help=", ".join(CASES))
    parser.add_argument("--peers", default=list(MODULES), type=lambda text: listed(text, MODULES), help="'' for none")
    parser.add_argument("--data", type=Path, help="a folder that `travelcard synth` wrote, instead of ours")
    options = asked(parser, arguments)
    named = ((case, pings) for pings in options.pings for case in options.case)
    days = (synthetic(*one, CACHE) for one in named) if options.data is None else (input_of(options.data, "data"),)
    agreed = compare(days, peers=options.peers, runs=options.runs, cache=CACHE, csv=options.csv)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
