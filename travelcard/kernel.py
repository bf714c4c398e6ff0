"""The kernel: one bucket's pings to stays.

A subscriber's pings of a day are laid side by side by a counting sort, are then nearly in order already, and one loop
cuts the runs. Nothing is sorted globally and no interpreter lock is held (DESIGN 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from travelcard.compiled import compiled, of_four, prefetch, scratch, shift_of, slot_of, words_at
from travelcard.errors import InputError
from travelcard.memory import pages, words

__all__ = ["Packing", "Pieces", "Room", "renumber", "stays_of_bucket"]

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


class Pieces(NamedTuple):
    """Packed pings where they are in memory, in pieces of one order: the address of each, its length, whose they are.

    Not one array: to lay them behind each other first is one more time that all of them are read and written.
    """

    at: np.ndarray
    rows: np.ndarray
    held: Sequence[np.ndarray]

    @classmethod
    def of(cls, *arrays: np.ndarray) -> Pieces:
        """Arrays of words, one behind the other."""
        at, rows = ([array.ctypes.data for array in arrays], [len(array) for array in arrays])
        return cls(np.array(at, np.int64), np.array(rows, np.int64), arrays)

    @property
    def size(self) -> int:
        """How many words."""
        return int(self.rows.sum())


@compiled
def _number(at, rows, piece, row, table, known, bits):
    """Number subscribers from a row of a piece on, in place: the id of each ping gives way to a slot of the table.

    A slot holds the key of a subscriber, its id and 1, and how many pings it has; 0 is a free slot. Where to look is
    worked out for some pings at once, and fetched, before the first of them is looked up. Returns (piece and row
    reached, subscribers known): it stops where the table is half full.
    """
    mask, shift = np.uint64(len(table) - 1), shift_of(table)
    low = (_ONE << bits) - _ONE
    slots = scratch(_STRIDE, np.uint64)
    while piece < len(rows):
        some = words_at(at[piece], rows[piece])[row : row + _STRIDE]
        if len(some) == 0:
            piece, row = piece + 1, 0
            continue
        for i in range(len(some)):
            slots[i] = slot_of((some[i] >> bits) + _ONE, shift)
        for i in range(len(some)):
            prefetch(table, slots[i])
        for i in range(len(some)):
            key, h = (some[i] >> bits) + _ONE, slots[i]
            found = of_four(table, h, key, _COUNT)
            if found == np.uint64(4):
                while table[h] and table[h] >> _COUNT != key:
                    h = (h + _ONE) & mask
                if not table[h]:
                    if 2 * known >= len(table):
                        return piece, row + i, known
                    known += 1
                    table[h] = key << _COUNT
                found = np.uint64(0)
            h += found
            table[h] += _ONE
            some[i] = h << bits | some[i] & low
        row += len(some)
    return piece, row, known


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
def renumber(at, rows, numbers, bits):
    """Put another number in the place of each ping's."""
    low = (_ONE << bits) - _ONE
    for piece in range(len(rows)):
        pings = words_at(at[piece], rows[piece])
        for i in range(len(pings)):
            pings[i] = np.uint64(numbers[pings[i] >> bits]) << bits | pings[i] & low


@compiled
def _lay(at, rows, bits, fill, laid):
    """The counting sort by subscriber, stable: `fill` holds, for each number, where its next event goes.

    Ten thousand subscribers' next events are as many cache lines: fetched ahead of their turn, it takes half the time.
    """
    low = (_ONE << bits) - _ONE
    for piece in range(len(rows)):
        pings = words_at(at[piece], rows[piece])
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
def _runs(events, starts, shift, max_silence, k, begin, place, arrive, depart, pings, inner):
    """Cut every subscriber's events into stays, written to the last five arrays from row k on: pings merged.

    `begin` gets the first row of each subscriber, and where the last one's end.
    """
    places = (np.int64(1) << shift - 1) - 1
    merged = 0
    for s in range(len(starts) - 1):
        begin[s] = k
        mine = events[starts[s] : starts[s + 1]]
        _in_order(mine)
        last = np.int64(mine[0])
        here, end, count, within = last >> 1 & places, last >> shift, np.int64(1), last & 1
        place[k], arrive[k] = here, end
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
                place[k], arrive[k] = at, second
                here, count, within = at, np.int64(0), np.int64(0)
            end = second
            count += 1
            within += event & 1
        depart[k], pings[k], inner[k] = end, count, within
        k += 1
    begin[len(starts) - 1] = k
    return merged


class Room:
    """One thread's memory for the kernel, kept from bucket to bucket: the first touch of a page costs most."""

    def __init__(self) -> None:
        self._arrays: dict[str, tuple[np.ndarray, ...]] = {}
        self.table = words(1 << 12)

    def _sized(self, name: str, n: int, kinds: Sequence[str], kept: int = 0) -> tuple[np.ndarray, ...]:
        """Arrays of these kinds for `n`, the same ones if they are large enough; `kept` are carried over to others."""
        arrays = self._arrays.get(name, ())
        if not arrays or n > len(arrays[0]):
            larger = tuple(pages(n + n // 4, kind) for kind in kinds)
            for old, new in zip(arrays, larger, strict=False):
                new[:kept] = old[:kept]
            self._arrays[name] = arrays = larger
        return arrays

    def pings(self, n: int) -> np.ndarray:
        """Room for words that are laid behind each other."""
        return self._sized("pings", n, ["uint64"])[0][:n]

    def block(self, n: int) -> np.ndarray:
        """Room for words that are read from a file."""
        return self._sized("block", n, ["uint64"])[0][:n]

    def laid(self, n: int) -> np.ndarray:
        """Room for events subscriber by subscriber."""
        return self._sized("laid", n, ["uint32"])[0]

    def stays(self, n: int, kept: int) -> tuple[np.ndarray, ...]:
        """(place, arrive, depart, pings, inner) for so many stays, of which some are there."""
        return self._sized("stays", n, ["int16", *["int32"] * 4], kept)

    def rows(self, n: int) -> tuple[np.ndarray, ...]:
        """(subscriber, place, arrive, depart, pings, inner) of a table's rows, times in microseconds."""
        kinds = ["int64", "int16", "int64", "int64", "int32", "int32"]
        return tuple(array[:n] for array in self._sized("rows", n, kinds))


def stays_of_bucket(
    pings: Pieces, packing: Packing, max_silence: int, room: Room, first: int = 0
) -> tuple[np.ndarray, np.ndarray, int]:
    """One bucket's pings of one day to its stays, sorted by (subscriber, arrive, place), in `room.stays`.

    `pings` are packed so, and are written over; they may be in any order, and in that of time it is fastest. Returns
    (distinct ids ascending, where the rows of each begin, from `first` on, and those of the last end, pings merged);
    times are seconds of the day.
    """
    n = pings.size
    if n >> COUNT:
        raise InputError(f"{n:,} pings in one bucket are more than it holds: make the store with more buckets")
    at, rows, bits = pings.at, pings.rows, np.uint64(packing.bits)
    laid, columns = room.laid(n), room.stays(first + n, first)
    room.table[:] = 0
    piece = row = known = 0
    while True:
        piece, row, known = _number(at, rows, piece, row, room.table, known, bits)
        if piece == len(rows):
            break
        larger, moved = words(2 * len(room.table)), np.empty(len(room.table), np.int64)
        _move(room.table, larger, moved)
        renumber(at, np.append(rows[:piece], row), moved, bits)
        room.table = larger
    slots = np.flatnonzero(room.table)
    ids = (room.table[slots] >> _COUNT).astype(np.int64) + (packing.base - 1)
    order = np.argsort(ids)
    slots = slots[order]
    starts = np.zeros(len(slots) + 1, np.int64)
    np.cumsum(room.table[slots] & ((_ONE << _COUNT) - _ONE), out=starts[1:])
    room.table[slots] = starts[:-1]
    _lay(at, rows, bits, room.table, laid)
    begin = np.empty(len(starts), np.int64)
    merged = _runs(laid, starts, packing.shift, max_silence, first, begin, *columns)
    return ids[order], begin, merged
