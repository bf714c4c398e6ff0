"""What a carrier hands over, files or tables, as batches of declared columns; a file that does not fit is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from travelcard.errors import InputError, broken, hidden, one_line
from travelcard.files import files_of, filesystem_of, remote
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.schema import Column, Table, decoded, decoded_as, is_text, read_parquet, row_groups, zone

if TYPE_CHECKING:
    from travelcard.decode import Block
    from travelcard.pages import Desk

__all__ = [
    "Batch",
    "Piece",
    "Reading",
    "as_text",
    "is_number",
    "of_file",
    "pieces_of",
    "read_table",
    "text_bytes",
]

_ID = ("integer", "string")
_NUMBER = ("float", "integer", "string")
_INPUT = Table(
    "pings",
    (
        # a column without any value may come without a type: what is null is for the rows to say
        Column("subscriber", None, _ID, nullable=True),
        Column("time", None, ("timestamp", "integer", "string"), nullable=True),
        Column("cell", None, _ID, required=False, nullable=True),
        Column("lat", None, _NUMBER, required=False, nullable=True),
        Column("lon", None, _NUMBER, required=False, nullable=True),
        Column("accuracy", None, _NUMBER, required=False, nullable=True),
        Column("plmn", None, _ID, required=False, nullable=True),
    ),
)
# Cell before position before plmn (DESIGN 3.1). A column that is not named is read under its own name, unless it would
# come before one that is: who names lat and lon wants positions, whatever else the file has.
_KINDS = {"cell": 0, "lat": 1, "lon": 1, "accuracy": 1, "plmn": 2}
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_PIECE = 1 << 22  # rows: a larger row group is decoded in several goes, so that memory stays bounded


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source is to be read: column names, the unit of integer times, the zone of times without an offset."""

    columns: Mapping[str, str] = field(default_factory=dict)
    time_unit: str | None = None
    timezone: str | None = None  # None: UTC, and refuse_misread looks whether that can be meant
    subscriber_type: str | None = None  # "integer" or "string"; None: as the column's type says, CSV integer

    def __post_init__(self) -> None:
        if self.time_unit is not None and self.time_unit not in ("s", "ms", "us"):
            raise InputError(f'time_unit is {self.time_unit!r}: it must be "s", "ms" or "us"')
        if self.subscriber_type not in (None, "integer", "string"):
            raise InputError(f'subscriber_type is {self.subscriber_type!r}: it must be "integer" or "string"')
        zone(self.timezone or "UTC")

    def local(self, times: pa.DataType) -> bool:
        """Whether times of this type are local ones, of a zone that is not UTC."""
        return pa.types.is_timestamp(times) and times.tz is None and self.timezone not in (None, "UTC")


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a source: the columns under travelcard's names, where they stand in it, what subscribers are."""

    file: str | pa.Array  # of them all, or of each
    columns: Mapping[str, pa.Array]
    numeric: bool  # subscribers are whole numbers, also where the column is text
    row: int  # where in the source the first row stands, from 0
    at: np.ndarray | None = None  # where each row stands, counted from `row`; None = one after the other

    def __len__(self) -> int:
        return len(self.columns["subscriber"])

    def blocks(self, length: int) -> Iterator[Batch]:
        """The same rows, `length` at a time."""
        for start in range(0, len(self), length):
            columns = {name: column.slice(start, length) for name, column in self.columns.items()}
            at = None if self.at is None else self.at[start : start + length]
            file = self.file if isinstance(self.file, str) else self.file.slice(start, length)
            yield Batch(file, columns, self.numeric, self.row + (start if at is None else 0), at)

    def take(self, rows: np.ndarray) -> Batch:
        """Some rows, by their places in this batch."""
        columns = {name: _taken(column, rows) for name, column in self.columns.items()}
        file = self.file if isinstance(self.file, str) else self.file.take(pa.array(rows))
        return Batch(file, columns, self.numeric, self.row, rows if self.at is None else self.at[rows])

    def like(self, other: Batch) -> bool:
        """Whether the columns are of the same types as another batch's."""
        return {n: c.type for n, c in self.columns.items()} == {n: c.type for n, c in other.columns.items()}


def joined(batches: Sequence[Batch]) -> Batch:
    """Rows that were taken from batches which are `like` each other, as one batch."""
    first = batches[0]
    columns = {name: pa.concat_arrays([batch.columns[name] for batch in batches]) for name in first.columns}
    names = sorted({batch.file for batch in batches})
    index = np.array([names.index(batch.file) for batch in batches], np.int32)
    files = pa.DictionaryArray.from_arrays(np.repeat(index, [len(batch) for batch in batches]), names)
    rows = [batch.at.astype(np.int64) + batch.row for batch in batches if batch.at is not None]
    return Batch(files, columns, first.numeric, 0, np.concatenate(rows))


def of_file(file: str, rows: int) -> pa.DictionaryArray:
    """The name of a file, for each of so many rows."""
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [file])


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; one that is in one piece already is not copied, as combine_chunks would."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _taken(column: pa.Array, rows: np.ndarray) -> pa.Array:
    if pa.types.is_string_view(column.type):  # as Polars writes text, and Arrow cannot take from
        return pl.Series(column)[rows].to_arrow().cast(pa.string())
    return column.take(pa.array(rows))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers or times, and not text."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return bool(number or pa.types.is_timestamp(kind))


def as_text(array: pa.Array) -> pa.Array:
    """Any column as text, empty text as null."""
    text = array.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), None, text)


def text_bytes(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(the bytes of a text column, where each text begins and the last one ends), as compiled loops take them."""
    _, offsets, data = text.buffers()
    ends = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(data or b"", np.uint8), ends


def read_table(path: str | Path, id_column: str) -> pa.Table:
    """A small table from a file, Parquet or CSV (plain, .gz, .zst); one error if it is neither.

    In CSV an id is an integer only if no digit is lost that way: `00123` stays text.
    """
    try:
        if Path(path).suffix == ".parquet":
            return read_parquet(path)
        frame = pl.read_csv(
            path, try_parse_dates=True, schema_overrides={id_column: pl.String}, infer_schema_length=None
        )
    except (pa.ArrowInvalid, pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {one_line(error)}") from error
    if id_column in frame.columns:
        number = frame[id_column].cast(pl.Int64, strict=False)
        if (number.cast(pl.String) == frame[id_column]).all(ignore_nulls=False):
            frame = frame.with_columns(number)
    empty = [name for name in frame.columns if frame[name].null_count() == len(frame)]  # of no type, not of text
    return frame.with_columns(pl.lit(None).alias(name) for name in empty).to_arrow()


def _is_csv(path: str) -> bool:
    return ".csv" in Path(path).suffixes


def _chosen(schema: pa.Schema, where: str, reading: Reading, *, numeric: bool = False) -> tuple[dict[str, str], bool]:
    """(travelcard's column name -> the file's, checked against what is declared; whether subscribers are numbers)."""
    _INPUT.check(schema, where, reading.columns)
    first = min((_KINDS[name] for name in reading.columns if name in _KINDS), default=0)
    names = {c.name: reading.columns.get(c.name, c.name) for c in _INPUT.columns if _KINDS.get(c.name, 9) >= first}
    chosen = {name: source for name, source in names.items() if source in schema.names}
    if "cell" not in chosen and "plmn" not in chosen and not {"lat", "lon"} <= set(chosen):
        raise InputError(
            f"{where} says nothing of where a ping was: expected cell, or lat and lon, or plmn, found "
            f'{hidden(", ".join(schema.names))}: pass columns={{"cell": "..."}}'
        )
    if pa.types.is_integer(schema.field(chosen["time"]).type) and reading.time_unit is None:
        raise InputError(f'{where}: time holds integers: say their unit, time_unit = "s", "ms" or "us"')
    kind = schema.field(chosen["subscriber"]).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    numeric = numeric or pa.types.is_integer(kind) or pa.types.is_null(kind)
    return chosen, numeric if reading.subscriber_type is None else reading.subscriber_type == "integer"


def _batch(file: str, row: int, table: pa.Table | pa.RecordBatch, chosen: Mapping[str, str], numeric: bool) -> Batch:
    columns = {}
    for name, source in chosen.items():
        column = table.column(source)
        array = _whole(column) if isinstance(column, pa.ChunkedArray) else column
        if name == "cell" and _is_coded_text(array.type):
            array.validate(full=True)  # Arrow looks at no index: a damaged page may have some that are too large
        else:
            array = decoded(array)
        columns[name] = array.cast(pa.string()) if pa.types.is_null(array.type) else array
    return Batch(file, columns, numeric, row)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the input that one thread reads by itself: its size in rows (0: not known), and its batches.

    Where there is a `block` its rows can be had as one as well, on a desk, unless a page of it is not as most are.
    """

    file: str
    rows: int
    numeric: bool  # as in Batch
    batches: Callable[[], Iterator[Batch]]
    span: tuple[int, int] | None = None  # the smallest and largest subscriber; None where the file does not say
    block: Callable[[Desk], Block | None] | None = None


def _broken_csv(path: str, error: Exception) -> InputError:
    """As `_broken`, without the library's own words: they quote the row, and in it the number."""
    if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
        return InputError(f"{path} cannot be read: it is not in UTF-8; convert it first")
    found = re.search(r"Expected \d+ columns, got \d+", str(error))
    where = f": e{found[0][1:]} in a row" if found else ""
    return InputError(f"{path} cannot be read to its end (truncated, damaged, or no table of one width){where}")


def _columns(group: pq.RowGroupMetaData, names: Iterable[str]) -> dict[str, pq.ColumnChunkMetaData]:
    """Columns of a row group, none of them in a list. Raises `ArrowInvalid` where one is missing or has other rows."""
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    if any(name not in chunks or chunks[name].num_values != group.num_rows for name in names):
        raise pa.ArrowInvalid("its columns are not those of its rows")
    return chunks


def _span(column: pq.ColumnChunkMetaData) -> tuple[int, int] | None:
    """The smallest and largest whole number of a column in a row group, as its footer has them."""
    known = column.statistics if column.physical_type in ("INT32", "INT64") else None  # those of texts may be cut off
    if known is None or not known.has_min_max or not isinstance(known.min, int):
        return None
    return known.min, known.max


def _is_coded_text(kind: pa.DataType) -> bool:
    """Whether texts are indices of a dictionary; not one of string views, which Arrow makes no texts of."""
    return bool(pa.types.is_dictionary(kind) and kind.value_type in (pa.string(), pa.large_string()))


def _parquet_pieces(path: str, reading: Reading) -> list[Piece]:
    filesystem, inner = filesystem_of(path)
    try:
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            metadata, schema = file.metadata, file.schema_arrow
        if metadata.num_rows == 0:
            raise InputError(f"{path} is empty: it has no row")
        chosen, numeric = _chosen(schema, path, reading)
        groups = [(group.num_rows, _columns(group, chosen.values())) for group in row_groups(metadata)]
        here = not remote(path) and not reading.local(schema.field(chosen["time"]).type)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:  # a bit of a name may have turned over
        raise broken(path, error) from error
    options = {"filesystem": filesystem, "pre_buffer": remote(path), "page_checksum_verification": True}

    def batches(number: int, first: int) -> Iterator[Batch]:
        rows, chunks = groups[number]
        end, cell = first + rows, chosen.get("cell")
        # as indices texts are decoded in half the time; they are no longer than that where a dictionary has them all
        few = cell and is_text(schema.field(cell).type) and chunks[cell].total_uncompressed_size < 4 * rows
        try:
            with pq.ParquetFile(inner, read_dictionary=[cell] if few else [], **options) as file:
                for part in file.iter_batches(_PIECE, [number], list(chosen.values()), use_threads=False):
                    yield _batch(path, first, part, chosen, numeric)
                    first += len(part)
            if first != end:  # where a column is said to lie elsewhere Arrow may find no row, and says nothing
                raise pa.ArrowInvalid("a row group has other rows than its footer says")
        except (pa.ArrowException, OSError) as error:
            raise broken(path, error) from error

    def block(number: int, first: int, desk: Desk) -> Block | None:
        from travelcard.decode import block_of  # noqa: PLC0415  whoever only lists files needs no compiler

        return block_of(path, *groups[number], schema, chosen, first, desk)

    pieces, first = [], 0
    for number, (rows, chunks) in enumerate(groups):
        taken = here and rows <= _PIECE and _is_block(chunks, schema, chosen, numeric)
        whole = partial(block, number, first) if taken else None
        span = _span(chunks[chosen["subscriber"]])
        if rows:
            pieces.append(Piece(path, rows, numeric, partial(batches, number, first), span, whole))
        first += rows
    return pieces


_CODECS = ("UNCOMPRESSED", "SNAPPY", "ZSTD")  # as in pages, which needs the compiler
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}  # BIT_PACKED: old writers name it


def _is_block(
    chunks: Mapping[str, pq.ColumnChunkMetaData], schema: pa.Schema, chosen: Mapping[str, str], numeric: bool
) -> bool:
    """Whether `decode` takes a row group: columns of 64 bits and of text, written as most are, none much too large."""
    physical = {
        "subscriber": "INT64" if numeric else "BYTE_ARRAY",
        "time": "INT64",
        "cell": "INT64",
        "plmn": "BYTE_ARRAY",
    }
    return "cell" in chosen and all(
        _physical(schema.field(source).type) == chunks[source].physical_type == physical.get(name)
        and chunks[source].compression in _CODECS
        and _ENCODINGS.issuperset(chunks[source].encodings)
        and chunks[source].total_uncompressed_size < 1 << 31
        for name, source in chosen.items()
    )


def _physical(kind: pa.DataType) -> str | None:
    """How Parquet has a number of 64 bits, or text."""
    kind = decoded_as(kind)
    if pa.types.is_int64(kind) or pa.types.is_timestamp(kind):
        return "INT64"
    return "BYTE_ARRAY" if pa.types.is_string(kind) else None


def _csv_pieces(path: str, reading: Reading) -> list[Piece]:
    filesystem, inner = filesystem_of(path)

    def reader(names: Iterable[str] = ()) -> pa.csv.CSVStreamingReader:
        return pa.csv.open_csv(
            filesystem.open_input_stream(inner, compression=_PACKED.get(Path(path).suffix)),
            read_options=pa.csv.ReadOptions(block_size=1 << 24),
            convert_options=pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}),
        )

    try:
        with reader() as head:
            header = head.schema.names
        _INPUT.check(pa.schema([(name, pa.string()) for name in header]), path, reading.columns)
        with reader(header) as whole:
            empty = next((False for part in whole if len(part)), True)
            text = whole.schema
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise _broken_csv(path, error) from None
    if empty:
        raise InputError(f"{path} is empty: it has no row")
    chosen, numeric = _chosen(text, path, reading, numeric=True)

    def batches() -> Iterator[Batch]:
        row = 0
        try:
            with reader(header) as parts:
                for part in parts:
                    yield _batch(path, row, part, chosen, numeric)
                    row += len(part)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise _broken_csv(path, error) from None

    return [Piece(path, 0, numeric, batches)]


def _table_pieces(source: Any, reading: Reading) -> list[Piece]:
    collect = getattr(source, "collect", None)
    if collect is not None and not hasattr(source, "__arrow_c_stream__"):
        source = collect()
    if not hasattr(source, "__arrow_c_stream__"):
        raise InputError(f"expected files or a table (polars, pyarrow, pandas, duckdb), got {type(source).__name__}")
    stream = pa.RecordBatchReader.from_stream(source)
    chosen, numeric = _chosen(stream.schema, "the pings", reading)

    def batches() -> Iterator[Batch]:
        row = 0
        for part in stream:
            yield _batch("table", row, part, chosen, numeric)
            row += len(part)

    return [Piece("table", 0, numeric, batches)]


def pieces_of(source: Any, reading: Reading, day: date | None = None) -> list[Piece]:
    """A source cut into pieces that can be read side by side; every file's footer and columns are checked first.

    `source` is a pattern (`*`, `{day}`), a path or an object's URI, a list of paths or of pieces, or a table. Raises
    `InputError` for no file, and for a file that is truncated, empty, or of another schema, by name.
    """
    if isinstance(source, (str, Path)):
        paths = files_of(source, day)
    elif isinstance(source, (list, tuple)):
        if source and isinstance(source[0], Piece):
            return list(source)
        paths = [str(p) for p in source]
        if not paths:
            raise InputError("no file: the list of files is empty")
    else:
        return _table_pieces(source, reading)
    pieces = []
    for path in paths:
        pieces += _csv_pieces(path, reading) if _is_csv(path) else _parquet_pieces(path, reading)
    if len({piece.numeric for piece in pieces}) > 1:
        raise InputError("some files have integer subscribers and some have text: set subscriber_type")
    return pieces
