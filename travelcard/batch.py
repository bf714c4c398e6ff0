"""The nightly run on one machine: pings scattered into buckets, then a map of one kernel over the buckets."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import chain
from threading import Lock, local
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from travelcard.buckets import Arena, gather, ranked
from travelcard.cards import cards_of, check_risk
from travelcard.decode import Block
from travelcard.erasure import writing
from travelcard.errors import GateError, InputError
from travelcard.gate import Gate, accepted, measures
from travelcard.ingest import LOST, QUARTERS, Counts, numbers, parts, refuse_misread, sift, units
from travelcard.ledger import Step, append, row_of
from travelcard.locations import Inventory, Sieve, sieve, silent
from travelcard.memory import MEMORY, arena_share, words, workers
from travelcard.pages import Desk
from travelcard.places import Places, china
from travelcard.policy import Policy
from travelcard.risk import Risk
from travelcard.schema import CARDS, MAX_BUCKETS, REJECTS, STATUSES, STAYS, Table, a_date, bucket_of
from travelcard.sources import Batch, Piece, Reading, joined, pieces_of
from travelcard.stays import Packing, Room, laid_by, named, stays_of_bucket, stays_table
from travelcard.store import Store, Written
from travelcard.walk import Day, walked
from travelcard.window import visits_of, window_of

if TYPE_CHECKING:
    import polars as pl
else:
    from travelcard.late import polars as pl

__all__ = ["run"]

Progress = Callable[[str, int, int], None]
SLICE = 1 << 22  # pings that are reduced together: of more, what is reached at random fits no cache
STAY = 280  # bytes that a stay takes on the way to its card, at most: decoded, laid out, as a visit, as a card, written
ASIDE = 1 << 16  # rows that are decided together, where they are not plainly clean
PIECE = 1 << 19  # stays at a time: enough that their number costs nothing, few enough to be made in warm memory
MAX_REJECTED = 0.8  # the share of rejected pings above which a day is refused: its input was misread as a whole


def _quiet(*_: object) -> None:
    """Report to nobody."""


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """The workers; when one fails, what has not begun is dropped."""
    pool = ThreadPoolExecutor(workers())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------------- pings -> stays


@dataclass(slots=True, eq=False)
class Hand:
    """What one thread has met while reading."""

    arena: Arena
    reading: Reading
    wanted: Sieve
    desk: Desk = field(default_factory=Desk)
    rejects: list[pa.Table] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    aside: list[Batch] = field(default_factory=list)  # rows that are not plainly clean

    def read(self, piece: Piece, number: int) -> None:
        """Put the clean pings of a piece of the input into buckets; what is not plainly so is put aside."""
        for part in parts(piece, self.wanted, self.desk):
            quarters = np.zeros(QUARTERS, np.int64)
            if isinstance(part, Block):
                unit, guessed = units(part.types["time"], self.reading)
                for rest in self.arena.put_block(part, unit, self.wanted, number, quarters, self.desk):
                    self._put_aside(rest, number)
            elif (plain := numbers(part, self.reading, self.wanted)) is not None:
                guessed = plain.guessed
                self._put_aside(part.take(self.arena.put_numbers(plain, self.wanted, number, quarters)), number)
            else:
                self._sift(part, number)
                continue
            clean, local = int(quarters.sum()), self.wanted.local // 900
            elsewhere = int(quarters[max(local, 0) : local + 96].sum()) if guessed else 0
            self.counts.add(Counts(clean, naive=guessed * clean, naive_elsewhere=elsewhere, quarters=quarters))

    def _put_aside(self, batch: Batch, number: int) -> None:
        if not len(batch):
            return
        if self.aside and not self.aside[0].like(batch):
            self.decide(number)
        self.aside.append(batch)
        if sum(map(len, self.aside)) >= ASIDE:
            self.decide(number)

    def decide(self, number: int) -> None:
        """Sift what was put aside, together: to begin costs as much as a thousand rows."""
        batches, self.aside = self.aside, []
        if batches:
            self._sift(joined(batches), number)

    def _sift(self, batch: Batch, number: int) -> None:
        for sifted in sift(batch, self.reading, self.wanted):
            self.counts.add(sifted.counts)
            if sifted.rejects is not None:
                self.rejects.append(sifted.rejects)
            self.arena.put(sifted, number)


def _read(night: Night, spilled: ExitStack) -> list[Hand]:
    """Every piece read, each by one thread with that thread's hand; `spilled` closes their files."""
    pieces, wanted, store, memory = night.pieces, night.wanted, night.store, night.memory
    total = sum(piece.rows for piece in pieces)
    # how long CSV files and streams are is not known
    rows = total if all(piece.rows for piece in pieces) else memory
    share = arena_share(memory)
    places = len(wanted.codes)
    packing = packing_of(pieces, places)
    buckets = store.layout.buckets
    while total > SLICE * buckets and buckets < MAX_BUCKETS:
        buckets *= 2
    hands: list[Hand] = []
    free: list[Hand] = []
    lock = Lock()

    def task(number: int, piece: Piece) -> int:
        with lock:
            if not free:
                early = (len(hands) + 1) / workers() if 8 * rows > share * workers() else 1
                arena = Arena(buckets, share, rows, packing, places, store.scratch, early, night.room)
                hands.append(Hand(spilled.enter_context(arena), night.reading, wanted))
                free.append(hands[-1])
            hand = free.pop()
        hand.read(piece, number)
        with lock:
            free.append(hand)
        return piece.rows

    done = 0
    with _pool() as pool:
        for more in pool.map(task, range(len(pieces)), pieces):
            done += more
            night.progress("read", done, total)
        for _ in pool.map(lambda hand: hand.decide(len(pieces)), hands):
            pass
    return hands


def packing_of(pieces: Sequence[Piece], places: int) -> Packing | None:
    """How pings are packed into a word, or None where the ids do not fit, as far as the files say."""
    if not pieces[0].numeric:
        return Packing.of(places)  # texts have numbers that count up
    spans = [piece.span for piece in pieces if piece.span is not None]
    if len(spans) < len(pieces):
        return None
    # no id is above that, though a column without a sign may hold larger numbers only
    packing = Packing.of(places, min(max(min(lowest for lowest, _ in spans), 0), (1 << 63) - 1))
    return packing if max(highest for _, highest in spans) - packing.base < packing.ids else None


@dataclass(frozen=True, slots=True)
class Night:
    """What an engine gets of a day: its pings in pieces, what decides them, and `refuse`, which judges its counts."""

    store: Store
    day: date
    pieces: Sequence[Piece]
    reading: Reading
    wanted: Sieve
    memory: int
    progress: Progress
    refuse: Callable[[Counts], None]
    room: Callable[[int], np.ndarray]  # memory for so many words

    @property
    def subscribers(self) -> str:
        """What the store is to be made for."""
        return "integer" if self.pieces[0].numeric else "string"


@dataclass(frozen=True, slots=True)
class Made:
    """What an engine made of a day: files that are written and not published, and all that is to be counted."""

    counts: Counts
    stays: Sequence[Written]
    rejects: Sequence[Written]
    subscribers: int
    merged: int
    spilled: int
    silent: pa.Array | None


class Engine(Protocol):
    """Where the work is done: both halves of a night are maps over buckets."""

    def stays(self, night: Night) -> Made:
        """The first half."""

    def cards(self, task: CardsOfBucket, progress: Progress) -> Iterable[tuple[Written | None, Counter[str]]]:
        """The second half: the task of every bucket, done."""


class Threads:
    """This machine."""

    def stays(self, night: Night) -> Made:
        store, wanted = night.store, night.wanted
        with ExitStack() as spilled:
            hands = _read(night, spilled)
            counts = Counts()
            for hand in hands:
                counts.add(hand.counts)
            night.refuse(counts)
            store.create(night.subscribers)
            arenas = [hand.arena for hand in hands]
            texts, ranks = ranked(arenas)
            many, rooms = arenas[0].buckets // store.layout.buckets, local()

            def task(bucket: int) -> tuple[Written | None, int, int]:
                if not hasattr(rooms, "own"):
                    rooms.own = Room()
                slices = range(bucket * many, (bucket + 1) * many)
                pings = (gather(arenas, texts, ranks, one, rooms.own) for one in slices)
                return write_stays(store, night.day, wanted, bucket, pings, arenas[0].packing, rooms.own)

            files: list[Written] = []
            subscribers = merged = 0
            with _pool() as pool:
                lost = pool.submit(write_rejects, store, night.day, [table for hand in hands for table in hand.rejects])
                for written, people, repeated in pool.map(task, range(store.layout.buckets)):
                    files += [written] if written is not None else []
                    subscribers += people
                    merged += repeated
                    night.progress("stays", len(files), store.layout.buckets)
                for _ in pool.map(Arena.close, arenas):  # beside each other: to give back a gigabyte takes 0.1 s
                    pass
            on_disk = sum(arena.spilled for arena in arenas)
            return Made(counts, files, lost.result(), subscribers, merged, on_disk, silent(wanted))

    def cards(self, task: CardsOfBucket, progress: Progress) -> Iterator[tuple[Written | None, Counter[str]]]:
        buckets = task.store.layout.buckets
        with _pool() as pool:
            for done, made in enumerate(pool.map(task, range(buckets)), 1):
                yield made
                progress("cards", done, buckets)


def write_stays(
    store: Store,
    day: date,
    wanted: Sieve,
    bucket: int,
    slices: Iterable[tuple[np.ndarray, pa.Array | None]],
    packing: Packing,
    room: Room,
) -> tuple[Written | None, int, int]:
    """One bucket to its file of stays: (the file, if there is a stay; subscribers; repeated pings).

    `slices` are its packed pings and what their ids stand for, subscriber by subscriber in one of them.
    """
    ids: list[pa.Array] = []
    parts: list[list[np.ndarray]] = []
    people = merged = 0
    for pings, names in slices:
        unique, columns, repeated = stays_of_bucket(pings, packing, store.layout.max_silence_s, room)
        columns[0] += people
        ids.append(named(unique, names))
        parts.append(columns)
        people, merged = people + len(unique), merged + repeated
    if not people:
        return None, 0, 0
    who, columns = store.kept(pa.concat_arrays(ids)), [np.concatenate(some) for some in zip(*parts, strict=True)]
    if len(ids) > 1 or store.layout.pseudonyms:
        who, columns = laid_by(who, columns)
    table = stays_table(who, pa.array(wanted.codes), columns, wanted.start)
    return store.write(STAYS, table, {"day": day, "bucket": bucket}), people, merged


def write_rejects(store: Store, day: date, tables: Sequence[pa.Table]) -> list[Written]:
    """A day's rejects to their file, if there are any."""
    lost = pa.concat_tables([LOST.empty_table(), *tables]).unify_dictionaries().combine_chunks()
    file = lost["file"].combine_chunks()
    rank = np.argsort(np.argsort(file.dictionary.to_pylist()))  # of each name
    lost = lost.take(pa.array(np.lexsort([lost["row"].to_numpy(), rank[file.indices.to_numpy()]])))
    if store.layout.pseudonyms:  # a number may stand in any column that it was read from by mistake
        lost = lost.set_column(3, lost.schema.field(3), _hidden(lost["value"]))
    return [store.write(REJECTS, lost, {"day": day})] if len(lost) else []


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


def _hidden(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """As `errors.hidden`, of many."""
    long = pc.replace_substring_regex(values, r"(\d{3})\d{4,}(\d{4})", r"\1****\2")
    return pc.replace_substring_regex(long, r"\d{7,}", "****")


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


@dataclass(frozen=True, slots=True)
class CardsOfBucket:
    """All that decides the cards of a date; called with a bucket, it writes theirs: (the file, if any; the colours)."""

    store: Store
    as_of: date
    paths: Mapping[int, Sequence[str]]
    policy: Policy
    places: Places
    risk: Risk | None
    statuses: Mapping[int, pl.DataFrame]
    corrections: pl.DataFrame
    about: Mapping[str, Any]
    rows: int  # stays at a time

    def __call__(self, bucket: int) -> tuple[Written | None, Counter[str]]:
        counted: Counter[str] = Counter()
        made = self._parts(bucket, counted)
        first = next(made, None)
        if first is None:
            return None, counted
        partition: dict[str, date | int] = {"as_of": self.as_of, "bucket": bucket}
        return self.store.write(CARDS, chain([first], made), partition, self.about), counted

    def _parts(self, bucket: int, counted: Counter[str]) -> Iterator[pa.Table]:
        layout, policy, status = self.store.layout, self.policy, self.statuses.get(bucket)
        desk, inner = Desk(), policy.border == "inner"
        with self.store.opened_stays(sorted(self.paths.get(bucket, []))) as files:
            for low, high, runs in walked([Day(*file) for file in files], self.rows, layout.ids, inner=inner):
                visits = visits_of(
                    runs, as_of=self.as_of, policy=policy, tz=layout.tz, max_silence=layout.max_silence_s,
                    corrections=self.corrections, transit=False, desk=desk,
                )  # fmt: skip
                mine = None if status is None else status.filter(_within(low, high))
                made = cards_of(
                    visits, as_of=self.as_of, policy=policy, risk=self.risk, statuses=mine, places=self.places,
                    tz=layout.tz,
                )  # fmt: skip
                for colour in made["colour"].value_counts():
                    counted[colour["values"].as_py()] += colour["counts"].as_py()
                if len(made):
                    yield made


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


def _within(low: Any, high: Any) -> pl.Expr:
    """Whether a subscriber is from `low` to before `high`, None being an end."""
    ends = [pl.lit(True)] if low is None else [pl.col("subscriber") >= low]
    return pl.all_horizontal(ends if high is None else [*ends, pl.col("subscriber") < high])


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
