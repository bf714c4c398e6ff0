"""Parquet files page by page: their checksums, and the pages of plain columns, decompressed one behind the other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import cramjam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from isal.isal_zlib import crc32

from travelcard.compiled import compiled

__all__ = [
    "BEHIND_LENGTH",
    "DICTIONARY",
    "INDICES",
    "PADDING",
    "PLAIN",
    "Chunk",
    "Desk",
    "chunk_of",
    "chunks_of",
    "kind_of",
    "plain",
    "verify",
]

# Fields of a PageHeader, of its pages' headers, and kinds of page and of encoding (parquet.thrift).
_UNPACKED, _SIZE, _CRC, _DATA, _WORDS, _DATA_2 = 2, 3, 4, 5, 7, 8
_ROWS, _ENCODING, _ENCODING_2, _LEVELS_2, _IS_PACKED_2 = 1, 2, 4, 5, 7
_ENCODINGS = {"PLAIN", "RLE", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_CODECS = {"UNCOMPRESSED": None, "SNAPPY": cramjam.snappy.decompress_raw_into, "ZSTD": cramjam.zstd.decompress_into}
PLAIN, INDICES, DICTIONARY = range(3)  # what a page holds
BEHIND_LENGTH = -1  # of levels that stand behind their length, in four bytes
PADDING = 8  # bytes behind the pages: the last value is read as a whole word
_NONE = -(1 << 62)  # of a field that a header does not have


@compiled(inline="always")
def _varint(data, at, end):
    """A number of seven bits a byte, and where it ends: past `end` where it does not."""
    value = shift = np.int64(0)
    while at < end:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << min(shift, 56)
        if byte < 128:
            return value, at
        shift += 7
    return value, end + 1


@compiled
def _header(data, at, end, fields):
    """Read the header of a page, a struct of Thrift's compact protocol: where it ends, -1 where it is none.

    `fields` gets its numbers and truths in row 0, and those of a struct within it in the row of its field.
    """
    fields[:] = _NONE
    above = np.zeros(4, np.int64)  # of each struct that is open, the field in which it stands
    depth = row = field = np.int64(0)
    while at < end:
        head = np.int64(data[at])
        at += 1
        if head == 0:
            if depth == 0:
                return at
            depth -= 1
            field = above[depth]
            row = above[0] if depth else np.int64(0)
            continue
        kind = head & 15
        if head > 15:
            field += head >> 4
        else:
            field, at = _varint(data, at, end)
            field = field >> 1 ^ -(field & 1)
        value = _NONE
        if kind in (1, 2):  # true and false
            value = np.int64(kind == 1)
        elif 4 <= kind <= 6:  # whole numbers
            value, at = _varint(data, at, end)
            value = value >> 1 ^ -(value & 1)
        elif kind == 8:  # bytes
            length, at = _varint(data, at, end)
            at += max(length, end) if length < 0 else length
        elif kind == 12 and depth < 3:  # a struct
            above[depth], row, field = field, (field if depth == 0 else row), np.int64(0)
            depth += 1
        else:
            return np.int64(-1)
        if value != _NONE and depth < 2 and 0 <= row < 9 and 0 <= field < 9:
            fields[row, field] = value
    return np.int64(-1)


@compiled
def _layout(data, optional, packed, table):
    """Find the pages of a column chunk: how many there are, -1 where one has no header, -2 where there are more.

    A row of the table is what the page holds, its rows, the length of its levels, where its bytes begin and end, how
    many they are when decompressed, how many of the first ones are not compressed, and its checksum, -1 for none.
    """
    fields = np.empty((9, 9), np.int64)
    at, end, n = np.int64(0), np.int64(len(data)), 0
    while at < end:
        at = _header(data, at, end, fields)
        if n == len(table):
            return -2
        size, length, kind = fields[0, _UNPACKED], fields[0, _SIZE], DICTIONARY
        if fields[_DATA, _ROWS] != _NONE:
            rows, encoding, levels, raw = fields[_DATA, _ROWS], fields[_DATA, _ENCODING], BEHIND_LENGTH, np.int64(0)
            levels = BEHIND_LENGTH if optional else 0
            kind = PLAIN if encoding == 0 else INDICES
        elif fields[_DATA_2, _ROWS] != _NONE:
            rows, encoding, levels = fields[_DATA_2, _ROWS], fields[_DATA_2, _ENCODING_2], fields[_DATA_2, _LEVELS_2]
            raw = levels if fields[_DATA_2, _IS_PACKED_2] != 0 else size
            kind = PLAIN if encoding == 0 else INDICES
        else:
            rows, encoding, levels, raw = fields[_WORDS, _ROWS], np.int64(0), np.int64(0), np.int64(0)
        raw = raw if packed else size
        if at < 0 or not 0 <= length <= end - at or not 0 <= raw <= min(size, length) or not 0 <= rows < 1 << 31:
            return -1
        if encoding not in (0, 2, 8) or levels > size:  # PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY
            return -1
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
            self._kept[name] = np.empty(n, kind)
        return self._kept[name][:n]


class Chunk(NamedTuple):
    """The pages of a column of a row group, decompressed."""

    type: pa.DataType
    data: np.ndarray  # bytes, PADDING of which mean nothing
    pages: np.ndarray  # int64; of each page what it holds, its rows, the length of its levels, where it begins and ends


def _pages(path: str, chunk: pq.ColumnChunkMetaData, *, optional: bool, desk: Desk) -> tuple[np.ndarray, np.ndarray]:
    """(the bytes of a column chunk, `_layout` of its pages, whose checksums are those of their bytes)."""
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    raw = desk.room("packed", chunk.total_compressed_size)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        if file.readinto(raw.data) != len(raw):
            raise pa.ArrowInvalid(f"{chunk.path_in_schema} ends before its end")
    most, n = 256, -2
    while n == -2:
        most *= 4
        table = np.empty((most, 8), np.int64)
        n = _layout(raw, optional, chunk.compression != "UNCOMPRESSED", table)
    if n < 0:
        raise pa.ArrowInvalid(f"a page of {chunk.path_in_schema} has no header")
    view = raw.data
    for _, _, _, begin, end, _, _, crc in table[:n].tolist():
        if crc >= 0 and crc32(view[begin:end]) != crc:
            raise pa.ArrowInvalid(f"a page of {chunk.path_in_schema} does not have its checksum")
    return raw, table[:n]


def chunk_of(path: str, chunk: pq.ColumnChunkMetaData, field: pa.Field, desk: Desk) -> Chunk:
    """A column of a row group. Raises `ArrowInvalid` where its pages are not those that were written."""
    raw, table = _pages(path, chunk, optional=field.nullable, desk=desk)
    ends = np.cumsum(table[:, 5])
    data = desk.room("unpacked", int(ends[-1]) + PADDING) if len(table) else np.empty(PADDING, np.uint8)
    unpack, source, at = _CODECS[chunk.compression], raw.data, 0
    for _, _, _, begin, end, size, plain, _ in table.tolist():
        if plain:
            data[at : at + plain] = raw[begin : begin + plain]
        try:
            if plain < size and unpack(source[begin + plain : end], data[at + plain : at + size]) != size - plain:
                raise pa.ArrowInvalid(f"a page of {chunk.path_in_schema} has fewer bytes than its header says")
        except cramjam.DecompressionError as error:
            raise pa.ArrowInvalid(f"a page of {chunk.path_in_schema} cannot be decompressed: {error}") from error
        at += size
    table[:, 3], table[:, 4] = ends - table[:, 5], ends
    return Chunk(kind_of(field.type), data, table)


def chunks_of(group: pq.RowGroupMetaData) -> Mapping[str, pq.ColumnChunkMetaData]:
    """The column chunks of a row group by their names."""
    return {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}


def verify(path: str, group: pq.RowGroupMetaData, columns: Collection[str]) -> None:
    """Raise `ArrowInvalid` where the pages of some columns of a row group are not those that were written.

    Pages without a checksum are passed over.
    """
    desk = Desk()
    for name, chunk in chunks_of(group).items():
        if name in columns:
            _pages(path, chunk, optional=True, desk=desk)


def plain(chunk: pq.ColumnChunkMetaData, of: pa.DataType) -> bool:
    """Whether a column is one of 64 bits or of text, written as most writers write such: `chunk_of` takes these."""
    number = pa.types.is_int64(of) or pa.types.is_timestamp(of)
    return (
        chunk.compression in _CODECS
        and _ENCODINGS.issuperset(chunk.encodings)
        and chunk.total_uncompressed_size < 1 << 31
        and chunk.physical_type == ("INT64" if number else "BYTE_ARRAY" if pa.types.is_string(kind_of(of)) else None)
    )


def kind_of(of: pa.DataType) -> pa.DataType:
    """What a column is decoded as: any text as text."""
    of = of.value_type if pa.types.is_dictionary(of) else of
    text = pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)
    return pa.string() if text else of
