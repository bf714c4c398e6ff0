"""The window: `travelcard cards AS_OF` over 14 days of stays, against decoding those files and nothing else.

``python -m benchmarks.cards --subscribers 1e6``
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.data import made
from benchmarks.floor import READERS
from benchmarks.measure import CACHE, Row, asked, found, measured, python, record, removed, report

AS_OF = "2022-03-15"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cards", description=__doc__)
    parser.add_argument("--subscribers", type=float, default=1e5)
    parser.add_argument("--pings", type=float, default=24, help="of each subscriber a day")
    options = asked(parser, arguments)
    n = int(options.subscribers)
    settings = {"subscribers": n, "pings_per_subscriber": options.pings, "days": 14, "files": 4, "seed": 1}
    folder = made("store", CACHE / f"window-{n}-{options.pings:g}", **settings)
    stays = folder / "store" / "stays" / "**" / "*.parquet"
    rows, floors = [], []
    for run in range(1, options.runs + 1):
        decoded = {reader: measured(python("benchmarks.floor", reader, stays)) for reader in READERS}
        floor = min(time.seconds for time in decoded.values())
        floors.append(min(decoded, key=lambda reader: decoded[reader].seconds))
        size = int(decoded[READERS[0]].said)
        rows += [Row(f"floor {reader}", run, time, floor) for reader, time in decoded.items()]
        removed(folder / "store" / "cards")  # a date that is run again leaves its older files there until they expire
        time = measured(python("travelcard", "cards", AS_OF, "--config", folder / "travelcard.toml"))
        rows.append(Row("travelcard cards", run, time, floor, found(folder / "store" / "cards" / "**" / "*.parquet")))
    print(f"\n{size:,} stays of {n:,} subscribers on 14 days, {options.runs} rounds; floor: {', '.join(floors)}")
    wrong = report(rows, noun="cards", true=rows[2].found)
    record(options.csv, (row for row in rows if row.what not in wrong), "window", size)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
