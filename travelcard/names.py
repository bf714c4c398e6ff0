"""Ids as compiled loops take them: texts numbered as they come, and any ids looked up among those that are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled, prefetch, scratch, shift_of, slot_of, word_at
from travelcard.decode import NONE
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.memory import words
from travelcard.sources import text_bytes

__all__ = ["GOLDEN", "Known", "Names", "integers", "raw"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STRIDE = 256  # ids that are looked up together: what a step needs is fetched in the step before
_HALF = np.uint64(32)  # bits of half a word


def raw(array: pa.Array) -> np.ndarray:
    """A column of integers or timestamps as int64, NONE where it is null; too large a number comes out below zero."""
    array = array.view(pa.int64()) if array.type.bit_width == 64 else array.cast(pa.int64())
    return np.asarray((pc.fill_null(array, NONE) if array.null_count else array).to_numpy())


def integers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """An id column as (int64, whether each is a whole number of 0 to 2**63 - 1)."""
    if pa.types.is_integer(array.type):
        values = raw(array)
        return values, values >= 0
    series = pl.Series(array).cast(pl.Int64, strict=False)
    return series.fill_null(-1).to_numpy(), (series >= 0).fill_null(False).to_numpy()


@compiled(inline="always")
def _eight(data, a, b):
    """Up to eight bytes of a text as a word, the first one lowest."""
    if a + 8 <= len(data):
        word = word_at(data, a)
        return word if b - a >= 8 else word & ((np.uint64(1) << np.uint64(8 * (b - a))) - np.uint64(1))
    word = np.uint64(0)
    for j in range(min(b - a, 8)):
        word |= np.uint64(data[a + j]) << np.uint64(8 * j)
    return word


@compiled
def _mixed(data, ends, words):
    """The word of each text from which its bucket is taken, as in schema.bucket_of."""
    for i in range(len(words)):
        a, b = np.int64(ends[i]), np.int64(ends[i + 1])
        mixed = np.uint64(b - a)
        for j in range(a, b, 8):
            mixed = (mixed ^ _eight(data, j, b)) * GOLDEN
            mixed ^= mixed >> np.uint64(29)
        words[i] = np.int64(mixed)


def _words(data: np.ndarray, ends: np.ndarray) -> np.ndarray:
    out = np.empty(len(ends) - 1, np.int64)
    _mixed(data, ends, out)
    return out


@compiled
def _name_on(data, offsets, begin, n, table, starts, arena, out, words):
    """Number texts from row `begin` on until the rows or the room for new names end: (row reached, names known).

    A slot of the table is one cache line: the word of the name, its first 16 bytes, and its number and length; -1 is a
    free slot. A name that is longer is compared to its end in the arena.
    """
    mask = np.int64(len(table) - 1)
    for i in range(begin, len(out)):
        prefetch(table, np.uint64(4 * (words[min(i + 16, len(out) - 1)] & mask)))
        a, b = np.int64(offsets[i]), np.int64(offsets[i + 1])
        length = b - a
        if length == 0:
            out[i] = -1
            continue
        first, second = np.int64(_eight(data, a, b)), np.int64(_eight(data, min(a + 8, b), b))
        word = words[i]
        h = word & mask
        k = np.int64(-1)
        while table[h, 3] != -1:
            if table[h, 0] == word and table[h, 1] == first and table[h, 2] == second:
                known = np.int64(table[h, 3] & 0xFFFFFFFF)
                same = np.int64(table[h, 3] >> 32) == length
                j = 16
                while same and j < length:
                    same = arena[starts[known] + j] == data[a + j]
                    j += 1
                if same:
                    k = known
                    break
            h = (h + 1) & mask
        if k < 0:
            if 2 * n >= len(table) or starts[n] + length > len(arena):
                return i, n
            k = np.int64(n)
            table[h, 0], table[h, 1], table[h, 2], table[h, 3] = word, first, second, length << 32 | k
            starts[k + 1] = starts[k] + length
            for j in range(length):
                arena[starts[k] + j] = data[a + j]
            n += 1
        out[i] = k
    return len(out), n


@compiled
def _laid_anew(table, larger):
    """Lay the names of a table into a larger one, all free so far."""
    mask = len(larger) - 1
    for slot in range(len(table)):
        if table[slot, 3] != -1:
            h = table[slot, 0] & mask
            while larger[h, 3] != -1:
                h = (h + 1) & mask
            for field in range(4):
                larger[h, field] = table[slot, field]


class Names:
    """Text subscribers, numbered in the order in which they first appear: exact, the text itself is compared."""

    def __init__(self) -> None:
        self._n = 0
        self._table = np.full((1 << 12, 4), -1, np.int64)
        self._starts, self._arena = np.zeros((1 << 11) + 1, np.int64), np.empty(1 << 16, np.uint8)

    def __len__(self) -> int:
        return self._n

    def _grow(self, longest: int) -> None:
        """Four times the room, and for a name of this length."""
        larger = np.full((4 * len(self._table), 4), -1, np.int64)
        _laid_anew(self._table, larger)
        starts = np.zeros(len(larger) // 2 + 1, np.int64)
        starts[: self._n + 1] = self._starts[: self._n + 1]
        arena = np.empty(4 * len(self._arena) + longest, np.uint8)
        arena[: starts[self._n]] = self._arena[: starts[self._n]]
        self._table, self._starts, self._arena = larger, starts, arena

    def number(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """(the number of each text, the word from which its bucket is taken); null and empty texts get -1."""
        if texts.null_count:
            texts = pc.fill_null(texts, "")
        data, ends = text_bytes(texts)
        out, mixed, done = np.empty(len(texts), np.int64), _words(data, ends), 0
        while True:
            done, self._n = _name_on(data, ends, done, self._n, self._table, self._starts, self._arena, out, mixed)
            if done == len(texts):
                return out, mixed
            self._grow(int(ends[done + 1] - ends[done]))

    def texts(self) -> pa.Array:
        """The names in the order of their numbers."""
        n = self._n
        ends, arena = self._starts[: n + 1], self._arena[: self._starts[n]]
        return pa.LargeStringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(arena)).cast(pa.string())

    def ranked(self) -> tuple[pa.Array, np.ndarray]:
        """(the names bytewise in order, the rank of every number)."""
        texts = self.texts()
        order = pc.array_sort_indices(texts)
        rank = np.empty(len(order), np.int64)
        rank[order.to_numpy()] = np.arange(len(order))
        return texts.take(order), rank


@compiled
def _enter(data, ends, ids, row, table, records, at):
    """Enter texts under their words, of which the first one is so many `row`s behind the first of all: where the next
    record goes.
    """
    mask, shift = np.uint64(len(table) - 1), shift_of(table)
    for i in range(len(ids)):
        prefetch(table, slot_of(np.uint64(ids[min(i + 16, len(ids) - 1)]), shift))
        word = np.uint64(ids[i])
        h = slot_of(word, shift)
        while table[h]:
            h = (h + np.uint64(1)) & mask
        table[h] = word << _HALF | np.uint64(at)
        a, b = np.int64(ends[i]), np.int64(ends[i + 1])
        records[at] = np.uint64(row + i) << _HALF | np.uint64(b - a)
        at += 1
        for j in range(a, b, 8):
            records[at] = _eight(data, j, b)
            at += 1
    return at


@compiled
def _look_up(data, ends, ids, table, records, out):
    """Write the row of each text, -1 of one that is not there; `ids` are their words."""
    mask, shift, low = np.uint64(len(table) - 1), shift_of(table), (np.uint64(1) << _HALF) - np.uint64(1)
    slots = scratch(_STRIDE, np.uint64)
    for first in range(0, len(ids), _STRIDE):
        n = min(_STRIDE, len(ids) - first)
        for i in range(n):
            slots[i] = slot_of(np.uint64(ids[first + i]), shift)
            prefetch(table, slots[i])
        for i in range(n):
            h, word = slots[i], np.uint64(ids[first + i]) << _HALF
            while table[h] and (table[h] ^ word) >> _HALF:
                h = (h + np.uint64(1)) & mask
            slots[i] = h
            prefetch(records, table[h] & low)
        for i in range(n):
            h, word = slots[i], np.uint64(ids[first + i]) << _HALF
            a, b = np.int64(ends[first + i]), np.int64(ends[first + i + 1])
            row = np.int64(-1)
            while table[h] and row < 0:
                if (table[h] ^ word) >> _HALF == np.uint64(0):
                    at = table[h] & low
                    same = records[at] & low == np.uint64(b - a)
                    for j in range(a, b if same else a, 8):
                        at += np.uint64(1)
                        same = same and records[at] == _eight(data, j, b)
                    if same:
                        row = np.int64(records[table[h] & low] >> _HALF)
                h = (h + np.uint64(1)) & mask
            out[first + i] = row


class Known(NamedTuple):
    """Distinct ids, to find others among: texts, or numbers as texts of eight bytes. Exact: the ids are compared."""

    table: np.ndarray  # a slot has 32 bits of an id's word and where its record begins; 0 is a free slot
    records: np.ndarray  # of each id its row and its length, 32 bits each, and its bytes

    @classmethod
    def of(cls, ids: pa.ChunkedArray) -> Known:
        """A table that is at most half full: of five million ids 128 MB, their records as many."""
        table = words(max(16, 1 << (2 * len(ids)).bit_length()))
        table[:] = 0  # pages that are made one behind the other are made in half the time
        parts = [_texts(chunk) for chunk in ids.chunks]
        records = words(1 + sum(int(((ends[1:] - ends[:-1] + 7) // 8 + 1).sum()) for _, ends in parts))
        at, row = 1, 0
        for data, ends in parts:
            at = _enter(data, ends, _words(data, ends), row, table, records, at)
            row += len(ends) - 1
        return cls(table, records)

    def rows(self, ids: pa.Array) -> np.ndarray:
        """Where each of some ids stands among those known, -1 if it does not; all are texts, or numbers of 64 bits."""
        data, ends = _texts(ids)
        out = np.empty(len(ids), np.int64)
        _look_up(data, ends, _words(data, ends), self.table, self.records, out)
        return out


def _texts(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """As `text_bytes`, of numbers too."""
    if pa.types.is_integer(ids.type):
        return ids.to_numpy().view(np.uint8), np.arange(0, 8 * len(ids) + 1, 8)
    return text_bytes(ids)
