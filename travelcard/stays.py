"""The kernel: one bucket's pings to stays; and `stitch`, the one merge that makes stays of pings and windows of days.

A subscriber's pings of a day are laid side by side by a counting sort, are then nearly in order already, and one loop
cuts the runs. Nothing is sorted globally and no interpreter lock is held (DESIGN 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from travelcard.compiled import compiled, of_four, prefetch, scratch, shift_of, slot_of
from travelcard.errors import InputError
from travelcard.memory import pages, words
from travelcard.schema import (
    MAX_PLACES,
    PINGS,
    SECONDS,
    STAYS,
    midnights,
    whole_seconds,
    zone,
)

if TYPE_CHECKING:
    import polars as pl
else:
    from travelcard.late import polars as pl

__all__ = ["MAX_SILENCE", "stays", "stitch"]

MAX_SILENCE = timedelta(hours=12)  # a night with the phone off (FACTS 4)

_STRIDE = 256  # pings whose slots are worked out together
COUNT = 28  # bits of a table's slot for a subscriber's pings; the others are for its key
_ONE, _COUNT = np.uint64(1), np.uint64(COUNT)


class Packing(NamedTuple):
    """How a ping is one 64-bit word: ``(id - base) << bits | second << shift | place << 1 | inner``."""

    base: int
    shift: int
    bits: int

    @classmethod
    def of(cls, places: int, base: int = 0) -> Packing:
        """For so many places: 28 bits hold a second of the day and one of 1,024 places, which leaves 36 for the id."""
        shift = max(places - 1, 1).bit_length() + 1
        return cls(base, shift, max(17 + shift, COUNT))

    @property
    def ids(self) -> int:
        """How many ids from `base` on fit."""
        return (1 << 64 - self.bits) - 1


# ---------------------------------------------------------------------------------------------------- the kernel


@compiled
def _number(pings, row, table, known, bits):
    """Number subscribers from a row on, in place: the id of each ping gives way to a slot of the table.

    A slot holds the key of a subscriber, its id and 1, and how many pings it has; 0 is a free slot. Where to look is
    worked out for some pings at once, and fetched, before the first of them is looked up. Returns (the row reached,
    subscribers known): it stops where the table is half full.
    """
    mask, shift = np.uint64(len(table) - 1), shift_of(table)
    low = (_ONE << bits) - _ONE
    slots = scratch(_STRIDE, np.uint64)
    while row < len(pings):
        some = pings[row : row + _STRIDE]
        for i in range(len(some)):
            slots[i] = slot_of((some[i] >> bits) + _ONE, shift)
        for i in range(len(some)):
            prefetch(table, slots[i])
        for i in range(len(some)):
            key, h = (some[i] >> bits) + _ONE, slots[i]
            at = of_four(table, h, key, _COUNT)
            if at == np.uint64(4):
                while table[h] and table[h] >> _COUNT != key:
                    h = (h + _ONE) & mask
                if not table[h]:
                    if 2 * known >= len(table):
                        return row + i, known
                    known += 1
                    table[h] = key << _COUNT
                at = np.uint64(0)
            h += at
            table[h] += _ONE
            some[i] = h << bits | some[i] & low
        row += len(some)
    return row, known


@compiled
def _move(table, larger, moved):
    """Lay the subscribers of a table into a larger one, empty so far, and write the new number of each old one."""
    mask, shift = np.uint64(len(larger) - 1), shift_of(larger)
    for slot in range(len(table)):
        if table[slot]:
            h = slot_of(table[slot] >> _COUNT, shift)
            while larger[h]:
                h = (h + _ONE) & mask
            larger[h], moved[slot] = table[slot], h


@compiled
def renumber(pings, numbers, bits):
    """Put another number in the place of each ping's."""
    low = (_ONE << bits) - _ONE
    for i in range(len(pings)):
        pings[i] = np.uint64(numbers[pings[i] >> bits]) << bits | pings[i] & low


@compiled
def _lay(pings, bits, fill, laid):
    """The counting sort by subscriber, stable: `fill` holds, for each number, where its next event goes.

    Ten thousand subscribers' next events are as many cache lines: fetched ahead of their turn, it takes half the time.
    """
    low = (_ONE << bits) - _ONE
    for i in range(len(pings)):
        prefetch(fill, pings[min(i + 24, len(pings) - 1)] >> bits)
        prefetch(laid, fill[pings[min(i + 12, len(pings) - 1)] >> bits])
        h = pings[i] >> bits
        k = fill[h]
        fill[h] = k + _ONE
        laid[k] = pings[i] & low


@compiled
def _heaped(events: np.ndarray) -> None:
    """Sort events that may be in any order, in place: of a heap, the largest is taken to the end again and again."""
    n = len(events)
    first, end = n // 2, n
    while end > 1:
        if first > 0:  # what is from here on becomes a heap
            first -= 1
        else:
            end -= 1
            events[0], events[end] = events[end], events[0]
        above = first
        while 2 * above + 1 < end:
            below = 2 * above + 1
            if below + 1 < end and events[below + 1] > events[below]:
                below += 1
            if events[above] >= events[below]:
                break
            events[above], events[below] = events[below], events[above]
            above = below


@compiled
def _in_order(events: np.ndarray) -> None:
    """Sort one subscriber's events: files are nearly in time order, so few neighbours change places a few times.

    All pairs at once, without a branch: to move each event to its place by itself takes twice as long, and is what is
    done where that does not end soon.
    """
    n = len(events)
    for _ in range(6):
        wrong = np.uint32(0)
        for i in range(n - 1):
            wrong += np.uint32(events[np.uint64(i)] > events[np.uint64(i + 1)])
        if wrong == 0:
            return
        if 4 * wrong > n:
            break
        for odd in range(2):
            for i in range((n - odd) >> 1):
                at = np.uint64(odd + 2 * i)
                one, other = events[at], events[at + _ONE]
                events[at], events[at + _ONE] = min(one, other), max(one, other)
    budget = 8 * n  # shifts; past it the input was in no order at all
    for i in range(1, n):
        event = events[i]
        j = i - 1
        while j >= 0 and events[j] > event:
            events[j + 1] = events[j]
            j -= 1
        events[j + 1] = event
        budget -= i - 1 - j
        if budget < 0:
            _heaped(events)
            return


@compiled
def _runs(events, starts, shift, max_silence, who, place, arrive, depart, pings, inner):
    """Cut every subscriber's events into stays, written to the last six arrays: (how many, pings merged)."""
    places = (np.int64(1) << shift - 1) - 1
    k = merged = 0
    for s in range(len(starts) - 1):
        mine = events[starts[s] : starts[s + 1]]
        _in_order(mine)
        last = np.int64(mine[0])
        here, end, count, within = last >> 1 & places, last >> shift, np.int64(1), last & 1
        who[k], place[k], arrive[k] = s, here, end
        for i in range(1, len(mine)):
            event = np.int64(mine[np.uint64(i)])
            if event >> 1 == last >> 1:  # same second, same place: one ping, inner if any is
                merged += 1
                within += event & 1 if event != last else 0
                last = event
                continue
            last = event
            second, at = event >> shift, event >> 1 & places
            if at != here or second - end > max_silence:
                depart[k], pings[k], inner[k] = end, count, within
                k += 1
                who[k], place[k], arrive[k] = s, at, second
                here, count, within = at, np.int64(0), np.int64(0)
            end = second
            count += 1
            within += event & 1
        depart[k], pings[k], inner[k] = end, count, within
        k += 1
    return k, merged


class Room:
    """One thread's scratch memory for the kernel, kept from bucket to bucket: the first touch of a page costs most."""

    def __init__(self) -> None:
        self._size = -1
        self._block = pages(0, np.uint64)
        self.table = words(1 << 12)

    def _sized(self, n: int) -> None:
        if n > self._size:
            self._size = n + n // 4
            self._words = pages(self._size, "uint64")
            kinds = ("uint32", "int32", "int16", "int32", "int32", "int32", "int32")
            self._arrays = tuple(pages(self._size, kind) for kind in kinds)

    def pings(self, n: int) -> np.ndarray:
        """Room for the pings of a bucket."""
        self._sized(n)
        return self._words[:n]

    def block(self, n: int) -> np.ndarray:
        """Room for words that are read to be copied."""
        if n > len(self._block):
            self._block = pages(n + n // 4, np.uint64)
        return self._block[:n]

    def of(self, n: int) -> tuple[np.ndarray, ...]:
        """(laid, who, place, arrive, depart, pings, inner), each at least `n` long."""
        self._sized(n)
        return self._arrays


def stays_of_bucket(
    pings: np.ndarray, packing: Packing, max_silence: int, room: Room
) -> tuple[np.ndarray, list[np.ndarray], int]:
    """One bucket's pings of one day to its stays, sorted by (subscriber, arrive, place).

    `pings` are packed so, and are written over; they may be in any order, and in that of time it is fastest. Returns
    (distinct ids ascending, [who, place, arrive, depart, pings, inner], pings merged): `who` indexes the ids, times are
    seconds of the day.
    """
    if len(pings) >> COUNT:
        raise InputError(f"{len(pings):,} pings in one bucket are more than it holds: make the store with more buckets")
    bits = np.uint64(packing.bits)
    laid, *columns = room.of(len(pings))
    room.table[:] = 0
    row = known = 0
    while True:
        row, known = _number(pings, row, room.table, known, bits)
        if row == len(pings):
            break
        larger, moved = words(2 * len(room.table)), np.empty(len(room.table), np.int64)
        _move(room.table, larger, moved)
        renumber(pings[:row], moved, bits)
        room.table = larger
    slots = np.flatnonzero(room.table)
    ids = (room.table[slots] >> _COUNT).astype(np.int64) + (packing.base - 1)
    order = np.argsort(ids)
    slots = slots[order]
    begin = np.zeros(len(slots) + 1, np.int64)
    np.cumsum(room.table[slots] & ((_ONE << _COUNT) - _ONE), out=begin[1:])
    room.table[slots] = begin[:-1]
    _lay(pings, bits, room.table, laid)
    k, merged = _runs(laid, begin, packing.shift, max_silence, *columns)
    return ids[order], [column[:k].copy() for column in columns], merged


# ---------------------------------------------------------------------------------------------------- the merge


@compiled
def join(place, arrive, depart, pings, inner, a, b, max_silence):
    """Join, in place, neighbours among one subscriber's stays a..b-1 in one place with a gap <= max_silence."""
    k = a
    for i in range(a + 1, b):
        if place[i] == place[k] and arrive[i] - depart[k] <= max_silence:
            depart[k] = depart[i]
            pings[k] += pings[i]
            inner[k] += inner[i]
        else:
            k += 1
            place[k], arrive[k], depart[k], pings[k], inner[k] = place[i], arrive[i], depart[i], pings[i], inner[i]
    return k + 1 if b > a else a


@compiled
def without_flicker(place, arrive, depart, pings, inner, a, b, flicker):
    """Remove, in place, the 1st, 3rd, 5th ... of every maximal run of flicker candidates (DESIGN 3.4)."""
    k = a
    run = 0  # how many candidates stand in a row up to here
    before_place, before_depart = -1, 0  # of the stay before i, as it was: k may have moved past it
    for i in range(a, b):
        candidate = (
            a < i < b - 1
            and before_place == place[i + 1]
            and place[i] != before_place
            and arrive[i + 1] - before_depart <= flicker
        )
        run = run + 1 if candidate else 0
        before_place, before_depart = place[i], depart[i]
        if run % 2 == 0:
            if k < i:
                place[k], arrive[k], depart[k], pings[k], inner[k] = place[i], arrive[i], depart[i], pings[i], inner[i]
            k += 1
    return k


@compiled
def stitched(place, arrive, depart, pings, inner, a, b, max_silence, flicker):
    """One subscriber's stays a..b-1, in time order: joined, flicker removed (0: none), joined again; the new end."""
    b = join(place, arrive, depart, pings, inner, a, b, max_silence)
    left = without_flicker(place, arrive, depart, pings, inner, a, b, flicker) if flicker > 0 else b
    return join(place, arrive, depart, pings, inner, a, left, max_silence) if left < b else b


@compiled
def _stitch(who, place, arrive, depart, pings, inner, max_silence, flicker):
    """`stitched` for every subscriber of a sorted table, then packed: how many rows are left."""
    k = a = 0
    while a < len(who):
        b = a + 1
        while b < len(who) and who[b] == who[a]:
            b += 1
        end = stitched(place, arrive, depart, pings, inner, a, b, max_silence, flicker)
        for i in range(a, end):
            who[k], place[k], arrive[k], depart[k] = who[i], place[i], arrive[i], depart[i]
            pings[k], inner[k] = pings[i], inner[i]
            k += 1
        a = b
    return k


# ---------------------------------------------------------------------------------------------------- time and ids


def days_of(seconds: np.ndarray, tz: str) -> tuple[np.ndarray, np.ndarray]:
    """(day index of every UTC second, midnights of those days): calendar days in `tz`, counted from the first seen."""
    if not len(seconds):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    where = zone(tz)
    first, last = (datetime.fromtimestamp(int(s), where).date() for s in (seconds.min(), seconds.max()))
    starts = midnights(first, (last - first).days + 1, tz)
    return np.searchsorted(starts, seconds, "right") - 1, starts


def seconds_of(column: pa.ChunkedArray) -> np.ndarray:
    """A timestamp[us] column as whole UTC seconds, floored, int64."""
    return np.floor_divide(column.cast(pa.int64()).to_numpy(), 1_000_000)


def timestamps(seconds: np.ndarray) -> pa.Array:
    """UTC seconds as timestamp[us, UTC]."""
    return pa.array(seconds.astype(np.int64) * 1_000_000).cast(SECONDS)


def codes(column: pa.ChunkedArray, kind: Any = np.int64) -> tuple[np.ndarray, pa.Array]:
    """A column of ids or place codes as (index of every row, distinct values in order): bytewise for strings.

    Integers that are ids stay what they are: see `id_codes`.
    """
    encoded = pc.dictionary_encode(column.combine_chunks())
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order), kind)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def place_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """`codes` of a place column; more places than an event can hold are refused."""
    index, names = codes(column, np.int16)
    if len(names) > MAX_PLACES:
        raise InputError(f"{len(names)} distinct places: the kernel holds at most {MAX_PLACES}")
    return index, names


def id_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array | None]:
    """A subscriber column as int64 whose order is the subscribers' order, and the names when they are strings."""
    if pa.types.is_integer(column.type):
        return column.to_numpy(), None
    return codes(column)


# ---------------------------------------------------------------------------------------------------- frames


def named(ids: np.ndarray, names: pa.Array | None) -> pa.Array:
    """Ids as subscribers: what they stand for, or themselves."""
    return pa.array(ids) if names is None else names.take(pa.array(ids))


def stays_table(ids: pa.Array, codes: pa.Array, columns: Sequence[np.ndarray], start: int) -> pa.Table:
    """The kernel's columns as a table of stays: subscribers back in place, seconds since `start` as times.

    Places are a dictionary: to look each of them up again is a third of what writing a stay takes.
    """
    who, place, arrive, depart, pings, inner = columns
    arrays = {
        "subscriber": ids.take(pa.array(who)),
        "place": pa.DictionaryArray.from_arrays(pa.array(place), codes),
        "arrive": timestamps(arrive.astype(np.int64) + start),
        "depart": timestamps(depart.astype(np.int64) + start),
        "pings": pa.array(pings),
        "inner": pa.array(inner),
    }
    return pa.table(arrays)


@compiled
def _lay_rows(order, begin, place, arrive, depart, pings, inner, laid):
    """Copy rows subscriber by subscriber: `order` says whose come next, `begin` where they are."""
    to_who, to_place, to_arrive, to_depart, to_pings, to_inner = laid
    k = np.uint64(0)
    for rank in range(len(order)):
        s = order[rank]
        for row in range(begin[s], begin[s + 1]):
            i = np.uint64(row)
            to_who[k], to_place[k], to_arrive[k] = rank, place[i], arrive[i]
            to_depart[k], to_pings[k], to_inner[k] = depart[i], pings[i], inner[i]
            k += _ONE


def laid_by(ids: pa.Array, columns: Sequence[np.ndarray]) -> tuple[pa.Array, list[np.ndarray]]:
    """Rows that lie subscriber by subscriber, laid by the order of their ids; and these, in order."""
    # NumPy's sort takes a sixth of the time
    order = np.argsort(ids.to_numpy()) if pa.types.is_integer(ids.type) else pc.sort_indices(ids).to_numpy()
    begin = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.bincount(columns[0], minlength=len(ids)), out=begin[1:])
    laid = tuple(np.empty_like(column) for column in columns)
    _lay_rows(order, begin, *columns[1:], laid)
    return ids.take(pa.array(order)), list(laid)


def stays(pings: Any, *, tz: str = "Asia/Shanghai", max_silence: timedelta = MAX_SILENCE) -> pl.DataFrame:
    """The stays of clean pings: maximal runs of one subscriber's consecutive pings in one place.

    Runs are cut where two pings are more than `max_silence` apart, and at every midnight of `tz`.

    Parameters
    ----------
    pings
        A table with `subscriber` (integer or string), `time` (timestamp; a naive one is UTC; floored to the second),
        `place` (code) and optionally `inner` (boolean), in any order. Repeated pings count once.
    tz
        Time zone whose midnights end a stay.
    max_silence
        Longest gap inside a stay, whole seconds, inclusive.

    Returns
    -------
    polars.DataFrame
        `subscriber`, `place`, `arrive`, `depart` (timestamp[us, UTC]), `pings`, `inner` (int32), sorted by
        (subscriber, arrive, place); strings sort bytewise.

    Raises
    ------
    InputError
        The table does not fit, holds nulls, or has more than 16,384 places.

    Notes
    -----
    DESIGN 3.1 (merging, order within a second) and 3.3.

    Examples
    --------
    >>> import polars as pl, travelcard as tc
    >>> from datetime import datetime
    >>> pings = pl.DataFrame({
    ...     "subscriber": [7, 7, 7],
    ...     "time": [datetime(2022, 3, 14, 1), datetime(2022, 3, 14, 2), datetime(2022, 3, 14, 5)],
    ...     "place": ["330100", "330100", "310000"],
    ... })
    >>> tc.stays(pings).select("place", "arrive", "pings").rows()[1][0]
    '310000'
    """
    table = PINGS.read(pings, where="the pings")
    silence = whole_seconds(max_silence, "max_silence")
    ids, names = codes(table["subscriber"])
    place, places = place_codes(table["place"])
    packing = Packing.of(len(places))
    seconds = seconds_of(table["time"])
    inner = table["inner"].fill_null(False).to_numpy().astype(np.int64)
    day, starts = days_of(seconds, tz)
    pings = ids << packing.bits | seconds - starts[day] << packing.shift | place.astype(np.int64) << 1 | inner
    pieces = []
    room = Room()
    by_day = np.argsort(day, kind="stable")
    pings = pings.view(np.uint64)[by_day]
    edges = np.searchsorted(day[by_day], np.arange(len(starts)))
    for d in np.unique(day):
        mine = pings[edges[d] : edges[d + 1]]
        unique, columns, _ = stays_of_bucket(mine, packing, silence, room)
        pieces.append(stays_table(named(unique, names), places, columns, starts[d]))
    if not pieces:
        return no_stays(table["subscriber"].type)
    frame = _frame(pa.concat_tables(pieces))
    return frame if len(pieces) == 1 else frame.sort("subscriber", "arrive", "place")


def _frame(table: pa.Table) -> pl.DataFrame:
    """A table of stays as users have it, places as text."""
    return pl.from_arrow(table.cast(STAYS.arrow(ids=table.schema.field("subscriber").type)))  # type: ignore[return-value]


def no_stays(ids: pa.DataType) -> pl.DataFrame:
    return pl.from_arrow(STAYS.arrow(ids=ids).empty_table())  # type: ignore[return-value]


def sorted_stays(stays: Any) -> pa.Table:
    """One table of stays, or several, as one Arrow table in whole seconds, sorted by (subscriber, arrive, place)."""
    frames = stays if isinstance(stays, (list, tuple)) else [stays]
    tables = [STAYS.read(frame, where="the stays") for frame in frames]
    if len({table.schema.field("subscriber").type for table in tables}) > 1:
        raise InputError("some of these stays have integer subscribers and some have strings: they cannot be one table")
    table = pa.concat_tables(tables) if tables else STAYS.arrow().empty_table()
    whole = pl.DataFrame(table).with_columns(pl.col("arrive", "depart").dt.truncate("1s"))
    ordered = whole.sort("subscriber", "arrive", "place")
    return ordered.to_arrow().cast(STAYS.arrow(ids=table.schema.field("subscriber").type))


def stitch(stays: Any, *, max_silence: timedelta = MAX_SILENCE, flicker: timedelta = timedelta(0)) -> pl.DataFrame:
    """Join neighbouring stays of a subscriber in one place whose gap is at most `max_silence`.

    Pieces cut along time may be grouped at will: ``stitch([stitch(a), b]) == stitch([a, b])``.

    Parameters
    ----------
    stays
        A table of stays as `stays` returns it, or a list of such tables (several days), in any order.
    max_silence
        Longest gap that is joined, whole seconds, inclusive.
    flicker
        Above 0, a stay between two stays of one other place no more than this apart is a flicker candidate; the 1st,
        3rd, 5th ... of each run of candidates are removed and what is left is joined again. 0 removes none.

    Returns
    -------
    polars.DataFrame
        The columns of `stays`, sorted by (subscriber, arrive, place).

    Raises
    ------
    InputError
        The table does not fit, or integer and string subscribers are mixed.

    Notes
    -----
    DESIGN 3.3 (the law) and 3.4 (flicker).

    Examples
    --------
    >>> import polars as pl, travelcard as tc
    >>> from datetime import datetime, timedelta
    >>> day = lambda d, h: tc.stays(pl.DataFrame(
    ...     {"subscriber": [7], "time": [datetime(2022, 3, d, h)], "place": ["330100"]}))
    >>> tc.stitch([day(14, 15), day(14, 17)])["pings"].to_list()
    [2]
    """
    table = sorted_stays(stays)
    silence, between = whole_seconds(max_silence, "max_silence"), whole_seconds(flicker, "flicker")
    ids, names = id_codes(table["subscriber"])
    place, places = place_codes(table["place"])
    columns = [
        place.copy(),
        seconds_of(table["arrive"]),
        seconds_of(table["depart"]),
        table["pings"].to_numpy().copy(),
        table["inner"].to_numpy().copy(),
    ]
    who = ids.copy()
    n = _stitch(who, *columns, silence, between)
    if n == 0:
        return no_stays(table.schema.field("subscriber").type)
    return _frame(stays_table(named(who[:n], names), places, [np.arange(n), *(c[:n] for c in columns)], 0))
