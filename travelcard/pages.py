"""Parquet files page by page: their checksums, and the pages of plain columns, decompressed one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Any, NamedTuple

import cramjam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal.isal_zlib import crc32

from travelcard.compiled import compiled, copy_bytes, scratch
from travelcard.schema import decoded_as
from travelcard.snappy import unpacked

__all__ = [
    "BEHIND_LENGTH",
    "DELTA",
    "DICTIONARY",
    "INDICES",
    "NO_COLUMN",
    "PADDING",
    "PAGE",
    "PLAIN",
    "Chunk",
    "Column",
    "Desk",
    "chunk_of",
    "header_room",
    "opened",
    "page_at",
    "plain",
    "varint",
]

# Fields of a PageHeader, of its pages' headers, and kinds of page and of encoding (parquet.thrift).
_UNPACKED, _SIZE, _CRC, _DATA, _WORDS, _DATA_2 = 2, 3, 4, 5, 7, 8
_ROWS, _ENCODING, _LEVEL_ENCODING, _ENCODING_2, _LEVELS_2, _IS_PACKED_2 = 1, 2, 3, 4, 5, 7
_PLAIN, _PLAIN_DICTIONARY, _RLE, _DELTA, _RLE_DICTIONARY = 0, 2, 3, 5, 8
_MOST = 1 << 32  # bytes of a column of a row group, decompressed: a damaged header may say anything
SHORT, UNSOUND, FOREIGN = -1, -2, -3  # the table; a header; an encoding that is not taken
PLAIN, INDICES, DICTIONARY, DELTA = range(4)  # what a page holds
BEHIND_LENGTH = -1  # of levels that stand behind their length, in four bytes
PAGE = 8  # numbers that are known of a page
PADDING = 8  # bytes behind the pages: the last value is read as a whole word
_NONE = -(1 << 62)  # of a field that a header does not have


@compiled(inline="always")
def varint(data: np.ndarray, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends: past `end` where it does not."""
    value = shift = 0
    while at < end:
        byte = int(data[at])
        at += 1
        value |= (byte & 127) << min(shift, 63)
        if byte < 128:
            return value, at
        shift += 7
    return value, end + 1


@compiled
def _header(data: np.ndarray, at: int, end: int, fields: np.ndarray) -> int:
    """Read the header of a page, a struct of Thrift's compact protocol: where it ends, -1 where it is none.

    `fields` gets its numbers and truths in row 0, and those of a struct within it in the row of its field.
    """
    fields[:] = _NONE
    above = scratch(4, np.int64)  # of each struct that is open, the field in which it stands
    depth = row = field = 0
    while at < end:
        head = int(data[at])
        at += 1
        if head == 0:
            if depth == 0:
                return at
            depth -= 1
            field = int(above[depth])
            row = int(above[0]) if depth else 0
            continue
        kind = head & 15
        if head > 15:
            field += head >> 4
        else:
            field, at = varint(data, at, end)
            field = field >> 1 ^ -(field & 1)
        value = _NONE
        if kind in (1, 2):  # true and false
            value = int(kind == 1)
        elif 4 <= kind <= 6:  # whole numbers
            value, at = varint(data, at, end)
            value = value >> 1 ^ -(value & 1)
        elif kind == 8:  # bytes
            length, at = varint(data, at, end)
            at += min(length, end) if length >= 0 else end
        elif kind == 12 and depth < 3:  # a struct
            above[depth], row, field = field, (field if depth == 0 else row), 0
            depth += 1
        else:
            return -1
        if value != _NONE and depth < 2 and 0 <= row < 9 and 0 <= field < 9:
            fields[row, field] = value
    return -1


def header_room() -> np.ndarray:
    """Room for the header of a page."""
    return np.empty((9, 9), np.int64)


@compiled
def page_at(
    data: np.ndarray, at: int, end: int, optional: bool, packed: bool, fields: np.ndarray, row: np.ndarray
) -> int:
    """Find the page that begins at a byte: where it ends, UNSOUND or FOREIGN. `fields` is room for its header.

    The row gets what the page holds, its rows, the length of its levels, where its bytes begin and end, how many they
    are when decompressed, how many of the first ones are not compressed, and its checksum, -1 for none.
    """
    at = _header(data, at, end, fields)
    size, length, levels, raw = fields[0, _UNPACKED], fields[0, _SIZE], 0, 0
    if fields[_DATA, _ROWS] != _NONE:
        rows, encoding = fields[_DATA, _ROWS], fields[_DATA, _ENCODING]
        levels = BEHIND_LENGTH if optional else 0
        if optional and fields[_DATA, _LEVEL_ENCODING] != _RLE:
            encoding = -2
    elif fields[_DATA_2, _ROWS] != _NONE:
        rows, encoding, levels = fields[_DATA_2, _ROWS], fields[_DATA_2, _ENCODING_2], fields[_DATA_2, _LEVELS_2]
        raw = levels if fields[_DATA_2, _IS_PACKED_2] != 0 else size
    else:
        rows, encoding = fields[_WORDS, _ROWS], -1
    raw = raw if packed else size
    if (
        at < 0
        or not 0 <= length <= end - at
        or not 0 <= raw <= min(size, length)
        or not (rows >= 0 and size < _MOST)
        or levels > size
    ):
        return UNSOUND
    if encoding not in (-1, _PLAIN, _PLAIN_DICTIONARY, _DELTA, _RLE_DICTIONARY):
        return FOREIGN
    kind = DICTIONARY if encoding < 0 else PLAIN if encoding == _PLAIN else DELTA if encoding == _DELTA else INDICES
    crc = fields[0, _CRC] & 0xFFFFFFFF if fields[0, _CRC] != _NONE else -1
    row[0], row[1], row[2], row[3] = kind, rows, levels, at
    row[4], row[5], row[6], row[7] = at + length, size, raw, crc
    return at + length


@compiled
def _layout(data: np.ndarray, optional: bool, packed: bool, fields: np.ndarray, table: np.ndarray) -> int:
    """Find the pages of a column chunk: how many there are, or SHORT, UNSOUND or FOREIGN. As `page_at` for each."""
    at, n = 0, 0
    while at < len(data):
        if n == len(table):
            return SHORT
        at = page_at(data, at, len(data), optional, packed, fields, table[n])
        if at < 0:
            return at
        if table[n, 0] == DELTA:
            return FOREIGN
        n += 1
    return n


class Desk:
    """One thread's room for what it decodes, kept from row group to row group: the first touch of a page costs most."""

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def room(self, name: str, n: int, kind: Any = np.uint8) -> np.ndarray:
        """Room for `n` of a kind, under a name: what was there is written over."""
        if name not in self._kept or len(self._kept[name]) < n:
            self._kept[name] = np.empty(n + n // 8, kind)  # the next row group is a little larger
        return self._kept[name][:n]

    def rooms(self, about: str, names: Sequence[str], kinds: Sequence[Any], n: int) -> list[np.ndarray]:
        """Room for `n` of each of several kinds, under names of their own about one thing."""
        return [self.room(f"{about} {name}", n, kind) for name, kind in zip(names, kinds, strict=True)]


class Column(NamedTuple):
    """A column of a row group as kernels read it: its pages, packed, and room for two of them."""

    raw: np.ndarray  # bytes, PADDING of which mean nothing
    pages: np.ndarray  # the `_layout`
    packed: np.ndarray  # of each page where its packed bytes begin and end in `raw`, and where they go in the room
    room: np.ndarray  # bytes: pages 0 and 1, 2 and 3, and so on, decompressed one behind the other
    held: np.ndarray  # the first page in the room
    words: np.ndarray  # int64: what indices stand for


@compiled
def opened(column, page):
    """A page, decompressed: (whether that could be done, its bytes and where it begins and ends among them)."""
    begin, end, size = column.pages[page, 3], column.pages[page, 4], column.pages[page, 5]
    if column.pages[page, 6] == size:
        return True, column.raw, begin, end
    first = page & ~1
    if column.held[0] != first:
        column.held[0] = -1
        other = min(page ^ 1, len(column.pages) - 1)
        alone = column.pages[other, 6] == column.pages[other, 5]
        low, high = (page, page + 1) if alone else (first, first + 2)
        for k in range(low, min(high, len(column.pages))):
            plain = column.pages[k, 6]
            copy_bytes(column.room, column.packed[k, 2] - plain, column.raw, column.pages[k, 3], plain)
        if not unpacked(column.raw, column.packed[low:high], column.room):
            return False, column.room, begin, end
        column.held[0] = first
    last = column.packed[page, 3]
    return True, column.room, last - size, last


@compiled
def _where(column, page):
    """Of a page, decompressed: (whether that could be done, where it begins and ends)."""
    sound, _, begin, end = opened(column, page)
    return sound, begin, end


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column of a row group: its name in its file, what it is decoded as, its pages."""

    path: str
    type: pa.DataType
    column: Column

    def page(self, page: int) -> tuple[np.ndarray, np.ndarray]:
        """(bytes, a page in them as the `_layout` has it). Raises `ArrowInvalid` where it cannot be decompressed."""
        sound, begin, end = _where(self.column, page)
        if not sound:
            raise pa.ArrowInvalid(f"a page of {self.path} cannot be decompressed to what its header says")
        where = self.column.pages[page].copy()
        where[3:5] = begin, end
        return (self.column.raw if where[6] == where[5] else self.column.room), where


def chunk_of(file: FileIO, chunk: pq.ColumnChunkMetaData, field: pa.Field, desk: Desk, name: str) -> Chunk | None:
    """A column of a row group, laid on the desk under a name; None where a page is of an encoding that is not taken.

    Raises `ArrowInvalid` where the file is not what its footer says, or a page does not have its checksum.
    """
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    size = chunk.total_compressed_size
    raw = desk.room(f"packed {name}", size + PADDING)
    file.seek(start)
    if file.readinto(raw.data[:size]) != size:
        raise pa.ArrowInvalid(f"{chunk.path_in_schema} ends before its end")
    most, n = 256, SHORT
    while n == SHORT:
        most *= 4
        table = np.empty((most, 8), np.int64)
        n = _layout(raw[:size], field.nullable, chunk.compression != "UNCOMPRESSED", header_room(), table)
    if n == FOREIGN:
        return None
    if n == UNSOUND:
        raise pa.ArrowInvalid(f"a page of {chunk.path_in_schema} has no header")
    pages, source = table[:n], raw.data
    if pages[:, 5].sum() > _MOST:
        raise pa.ArrowInvalid(f"the pages of {chunk.path_in_schema} are longer than any are")
    for begin, end, crc in pages[:, [3, 4, 7]].tolist():
        if crc >= 0 and crc32(source[begin:end]) != crc:
            raise pa.ArrowInvalid(f"a page of {chunk.path_in_schema} does not have its checksum")
    if chunk.compression == "ZSTD":
        raw, pages = _unpacked_zstd(raw, pages, chunk.path_in_schema, desk, name)
    column = _column(raw, pages, desk, name)
    return Chunk(chunk.path_in_schema, decoded_as(field.type), column)


def _column(raw: np.ndarray, pages: np.ndarray, desk: Desk, name: str) -> Column:
    """Pages with room for two of them."""
    lasts = pages[:, 5].copy()
    lasts[1::2] += lasts[: len(lasts) - 1 : 2]
    packed = np.stack([pages[:, 3] + pages[:, 6], pages[:, 4], lasts - pages[:, 5] + pages[:, 6], lasts], 1)
    room = desk.room(f"pages {name}", int(lasts.max(initial=0)) + PADDING)
    return Column(raw, pages, packed, room, np.array([-1]), np.empty(0, np.int64))


def _unpacked_zstd(
    raw: np.ndarray, pages: np.ndarray, path: str, desk: Desk, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pages in the Zstandard format as such that are not packed: (their bytes, they themselves)."""
    out, at = desk.room(f"unpacked {name}", int(pages[:, 5].sum()) + PADDING), 0
    laid = pages.copy()
    for page, (_, _, _, begin, end, size, plain, _) in enumerate(pages.tolist()):
        out[at : at + plain] = raw[begin : begin + plain]
        try:
            packed, room = raw.data[begin + plain : end], out[at + plain : at + size].data
            sound = plain == size or cramjam.zstd.decompress_into(packed, room) == size - plain
        except cramjam.DecompressionError:
            sound = False
        if not sound:
            raise pa.ArrowInvalid(f"a page of {path} cannot be decompressed to what its header says")
        laid[page, 3:7] = at, at + size, size, size
        at += size
    return out, laid


def plain(values: np.ndarray) -> Column:
    """Numbers of 64 bits as a column of one page."""
    raw, none = values.view(np.uint8), np.empty(0, np.int64)
    pages = np.array([(PLAIN, len(values), 0, 0, len(raw), len(raw), len(raw), -1)])
    return Column(raw, pages, np.zeros((1, 4), np.int64), raw, none, none)


NO_COLUMN = plain(np.empty(0, np.int64))._replace(pages=np.empty((0, 8), np.int64))
