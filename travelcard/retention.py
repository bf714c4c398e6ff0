"""What a store keeps, and for how long: the window of the newest cards, a margin, and nothing that no table names."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

from travelcard.erasure import writing
from travelcard.ledger import Step, append, row_of
from travelcard.schema import CARDS, REJECTS, STAYS, Table
from travelcard.store import Store

__all__ = ["REJECTS_DAYS", "expire", "kept"]

REJECTS_DAYS = 7  # rejects hold values as they came: a week is enough to ask the network about them


def kept(as_of: date, *, days: int, margin: int) -> dict[Table, date]:
    """The first day (or date) of each table that an expiry leaves: see `expire`."""
    return {
        STAYS: as_of - timedelta(days=days + margin),
        REJECTS: as_of - timedelta(days=REJECTS_DAYS),
        CARDS: as_of - timedelta(days=margin),
    }


def expire(store: Store, *, as_of: date, days: int, margin: int = 0) -> Step:
    """Remove what no card from `as_of` on needs, the files that no table names, whoever left them, and from the logs
    what is said of the versions before this one.

    Stays stay for the window of `days` days before `as_of` and `margin` days more, cards for `margin` days, rejects for
    seven. Each day goes in a transaction of its own, so that one that is killed leaves whole days; the next ends it.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    gone: dict[str, list[str]] = {}
    with writing(store, f"expiry as of {as_of}"):
        left = store.vacuum()  # before anything is written: a disk that a run filled has room for no log
        for table, first in kept(as_of, days=days, margin=margin).items():
            old = [day for day in store.days(table.name) if day < first]
            for day in old:
                store.publish(table, [], {table.partition[0]: day})
            gone[table.name] = [day.isoformat() for day in old]
        files, size = (sum(both) for both in zip(left, store.vacuum(), strict=True))
        store.trim()
        counts = {"expired": gone, "files": files, "bytes": size}
        step = Step("expire", as_of, time.perf_counter() - began, counts)
        append(store, row_of(store, step, started, settings={"days": days, "margin": margin}))
    return step
