"""The checksums that stand before the pages of a Parquet file, which the decoder here does not look at."""

from __future__ import annotations

import zlib
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["verify"]

_SIZE, _CRC = 3, 4  # fields of a PageHeader (parquet.thrift)
_BOOLS, _NUMBERS, _BINARY, _STRUCT = (1, 2), (4, 5, 6), 8, 12  # kinds of Thrift's compact protocol


def verify(path: str, group: pq.RowGroupMetaData, columns: Collection[str]) -> None:
    """Raise `ArrowInvalid` where the pages of some columns of a row group are not those that were written.

    Pages without a checksum are passed over.
    """
    chosen = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema in columns]
    buffer = memoryview(bytearray(max((c.total_compressed_size for c in chosen), default=0)))
    with open(path, "rb") as file:
        for column in chosen:
            file.seek(min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset))
            chunk, at = buffer[: file.readinto(buffer[: column.total_compressed_size])], 0
            try:
                while at < len(chunk):
                    fields, at = _struct(chunk, at)
                    end = at + fields[_SIZE]
                    if _CRC in fields and zlib.crc32(chunk[at:end]) != fields[_CRC] & 0xFFFFFFFF:
                        raise pa.ArrowInvalid(f"a page of {column.path_in_schema} does not have its checksum")
                    if end < at:
                        raise KeyError(_SIZE)
                    at = end
            except (IndexError, KeyError) as error:
                raise pa.ArrowInvalid(f"a page of {column.path_in_schema} has no header") from error


def _struct(data: memoryview, at: int) -> tuple[dict[int, int], int]:
    """The whole numbers of a struct by their fields, and where it ends."""
    fields, field = {}, 0
    while head := data[at]:
        at, kind = at + 1, head & 15
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(data, at)
        if kind in _NUMBERS:
            fields[field], at = _number(data, at)
        elif kind == _BINARY:
            length, at = _varint(data, at)
            at += length
        elif kind == _STRUCT:
            _, at = _struct(data, at)
        elif kind not in _BOOLS:  # they have no more than their kind
            raise KeyError(kind)  # no header of a page has it
    return fields, at + 1


def _number(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
