"""The kernel: one bucket's pings to stays.

A subscriber's pings of a day are laid side by side by a counting sort, are then nearly in order already, and one loop
cuts the runs. Nothing is sorted globally and no interpreter lock is held (DESIGN 7).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from travelcard.compiled import compiled, of_four, prefetch, scratch, shift_of, slot_of
from travelcard.errors import InputError
from travelcard.memory import pages, words

__all__ = ["Packing", "Room", "renumber", "stays_of_bucket"]

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
