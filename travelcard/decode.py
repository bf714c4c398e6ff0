"""Pings from Parquet pages: as fast as they are decompressed, and dictionaries kept, so that each cell is found once.

Columns that are written in another way than most are decoded by Arrow (`sources.Piece`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from travelcard.compiled import compiled, word_at
from travelcard.errors import broken
from travelcard.pages import BEHIND_LENGTH, DICTIONARY, INDICES, PLAIN, Chunk, Desk, chunk_of

__all__ = ["NONE", "Block", "Values", "block_of"]

_CODED = ("cell", "plmn")  # columns whose dictionaries are of use
NONE = np.iinfo(np.int64).min  # of a number that is missing


@compiled
def _hybrid(data: np.ndarray, at: int, end: int, width: int, out: np.ndarray) -> int:
    """Runs and packed values of `width` bits (RLE/bit-packing hybrid): the largest one, -1 where there are too few."""
    largest: Any = 0
    k, n = 0, len(out)
    mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    while k < n:
        head = shift = 0
        while True:
            if at >= end or shift > 35:
                return -1
            byte = int(data[at])
            at += 1
            head |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if head & 1:
            groups = head >> 1
            count = min(groups * 8, n - k)
            if (count * width + 7) >> 3 > end - at:
                return -1
            for i in range(count):
                bit = i * width
                value = word_at(data, at + (bit >> 3)) >> np.uint64(bit & 7) & mask
                out[k + i] = value
                largest = max(largest, np.int64(value))
            at += groups * width
        else:
            count, size = min(head >> 1, n - k), (width + 7) >> 3
            if count == 0 or size > end - at:
                return -1
            value = word_at(data, at) & mask
            for i in range(k, k + count):
                out[i] = value
            largest = max(largest, np.int64(value))
            at += size
        k += count
    return largest


@compiled
def _levels(data, page, valid):
    """Which rows of a page have a value, by its definition levels: where these end, -1 where they are no levels."""
    length, at, last = page[2], page[3], page[4]
    if length == 0:
        valid[:] = True
        return at
    if length == BEHIND_LENGTH:
        length, at = np.int64(word_at(data, at) & np.uint64(0xFFFFFFFF)), at + 4
    end = at + length
    return end if end <= last and 0 <= _hybrid(data, at, end, 1, valid) <= 1 else np.int64(-1)


@compiled
def _indices_of(data, page, words, valid, index):
    """A page of indices of so many words, -1 where a row has none: whether they are sound."""
    at, end, some = _levels(data, page, valid), page[4], np.int64(valid.sum())
    if some == 0 and at >= 0:
        index[:] = -1
        return True
    if at < 0 or at >= end or data[at] > 32 or not 0 <= _hybrid(data, at + 1, end, data[at], index[:some]) < words:
        return False
    k = some - 1
    if some < len(index):
        for i in range(len(index) - 1, -1, -1):
            here = np.int64(valid[i])
            index[i] = index[max(k, 0)] if here else -1
            k -= here
    return True


@compiled
def _indices(data, pages, words, valid, index):
    """`_indices_of` for a column: whether it is sound."""
    row = np.int64(0)
    for p in range(len(pages)):
        end = row + pages[p, 1]
        if pages[p, 0] != DICTIONARY:
            if end > len(index) or not _indices_of(data, pages[p], words, valid[row:end], index[row:end]):
                return False
            row = end
    return row == len(index)


@compiled
def _plain_of(data, page, valid, out):
    """A page of numbers of 64 bits: whether it is sound."""
    at = _levels(data, page, valid)
    if at < 0 or 8 * np.int64(valid.sum()) > page[4] - at:
        return False
    for i in range(len(out)):
        value = np.int64(word_at(data, at))
        out[i] = value if valid[i] else NONE
        at += 8 * np.int64(valid[i])
    return True


@compiled
def _numbers(data, pages, words, valid, index, out):
    """A column of numbers of 64 bits, NONE where a row has none: whether it is sound."""
    row = np.int64(0)
    for p in range(len(pages)):
        end = row + pages[p, 1]
        if pages[p, 0] == DICTIONARY:
            continue
        if end > len(out):
            return False
        mine = out[row:end]
        if pages[p, 0] == INDICES:
            if not _indices_of(data, pages[p], len(words), valid[row:end], index[: end - row]):
                return False
            for i in range(len(mine)):
                mine[i] = words[index[i]] if index[i] >= 0 else NONE
        elif not _plain_of(data, pages[p], valid[row:end], mine):
            return False
        row = end
    return row == len(out)


@compiled
def _texts(data, page, valid, ends, raw):
    """A page of texts, each behind its length, laid one behind the other: whether it is sound."""
    at, end, k = _levels(data, page, valid), page[4], np.int64(0)
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


@dataclass(frozen=True, slots=True)
class Values:
    """A column of some rows: numbers or texts, or where each stands among some words, -1 where there is none.

    Where a number is missing `values` has NONE.
    """

    values: np.ndarray | pa.Array
    words: np.ndarray | pa.Array | None
    valid: np.ndarray | None  # None where all are
    type: pa.DataType

    def take(self, rows: np.ndarray) -> pa.Array:
        """Some of the rows, as Arrow has them."""
        if isinstance(self.values, pa.Array):
            return self.values.take(pa.array(rows))
        values = self.values[rows]
        if self.words is not None:
            return pa.array(self.words).take(pa.array(values, mask=values < 0)).cast(self.type)
        return pa.array(values, mask=None if self.valid is None else ~self.valid[rows]).cast(self.type)


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of a row group, as `Batch` has them but for what `Values` says."""

    file: str
    columns: Mapping[str, Values]
    numeric: bool
    row: int

    def __len__(self) -> int:
        return len(self.columns["subscriber"].values)

    def take(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Some rows, by their places in this block, as Arrow has them."""
        return {name: column.take(rows) for name, column in self.columns.items()}


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

    A cell and a plmn keep their dictionaries, where they have any. It lies on the desk, until the next one does. None
    where it is written in a way that is left to Arrow. Raises `InputError` where the file is not what it says it is.
    """
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    read = {}
    try:
        for name, source in columns.items():
            chunk = chunk_of(file, chunks[source], schema.field(source), desk)
            if chunk is None:
                return None
            read[name] = _values(name, chunk, group.num_rows, desk)
    except (pa.ArrowException, OSError) as error:
        raise broken(file, error) from error
    return Block(file, read, numeric, row)


def _values(name: str, chunk: Chunk, rows: int, desk: Desk) -> Values:
    """A column, decoded."""
    data, pages, valid = chunk.data, chunk.pages, desk.room(f"valid {name}", rows, np.bool_)
    text, plain = pa.types.is_string(chunk.type), (pages[:, 0] == PLAIN).any()
    words = _words(chunk)
    if name in _CODED and not plain:
        values = desk.room(f"indices {name}", rows, np.int32)
        _sound(_indices(data, pages, len(words), valid, values))
        return Values(values, words, _missing(valid), chunk.type)
    if not text:
        values = desk.room(f"values {name}", rows, np.int64)
        index = desk.room("indices", min(int(pages[:, 1].max(initial=0)), rows), np.int32)
        _sound(_numbers(data, pages, words, valid, index, values))
        return Values(values, None, _missing(valid), chunk.type)
    texts = _texts_of(chunk, words, rows)
    if name not in _CODED:
        return Values(texts, None, None, chunk.type)
    encoded = pc.dictionary_encode(texts)
    return Values(pc.fill_null(encoded.indices, -1).to_numpy(), encoded.dictionary, None, chunk.type)


def _sound(sound: bool) -> None:
    if not sound:
        raise pa.ArrowInvalid("a page does not hold what its header says")


def _missing(valid: np.ndarray) -> np.ndarray | None:
    return None if valid.all() else valid


def _words(chunk: Chunk) -> np.ndarray | pa.Array:
    """The dictionary of a column; no word where it has none."""
    pages = chunk.pages[chunk.pages[:, 0] == DICTIONARY][:1]
    rows = int(pages[:, 1].sum())
    _sound(4 * rows <= len(chunk.data))
    valid = np.empty(rows, np.bool_)
    if pa.types.is_string(chunk.type):
        return _text_page(chunk.data, pages[0], valid) if len(pages) else pa.array([], pa.string())
    words = np.empty(rows, np.int64)
    _sound(not len(pages) or _plain_of(chunk.data, pages[0], valid, words))
    return words


def _texts_of(chunk: Chunk, words: pa.Array, rows: int) -> pa.Array:
    """A column of texts."""
    parts = [pa.array([], pa.string())]
    for page in chunk.pages[chunk.pages[:, 0] != DICTIONARY]:
        _sound(page[1] <= rows)
        valid, index = np.empty(page[1], np.bool_), np.empty(page[1], np.int32)
        if page[0] == PLAIN:
            parts.append(_text_page(chunk.data, page, valid))
        else:
            _sound(_indices_of(chunk.data, page, len(words), valid, index))
            parts.append(words.take(pa.array(index, mask=index < 0)))
    texts = pa.concat_arrays(parts)
    _sound(len(texts) == rows)
    return texts


def _text_page(data: np.ndarray, page: np.ndarray, valid: np.ndarray) -> pa.Array:
    raw, ends = np.empty(page[4] - page[3], np.uint8), np.zeros(page[1] + 1, np.int32)
    _sound(_texts(data, page, valid, ends, raw))
    bits = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    texts = pa.StringArray.from_buffers(len(valid), pa.py_buffer(ends), pa.py_buffer(raw), bits)
    texts.validate(full=True)  # UTF-8
    return texts
