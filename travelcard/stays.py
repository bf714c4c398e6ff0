"""The kernel: one bucket's pings to stays; and `stitch`, the one merge that makes stays of pings and windows of days.

A subscriber's pings of a day are laid side by side by a counting sort, are then nearly in order already, and one loop
cuts the runs. Nothing is sorted globally and no interpreter lock is held (DESIGN 7).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from travelcard.compiled import compiled
from travelcard.errors import InputError
from travelcard.schema import (
    MAX_PLACES,
    PINGS,
    REJECTED,
    SECOND_SHIFT,
    SECONDS,
    STAYS,
    midnights,
    whole_seconds,
    zone,
)

__all__ = ["MAX_SILENCE", "stays", "stitch"]

MAX_SILENCE = timedelta(hours=12)  # a night with the phone off (FACTS 4)

# Not the word of schema.bucket_of: the ids of one bucket agree in the top bits of that product.
_OTHER = np.uint64(0xBF58476D1CE4E5B9)


# ---------------------------------------------------------------------------------------------------- the kernel


@compiled(inline="always")
def _shift(mask):
    """How far a product is shifted to the right to leave a slot of a table with this mask."""
    shift = np.uint64(0)
    while mask >> shift:
        shift += np.uint64(1)
    return np.uint64(64) - shift


@compiled(inline="always")
def _home(word, shift):
    """The slot in which the search for an id begins."""
    return ((word ^ word >> np.uint64(31)) * _OTHER) >> shift


@compiled
def _number(pings, row, table, known, numbers, events):
    """Number the subscribers of pings from a row on: (the row reached, subscribers known).

    A number is a slot of the open-addressing table, whose slots hold an id and a count side by side, so that a probe is
    one cache line; a count of 0 is a free slot. It stops where the table is half full.
    """
    mask = np.uint64(len(table) // 2 - 1)
    shift = _shift(mask)
    for i in range(row, len(pings)):
        word = np.uint64(pings[i, 1]) << np.uint64(32) | np.uint64(pings[i, 0])
        key = np.int64(word)
        h = _home(word, shift)
        while table[2 * h + 1] and table[2 * h] != key:
            h = (h + np.uint64(1)) & mask
        if not table[2 * h + 1]:
            if 4 * known >= len(table):
                return i, known
            known += 1
            table[2 * h] = key
        table[2 * h + 1] += 1
        numbers[i] = h
        events[i] = pings[i, 2]
    return len(pings), known


@compiled
def _moved(table, larger):
    """Lay the subscribers of a table into a larger one, empty so far: the new number of each old one."""
    mask = np.uint64(len(larger) // 2 - 1)
    shift = _shift(mask)
    moved = np.empty(len(table) // 2, np.int32)
    for slot in range(len(table) // 2):
        if table[2 * slot + 1]:
            word = np.uint64(table[2 * slot])
            h = _home(word, shift)
            while larger[2 * h + 1]:
                h = (h + np.uint64(1)) & mask
            larger[2 * h], larger[2 * h + 1], moved[slot] = table[2 * slot], table[2 * slot + 1], h
    return moved


@compiled
def _lay(events, numbers, table, laid):
    """The counting sort by subscriber, stable: each slot of the table holds where its next event goes."""
    for i in range(len(events)):
        h = 2 * numbers[i] + 1
        k = table[h]
        table[h] = k + 1
        laid[k] = events[i]


@compiled
def _in_order(events: np.ndarray) -> None:
    """Sort one subscriber's events: files are nearly in time order, so this is a check and a short insertion sort."""
    budget = 8 * len(events)  # shifts; past it the input was in no order at all
    for i in range(1, len(events)):
        event = events[i]
        j = i - 1
        while j >= 0 and events[j] > event:
            events[j + 1] = events[j]
            j -= 1
        events[j + 1] = event
        budget -= i - 1 - j
        if budget < 0:
            events.sort()
            return


@compiled
def _runs(events, starts, max_silence, who, place, arrive, depart, pings, inner):
    """Cut every subscriber's events into stays, written to the last six arrays: (how many, pings merged)."""
    k = -1
    merged = 0
    for s in range(len(starts) - 1):
        mine = events[starts[s] : starts[s + 1]]
        _in_order(mine)
        here = np.int16(-1)
        last = np.uint32(REJECTED)
        for event in mine:
            if event >> 1 == last >> 1:  # same second, same place: one ping, inner if any is
                merged += 1
                inner[k] += event & 1 if event != last else 0
                last = event
                continue
            last = event
            second = np.int32(event >> SECOND_SHIFT)
            at = np.int16((event >> 1) & (MAX_PLACES - 1))
            if at != here or second - depart[k] > max_silence:
                k += 1
                who[k], place[k], arrive[k], pings[k], inner[k] = s, at, second, 0, 0
                here = at
            depart[k] = second
            pings[k] += 1
            inner[k] += event & 1
    return k + 1, merged


def pages(n: int, dtype: Any) -> np.ndarray:
    """An array of `n` on pages of its own, none of which costs memory before it is written.

    Not np.empty, which asks the kernel for huge pages: where these must first be made by moving others together, the
    first touch took up to 1.6 ns a byte, four times as long as with small pages.
    """
    size = max(n, 1) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype)[:n]


class Room:
    """One thread's scratch memory for the kernel, kept from bucket to bucket: the first touch of a page costs most."""

    def __init__(self) -> None:
        self._size = -1
        self.table = np.zeros(1 << 12, np.int64)

    def of(self, n: int) -> tuple[np.ndarray, ...]:
        """(numbers, events, laid, who, place, arrive, depart, pings, inner), each at least `n` long."""
        if n > self._size:
            self._size = n + n // 4
            kinds = ("int32", "uint32", "uint32", "int32", "int16", "int32", "int32", "int32", "int32")
            self._arrays = tuple(pages(self._size, kind) for kind in kinds)
        return self._arrays


def packed(ids: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Pings as the kernel takes them, uint32 of shape (n, 3): the id's low and high half, and the event."""
    out = np.empty((len(ids), 3), np.uint32)
    out[:, :2] = np.ascontiguousarray(ids, np.int64).view(np.uint32).reshape(-1, 2)
    out[:, 2] = events
    return out


def stays_of_bucket(
    runs: Iterable[np.ndarray], n: int, max_silence: int, room: Room
) -> tuple[np.ndarray, list[np.ndarray], int]:
    """One bucket's pings of one day to its stays, sorted by (subscriber, arrive, place).

    `runs` are arrays of pings (see `packed`; schema.SECOND_SHIFT tells the bits of an event), `n` in all, in any order;
    in that of time it is fastest. Returns (distinct ids ascending, [who, place, arrive, depart, pings, inner], pings
    merged): `who` indexes the ids, times are seconds of the day.
    """
    numbers, events, laid, *columns = room.of(n)
    room.table[:] = 0
    at = known = 0
    for pings in runs:
        row = 0
        while True:
            row, known = _number(pings, row, room.table, known, numbers[at:], events[at:])
            if row == len(pings):
                break
            larger = np.zeros(4 * len(room.table), np.int64)
            numbers[: at + row] = _moved(room.table, larger)[numbers[: at + row]]
            room.table = larger
        at += len(pings)
    slots = np.flatnonzero(room.table[1::2])
    ids = room.table[::2][slots]
    order = np.argsort(ids)
    slots = slots[order]
    begin = np.zeros(len(slots) + 1, np.int64)
    np.cumsum(room.table[1::2][slots], out=begin[1:])
    room.table[2 * slots + 1] = begin[:-1]
    _lay(events[:n], numbers, room.table, laid)
    k, merged = _runs(laid, begin, max_silence, *columns)
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


def stays_table(
    unique: np.ndarray, names: pa.Array | None, codes: pa.Array, columns: Sequence[np.ndarray], start: int
) -> pa.Table:
    """The kernel's columns as a table of stays: ids or names back in place, seconds since `start` as times."""
    who, place, arrive, depart, pings, inner = columns
    ids = pa.array(unique[who])
    arrays = [
        ids if names is None else names.take(ids),
        codes.take(pa.array(place)),
        timestamps(arrive.astype(np.int64) + start),
        timestamps(depart.astype(np.int64) + start),
        pa.array(pings),
        pa.array(inner),
    ]
    return pa.Table.from_arrays(arrays, schema=STAYS.arrow(ids=ids.type if names is None else pa.string()))


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
    ids, names = id_codes(table["subscriber"])
    place, places = place_codes(table["place"])
    seconds = seconds_of(table["time"])
    inner = table["inner"].fill_null(False).to_numpy().astype(np.uint32)
    day, starts = days_of(seconds, tz)
    events = np.uint32(0) + ((seconds - starts[day]).astype(np.uint32) << SECOND_SHIFT)
    events |= place.astype(np.uint32) << 1 | inner
    pieces = []
    room = Room()
    by_day = np.argsort(day, kind="stable")
    ids, events = ids[by_day], events[by_day]
    edges = np.searchsorted(day[by_day], np.arange(len(starts)))
    for d in np.unique(day):
        mine = slice(edges[d], edges[d + 1])
        unique, columns, _ = stays_of_bucket([packed(ids[mine], events[mine])], len(ids[mine]), silence, room)
        pieces.append(stays_table(unique, names, places, columns, starts[d]))
    if not pieces:
        return no_stays(table["subscriber"].type)
    frame: pl.DataFrame = pl.from_arrow(pa.concat_tables(pieces))  # type: ignore[assignment]
    return frame if len(pieces) == 1 else frame.sort("subscriber", "arrive", "place")


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
    return pl.from_arrow(stays_table(who[:n], names, places, [np.arange(n), *(c[:n] for c in columns)], 0))  # type: ignore[return-value]
