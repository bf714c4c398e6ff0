"""The ledger of a store: what every step did, on what and with what; appended, never edited."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from travelcard.errors import NotFound
from travelcard.inventory import Silent
from travelcard.late import compute as pc
from travelcard.schema import RUNS, dates, zone
from travelcard.store import Store

__all__ = ["Day", "Step", "append", "days", "latest", "newest", "row_of", "today", "versions"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of a run did, as it is reported and kept in the ledger."""

    step: str
    day: date
    seconds: float
    counts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"step": self.step, "day": self.day.isoformat(), **self.counts, "seconds": round(self.seconds, 3)}


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what is written."""
    packages = ("travelcard", "numpy", "numba", "pyarrow", "polars", "h3", "deltalake")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def row_of(
    store: Store,
    step: Step,
    started: datetime,
    settings: Mapping[str, Any],
    *,
    files: Iterable[str] = (),
    hours: Iterable[int] = (),
    silent: Silent | None = None,
    risk_places: int | None = None,
) -> dict[str, Any]:
    """A row of the ledger: what ran, on what, with what; of a day's pings also how they lay over its hours, and the
    cells of the inventory that no ping named (None: there was no inventory).
    """
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
        "versions": json.dumps(versions()),
        "settings": json.dumps({**settings, "layout": {s: getattr(store.layout, s) for s in store.layout.__slots__}}),
        "files": list(files),
        "hours": list(hours),
        "silent": None if silent is None else silent.total,
        "silent_cells": [] if silent is None else silent.first.cast(pa.string()).to_pylist(),
        "risk_places": risk_places,
        "accepted": None,
    }


def today(store: Store) -> date:
    """The day it is where the store's days are: what is done for no day of pings is on record under it."""
    return datetime.now(zone(store.layout.tz)).date()


def append(store: Store, row: Mapping[str, Any]) -> None:
    """Put a row on record, numbered by the commit that adds it: the next one, since commits are not tried again."""
    runs = store.table(RUNS.name)
    if runs is None:
        raise NotFound(f"{store.root} has no table {RUNS.name}: it was never run")
    row = {**row, "number": runs.version() + 1}
    store.publish(RUNS, [store.write(RUNS, pa.Table.from_pylist([row], schema=RUNS.arrow()), {})])


def newest(store: Store, what: str) -> list[dict[str, Any]]:
    """The ledger's newest row of each day (or date) that a kind of step ran for, ascending by day, as Python objects.

    Without Polars, which a night does not load for the gate's sake.
    """
    rows = store.read(RUNS.name, [path for _, path in store.files(RUNS.name)]).sort_by("number")
    last = {row["day"]: row for row in rows.filter(pc.equal(rows["what"], what)).to_pylist()}
    return [last[day] for day in sorted(last)]


@dataclass(frozen=True, slots=True)
class Day:
    """What is known of a day: ``complete``, ``stale``, ``late`` or ``missing``; and who accepted it against the gate.

    Late is a day that was run again after cards were made from it; stale one whose own cards, those of the day after,
    were made from other stays than the store now holds, or neither made yet nor any later ones; missing one without
    stays.
    """

    day: date
    state: str
    accepted: str | None = None


def days(store: Store, first: date, last: date) -> list[Day]:
    """What is known of each day from `first` to `last`."""
    held = set(store.days("stays"))
    changed = store.changed()
    late = set().union(*changed.values())
    accepted = {row["day"]: row["accepted"] for row in newest(store, "stays")} if store.exists else {}

    def state(day: date) -> str:
        if day not in held:
            return "missing"
        if day in late:
            return "late"
        shown = day + timedelta(days=1)
        return "stale" if changed.get(shown) or not changed or shown > max(changed) else "complete"

    return [Day(day, state(day), accepted.get(day) if day in held else None) for day in dates(first, last)]


def latest(store: Store) -> date:
    """The newest date that the store has cards of, or that the cards of its newest stays are for, the later one."""
    dates = [*store.days("cards")[-1:], *(day + timedelta(days=1) for day in store.days("stays")[-1:])]
    if dates:
        return max(dates)
    raise NotFound(f"{store.root} holds nothing yet: run `travelcard run DAY` first")
