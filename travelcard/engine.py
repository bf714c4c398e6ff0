"""Where a night's work is done: pings scattered into buckets, then a map of one kernel over the buckets.

Both halves of a night are maps, so that an engine is this machine's threads or a cluster (`spark`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from threading import Lock, local
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from travelcard.buckets import Arena, gather, ranked
from travelcard.cards import cards_of
from travelcard.decode import Block
from travelcard.ingest import LOST, QUARTERS, Counts, numbers, parts, sift, units
from travelcard.inventory import Silent, silent
from travelcard.kernel import Packing, Pieces, Room, stays_of_bucket
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.locations import Sieve
from travelcard.memory import arena_share, workers
from travelcard.pages import Desk
from travelcard.places import Places
from travelcard.policy import Policy
from travelcard.risk import Risk
from travelcard.scatter import LANES
from travelcard.schema import CARDS, MAX_BUCKETS, REJECTS, STAYS
from travelcard.sources import Batch, Piece, Reading, joined
from travelcard.stays import in_order, named, stays_table
from travelcard.store import Store, Written
from travelcard.walk import Day, walked
from travelcard.window import visits_of

__all__ = [
    "CardsOfBucket",
    "Engine",
    "Hand",
    "Made",
    "Night",
    "Progress",
    "Threads",
    "packing_of",
    "write_rejects",
    "write_stays",
]

Progress = Callable[[str, int, int], None]
SLICE = 1 << 22  # pings that are reduced together: of more, what is reached at random fits no cache
ASIDE = 1 << 16  # rows that are decided together, where they are not plainly clean


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
    silent: Silent | None


class Engine(Protocol):
    """Where the work is done: both halves of a night are maps over buckets."""

    def stays(self, night: Night) -> Made:
        """The first half."""

    def cards(self, task: CardsOfBucket, progress: Progress) -> Iterable[tuple[Written | None, Counter[str]]]:
        """The second half: the task of every bucket, done."""


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
    waiting: int = 0  # how many

    def read(self, piece: Piece, number: int) -> None:
        """Put the clean pings of a piece of the input into buckets; what is not plainly so is put aside."""
        for part in parts(piece, self.wanted, self.desk):
            lanes = np.zeros((LANES, QUARTERS), np.int64)
            if isinstance(part, Block):
                unit, guessed = units(part.types["time"], self.reading)
                for rest in self.arena.put_block(part, unit, self.wanted, number, lanes, self.desk):
                    self._put_aside(rest, number)
            elif (plain := numbers(part, self.reading, self.wanted)) is not None:
                guessed = plain.guessed
                self._put_aside(part.take(self.arena.put_numbers(plain, self.wanted, number, lanes)), number)
            else:
                self._sift(part, number)
                continue
            quarters = lanes.sum(axis=0)
            clean, local = int(quarters.sum()), self.wanted.local // 900
            elsewhere = int(quarters[max(local, 0) : local + 96].sum()) if guessed else 0
            self.counts.add(Counts(clean, naive=guessed * clean, naive_elsewhere=elsewhere, quarters=quarters))

    def _put_aside(self, batch: Batch, number: int) -> None:
        if not len(batch):
            return
        if self.aside and not self.aside[0].like(batch):
            self.decide(number)
        self.aside.append(batch)
        self.waiting += len(batch)
        if self.waiting >= ASIDE:
            self.decide(number)

    def decide(self, number: int) -> None:
        """Sift what was put aside, together: to begin costs as much as a thousand rows."""
        batches, self.aside, self.waiting = self.aside, [], 0
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
    with _pool(workers()) as pool:
        for more in pool.map(task, range(len(pieces)), pieces):
            done += more
            night.progress("read", done, total)
        for _ in pool.map(lambda hand: hand.decide(len(pieces)), hands):
            pass
    for hand in hands:
        hand.desk = Desk()  # its room is wanted for the buckets
    return hands


def packing_of(pieces: Sequence[Piece], places: int) -> Packing | None:
    """How pings are packed into a word, or None where the ids do not fit, as far as the files say."""
    if not pieces[0].numeric:
        return Packing.of(places)  # texts have numbers that count up
    spans = [piece.span for piece in pieces if piece.span is not None]
    if len(spans) < len(pieces):
        return None
    # no id is above 2^63 - 1, though a column without a sign may hold such numbers: counted from here none of them fits
    last = (1 << 63) - Packing.of(places).ids
    packing = Packing.of(places, min(max(min(lowest for lowest, _ in spans), 0), last))
    return packing if max(highest for _, highest in spans) - packing.base < packing.ids else None


def write_stays(
    store: Store,
    day: date,
    wanted: Sieve,
    bucket: int,
    slices: Iterable[tuple[Pieces, pa.Array | None]],
    packing: Packing,
    room: Room,
) -> tuple[Written | None, int, int]:
    """One bucket to its file of stays: (the file, if there is a stay; subscribers; repeated pings).

    `slices` are its packed pings and what their ids stand for, subscriber by subscriber in one of them.
    """
    ids: list[pa.Array] = []
    begins: list[np.ndarray] = []
    merged = rows = 0
    for pings, names in slices:
        unique, begin, repeated = stays_of_bucket(pings, packing, store.layout.max_silence_s, room, rows)
        ids.append(named(unique, names))
        begins.append(begin[:-1])
        merged, rows = merged + repeated, int(begin[-1])
    if not rows:
        return None, 0, 0
    who, begin = store.kept(pa.concat_arrays(ids)), np.append(np.concatenate(begins), rows)
    order = in_order(who) if len(ids) > 1 or store.layout.pseudonyms else None
    table = stays_table(who, pa.array(wanted.codes), begin, room, wanted.start, order)
    return store.write(STAYS, table, {"day": day, "bucket": bucket}), len(who), merged


def write_rejects(store: Store, day: date, tables: Sequence[pa.Table]) -> list[Written]:
    """A day's rejects to their file, if there are any."""
    lost = pa.concat_tables([LOST.empty_table(), *tables]).unify_dictionaries().combine_chunks()
    file = lost["file"].combine_chunks()
    rank = np.argsort(np.argsort(file.dictionary.to_pylist()))  # of each name
    lost = lost.take(pa.array(np.lexsort([lost["row"].to_numpy(), rank[file.indices.to_numpy()]])))
    if store.layout.pseudonyms:  # a number may stand in any column that it was read from by mistake
        lost = lost.set_column(3, lost.schema.field(3), _hidden(lost["value"]))
    return [store.write(REJECTS, lost, {"day": day})] if len(lost) else []


def _hidden(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """As `errors.hidden`, of many."""
    long = pc.replace_substring_regex(values, r"(\d{3})\d{4,}(\d{4})", r"\1****\2")
    return pc.replace_substring_regex(long, r"\d{7,}", "****")


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


def _within(low: Any, high: Any) -> pl.Expr:
    """Whether a subscriber is from `low` to before `high`, None being an end."""
    ends = [pl.lit(True)] if low is None else [pl.col("subscriber") >= low]
    return pl.all_horizontal(ends if high is None else [*ends, pl.col("subscriber") < high])


# ---------------------------------------------------------------------------------------------------- this machine


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """The workers; when one fails, what has not begun is dropped."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


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
            on_disk = sum(arena.spilled for arena in arenas)

            def task(bucket: int) -> tuple[Written | None, int, int]:
                if not hasattr(rooms, "own"):
                    rooms.own = Room()
                slices = range(bucket * many, (bucket + 1) * many)
                pings = (gather(arenas, texts, ranks, one, rooms.own) for one in slices)
                return write_stays(store, night.day, wanted, bucket, pings, arenas[0].packing, rooms.own)

            files: list[Written] = []
            subscribers = merged = 0
            with _pool(workers() * (2 if on_disk else 1)) as pool:  # who waits for the disk needs no processor
                lost = pool.submit(write_rejects, store, night.day, [table for hand in hands for table in hand.rejects])
                for written, people, repeated in pool.map(task, range(store.layout.buckets)):
                    files += [written] if written is not None else []
                    subscribers += people
                    merged += repeated
                    night.progress("stays", len(files), store.layout.buckets)
                for _ in pool.map(Arena.close, arenas):  # beside each other: to give back a gigabyte takes 0.1 s
                    pass
            return Made(counts, files, lost.result(), subscribers, merged, on_disk, silent(wanted.cells))

    def cards(self, task: CardsOfBucket, progress: Progress) -> Iterator[tuple[Written | None, Counter[str]]]:
        buckets = task.store.layout.buckets
        with _pool(workers()) as pool:
            for done, made in enumerate(pool.map(task, range(buckets)), 1):
                yield made
                progress("cards", done, buckets)
