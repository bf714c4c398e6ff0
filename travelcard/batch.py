"""The nightly run: what is refused and what is published of what an engine makes (DESIGN 4, 5)."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np

from travelcard.cards import check_risk
from travelcard.engine import CardsOfBucket, Engine, Night, Progress, Threads
from travelcard.erasure import writing
from travelcard.errors import GateError, InputError
from travelcard.gate import Gate, accepted, measures
from travelcard.ingest import Counts, refuse_misread
from travelcard.inventory import Inventory
from travelcard.late import polars as pl
from travelcard.ledger import Step, append, row_of
from travelcard.locations import Sieve, sieve
from travelcard.memory import MEMORY, words, workers
from travelcard.places import Places, china
from travelcard.policy import Policy
from travelcard.risk import Risk
from travelcard.schema import CARDS, REJECTS, STATUSES, STAYS, Table, a_date, bucket_of
from travelcard.sources import Reading, pieces_of
from travelcard.store import Store, Written
from travelcard.window import window_of

__all__ = ["run"]

STAY = 280  # bytes that a stay takes on the way to its card, at most: decoded, laid out, as a visit, as a card, written
PIECE = 1 << 19  # stays at a time: enough that their number costs nothing, few enough to be made in warm memory
MAX_REJECTED = 0.8  # the share of rejected pings above which a day is refused: its input was misread as a whole


def _quiet(*_: object) -> None:
    """Report to nobody."""


# ---------------------------------------------------------------------------------------------------- pings -> stays


def run_stays(
    store: Store,
    *,
    day: date,
    pings: Any,
    cells: Inventory | None = None,
    places: Places | None = None,
    reading: Reading | None = None,
    max_rejected: float = MAX_REJECTED,
    gate: Gate | None = None,
    accept: str | None = None,
    memory: int = MEMORY,
    progress: Progress = _quiet,
    engine: Engine | None = None,
    room: Callable[[int], np.ndarray] = words,
) -> Step:
    """The first half of a night: one day's pings to that day's stays and rejects, in one transaction each.

    Whatever the store held for the day is replaced. Raises `InputError` for input that cannot be read and `GateError`
    when more than `max_rejected` of the pings are rejected, or a limit of the `gate` is broken and nobody says in
    `accept` why that is right; either way nothing is published.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    reading = reading or Reading()
    wanted = sieve(day, cells=cells, places=places, tz=store.layout.tz)
    pieces = pieces_of(pings, reading, day)

    with writing(store, f"the stays of {day}"):
        refuse = partial(_refuse_day, wanted=wanted, day=day, max_rejected=max_rejected)
        made = (engine or Threads()).stays(Night(store, day, pieces, reading, wanted, memory, progress, refuse, room))
        counts = made.counts
        summary = {
            "read": counts.read,
            "clean": counts.clean,
            "merged": made.merged,
            "rejected": counts.by_reason(),
            "subscribers": made.subscribers,
            "stays": sum(f.rows for f in made.stays),
            "spilled": made.spilled,
        }
        step = Step("stays", day, time.perf_counter() - began, summary)
        row = row_of(
            store, step, started, settings={"max_rejected": max_rejected, "memory": memory},
            files=sorted({piece.file for piece in pieces}), silent=made.silent,
            hours=counts.quarters[: wanted.length // 900].reshape(-1, 4).sum(axis=1).tolist(),
        )  # fmt: skip
        _publish(store, row, gate, accept, [(REJECTS, made.rejects), (STAYS, made.stays)])
    return step


def _refuse_day(counts: Counts, wanted: Sieve, day: date, max_rejected: float) -> None:
    """Refuse a day that was misread or of which too much was rejected."""
    refuse_misread(counts, wanted, str(day))
    rejected = counts.read - counts.clean
    if counts.read == 0 or rejected > max_rejected * counts.read:
        why = (
            ", ".join(f"{100 * n / counts.read:.3g} % {reason}" for reason, n in counts.by_reason().items())
            or "no ping at all"
        )
        raise GateError(
            f"{day}: {rejected} of {counts.read} pings are rejected ({why}; limit {100 * max_rejected:.3g} %); "
            "are the columns, the day's cell inventory and the time zone right? nothing published"
        )


# ---------------------------------------------------------------------------------------------------- stays -> cards


def run_cards(
    store: Store,
    *,
    as_of: date,
    policy: Policy,
    places: Places,
    risk: Risk | None = None,
    statuses: Any = None,
    gate: Gate | None = None,
    accept: str | None = None,
    memory: int = MEMORY,
    progress: Progress = _quiet,
    engine: Engine | None = None,
) -> Step:
    """The second half of a night: the stays of the window to every subscriber's card, in one transaction.

    No ping is read, so a changed policy or risk list runs just this. Days of the window that were never run are in the
    result as `missing`; with none at all it raises `InputError`. `gate` and `accept` as in `run_stays`.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    if not store.exists:
        raise InputError(f"{store.root} holds no stays yet: run `travelcard run DAY` first")
    with writing(store, f"the cards as of {as_of}"):
        store.create(store.layout.subscribers)
        first, _ = window_of(as_of, policy.days)
        window = [first + timedelta(days=i) for i in range(policy.days)]
        held = set(store.days("stays"))
        missing = [day for day in window if day not in held]
        if len(missing) == len(window):
            raise InputError(
                f"no day of the window of {as_of} ({window[0]} to {window[-1]}) was ever run: nothing published"
            )
        paths: dict[int, list[str]] = {}
        for values, path in store.files("stays"):
            if date.fromisoformat(values["day"]) in window:
                paths.setdefault(int(values["bucket"]), []).append(path)
        corrections = store.corrections()
        about = {
            "policy": json.dumps(policy.as_dict()),
            "risk_date": risk.date.isoformat() if risk is not None and risk.date is not None else None,
            "missing": [day.isoformat() for day in missing],
            "stays": {d.isoformat(): edition for d, edition in store.editions("stays").items() if d in window},
            "made": datetime.now(UTC).isoformat(),
        }
        known = {} if statuses is None else _by_bucket(statuses, store)
        rows = min(PIECE, memory // (2 * workers() * STAY))
        task = CardsOfBucket(store, as_of, paths, policy, places, risk, known, corrections, about, rows)
        files: list[Written] = []
        colours: Counter[str] = Counter()
        for written, counted in (engine or Threads()).cards(task, progress):
            files += [written] if written is not None else []
            colours += counted
        summary = {
            "policy": policy.id,
            "policy_hash": policy.hash,
            "risk_date": about["risk_date"],
            "risk_unmatched": [] if risk is None else risk.unmatched_names,
            "missing": about["missing"],
            "subscribers": sum(f.rows for f in files),
            "cards": dict(sorted(colours.items())),
        }
        step = Step("cards", as_of, time.perf_counter() - began, summary)
        listed = None if risk is None else len(risk.levels_on(as_of))
        row = row_of(store, step, started, settings={"policy": policy.as_dict()}, risk_places=listed)
        _publish(store, row, gate, accept, [(CARDS, files)])
    return step


def _by_bucket(statuses: Any, store: Store) -> dict[int, pl.DataFrame]:
    """The status list cut by bucket, its subscribers as they are kept."""
    table, layout = STATUSES.read(statuses, where="the status list"), store.layout
    if len(table) and table.schema.field("subscriber").type != layout.ids:
        raise InputError("the status list and the store differ in their subscribers' type (integer or string)")
    listed = table["subscriber"].combine_chunks()
    bucket = pl.Series("bucket", [bucket_of(s, layout.buckets) for s in listed.to_pylist()], pl.Int16)
    table = table.set_column(0, table.schema.field(0), store.kept(listed))
    parts = pl.DataFrame(table).with_columns(bucket).partition_by("bucket", as_dict=True, include_key=False)
    return {int(key[0]): part for key, part in parts.items()}


# ---------------------------------------------------------------------------------------------------- the night


def _publish(
    store: Store,
    row: dict[str, Any],
    gate: Gate | None,
    accept: str | None,
    written: Sequence[tuple[Table, Sequence[Written]]],
) -> None:
    """Publish what a step wrote, and put it on record; or, where a limit is broken, take it back and refuse.

    `accept` says why it is published all the same.
    """
    broken = (gate or Gate()).broken(store, row["what"], row["day"], measures(row), row["policy_hash"])
    if broken and accept is None:
        for table, files in written:
            store.discard(table, files)
        raise GateError("\n".join([*broken, "nothing published: --accept WHY (accept=) does it all the same"]))
    if broken:
        row["accepted"] = f"{accepted(accept or '')} ({'; '.join(broken)})"
    for table, files in written:
        store.publish(table, files, {table.partition[0]: row["day"]})
    append(store, row)


def run(
    store: Store,
    *,
    day: date,
    pings: Any,
    places: Places | None = None,
    cells: Inventory | None = None,
    policy: Policy | None = None,
    risk: Risk | None = None,
    statuses: Any = None,
    columns: Mapping[str, str] | None = None,
    time_unit: str | None = None,
    timezone: str | None = None,
    subscriber_type: str | None = None,
    max_rejected: float = MAX_REJECTED,
    gate: Gate | None = None,
    accept: str | None = None,
    memory: int = MEMORY,
    engine: Engine | None = None,
) -> tuple[Step, Step]:
    """One night: the stays of `day`, then every card as of the day after.

    Parameters
    ----------
    store
        Where the tables are, made on first use.
    day
        The day that ended; its stays are replaced whole, and so are the cards as of `day` + 1.
    pings, columns, time_unit, timezone, subscriber_type
        The day's pings, as for `read_pings`.
    places
        Boundaries: the names on the cards, and the places of pings by position; China's by default.
    cells
        The cell map, for pings by cell.
    policy
        The card's rules; by default the preset in force on `day` + 1.
    risk
        The list of risk areas in force, needed when the policy marks.
    statuses
        A table `subscriber`, `status`, `from`, `to`.
    max_rejected
        The share of rejected pings above which the day is refused.
    gate, accept
        Limits that the night's numbers must keep; why they are published though they do not.
    memory
        Bytes that the run may take; pings for which there is no room wait on disk, in the store's folder.
    engine
        Where it is done: this machine, or `tc.spark.Cluster`.

    Returns
    -------
    tuple of Step
        What both halves did: counts, seconds.

    Raises
    ------
    InputError, GateError
        Nothing is published, unless the second half finds fault with what only it reads: the status list.
    """
    as_of = a_date(day, "day") + timedelta(days=1)
    places = places or china()
    rules = policy or Policy.in_force(as_of)
    reading = Reading(columns or {}, time_unit, timezone, subscriber_type)
    check_risk(risk, rules, as_of)
    first = run_stays(
        store, day=day, pings=pings, cells=cells, places=places, reading=reading, max_rejected=max_rejected,
        gate=gate, accept=accept, memory=memory, engine=engine,
    )  # fmt: skip
    second = run_cards(
        store, as_of=as_of, policy=rules, places=places, risk=risk, statuses=statuses, gate=gate, accept=accept,
        memory=memory, engine=engine,
    )  # fmt: skip
    return first, second
