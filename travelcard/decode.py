"""Pings from Parquet pages: as fast as they are decompressed, and dictionaries kept, so that each cell is found once.

Columns that are written in another way than most are decoded by Arrow (`sources.Piece`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from travelcard.compiled import compiled, word_at
from travelcard.errors import broken
from travelcard.late import compute as pc
from travelcard.pages import BEHIND_LENGTH, DICTIONARY, INDICES, PLAIN, Chunk, Column, Desk, chunk_of, opened, plain

__all__ = [
    "NONE",
    "Block",
    "Rest",
    "Space",
    "block_of",
    "indices_of",
    "numbers_of",
    "spread",
]

NONE = np.iinfo(np.int64).min  # of a number that is missing
_ALL = np.uint64(0x0101010101010101)  # eight rows that have a value


@compiled
def _hybrid(data, at, end, width, out):
    """Runs and packed values of `width` bits (RLE/bit-packing hybrid): whether there are as many as `out` holds.

    Here and elsewhere an index without a sign, which cannot count from the end, lets several rows be done at once.
    """
    k, n = 0, len(out)
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    while k < n:
        head: Any = 0
        shift = 0
        while True:
            if at >= end or shift > 35:
                return False
            byte = np.int64(data[at])
            at += 1
            head |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if head & 1:
            count = min((head >> 1) * 8, n - k)
            if (count * width + 7) >> 3 > end - at:
                return False
            done = count & ~7 if width <= 8 else 0
            for i in range(0, done, 8):  # eight values are in one word: levels are nearly always read here
                word = word_at(data, at + (i >> 3) * width)
                for j in range(8):
                    out[np.uint64(k + i + j)] = word >> np.uint64(j * width) & mask
            for i in range(done, count):
                bit = i * width
                out[np.uint64(k + i)] = word_at(data, at + (bit >> 3)) >> np.uint64(bit & 7) & mask
            at += (head >> 1) * width
        else:
            count, size = min(head >> 1, n - k), (width + 7) >> 3
            if count == 0 or size > end - at:
                return False
            value = word_at(data, at) & mask
            for i in range(count):
                out[np.uint64(k + i)] = value
            at += size
        k += count
    return True


@compiled
def _levels(data, page, valid):
    """Which rows of a page have a value, by its definition levels: (where these end, how many); -1 for no levels."""
    length, at, last = page[2], page[3], page[4]
    if length == 0:
        valid[:] = True
        return at, len(valid)
    if length == BEHIND_LENGTH:
        length, at = np.int64(word_at(data, at) & np.uint64(0xFFFFFFFF)), at + 4
    end = at + length
    if end > last or not _hybrid(data, at, end, np.int64(1), valid):
        return np.int64(-1), 0
    return end, np.int64(valid.sum())


@compiled
def indices_of(data, page, words, valid, index):
    """A page of indices of so many words: how many there are, laid one behind the other in `index`, -1 if unsound.

    `valid` says in which rows they are.
    """
    at, some = _levels(data, page, valid)
    if at < 0 or some == 0:
        return min(some, at)
    if at >= page[4] or data[at] > 32 or not _hybrid(data, at + 1, page[4], np.int64(data[at]), index[:some]):
        return np.int64(-1)
    least, largest = np.int32(0), np.int32(0)  # an index of 32 bits may come out below zero
    for i in range(some):
        least, largest = min(least, index[i]), max(largest, index[i])
    return some if least == 0 and largest < words else np.int64(-1)


@compiled
def spread(valid, some, index):
    """Move indices that lie one behind the other to their rows; -1 in rows that have none."""
    k = some - 1
    for i in range(len(valid) - 1, -1, -1):
        here = np.int64(valid[np.uint64(i)])
        index[np.uint64(i)] = index[np.uint64(max(k, 0))] if here else -1
        k -= here


@compiled
def numbers_of(column, number, room, out):
    """A page of numbers of 64 bits, NONE where a row has none: (whether it is sound, the bytes and where they begin).

    They are where they are written if all are there, and else laid in `out`.
    """
    sound, data, begin, end = opened(column, number)
    page = column.pages[number, 0], column.pages[number, 1], column.pages[number, 2], begin, end
    valid = room.valid[: page[1]]
    if not sound:
        return sound, data, begin
    if page[0] == INDICES:
        some = indices_of(data, page, len(column.words), valid, room.indices)
        laid, at, sound = (out if some == len(valid) else room.values), np.int64(0), some >= 0
        for k in range(some):
            laid[k] = column.words[np.uint64(room.indices[k])]
        values = laid.view(np.uint8)
    else:
        at, some = _levels(data, page, valid)
        values, sound = data, at >= 0 and 8 * some <= end - at
    if not sound or some == len(valid):
        return sound, values, at
    flags, whole = valid.view(np.uint8), len(valid) & ~7
    for i in range(0, whole, 8):  # nearly always eight rows have a value, or none has
        eight = word_at(flags, i)
        if eight == _ALL:
            for j in range(8):
                out[np.uint64(i + j)] = np.int64(word_at(values, at + 8 * j))
            at += 64
        elif eight == 0:
            out[i : i + 8] = NONE
        else:
            at = _one_by_one(values, at, valid, i, i + 8, out)
    _one_by_one(values, at, valid, whole, len(valid), out)
    return sound, out.view(np.uint8), np.int64(0)


@compiled
def _one_by_one(values, at, valid, first, last, out):
    """Move numbers that lie one behind the other to their rows, NONE to those that have none: where the next is."""
    for i in range(first, last):
        out[i] = np.int64(word_at(values, at)) if valid[i] else NONE
        at += 8 * np.int64(valid[i])
    return at


@compiled
def _laid(data, page, valid, ends, raw):
    """A page of texts, each behind its length, laid one behind the other: whether it is sound."""
    (at, _), end, k = _levels(data, page, valid), page[4], np.int64(0)
    if at < 0:
        return False
    for i in range(len(valid)):
        if valid[i]:
            length = np.int64(word_at(data, at) & np.uint64(0xFFFFFFFF)) if at <= end else end
            at += 4
            if length > end - at:
                return False
            for j in range(length):
                raw[k + j] = data[at + j]
            at += length
            k += length
        ends[i + 1] = k
    return True


class Space(NamedTuple):
    """Room for one page of each column."""

    valid: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    ids: np.ndarray
    times: np.ndarray
    plmn: np.ndarray
    cells: np.ndarray
    cell_index: np.ndarray
    known: np.ndarray  # whether there is a cell
    locations: np.ndarray

    @classmethod
    def on(cls, desk: Desk, rows: int) -> Space:
        """Room for pages of so many rows."""
        kinds = (np.bool_, np.int32, *[np.int64] * 5, np.int32, np.bool_, np.int32)
        return cls(*desk.rooms("page", cls._fields, kinds, rows))


class Rest(NamedTuple):
    """Rows of a block that are put aside: their values, NONE for none."""

    rows: np.ndarray  # where in the block they are
    ids: np.ndarray
    times: np.ndarray
    cells: np.ndarray
    known: np.ndarray  # whether there is a cell
    plmn: np.ndarray

    @classmethod
    def on(cls, desk: Desk, rows: int) -> Rest:
        """Room for so many."""
        kinds = (np.int32, np.int64, np.int64, np.int64, np.bool_, np.int64)
        return cls(*desk.rooms("rest", cls._fields, kinds, rows))


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of a row group, as `Batch` has them, in pages. They lie on a desk, until the next block does."""

    file: str
    row: int
    rows: int
    types: Mapping[str, pa.DataType]
    columns: Mapping[str, Column]  # of plmn the indices of `countries`, NONE where there is none
    texts: pa.Array | None  # the subscribers, where these are texts: they are in no column
    countries: pa.Array  # the words of plmn

    @property
    def numeric(self) -> bool:
        """Whether subscribers are integers."""
        return self.texts is None

    @property
    def longest(self) -> int:
        """The rows of the longest page."""
        longest = max(int(column.pages[:, 1].max()) for column in self.columns.values())
        return longest if self.numeric else self.rows

    def taken(self, rest: Rest) -> dict[str, pa.Array]:
        """Rows that were put aside, as Arrow has them."""
        out = {name: pa.array(v, mask=v == NONE) for name, v in (("subscriber", rest.ids), ("time", rest.times))}
        out["cell"] = pa.array(rest.cells, mask=~rest.known)
        if self.texts is not None:
            out["subscriber"] = self.texts.take(pa.array(rest.rows))
        if "plmn" in self.columns:
            out["plmn"] = self.countries.take(pa.array(rest.plmn, mask=rest.plmn < 0))
        typed = ((name, out[name], kind) for name, kind in self.types.items())
        return {name: array if array.type == kind else array.cast(kind) for name, array, kind in typed}


def block_of(
    file: str,
    count: int,
    found: Mapping[str, pq.ColumnChunkMetaData],
    schema: pa.Schema,
    columns: Mapping[str, str],
    row: int,
    desk: Desk,
) -> Block | None:
    """A row group of a file, of `count` rows, the first of them the file's `row`.

    `columns` says which of those that were `found` in it are read, under which names. None where it is written in a way
    that is left to Arrow. Raises `InputError` where the file is not what it says.
    """
    read: dict[str, Column] = {}
    types: dict[str, pa.DataType] = {}
    texts, countries = None, pa.array([], pa.string())
    try:
        with open(file, "rb", buffering=0) as raw:
            chunks = {
                name: chunk_of(raw, found[source], schema.field(source), desk, name) for name, source in columns.items()
            }
        for name, chunk in chunks.items():
            if chunk is None:
                return None
            rows = chunk.column.pages[chunk.column.pages[:, 0] != DICTIONARY, 1]
            _sound((rows <= count).all() and rows.sum() == count)
            types[name], words = chunk.type, _words(chunk)
            if name == "subscriber" and isinstance(words, pa.Array):
                texts = _texts(chunk, words)
            elif isinstance(words, np.ndarray):
                read[name] = chunk.column._replace(words=words)
            elif (chunk.column.pages[:, 0] == PLAIN).any():
                coded = pc.dictionary_encode(_texts(chunk, words))
                countries = coded.dictionary
                read[name] = plain(np.array(pc.fill_null(coded.indices.cast(pa.int64()), NONE)))
            else:
                countries = words
                read[name] = chunk.column._replace(words=np.arange(len(words)))
    except (pa.ArrowException, OSError) as error:
        raise broken(file, error) from error
    return Block(file, row, count, types, read, texts, countries)


def _sound(sound: bool) -> None:
    if not sound:
        raise pa.ArrowInvalid("a page does not hold what its header says")


def _words(chunk: Chunk) -> np.ndarray | pa.Array:
    """The dictionary of a column; no word where it has none."""
    text, at = pa.types.is_string(chunk.type), np.flatnonzero(chunk.column.pages[:, 0] == DICTIONARY)
    if not len(at):
        return pa.array([], pa.string()) if text else np.empty(0, np.int64)
    data, page = chunk.page(at[0])
    _sound((4 if text else 8) * page[1] <= page[4] - page[3])
    return _text_page(data, page) if text else data[page[3] : page[3] + 8 * page[1]].copy().view(np.int64)


def _texts(chunk: Chunk, words: pa.Array) -> pa.Array:
    """All rows of a column of texts."""
    parts = [pa.array([], pa.string())]
    for k in np.flatnonzero(chunk.column.pages[:, 0] != DICTIONARY).tolist():
        data, page = chunk.page(k)
        if page[0] == PLAIN:
            parts.append(_text_page(data, page))
        else:
            valid, index = np.empty(page[1], np.bool_), np.empty(page[1], np.int32)
            some = indices_of(data, page, len(words), valid, index)
            _sound(some >= 0)
            spread(valid, some, index)
            parts.append(words.take(pa.array(index, mask=index < 0)))
    return pa.concat_arrays(parts)


def _text_page(data: np.ndarray, page: np.ndarray) -> pa.Array:
    valid = np.empty(page[1], np.bool_)
    raw, ends = np.empty(page[4] - page[3], np.uint8), np.zeros(page[1] + 1, np.int32)
    _sound(_laid(data, page, valid, ends, raw))
    bits = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    texts = pa.StringArray.from_buffers(len(valid), pa.py_buffer(ends), pa.py_buffer(raw), bits)
    texts.validate(full=True)  # UTF-8
    return texts
