"""Pings from Parquet pages: as fast as they are decompressed, and dictionaries kept, so that each cell is found once.

Columns that are written in another way than most are decoded by Arrow (`sources.Piece`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from travelcard.compiled import compiled, word_at
from travelcard.errors import broken
from travelcard.pages import BEHIND_LENGTH, DICTIONARY, INDICES, PLAIN, Chunk, Desk, chunk_of

__all__ = [
    "NONE",
    "Block",
    "Column",
    "Rest",
    "Space",
    "Span",
    "block_of",
    "indices_of",
    "numbers_of",
    "plain",
    "spread",
]

NONE = np.iinfo(np.int64).min  # of a number that is missing
SPAN = 1 << 16  # rows at least that are decompressed together: fewer cost more for being so many spans
_NO_WORDS = np.empty(0, np.int64)
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
def numbers_of(column, page, room, out):
    """A page of numbers of 64 bits, NONE where a row has none: (whether it is sound, the bytes and where they begin).

    They are where they are written if all are there, and else laid in `out`.
    """
    data, valid = column.data, room.valid[: page[1]]
    if page[0] == INDICES:
        some = indices_of(data, page, len(column.words), valid, room.indices)
        laid, at, sound = (out if some == len(valid) else room.values), np.int64(0), some >= 0
        for k in range(some):
            laid[k] = column.words[np.uint64(room.indices[k])]
        values = laid.view(np.uint8)
    else:
        at, some = _levels(data, page, valid)
        values, sound = data, at >= 0 and 8 * some <= page[4] - at
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


class Column(NamedTuple):
    """A column of a row group as kernels read it: its pages, decompressed, and the numbers its indices stand for."""

    data: np.ndarray  # bytes
    pages: np.ndarray  # as `Chunk.pages` has them
    words: np.ndarray  # int64


_NO_COLUMN = Column(np.empty(0, np.uint8), np.empty((0, 8), np.int64), _NO_WORDS)


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


class Span(NamedTuple):
    """Rows of a block whose pages are decompressed together, and lie on the desk until those of the next span do."""

    first: int  # row of the block
    rows: int
    subscribers: Column | pa.Array  # an array where they are texts
    times: Column
    cells: Column
    plmn: Column  # without a page where there is none


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of a row group, as `Batch` has them, in pages. They lie on a desk, until the next block does."""

    file: str
    numeric: bool
    row: int
    rows: int
    types: Mapping[str, pa.DataType]
    chunks: Mapping[str, Chunk]
    words: Mapping[str, np.ndarray | pa.Array]  # of each column that its indices stand for
    numbers: Mapping[str, np.ndarray]  # `words` where they are numbers, and the numbers of those of plmn
    plmn: np.ndarray | None  # instead of a chunk, where each row's plmn is among the words, NONE where there is none

    @property
    def longest(self) -> int:
        """The rows of the longest page, at most."""
        if not self.numeric or self.plmn is not None:
            return self.rows
        return max(int(chunk.table[:, 1].max()) for chunk in self.chunks.values())

    def spans(self) -> Iterator[Span]:
        """All rows, some at a time where pages of all columns end in the same row, as those of most writers do.

        Raises `InputError` where a page is not the one that was written.
        """
        ends = {name: np.cumsum((c.table[:, 0] != DICTIONARY) * c.table[:, 1]) for name, c in self.chunks.items()}
        lasts = [0]
        for row in reduce(np.intersect1d, ends.values()).tolist():
            if row - lasts[-1] >= SPAN or row == self.rows:
                lasts.append(row)
        pages = {name: np.searchsorted(rows, lasts, "right").tolist() for name, rows in ends.items()}
        for k in range(len(lasts) - 1):
            try:
                yield self._span(lasts[k], lasts[k + 1], {name: at[k : k + 2] for name, at in pages.items()})
            except pa.ArrowException as error:
                raise broken(self.file, error) from error

    def _span(self, first: int, last: int, pages: Mapping[str, Sequence[int]]) -> Span:
        read: dict[str, Any] = {"plmn": _NO_COLUMN if self.plmn is None else plain(self.plmn[first:last])}
        for name, which in pages.items():
            data, table = self.chunks[name].pages(*which)
            if name in self.numbers:
                read[name] = Column(data, table, self.numbers[name])
            else:
                read[name] = _texts(data, table, self.words[name])
        return Span(first, last - first, read["subscriber"], read["time"], read["cell"], read["plmn"])

    def taken(self, rest: Rest, texts: Sequence[pa.Array]) -> dict[str, pa.Array]:
        """Rows that were put aside, as Arrow has them; `texts` are their subscribers, where these are texts."""
        out = {name: pa.array(v, mask=v == NONE) for name, v in (("subscriber", rest.ids), ("time", rest.times))}
        out["cell"] = pa.array(rest.cells, mask=~rest.known)
        if not self.numeric:
            out["subscriber"] = pa.concat_arrays(texts)
        if "plmn" in self.words:
            out["plmn"] = self.words["plmn"].take(pa.array(rest.plmn, mask=rest.plmn < 0))
        return {name: out[name].cast(kind) for name, kind in self.types.items()}


def block_of(
    file: str,
    group: pq.RowGroupMetaData,
    schema: pa.Schema,
    columns: Mapping[str, str],
    numeric: bool,
    row: int,
    desk: Desk,
) -> Block | None:
    """A row group of a file, whose first row is the file's `row`: `columns` says which columns, under which names.

    None where it is written in a way that is left to Arrow. Raises `InputError` where the file is not what it says.
    """
    found = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    chunks: dict[str, Chunk] = {}
    try:
        for name, source in columns.items():
            chunk = chunk_of(file, found[source], schema.field(source), desk, name)
            if chunk is None:
                return None
            rows = chunk.table[chunk.table[:, 0] != DICTIONARY, 1]
            _sound((rows <= group.num_rows).all() and rows.sum() == group.num_rows)
            chunks[name] = chunk
        types = {name: chunk.type for name, chunk in chunks.items()}
        words, coded = {name: _words(chunk) for name, chunk in chunks.items()}, None
        if "plmn" in chunks and (chunks["plmn"].table[:, 0] == PLAIN).any():
            plmn = chunks.pop("plmn")
            texts = pc.dictionary_encode(_texts(*plmn.pages(0, len(plmn.table)), words["plmn"]))
            words["plmn"] = texts.dictionary
            coded = pc.fill_null(texts.indices.cast(pa.int64()), NONE).to_numpy()
    except (pa.ArrowException, OSError) as error:
        raise broken(file, error) from error
    numbers = {name: some for name, some in words.items() if isinstance(some, np.ndarray)}
    numbers["plmn"] = np.arange(len(words.get("plmn", ())))
    return Block(file, numeric, row, group.num_rows, types, chunks, words, numbers, coded)


def _sound(sound: bool) -> None:
    if not sound:
        raise pa.ArrowInvalid("a page does not hold what its header says")


def plain(values: np.ndarray) -> Column:
    """Numbers of 64 bits as a column of one page."""
    page = (PLAIN, len(values), 0, 0, values.nbytes, values.nbytes, 0, -1)
    return Column(values.view(np.uint8), np.array([page]), _NO_WORDS)


def _words(chunk: Chunk) -> np.ndarray | pa.Array:
    """The dictionary of a column; no word where it has none."""
    text, at = pa.types.is_string(chunk.type), np.flatnonzero(chunk.table[:, 0] == DICTIONARY)
    if not len(at):
        return pa.array([], pa.string()) if text else _NO_WORDS
    data, (page,) = chunk.pages(at[0], at[0] + 1)
    _sound((4 if text else 8) * page[1] <= page[4] - page[3])
    return _text_page(data, page) if text else data[: 8 * page[1]].copy().view(np.int64)


def _texts(data: np.ndarray, pages: np.ndarray, words: pa.Array) -> pa.Array:
    """Pages of texts."""
    parts = [pa.array([], pa.string())]
    for page in pages[pages[:, 0] != DICTIONARY]:
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
