"""The window: `travelcard cards AS_OF` over 14 days of stays, against decoding those files and nothing else.

``python -m benchmarks.cards --subscribers 1e6``. Twelve of the days are the other two again, shifted, so that millions
of subscribers take minutes to make: `travelcard.bench.data` says what that changes.
"""

from __future__ import annotations

import argparse
import sys

from travelcard.bench.data import made
from travelcard.bench.floor import READERS
from travelcard.bench.measure import CACHE, Row, asked, found, measured, opened, python, record, removed, report

AS_OF = "2022-03-15"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cards", description=__doc__)
    parser.add_argument("--subscribers", type=float, default=1e5)
    parser.add_argument("--pings", type=float, default=24, help="of each subscriber a day")
    options = asked(parser, arguments)
    sitting, n = opened(), int(options.subscribers)
    settings = {"subscribers": n, "pings_per_subscriber": options.pings, "days": 14, "files": 4, "seed": 1}
    folder = made("store", CACHE / f"shifted-{n}-{options.pings:g}", **settings)
    stays = folder / "store" / "stays" / "**" / "*.parquet"
    rows: list[Row] = []
    for run in range(1, options.runs + 1):
        decoded = {reader: measured(python("travelcard.bench.floor", reader, stays)) for reader in READERS}
        floor = min(time.seconds for time in decoded.values())
        size = int(decoded[READERS[0]].said)
        rows += [Row(f"floor {reader}", "window", size, run, time, floor) for reader, time in decoded.items()]
        removed(folder / "store" / "cards")  # a date that is run again leaves its older files there until they expire
        time = measured(python("travelcard", "cards", AS_OF, "--config", folder / "travelcard.toml"))
        cards = found(folder / "store" / "cards" / "**" / "*.parquet")
        rows.append(Row("travelcard cards", "window", size, run, time, floor, cards))
    print(f"\n{size:,} stays of {n:,} subscribers on 14 days, {options.runs} rounds")
    agreed = report(rows, noun="cards", true=cards)
    record(options.csv, rows if agreed else [], sitting)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
