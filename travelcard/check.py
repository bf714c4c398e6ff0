"""The morning's look at a store: whether its files, its ledger and its days are as they should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from travelcard.erasure import FORGETTING
from travelcard.errors import InputError, NotFound
from travelcard.files import remote
from travelcard.late import compute as pc
from travelcard.ledger import days, latest, versions
from travelcard.retention import kept
from travelcard.schema import CARDS, CORRECTIONS, REJECTS, RUNS, STAYS, Table, bucket_of
from travelcard.store import Store

__all__ = ["Finding", "check"]

SAMPLED = 8  # files of the newest day and of the newest cards whose subscribers are read
LOOKED_AT = 1_000  # subscribers of each whose bucket is computed
ROOM = 2  # nights like the newest that must fit on the disk
_OF_LEDGER = ["number", "day", "what", "subscribers", "rejected", "settings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found: what was looked at, where, what it says; and whether it is wrong or only to be known."""

    what: str
    where: str
    says: str
    wrong: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {"check": self.what, "where": self.where, "says": self.says, "wrong": self.wrong}


def check(store: Store, *, as_of: date | None = None, days: int = 14) -> list[Finding]:
    """All that is wrong with a store, and what one should know of it; nothing is changed.

    Files are looked at by their footers; of a few the subscribers are read. The days are those of the window of the
    cards of `as_of`, by default of the newest.
    """
    if not store.exists:
        raise NotFound(f"{store.root} holds nothing yet: run `travelcard run DAY` first")
    on = as_of or latest(store)
    found = [*_files(store), *_disk(store), *_versions(store), *_writer(store)]
    try:
        found += [*_subscribers(store), *_ledger(store), *_days(store, on, days)]
    except InputError as error:  # a file above that is gone or damaged
        found.append(Finding("days", str(on), f"not looked at: {error}"))
    return sorted(found, key=lambda one: not one.wrong)


def _files(store: Store) -> Iterator[Finding]:
    """Whether every file that a table names is there as it was written, one for each bucket of a day."""
    for table in (STAYS, REJECTS, CARDS, CORRECTIONS, RUNS):
        if store.table(table.name) is None:
            yield Finding("files", table.name, "the table is not there")
            continue
        log, sizes = store.log(table.name), store.sizes(table.name)
        for row in log.iter_rows(named=True):
            where = f"{table.name}/{row['path']}"
            if row["path"] not in sizes:
                yield Finding("files", where, "is gone")
            elif sizes[row["path"]] != row["size"]:
                yield Finding("files", where, f"has {sizes[row['path']]} bytes, the log says {row['size']}")
            else:
                yield from _rows(store, table.name, row)
        if table.partition:
            twice = log.group_by(table.partition).len().filter(pl.col("len") > 1).sort(table.partition)
            for *values, n in twice.iter_rows():
                yield Finding("files", f"{table.name} {'/'.join(values)}", f"{n} files where one belongs")


def _rows(store: Store, name: str, row: dict[str, Any]) -> Iterator[Finding]:
    where = f"{name}/{row['path']}"
    try:
        rows = store.rows(name, row["path"])
    except InputError as error:
        yield Finding("files", where, str(error))
        return
    if rows != row["rows"]:
        yield Finding("files", where, f"has {rows} rows, the log says {row['rows']}")


def _subscribers(store: Store) -> Iterator[Finding]:
    """Whether the subscribers of some files are in order, and in the bucket of their file."""
    for table in (STAYS, CARDS):
        held = store.days(table.name)
        files = store.files(table.name, **{table.partition[0]: held[-1]}) if held else []
        for values, path in files[:: max(1, len(files) // SAMPLED)]:
            ids = store.read(table.name, [path], ["subscriber"])["subscriber"].combine_chunks()
            if pc.any(pc.greater(ids[:-1], ids[1:])).as_py():
                yield Finding("subscribers", f"{table.name}/{path}", "are not in order: look-ups miss some")
            if store.layout.pseudonyms and store.key is None:
                yield Finding(
                    "subscribers", f"{table.name}/{path}", "bucket not looked at without the key", wrong=False
                )
                continue
            taken = ids.take(pa.array(range(0, len(ids), max(1, len(ids) // LOOKED_AT)), pa.int64()))
            some = (taken if store.key is None else store.key.back(taken)).to_pylist()
            elsewhere = sum(bucket_of(one, store.layout.buckets) != int(values["bucket"]) for one in some)
            if elsewhere:
                yield Finding(
                    "subscribers", f"{table.name}/{path}", f"{elsewhere} of {len(some)} belong into another bucket"
                )


def _ledger(store: Store) -> Iterator[Finding]:
    """Whether what the tables hold is what the ledger's newest rows say was published.

    A run that was killed between two transactions left tables that are newer than its day's row, or other rows of it.
    """
    written = store.log("runs").select("path", "published")
    rows = [
        {**row, "published": published}
        for path, published in written.iter_rows()
        for row in store.read("runs", [path]).select(_OF_LEDGER).to_pylist()
    ]
    rows.sort(key=lambda row: row["number"])
    known = {(row["what"], row["day"]): row for row in rows}
    forgotten = [(row["number"], json.loads(row["settings"])["removed"]) for row in rows if row["what"] == "forget"]

    def gone(table: Table, day: date, since: dict[str, Any]) -> int:
        """How many rows of a day were forgotten since a step."""
        return sum(
            of.get(table.name, {}).get(day.isoformat(), 0) for number, of in forgotten if number > since["number"]
        )

    expiries = [(row["number"], kept(row["day"], **_kept(row))) for row in rows if row["what"] == "expire"]
    for table, what in ((STAYS, "stays"), (REJECTS, "stays"), (CARDS, "cards")):
        log = store.log(table.name).group_by(table.partition[0])
        held = {
            date.fromisoformat(day): (published, n)
            for day, published, n in log.agg(pl.max("published"), pl.sum("rows")).iter_rows()
        }
        for day, (published, n) in sorted(held.items()):
            on_record = known.get((what, day))
            where = f"{table.name} of {day}"
            if on_record is None:
                yield Finding("ledger", where, f"no run is on record: run `{_again(what, day)}`")
            elif published > on_record["published"]:
                yield Finding("ledger", where, f"published by a run that did not end: run `{_again(what, day)}`")
            elif (said := _said(table.name, on_record)) is not None and said - gone(table, day, on_record) != n:
                yield Finding("ledger", where, f"{n} rows, the ledger says {said}: run `{_again(what, day)}`")
        for (kind, day), row in sorted(known.items()):
            some = sum(n for _, n in row["rejected"]) if table is REJECTS else row["subscribers"]
            expired = any(number > row["number"] and day < first[table] for number, first in expiries)
            if kind == what and day not in held and some and not expired:
                yield Finding("ledger", f"{table.name} of {day}", "on record, and the table has none of it")


def _kept(row: dict[str, Any]) -> dict[str, int]:
    """For how long an expiry on record was told to keep."""
    settings = json.loads(row["settings"])
    return {name: settings[name] for name in ("days", "margin")}


def _said(name: str, row: dict[str, Any]) -> int | None:
    """How many rows of a table the ledger says a step published; None where it does not say."""
    if name == REJECTS.name:
        return sum(int(n) for _, n in row["rejected"])
    return int(row["subscribers"]) if name == CARDS.name else None


def _again(what: str, day: date) -> str:
    return f"travelcard {what} {day}"


def _days(store: Store, as_of: date, n: int) -> Iterator[Finding]:
    """What is to be said of the days of a window, and of the cards of every date."""
    for date_ in store.stale():
        yield Finding("cards", str(date_), "stale: a day of the window was run since; run `travelcard cards --stale`")
    for one in days(store, as_of - timedelta(days=n), as_of - timedelta(days=1)):
        shown = one.day + timedelta(days=1)
        if one.state == "missing":
            yield Finding("days", str(one.day), f"missing: run `travelcard stays {one.day}` when its pings are there")
        elif one.state == "late":
            yield Finding("days", str(one.day), "late: run after cards were made that hold it")
        elif one.state == "stale" and shown not in store.days("cards"):
            yield Finding("days", str(one.day), f"its cards are not made: run `{_again('cards', shown)}`")
        if one.accepted is not None:
            yield Finding("days", str(one.day), f"accepted by {one.accepted}", wrong=False)


def _disk(store: Store) -> Iterator[Finding]:
    """What the tables take, what they no longer need, and whether the nights to come fit."""
    night = 0
    for table in (STAYS, REJECTS, CARDS, CORRECTIONS, RUNS):
        if store.table(table.name) is None:
            continue
        log = store.log(table.name)
        yield Finding("disk", table.name, f"{len(log)} files, {log['size'].sum()} bytes", wrong=False)
        files, size = store.orphans(table.name)
        if files:
            yield Finding(
                "orphans", table.name, f"{files} files, {size} bytes: `travelcard expire` removes", wrong=False
            )
        if table in (STAYS, CARDS) and len(log):
            night += int(log.filter(pl.col(table.partition[0]) == log[table.partition[0]].max())["size"].sum())
    if not remote(store.root):
        free = shutil.disk_usage(Path(store.root)).free
        yield Finding("disk", "free", f"{free} bytes; the newest night wrote {night}", wrong=free < ROOM * night)


def _versions(store: Store) -> Iterator[Finding]:
    """The packages that are installed now in another version than what wrote the newest day."""
    rows = store.runs()
    if rows.is_empty():
        return
    wrote = json.loads(rows["versions"][-1])
    for name, now in versions().items():
        if wrote.get(name) != now:
            yield Finding("versions", name, f"{now}, the last run had {wrote.get(name)}", wrong=False)


def _writer(store: Store) -> Iterator[Finding]:
    """Who writes the store, or died while writing it."""
    who = store.writer()
    if who is not None:
        text, lives = who
        says = text if lives else f"{text}: it ended without finishing, and locks nobody out"
        yield Finding("writer", store.root, says, wrong=False)
    if store.note(FORGETTING) is not None:
        yield Finding("writer", store.root, "somebody's forgetting did not end: `travelcard expire` ends it")
    if len(store.keys) > 1:
        yield Finding("writer", store.root, "a rekey did not end: run `travelcard rekey` with both keys")
