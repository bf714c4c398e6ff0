"""What may be taken back: one subscriber's whole record, and all of it (FACTS 1.9, 5)."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from travelcard.errors import NotFound, hidden
from travelcard.late import compute as pc
from travelcard.ledger import Step, append, row_of, today
from travelcard.schema import CARDS, CORRECTIONS, REJECTS, STAYS, Table, bucket_of
from travelcard.store import PURGED, TABLES, Store, Written

__all__ = ["FORGETTING", "forget", "purge", "writing"]

FORGETTING = ".travelcard/forgetting.json"  # who is being forgotten, until it is done


@contextmanager
def writing(store: Store, what: str) -> Iterator[None]:
    """`Store.writing`; and who was to be forgotten when a process ended is forgotten first."""
    with store.writing(what):
        if store.key is not None:
            store.refuse_other_key()
        if (left := store.note(FORGETTING)) is not None:
            _finish(store, left)
        yield


def forget(store: Store, subscriber: object, *, by: str | None = None) -> Step:
    """Remove one subscriber from every table, and the versions of it before this one.

    Each table is one transaction. A process that is killed between them leaves a note, which whoever writes the store
    next finishes before anything else. The ledger gets how many rows went, and `by` whose order, not whose rows. The
    pings themselves are the carrier's: a day that is run again from them holds the subscriber again.
    """
    number = store.subscriber(subscriber)
    who = {
        "request": uuid.uuid4().hex,
        "kept": store.kept_name(number),
        "bucket": bucket_of(number, store.layout.buckets),
        "by": by and hidden(by),
    }
    if not store.layout.pseudonyms:
        who["number"] = str(number)
    with writing(store, "the forgetting of a subscriber"):
        store.put_note(FORGETTING, who)
        return _finish(store, who)


def _finish(store: Store, who: dict[str, Any]) -> Step:
    """Forget who is in the note: the cards first, so that nobody is shown what is half gone."""
    began, started = time.perf_counter(), datetime.now(UTC)
    swaps: dict[Table, dict[str, Written]] = {}
    removed: dict[str, dict[str, int]] = {}
    for table in (CARDS, STAYS, CORRECTIONS, REJECTS):
        if table is REJECTS and "number" not in who:
            continue  # of a number they hold no more than a mask
        for values, path in store.files(table.name):
            if values.get("bucket") in (None, str(who["bucket"])) and store.may_hold(table.name, path, who["kept"]):
                rows = store.read(table.name, [path])
                his = _named(rows, who["number"]) if table is REJECTS else pc.equal(rows["subscriber"], who["kept"])
                left = rows.filter(pc.invert(his))
                if len(left) < len(rows):
                    swaps.setdefault(table, {})[path] = store.rewrite(table, values, path, left)
                    on = values[table.partition[0]] if table.partition else "all"
                    of_day = removed.setdefault(table.name, {})
                    of_day[on] = of_day.get(on, 0) + len(rows) - len(left)
    if "removed" not in who:  # of a forgetting that did not end it was all that was to go
        who["removed"] = removed
        store.put_note(FORGETTING, who)
    for table, files in swaps.items():
        store.swap(table, files)
    store.vacuum()
    store.trim()
    step = Step("forget", today(store), time.perf_counter() - began, {"removed": who["removed"]})
    settings = {name: who[name] for name in ("request", "removed", "by")}
    on_record = (json.loads(text)["request"] for text in store.runs("forget")["settings"])
    if who["request"] not in on_record:  # it was killed after all but the last
        append(store, row_of(store, step, started, settings=settings))
    store.put_note(FORGETTING, None)
    return step


def _named(rejects: pa.Table, number: str) -> pa.ChunkedArray:
    """Which rejects show a number: by itself, or one of seven characters or more with others round it, as +86."""
    pattern = re.escape(number)
    if len(number) < 7:
        pattern = f"(^|[^0-9A-Za-z]){pattern}($|[^0-9A-Za-z])"
    return pc.fill_null(pc.match_substring_regex(rejects["value"], pattern), fill_value=False)


def purge(store: Store, *, by: str | None = None) -> dict[str, Any]:
    """Remove a store whole: every table, every version, every note. What is left says when and whose order it was.

    It begins by saying so: a process that is killed leaves a store that nobody reads or writes, and that the next purge
    ends.
    """
    said = store.note(PURGED)
    if said is None and not store.exists:
        raise NotFound(f"{store.root} holds nothing: there is nothing to purge")
    with store.writing("a purge"):
        if said is None:
            held = {name: store.log(name) for name in TABLES if store.table(name) is not None}
            tables = {name: {"files": len(log), "bytes": int(log["size"].sum())} for name, log in held.items()}
            said = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": by and hidden(by), "tables": tables}
            store.put_note(PURGED, said)
        store.remove_all(keeping=PURGED)
    return dict(said)
