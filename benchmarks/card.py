"""One card out of a store of many: `store.card`, `store.explain`, and the command `travelcard card` from cold.

``python -m benchmarks.card --cards 1e6``. The floor is an interpreter that starts and ends.
"""

# ruff: noqa: PLC0415  a process loads only what it is about: importing is part of what is measured

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.data import made
from benchmarks.measure import CACHE, Row, asked, measured, python, record, report


def child(what: str, root: str, lookups: int) -> None:
    """Print the milliseconds of random look-ups, sorted, one number that has a card, and a checksum of what came."""
    import numpy as np
    import pyarrow as pa

    from benchmarks.check import checksum
    from travelcard.config import Config
    from travelcard.places import china

    config = Config.read(Path(root) / "travelcard.toml")
    store = config.open_store()
    paths = [path for _, path in store.files("cards")]
    numbers = store.read("cards", paths, columns=["subscriber"])["subscriber"].to_numpy()
    drawn = np.random.default_rng(1).choice(numbers, lookups).tolist()
    shown = store.card(drawn[0])  # what is read once a process is read now
    if what == "card":
        look = store.card
    else:
        risk, places = config.risk_on(shown.as_of, shown.policy), china()

        def look(number: int) -> object:
            return store.explain(number, risk=risk, places=places)

    took, texts = [], []
    look(drawn[0])
    for number in drawn:
        began = time.perf_counter()
        found = look(number)
        took.append(1000 * (time.perf_counter() - began))
        answer = found.as_dict(places=china()) if what == "card" else found.as_dict()
        texts.append(json.dumps(answer, default=str))
    digest = f"{checksum(pa.table({'n': drawn, 'text': texts})):016x}"
    print(json.dumps({"ms": sorted(took), "number": drawn[0], "cards": len(numbers), "checksum": digest}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description=__doc__)
    parser.add_argument("--cards", type=float, default=1e5)
    parser.add_argument("--days", type=int, default=3, help="of stays behind the cards")
    parser.add_argument("--lookups", type=int, default=2000)
    options = asked(parser, arguments)
    n = int(options.cards)
    settings = {"subscribers": n, "pings_per_subscriber": 24, "days": options.days, "files": 4, "seed": 1}
    folder = made("store", CACHE / f"cards-{n}-{options.days}", cards=True, **settings)
    rows, said = [], {}
    for run in range(1, options.runs + 1):
        start = measured([sys.executable, "-c", "pass"])
        rows.append(Row("floor python", run, start, start.seconds))
        for what, lookups in (("card", options.lookups), ("explain", max(options.lookups // 10, 1))):
            t = measured(python("benchmarks.card", "--child", what, folder, lookups))
            said.setdefault(what, []).append(json.loads(t.said))
            rows.append(Row(f"store.{what}", run, t, start.seconds, (lookups, said[what][-1]["checksum"])))
        number = said["card"][0]["number"]
        cold = measured(python("travelcard", "card", number, "--config", folder / "travelcard.toml"))
        rows.append(Row("travelcard card", run, cold, start.seconds))
    print(f"\n{said['card'][0]['cards']:,} cards, {options.runs} rounds; of look-ups, the whole process")
    report(rows, noun="look-ups")
    print(f"\n{'one look-up':<20}{'p50 ms':>9}{'p99 ms':>9}{'a second':>10}")
    for what, answers in said.items():
        ms = sorted(took for answer in answers for took in answer["ms"])
        middle, last = (ms[min(int(len(ms) * share), len(ms) - 1)] for share in (0.5, 0.99))
        print(f"store.{what:<14}{middle:>9.2f}{last:>9.2f}{1000 * len(ms) / sum(ms):>10,.0f}")
    record(options.csv, rows, "one card", said["card"][0]["cards"])
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
