"""One declared Arrow schema per table: the checks, the Delta writer, the docs and `synth` all read it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from travelcard.errors import InputError, hidden, refuse
from travelcard.late import compute as pc

__all__ = [
    "CARDS",
    "CORRECTIONS",
    "INVENTORY",
    "KNOWN_SINCE",
    "PINGS",
    "REASONS",
    "REJECTS",
    "RISK",
    "RUNS",
    "STATUSES",
    "STAYS",
    "VISITS",
    "Column",
    "Table",
    "arrow_table",
    "bucket_of",
]

SECONDS = pa.timestamp("us", tz="UTC")  # every time travelcard writes: whole seconds, UTC

# Why a ping could not be used, in the order in which the reasons are tried (DESIGN 3.1): the first that applies.
REASONS = (
    "null_subscriber",
    "null_time",
    "bad_time",
    "outside_day",
    "null_cell",
    "bad_position",
    "unknown_cell",
    "no_place",
)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, however long or laid out."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def decoded_as(kind: pa.DataType) -> pa.DataType:
    """What a column is decoded as: a dictionary as what it holds, any text as text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if is_text(kind) else kind


# What a column accepts, by the word that an error message uses for it.
_FAMILIES = {
    "integer": pa.types.is_integer,
    "string": is_text,
    "float": lambda t: pa.types.is_floating(t) or pa.types.is_decimal(t),  # DuckDB writes 30.25 as a decimal
    "timestamp": pa.types.is_timestamp,
    "date": lambda t: pa.types.is_date(t) or pa.types.is_timestamp(t),
    "boolean": pa.types.is_boolean,
    "list": lambda t: pa.types.is_list(t) or pa.types.is_large_list(t),
    "map": pa.types.is_map,
}
_LOST_DIGITS = "ids read as floats have lost digits: read them as text"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, the Arrow type that travelcard works with, and what an input may bring instead.

    `type` None stands for an id (subscriber or cell): int64 or string, as the input has it.
    """

    name: str
    type: pa.DataType | None
    accepts: tuple[str, ...]
    required: bool = True
    nullable: bool = False

    def problem(self, got: pa.DataType | None, others: Iterable[str], *, named: bool) -> str | None:
        """What is wrong with a column of type `got` (None: absent), as one line; None when it fits.

        `named`: whether the caller may say which column it is.
        """
        expected = f"{self.name}  expected {' or '.join(self.accepts)}, "
        if got is None:
            hint = f': pass columns={{"{self.name}": "..."}}' if named else ""
            return f"{expected}missing  found {hidden(', '.join(others)) or 'no column'}{hint}"
        if pa.types.is_dictionary(got):
            got = got.value_type
        if any(_FAMILIES[family](got) for family in self.accepts) or (pa.types.is_null(got) and self.nullable):
            return None
        lost = pa.types.is_floating(got) and "integer" in self.accepts and "string" in self.accepts
        return f"{expected}got {got}" + (f"  {_LOST_DIGITS}" if lost else "")


@dataclass(frozen=True, slots=True)
class Table:
    """A declared table: its name, its columns, and the columns it is partitioned by in the store."""

    name: str
    columns: tuple[Column, ...]
    partition: tuple[str, ...] = ()

    def arrow(self, *, ids: pa.DataType | None = None) -> pa.Schema:
        """The Arrow schema; `ids` is the type of the id columns (int64 by default, string for pseudonyms)."""
        return pa.schema([pa.field(c.name, c.type or ids or pa.int64(), c.nullable) for c in self.columns])

    def problems(self, schema: pa.Schema, columns: Mapping[str, str] | None = None) -> list[str]:
        """All that keeps a table of this Arrow schema from fitting, one line each."""
        names = dict(columns or {})
        known = {c.name for c in self.columns}
        lines = [f"columns  {k!r} is no column of {self.name}" for k in names if k not in known]
        twice = sorted({n for n in schema.names if schema.names.count(n) > 1})
        lines += [f"{name}  is the name of {schema.names.count(name)} columns" for name in map(hidden, twice)]
        for column in self.columns:
            source = names.get(column.name, column.name)
            at = schema.names.index(source) if source in schema.names else -1
            if at < 0 and not column.required and column.name not in names:
                continue
            got = schema.field(at).type if at >= 0 else None
            line = column.problem(got, schema.names, named=columns is not None)
            if line is not None:
                lines.append(line)
        return lines

    def check(self, schema: pa.Schema, where: str, columns: Mapping[str, str] | None = None) -> None:
        """Raise one `InputError` with every problem of `schema`, got beside expected."""
        refuse(f"{where} does not fit `{self.name}`", self.problems(schema, columns))

    def read(self, data: Any, *, where: str | None = None, columns: Mapping[str, str] | None = None) -> pa.Table:
        """`data` as an Arrow table of exactly these columns and types, or one error that names every problem.

        `data` is anything with the Arrow PyCapsule interface. Optional columns that are absent come back all null;
        columns that are not declared are left out. Raises `InputError` for missing columns, wrong types and nulls
        where none may be.
        """
        table = arrow_table(data)
        where = where or f"the {self.name} table"
        self.check(table.schema, where, columns)
        names = dict(columns or {})
        arrays: list[pa.ChunkedArray] = []
        fields: list[pa.Field] = []
        lines: list[str] = []
        for column in self.columns:
            source = names.get(column.name, column.name)
            if source in table.column_names:
                array = table.column(source)
                array = decoded(array)
                wanted = column.type or (pa.int64() if pa.types.is_integer(array.type) else pa.string())
                if pa.types.is_timestamp(array.type) and wanted == pa.date32():  # pandas has no dates
                    if array.type.tz is not None or array != array.cast(wanted).cast(array.type):
                        lines.append(f"{column.name}  holds times of day, expected dates")
                        continue
                elif pa.types.is_timestamp(array.type) and array.type.unit == "ns":
                    array = pc.floor_temporal(array, unit="microsecond")
                try:
                    array = array.cast(wanted)
                except pa.ArrowInvalid:  # whose message quotes the value, and that may be a subscriber
                    lines.append(f"{column.name}  holds values that do not fit {wanted}, got {array.type}")
                    continue
            else:
                wanted = column.type or pa.int64()
                array = pa.chunked_array([pa.nulls(len(table), wanted)])
            if array.null_count and not column.nullable:
                lines.append(f"{column.name}  {array.null_count} null of {len(array)} rows")
            if column.name == "subscriber" and (none := _no_subscriber(array)):
                lines.append(f"{column.name}  {none} of {len(array)} rows are negative or empty")
            arrays.append(array)
            fields.append(pa.field(column.name, wanted, column.nullable))
        refuse(f"{where} does not fit `{self.name}`", lines)
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _no_subscriber(ids: pa.ChunkedArray) -> int:
    """How many ids are below zero or empty."""
    bad = pc.less(ids, 0) if pa.types.is_integer(ids.type) else pc.equal(ids, "")
    return pc.sum(bad).as_py() or 0


def decoded(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A dictionary-encoded column as its values; any other as it is."""
    if not pa.types.is_dictionary(array.type):
        return array
    if isinstance(array, pa.ChunkedArray):
        return pa.chunked_array([decoded(chunk) for chunk in array.chunks], None if array.num_chunks else pa.string())
    values = array.dictionary
    # polars' categories are string views, which Arrow cannot take from
    return (values.cast(pa.string()) if pa.types.is_string_view(values.type) else values).take(array.indices)


def arrow_table(data: Any) -> pa.Table:
    """Any object with the Arrow PyCapsule interface (polars, pyarrow, pandas, duckdb) as a pyarrow table."""
    if isinstance(data, pa.Table):
        return data
    collect = getattr(data, "collect", None)  # a polars LazyFrame has no capsule of its own
    if collect is not None and not hasattr(data, "__arrow_c_stream__"):
        data = collect()
    if not hasattr(data, "__arrow_c_stream__"):
        raise InputError(f"expected a table (polars, pyarrow, pandas, duckdb), got {type(data).__name__}")
    return pa.table(data)


def saved_as(path: str | Path) -> str | None:
    """What a file is that travelcard saved (``"cells"``, ``"places"``); None for any other file."""
    try:
        return (pq.read_schema(path).metadata or {}).get(b"travelcard", b"").decode() or None
    except (pa.ArrowInvalid, OSError):  # no Parquet: whoever reads it next says what it should have been
        return None


def row_groups(metadata: pq.FileMetaData) -> list[pq.RowGroupMetaData]:
    """The row groups of a Parquet file. Raises `ArrowInvalid` where they have not the rows that its footer counts.

    No checksum covers a footer: a group that it no longer lists would be rows that are not there.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if sum(group.num_rows for group in groups) != metadata.num_rows:
        raise pa.ArrowInvalid("the numbers of its rows do not agree")
    return groups


def read_parquet(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or columns of it: every row that its footer counts, the checksums of its pages looked at.

    Raises `ArrowInvalid` or `OSError` where it cannot be read to its end.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            row_groups(file.metadata)  # for what it raises
            table, rows = file.read(columns), file.metadata.num_rows
        if table.column_names and len(table) != rows:
            raise pa.ArrowInvalid("it has other rows than its footer counts")
        return table
    except (pa.ArrowException, UnicodeDecodeError) as error:  # a bit of a column's name may have turned over
        raise pa.ArrowInvalid(str(error)) from error


def bucket_of(subscriber: int | str, buckets: int) -> int:
    """The bucket of a subscriber: the top bits of its 64-bit word, folded (``x ^ x >> 32``), times 2^64 / golden ratio.

    The word of an integer is itself. Of a string it is the length of its UTF-8 bytes, into which each eight of them
    (little-endian, the last padded with zeros) are mixed: ``x = (x ^ eight) * g; x ^= x >> 29`` with the same factor g.
    `buckets` is a power of two from 1 to 4096. The rule is part of a store: changing it would orphan every file.

    >>> bucket_of(13800001234, 64), bucket_of("a1b2", 64)
    (50, 53)
    """
    if isinstance(subscriber, str):
        text = subscriber.encode()
        word = len(text)
        for at in range(0, len(text), 8):
            word = ((word ^ int.from_bytes(text[at : at + 8], "little")) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            word ^= word >> 29
    else:
        word = int(subscriber)
    word ^= word >> 32
    return ((word * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF) >> (64 - (buckets.bit_length() - 1)) if buckets > 1 else 0


_ID = ("integer", "string")
_TIME = ("timestamp",)
_INT = ("integer",)
_TEXT = ("string",)


def _subscriber() -> Column:
    return Column("subscriber", None, _ID)


def _struct_list(*fields: tuple[str, pa.DataType]) -> pa.DataType:
    return pa.list_(pa.struct(list(fields)))


_VISIT = _struct_list(
    ("place", pa.string()),
    ("name", pa.string()),
    ("first", SECONDS),
    ("last", SECONDS),
    ("longest_s", pa.int32()),
    ("days", pa.int32()),
    ("marked", pa.bool_()),
)
_REASON = _struct_list(("rule", pa.string()), ("place", pa.string()), ("from", SECONDS), ("to", SECONDS))

PINGS = Table(
    "pings",
    (
        _subscriber(),
        Column("time", SECONDS, _TIME),
        Column("place", pa.string(), _TEXT),
        Column("inner", pa.bool_(), ("boolean",), required=False, nullable=True),
    ),
)
STAYS = Table(
    "stays",
    (
        _subscriber(),
        Column("place", pa.string(), _TEXT),
        Column("arrive", SECONDS, _TIME),
        Column("depart", SECONDS, _TIME),
        Column("pings", pa.int32(), _INT),
        Column("inner", pa.int32(), _INT),
    ),
    partition=("day", "bucket"),
)
VISITS = Table(
    "visits",
    (
        _subscriber(),
        Column("place", pa.string(), _TEXT),
        Column("first", SECONDS, _TIME),
        Column("last", SECONDS, _TIME),
        Column("days", pa.int32(), _INT),
        Column("longest_s", pa.int32(), _INT),
        Column("transit", pa.bool_(), ("boolean",)),
        Column("days_seen", pa.int32(), _INT),
    ),
)
REJECTS = Table(
    "rejects",
    (
        Column("reason", pa.string(), _TEXT),
        Column("file", pa.string(), _TEXT),
        Column("row", pa.int64(), _INT),
        Column("value", pa.string(), _TEXT, nullable=True),
    ),
    partition=("day",),
)
CARDS = Table(
    "cards",
    (
        _subscriber(),
        Column("colour", pa.string(), _TEXT),
        Column("visits", _VISIT, ("list",)),
        Column("reasons", _REASON, ("list",)),
        Column("days_seen", pa.int32(), _INT),
    ),
    partition=("as_of", "bucket"),
)
CORRECTIONS = Table(
    "corrections",
    (
        _subscriber(),
        Column("place", pa.string(), _TEXT),
        Column("from", pa.date32(), ("date",)),
        Column("to", pa.date32(), ("date",)),
        Column("reason", pa.string(), _TEXT, required=False, nullable=True),
        Column("by", pa.string(), _TEXT, required=False, nullable=True),
        Column("at", SECONDS, _TIME, required=False, nullable=True),
        Column("undo", pa.bool_(), ("boolean",), required=False, nullable=True),
    ),
)
KNOWN_SINCE = Table("new numbers", (_subscriber(), Column("since", pa.date32(), ("date",))))
STATUSES = Table(
    "statuses",
    (
        _subscriber(),
        Column("status", pa.string(), _TEXT),
        Column("from", pa.date32(), ("date",)),
        Column("to", pa.date32(), ("date",), required=False, nullable=True),
    ),
)
RISK = Table(
    "risk",
    (
        Column("place", pa.string(), _TEXT),
        Column("level", pa.string(), _TEXT),
        Column("from", pa.date32(), ("date",), required=False, nullable=True),
        Column("to", pa.date32(), ("date",), required=False, nullable=True),
    ),
)
INVENTORY = Table(
    "cells",
    (
        Column("cell", None, _ID),
        Column("lat", pa.float64(), ("float", "integer"), nullable=True),
        Column("lon", pa.float64(), ("float", "integer"), nullable=True),
        Column("range", pa.float64(), ("float", "integer"), required=False, nullable=True),
        Column("valid_date_start", pa.date32(), ("date",), required=False, nullable=True),
        Column("valid_date_end", pa.date32(), ("date",), required=False, nullable=True),
    ),
)
_COUNTS = pa.map_(pa.string(), pa.int64())
RUNS = Table(
    "runs",
    (
        Column("number", pa.int64(), _INT),  # of the commit that added the row: clocks tie and are set back
        Column("day", pa.date32(), ("date",)),
        Column("what", pa.string(), _TEXT),
        Column("started", SECONDS, _TIME),
        Column("seconds", pa.float64(), ("float",)),
        Column("read", pa.int64(), _INT),
        Column("clean", pa.int64(), _INT),
        Column("merged", pa.int64(), _INT),
        Column("rejected", _COUNTS, ("map",)),
        Column("subscribers", pa.int64(), _INT),
        Column("cards", _COUNTS, ("map",)),
        Column("policy", pa.string(), _TEXT, nullable=True),
        Column("policy_hash", pa.string(), _TEXT, nullable=True),
        Column("risk_date", pa.date32(), ("date",), nullable=True),
        Column("missing", pa.list_(pa.date32()), ("list",)),
        Column("versions", pa.string(), _TEXT),
        Column("settings", pa.string(), _TEXT),
        Column("files", pa.list_(pa.string()), ("list",)),
        Column("hours", pa.list_(pa.int64()), ("list",)),
        Column("silent", pa.int64(), _INT, nullable=True),
        Column("silent_cells", pa.list_(pa.string()), ("list",)),
        Column("risk_places", pa.int64(), _INT, nullable=True),
        Column("accepted", pa.string(), _TEXT, nullable=True),
    ),
)

# A ping inside the kernel is a subscriber and one 32-bit event: 17 bits second of the day, 14 bits place index,
# 1 bit inner. Sorting events sorts by (second, place), the order of DESIGN 3.3; 17 bits hold the 25 hours of a day
# on which the clock is set back. Place indices follow the bytewise order of the place codes.
SECOND_SHIFT = 15
MAX_PLACES = 1 << 14
MAX_BUCKETS = 4096
REJECTED = 0xFFFF0000  # events from here on hold an index into REASONS: no day has a second 131,070


def a_date(value: Any, what: str) -> date:
    """A date that has days before and after it, or one `InputError`; text and timestamps are none."""
    if not isinstance(value, date) or isinstance(value, datetime) or not 1000 <= value.year <= 9000:
        raise InputError(f"{what}: expected a date from 1000 to 9000, got {hidden(repr(value))}")
    return value


def dates(first: date, last: date) -> list[date]:
    """Every date from `first` to `last`, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def zone(name: str) -> ZoneInfo:
    """A time zone of the tz database by name, or one `InputError`."""
    try:
        return ZoneInfo(name)
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{name!r} is no time zone: give a name of the tz database, such as Asia/Shanghai") from error


def midnights(first: date, days: int, tz: str) -> np.ndarray:
    """UTC seconds of the starts of `days` + 1 calendar days in `tz`, int64: day i is [out[i], out[i + 1])."""
    where = zone(tz)
    starts = (datetime.combine(first + timedelta(days=i), datetime.min.time(), where) for i in range(days + 1))
    return np.array([int(start.timestamp()) for start in starts], np.int64)


def whole_seconds(span: timedelta, what: str) -> int:
    """A length of time as whole seconds; one below zero or with a fraction is refused."""
    if not isinstance(span, timedelta) or span < timedelta(0) or span.microseconds:
        raise InputError(f"{what} is {span}: it must be whole seconds, 0 or more")
    return span.days * 86400 + span.seconds
