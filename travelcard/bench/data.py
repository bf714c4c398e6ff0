"""The input of a benchmark, made once and kept: a synthetic country, and its cells and countries for the peers.

``python -m travelcard.bench.data KIND FOLDER SETTINGS``, as a process of its own, so that whoever measures stays small.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from travelcard.bench.measure import cores, measured, python

if TYPE_CHECKING:
    from travelcard.store import Store, Written

PINGS_PER_SUBSCRIBER = 100
SYNTHETIC = 2  # days of a store that come from pings
CASES: dict[str, dict[str, Any]] = {
    "base": {},
    "shuffled": {"order": "shuffled"},
    "few": {"pings_per_subscriber": 24},
    "many": {"pings_per_subscriber": 500},
    "big_inventory": {"cells": 5_000_000},
    "strings": {"ids": "string"},
}


def made(kind: str, folder: Path, **settings: Any) -> Path:
    """The folder, made now unless it is complete: under another name first, so that what is there is whole."""
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        print(f"writing {folder} ...", flush=True)
        measured(python("travelcard.bench.data", kind, partial, json.dumps(settings)))
        partial.rename(folder)
    return folder


def about(lookup: Path) -> dict[str, Any]:
    """What `lookup` wrote of the input: rows, cells, day, start (second), text."""
    facts: dict[str, Any] = json.loads((lookup / "about.json").read_text())
    return facts


def _country(folder: Path, settings: Mapping[str, Any]) -> None:
    """A country as `travelcard synth` writes it, with all its faults."""
    from travelcard import synth

    days = [date(2022, 3, 14) - timedelta(days=i) for i in range(settings.get("days", 1))]
    synth.write(folder, days=days, **{k: v for k, v in settings.items() if k != "days"})


def _lookup(folder: Path, settings: Mapping[str, Any]) -> None:
    """What peers are given, and the library as its saved cell map: finding the cells' places is not compared."""
    import polars as pl
    import pyarrow.parquet as pq

    from travelcard.cells import CellMap
    from travelcard.places import china, country_of_mcc

    source = Path(settings["source"])
    day = min(path.name for path in (source / "pings").iterdir())
    files = [pq.ParquetFile(path) for path in sorted((source / "pings" / day).glob("*.parquet"))]
    if "plmn" not in files[0].schema_arrow.names:
        raise SystemExit(f"{source}: nobody roams, so its files have no plmn: use more pings")
    folder.mkdir(parents=True)
    cells = CellMap.build(source / "cells.parquet", china())
    cells.save(folder / "map.parquet")
    known = cells.on(date.fromisoformat(day)).filter(pl.col("place").is_not_null())
    countries = country_of_mcc()
    known = known.with_columns(pl.col("place").cast(pl.String))
    codes = sorted(set(countries.values()) | set(known["place"]))
    index = {code: i for i, code in enumerate(codes)}
    if len(codes) > 1024:
        raise SystemExit("more than 1,024 places: the peers' integers have ten bits for them")
    place = pl.col("place").replace_strict(index, return_dtype=pl.Int32)
    known.select("cell", place, "inner").write_parquet(folder / "cells.parquet")
    mccs = pl.DataFrame({"mcc": list(countries), "place": list(countries.values())})
    mccs.with_columns(place).write_parquet(folder / "countries.parquet")
    numbered = pl.DataFrame({"place": range(len(codes)), "code": codes}, schema_overrides={"place": pl.Int32})
    numbered.write_parquet(folder / "places.parquet")
    start = datetime.combine(date.fromisoformat(day), datetime.min.time(), ZoneInfo("Asia/Shanghai"))
    facts = {
        "rows": sum(file.metadata.num_rows for file in files),
        "cells": len(known),
        "day": day,
        "start": int(start.timestamp()),
        "text": files[0].schema_arrow.field("msisdn").type != "int64",
    }
    (folder / "about.json").write_text(json.dumps(facts))


def _store(folder: Path, settings: Mapping[str, Any]) -> None:
    """A country and the store of its stays, its cards too if asked; the pings are not kept.

    Only the last two days come from pings. Each day before lies in the store as one of these in turn, shifted by whole
    days: the same subscribers in the same buckets and order, written and published as any day is.

    What differs from 14 days of pings, at 100,000 subscribers: who travels does so in turns, so 4 % fewer stays, 1.5
    places seen by a subscriber and not 2.4, 1.27 visits a card and not 1.78, a card in 144 bytes and not 195; `cards`
    took 2.50 s of processor time and not 2.64. The laid days have no rejects and no run in the ledger.
    """
    from travelcard import batch
    from travelcard.config import Config

    synthetic = min(settings["days"], SYNTHETIC)
    _country(folder, {k: v for k, v in settings.items() if k != "cards"} | {"days": synthetic})
    config = Config.read(folder / "travelcard.toml")
    store = config.open_store()
    cells = config.cell_map(store)
    days = sorted(date.fromisoformat(path.name) for path in (folder / "pings").iterdir())
    for day in days:
        pings = config.pings_path
        batch.run_stays(store, day=day, pings=pings, cells=cells, places=config.boundaries, reading=config.reading())
    for back in range(synthetic, settings["days"]):
        _shifted(store, days[-1 - back % synthetic], days[-1] - timedelta(days=back))
    if settings.get("cards"):
        as_of = days[-1] + timedelta(days=1)
        rules = config.rules(as_of)
        risk = config.risk_on(as_of, rules)
        batch.run_cards(store, as_of=as_of, policy=rules, places=config.boundaries, risk=risk)
    shutil.rmtree(folder / "pings")


def _shifted(store: Store, source: date, day: date) -> None:
    """Lay the stays of one day into the store as those of another."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from travelcard.schema import STAYS

    def moved(values: Mapping[str, str], path: str) -> Written:
        rows = store.read("stays", [path])
        for name in ("arrive", "depart"):
            later = pc.add(rows[name], pa.scalar(day - source))
            rows = rows.set_column(rows.schema.get_field_index(name), name, later)
        places = rows["place"].combine_chunks().dictionary_encode()  # as a night writes them, which packs them so
        rows = rows.set_column(rows.schema.get_field_index("place"), "place", places)
        return store.write(STAYS, rows, {"day": day, "bucket": int(values["bucket"])})

    with ThreadPoolExecutor(cores()) as pool:
        files = list(pool.map(lambda held: moved(*held), store.files("stays", day=source)))
    store.publish(STAYS, files, {"day": day})


if __name__ == "__main__":
    {"country": _country, "lookup": _lookup, "store": _store}[sys.argv[1]](Path(sys.argv[2]), json.loads(sys.argv[3]))
