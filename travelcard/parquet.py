"""The Parquet files of the tables: how they are laid out, written, opened, and walked through in parts (DESIGN 4)."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from travelcard.errors import InputError, one_line
from travelcard.schema import Table, row_groups

__all__ = ["GROUP", "Footer", "about", "naming", "opened", "write"]

# Rows of a group; one subscriber's look-up decodes one. A card is a list of lists: 1,000 of them take 0.6 ms.
GROUP = {"stays": 8_000, "cards": 1_000}
_CRC = "travelcard.crc32"  # of what is said about the rows: a footer has no checksum


def write(
    path: str,
    table: Table,
    rows: pa.Table | Iterable[pa.Table],
    about: Mapping[str, Any] | None,
    *,
    ids: pa.DataType,
    filesystem: pa.fs.FileSystem,
) -> int:
    """Write the rows of a table, in one part or several, and what is to be known `about` them: how many there were."""
    parts = iter([rows] if isinstance(rows, pa.Table) else rows)
    first = next(parts, table.arrow(ids=ids).empty_table())
    schema = pa.schema(_given(field, first.schema.field(field.name).type) for field in table.arrow(ids=ids))
    leaves = _leaves(schema)
    numbers = [p for p, kind in leaves.items() if _counted(kind)]
    written = 0
    with pq.ParquetWriter(
        path,
        schema,
        filesystem=filesystem,
        compression={p: _codec(p, kind) for p, kind in leaves.items()},
        column_encoding=dict.fromkeys(numbers, "DELTA_BINARY_PACKED"),
        use_dictionary=[p for p, kind in leaves.items() if _coded(kind) or (kind == pa.string() and p != "value")],
        write_statistics=["subscriber"],  # nothing else is looked for, and texts are long in comparing
        store_schema=False,  # a reader is to see text, not our dictionary
        write_page_checksum=True,
    ) as file:
        for part in chain([first], parts):
            if len(part):  # of an empty group nobody could say where it belongs
                file.write_table(part.cast(schema), row_group_size=GROUP.get(table.name, 1 << 20))
            written += len(part)
        text = json.dumps(about)
        file.add_key_value_metadata({"travelcard": text, _CRC: str(crc32(text.encode()))} if about else {})
    return written


def opened(path: str, table: Table, filesystem: pa.fs.FileSystem, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """A file of a table; `dictionaries` are columns that are to be read as such."""
    options = {"read_dictionary": dictionaries, "page_checksum_verification": True}
    file = pq.ParquetFile(path, filesystem=filesystem, **options)
    _sound(file, table)
    return file


def about(file: pq.ParquetFile) -> dict[str, Any] | None:
    """What was written about the rows of a file; None where nothing was. Raises `ArrowInvalid` where it is damaged."""
    known = file.metadata.metadata or {}
    text = known.get(b"travelcard")
    if text is None:
        return None
    if known.get(_CRC.encode()) != str(crc32(text)).encode():
        raise pa.ArrowInvalid("what is said about its rows has another checksum")
    said: dict[str, Any] = json.loads(text)
    return said


@dataclass(frozen=True, slots=True)
class Footer:
    """An open file: the smallest and largest subscriber of each row group."""

    file: pq.ParquetFile
    lowest: list[Any]
    highest: list[Any]

    @classmethod
    def of(cls, file: pq.ParquetFile) -> Footer:
        """Raises `ArrowInvalid` for statistics that are damaged: groups of sorted rows follow each other."""
        groups = [file.metadata.row_group(g).column(0).statistics for g in range(file.metadata.num_row_groups)]
        ends: list[Any] = [end for g in groups for end in ((g.min, g.max) if g is not None else (None, None))]
        if None in ends or ends != sorted(ends):
            raise pa.ArrowInvalid("the statistics of its subscribers are not those of sorted rows")
        return cls(file, ends[::2], ends[1::2])

    def groups(self, subscriber: Any) -> range:
        """The row groups that may hold a subscriber, as it is kept."""
        return range(bisect_left(self.highest, subscriber), bisect_right(self.lowest, subscriber))


@contextmanager
def naming(name: str, path: str) -> Iterator[None]:
    """Name the file of a table that is gone or damaged."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:  # a bit of a column's name may have turned over
        raise InputError(f"{name}/{path} is gone or damaged: run its day again ({one_line(error)})") from error


def _sound(file: pq.ParquetFile, table: Table) -> None:
    """Raise `ArrowInvalid` for a footer that is not what was written: no checksum covers it.

    A column of another name in a list would be read as one of nulls, and fewer rows than there are would be all.
    """
    if [*_leaves(file.schema_arrow)] != [*_leaves(table.arrow())]:
        raise pa.ArrowInvalid(f"it does not have the columns of {table.name}")
    flat = {group.num_rows == group.column(0).num_values for group in row_groups(file.metadata)}
    if False in flat:  # the first column is in no list
        raise pa.ArrowInvalid("the numbers of its rows do not agree")


def _given(field: pa.Field, kind: pa.DataType) -> pa.Field:
    """A declared field, its texts as dictionaries where they come as such: see `stays_table` and `cards_of`."""
    if _coded(kind):
        return field.with_type(kind)
    if _is_rows(kind):
        pairs = zip(field.type.value_type, kind.value_type, strict=True)
        struct = pa.struct([_given(inner, given.type) for inner, given in pairs])
        return field.with_type(pa.list_(field.type.value_field.with_type(struct)))
    return field


def _is_rows(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def _counted(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind))


def _coded(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind))


def _codec(path: str, kind: pa.DataType) -> str:
    """What a column is compressed with.

    Differences of sorted numbers, packed, are as small as zstd makes them, written and read in half the time. What has
    none is compressed, a dictionary's indices lightly, and not the texts in lists, where it took a fifth of the time
    and saved a sixth.
    """
    if _counted(kind) or "." in path:
        return "none"
    return "snappy" if _coded(kind) else "zstd"


def _leaves(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The columns of a Parquet file by path, those in lists of structs each by itself."""
    out: dict[str, pa.DataType] = {}
    for field in schema:
        if _is_rows(field.type):
            out |= {f"{field.name}.list.element.{inner.name}": inner.type for inner in field.type.value_type}
        else:
            out[field.name] = field.type
    return out
