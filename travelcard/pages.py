"""Parquet files page by page: their checksums, and the pages of plain columns, decompressed one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal.isal_zlib import crc32

from travelcard.compiled import compiled
from travelcard.schema import decoded_as
from travelcard.snappy import unpacked

__all__ = [
    "BEHIND_LENGTH",
    "DICTIONARY",
    "INDICES",
    "PADDING",
    "PLAIN",
    "Chunk",
    "Desk",
    "chunk_of",
]

# Fields of a PageHeader, of its pages' headers, and kinds of page and of encoding (parquet.thrift).
_UNPACKED, _SIZE, _CRC, _DATA, _WORDS, _DATA_2 = 2, 3, 4, 5, 7, 8
_ROWS, _ENCODING, _LEVEL_ENCODING, _ENCODING_2, _LEVELS_2, _IS_PACKED_2 = 1, 2, 3, 4, 5, 7
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8
_MOST = 1 << 32  # bytes of a column of a row group, decompressed: a damaged header may say anything
SHORT, UNSOUND, FOREIGN = -1, -2, -3  # the table; a header; an encoding that is not taken
PLAIN, INDICES, DICTIONARY = range(3)  # what a page holds
BEHIND_LENGTH = -1  # of levels that stand behind their length, in four bytes
PADDING = 8  # bytes behind the pages: the last value is read as a whole word
_NONE = -(1 << 62)  # of a field that a header does not have


@compiled(inline="always")
def _varint(data: np.ndarray, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends: past `end` where it does not."""
    value = shift = 0
    while at < end:
        byte = int(data[at])
        at += 1
        value |= (byte & 127) << min(shift, 56)
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
    above = np.zeros(4, np.int64)  # of each struct that is open, the field in which it stands
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
            field, at = _varint(data, at, end)
            field = field >> 1 ^ -(field & 1)
        value = _NONE
        if kind in (1, 2):  # true and false
            value = int(kind == 1)
        elif 4 <= kind <= 6:  # whole numbers
            value, at = _varint(data, at, end)
            value = value >> 1 ^ -(value & 1)
        elif kind == 8:  # bytes
            length, at = _varint(data, at, end)
            at += min(length, end) if length >= 0 else end
        elif kind == 12 and depth < 3:  # a struct
            above[depth], row, field = field, (field if depth == 0 else row), 0
            depth += 1
        else:
            return -1
        if value != _NONE and depth < 2 and 0 <= row < 9 and 0 <= field < 9:
            fields[row, field] = value
    return -1


@compiled
def _layout(data: np.ndarray, optional: bool, packed: bool, table: np.ndarray) -> int:
    """Find the pages of a column chunk: how many there are, or SHORT, UNSOUND or FOREIGN.

    A row of the table is what the page holds, its rows, the length of its levels, where its bytes begin and end, how
    many they are when decompressed, how many of the first ones are not compressed, and its checksum, -1 for none.
    """
    fields = np.empty((9, 9), np.int64)
    at, end, n = 0, len(data), 0
    while at < end:
        at = _header(data, at, end, fields)
        if n == len(table):
            return SHORT
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
        if encoding not in (-1, _PLAIN, _PLAIN_DICTIONARY, _RLE_DICTIONARY):
            return FOREIGN
        kind = DICTIONARY if encoding < 0 else PLAIN if encoding == _PLAIN else INDICES
        crc = fields[0, _CRC] & 0xFFFFFFFF if fields[0, _CRC] != _NONE else -1
        table[n] = (kind, rows, levels, at, at + length, size, raw, crc)
        at += length
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


def _unpacked_zstd(data: np.ndarray, pages: np.ndarray, out: np.ndarray) -> bool:
    """As `snappy.unpacked`, of pages in the Zstandard format."""
    try:
        return all(
            cramjam.zstd.decompress_into(data.data[begin:end], out[to:last].data) == last - to
            for begin, end, to, last in pages.tolist()
        )
    except cramjam.DecompressionError:
        return False


_UNPACK = {"SNAPPY": unpacked, "ZSTD": _unpacked_zstd}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column of a row group: its bytes as they are in the file, and the `_layout` of its pages."""

    name: str
    path: str  # of the column in its file
    type: pa.DataType
    codec: str
    raw: np.ndarray
    layout: list[list[int]]
    table: np.ndarray  # the same, but for where each page begins and ends when all are decompressed
    desk: Desk

    def pages(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Some pages, decompressed, laid on the desk until the next ones are.

        (their bytes, PADDING of which mean nothing; of each what it holds, its rows, the length of its levels, where it
        begins and ends). Raises `ArrowInvalid` where a page is not the one that was written.
        """
        table = self.table[first:last].copy()
        table[:, 3:5] -= table[:1, 3]
        data = self.desk.room(f"pages {self.name}", int(table[-1, 4]) + PADDING)
        source, begins, packed = self.raw.data, table[:, 3].tolist(), []
        for (_, _, _, begin, end, size, plain, crc), at in zip(self.layout[first:last], begins, strict=True):
            if crc >= 0 and crc32(source[begin:end]) != crc:
                raise pa.ArrowInvalid(f"a page of {self.path} does not have its checksum")
            if plain:
                data[at : at + plain] = self.raw[begin : begin + plain]
            if plain < size:
                packed.append((begin + plain, end, at + plain, at + size))
        if packed and not _UNPACK[self.codec](self.raw, np.array(packed), data):
            raise pa.ArrowInvalid(f"a page of {self.path} cannot be decompressed, or not to what its header says")
        return data, table


def chunk_of(path: str, chunk: pq.ColumnChunkMetaData, field: pa.Field, desk: Desk, name: str) -> Chunk | None:
    """A column of a row group, laid on the desk under a name; None where a page is of an encoding that is not taken.

    Raises `ArrowInvalid` where the file is not what its footer says.
    """
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    raw = desk.room(f"packed {name}", chunk.total_compressed_size)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        if file.readinto(raw.data) != len(raw):
            raise pa.ArrowInvalid(f"{chunk.path_in_schema} ends before its end")
    most, n = 256, SHORT
    while n == SHORT:
        most *= 4
        table = np.empty((most, 8), np.int64)
        n = _layout(raw, field.nullable, chunk.compression != "UNCOMPRESSED", table)
    if n == FOREIGN:
        return None
    if n == UNSOUND:
        raise pa.ArrowInvalid(f"a page of {chunk.path_in_schema} has no header")
    table, layout = table[:n], table[:n].tolist()
    ends = np.cumsum(table[:, 5])
    if n and ends[-1] > _MOST:
        raise pa.ArrowInvalid(f"the pages of {chunk.path_in_schema} are longer than any are")
    table[:, 3], table[:, 4] = ends - table[:, 5], ends
    return Chunk(name, chunk.path_in_schema, decoded_as(field.type), chunk.compression, raw, layout, table, desk)
