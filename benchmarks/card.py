"""One card out of a store of many: `store.card`, `store.explain`, and the command `travelcard card` from cold.

``python -m benchmarks.card --cards 1e6``. The floor is an interpreter that starts and ends.
Days of stays beyond two are these again, shifted (see `travelcard.bench.data`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from travelcard.bench.data import made
from travelcard.bench.measure import CACHE, Found, Row, asked, measured, opened, python, record, report


def child(what: str, root: str, lookups: int) -> None:
    """Print the seconds and processor seconds of random look-ups, one number that has a card, a checksum of all."""
    import numpy as np
    import pyarrow as pa

    from travelcard.bench.check import checksum
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

    took, used, texts = [], [], []
    look(drawn[0])
    for number in drawn:
        began, before = time.perf_counter(), time.process_time()
        found = look(number)
        took.append(time.perf_counter() - began)
        used.append(time.process_time() - before)
        answer = found.as_dict(places=china()) if what == "card" else found.as_dict()
        texts.append(json.dumps(answer, default=str))
    digest = f"{checksum(pa.table({'n': drawn, 'text': texts})):016x}"
    print(json.dumps({"took": took, "used": used, "number": drawn[0], "cards": len(numbers), "checksum": digest}))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.card", description=__doc__)
    parser.add_argument("--cards", type=float, default=1e5)
    parser.add_argument("--days", type=int, default=3, help="of stays behind the cards")
    parser.add_argument("--lookups", type=int, default=2000)
    options = asked(parser, arguments)
    sitting, n = opened(), int(options.cards)
    settings = {"subscribers": n, "pings_per_subscriber": 24, "days": options.days, "files": 4, "seed": 1}
    folder = made("store", CACHE / f"shifted-cards-{n}-{options.days}", cards=True, **settings)
    rows: list[Row] = []
    for run in range(1, options.runs + 1):
        start = measured([sys.executable, "-c", "pass"])
        answers = {}
        for what, lookups in (("card", options.lookups), ("explain", max(options.lookups // 10, 1))):
            whole = measured(python("benchmarks.card", "--child", what, folder, lookups))
            answers[what] = whole, lookups, json.loads(whole.said)
        cold = measured(
            python("travelcard", "card", answers["card"][2]["number"], "--config", folder / "travelcard.toml")
        )
        size = answers["card"][2]["cards"]
        rows += [
            Row(what, "one card", size, run, t, start.seconds)
            for what, t in (("floor python", start), ("travelcard card", cold))
        ]
        for what, (whole, lookups, said) in answers.items():
            got = Found(lookups, said["checksum"])
            rows.append(Row(f"store.{what}", "one card", size, run, whole, start.seconds, got))
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                seconds, cpu = (sorted(said[of])[min(int(lookups * share), lookups - 1)] for of in ("took", "used"))
                one = whole._replace(seconds=seconds, cpu_s=cpu)
                rows.append(Row(f"store.{what} {name}", "one card", size, run, one, start.seconds))
    print(f"\n{size:,} cards, {options.runs} rounds; p50 and p99 are of one look-up, the rest is whole processes")
    report(rows, noun="look-ups")
    record(options.csv, rows, sitting)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
