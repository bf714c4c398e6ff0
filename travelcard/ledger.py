"""The ledger of a store: what every step did, on what and with what; appended, never edited."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from importlib.metadata import version
from typing import Any

import polars as pl
import pyarrow as pa

from travelcard.schema import RUNS
from travelcard.store import Store

__all__ = ["Step", "append", "newest", "row_of"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of a run did, as it is reported and kept in the ledger."""

    step: str
    day: date
    seconds: float
    counts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"step": self.step, "day": self.day.isoformat(), **self.counts, "seconds": round(self.seconds, 3)}


SILENT = 10_000  # silent cells that are on record by name; how many there were is on record always


def row_of(
    store: Store,
    step: Step,
    started: datetime,
    settings: Mapping[str, Any],
    *,
    files: Iterable[str] = (),
    hours: Iterable[int] = (),
    silent: pa.Array | None = None,
    risk_places: int | None = None,
) -> dict[str, Any]:
    """A row of the ledger: what ran, on what, with what; of a day's pings also how they lay over its hours, and the
    cells of the inventory that no ping named (None: there was no inventory).
    """
    packages = ("travelcard", "numpy", "numba", "pyarrow", "polars", "h3", "deltalake")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    counts = step.counts
    return {
        "day": step.day,
        "what": step.step,
        "started": started,
        "seconds": step.seconds,
        "read": counts.get("read", 0),
        "clean": counts.get("clean", 0),
        "merged": counts.get("merged", 0),
        "rejected": list(counts.get("rejected", {}).items()),
        "subscribers": counts.get("subscribers", 0),
        "cards": list(counts.get("cards", {}).items()),
        "policy": counts.get("policy"),
        "policy_hash": counts.get("policy_hash"),
        "risk_date": date.fromisoformat(counts["risk_date"]) if counts.get("risk_date") else None,
        "missing": [date.fromisoformat(day) for day in counts.get("missing", [])],
        "versions": json.dumps(versions),
        "settings": json.dumps({**settings, "layout": {s: getattr(store.layout, s) for s in store.layout.__slots__}}),
        "files": list(files),
        "hours": list(hours),
        "silent": None if silent is None else len(silent),
        "silent_cells": [] if silent is None else silent[:SILENT].cast(pa.string()).to_pylist(),
        "risk_places": risk_places,
        "accepted": None,
    }


def append(store: Store, row: Mapping[str, Any]) -> None:
    """Put a row on record."""
    store.publish(RUNS, [store.write(RUNS, pa.Table.from_pylist([row], schema=RUNS.arrow()), {})])


def newest(store: Store, what: str) -> pl.DataFrame:
    """The ledger's newest row of each day (or date) that a kind of step ran for, ascending by day."""
    runs = store.frame("runs").filter(pl.col("what") == what)
    return runs.sort("started").unique("day", keep="last", maintain_order=True).sort("day")
