"""Pings as carriers have them, files or tables, to clean pings and rejects: clean + rejected = read (DESIGN 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled
from travelcard.decode import NONE, Block
from travelcard.errors import InputError
from travelcard.inventory import Cells, Inventory
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.locations import (
    Sieve,
    by_position,
    floats,
    locations_of,
    sieve,
)
from travelcard.names import integers, raw
from travelcard.pages import Desk
from travelcard.places import Places
from travelcard.schema import (
    MAX_PLACES,
    REASONS,
    REJECTED,
    REJECTS,
    SECOND_SHIFT,
    SECONDS,
    a_date,
)
from travelcard.sources import Batch, Piece, Reading, as_text, is_number, of_file, pieces_of, text_bytes

__all__ = ["read_pings"]

_DAYS_BEFORE = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])  # a month
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
QUARTERS = 100  # of an hour, that the longest day has: 25 hours
_BLOCK = 1 << 18  # rows decided at a time: what is made once a block no longer counts, and it is some 30 MB
_NULL_TIME, _BAD_TIME = NONE, NONE + 1
_WITHOUT_VALUE = [REASONS.index(reason) for reason in ("null_subscriber", "null_time", "null_cell")]
_OUTSIDE_DAY = REASONS.index("outside_day")
_ABOUT_TIME = [REASONS.index("bad_time"), _OUTSIDE_DAY]
_CODED = pa.dictionary(pa.int32(), pa.string())
LOST = pa.schema(  # rejects on their way: a million paths of a file would have to be copied, and compared
    [field.with_type(_CODED) if field.name in ("reason", "file") else field for field in REJECTS.arrow()]
)


# ---------------------------------------------------------------------------------------------------- when a ping was

_ISO = (  # extended and basic format, to the second or less, with or without an offset
    r"^([0-9]{4})-?([0-9]{2})-?([0-9]{2})(?:[Tt ]([0-9]{2})(?::?([0-9]{2})(?::?([0-5][0-9])(?:[.,][0-9]+)?)?)?"
    r"\s?(?:([Zz])|([+-][0-9]{2}):?([0-9]{2})?)?)?$"
)


def _iso_seconds(text: pl.Series, timezone: str) -> pl.Series:
    """ISO 8601 text as UTC seconds, null where it cannot be read: with an offset, or without one in `timezone`."""
    parts = text.str.extract_groups(_ISO).struct.unnest()
    parts.columns = ["y", "m", "d", "hour", "minute", "second", "z", "hours", "minutes"]
    joined = pl.concat_str("y", "m", "d", *(pl.col(name).fill_null("00") for name in ("hour", "minute", "second")))
    local = joined.str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="us")
    minutes = pl.col("minutes").fill_null("0").cast(pl.Int64)
    sign = pl.when(pl.col("hours").str.starts_with("-")).then(-1).otherwise(1)
    offset = (pl.col("hours").cast(pl.Int64).abs() * 60 + minutes) * 60 * sign
    naive = pl.col("z").is_null() & pl.col("hours").is_null()
    there = local.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null").dt.epoch("s")
    valid = pl.col("hours").is_null() | ((pl.col("hours").cast(pl.Int64).abs() < 24) & (minutes < 60))
    seconds = pl.when(naive).then(there).when(valid).then(local.dt.epoch("s") - offset.fill_null(0))
    return parts.select(seconds.alias("time"))["time"]


@compiled(inline="always")
def _digits(data, at, n):
    """A number of `n` digits, or below zero where one is none."""
    value = np.int64(0)
    for j in range(at, at + n):
        digit = np.int64(data[j]) - 48
        value = value * 10 + digit if 0 <= digit <= 9 and value >= 0 else np.int64(-1)
    return value


@compiled
def _plain_iso(data, offsets, seconds, kinds):
    """Seconds of texts in the commonest form, 2022-03-14T09:00:00.5+08:00, and for each: 1 = UTC, 2 = without an
    offset, 0, as it was, = in another form, to be read by `_iso_seconds`.
    """
    days_before = _DAYS_BEFORE
    for i in range(len(seconds)):
        a, b = np.int64(offsets[i]), np.int64(offsets[i + 1])
        if b - a < 19 or data[a + 4] != 45 or data[a + 7] != 45 or data[a + 13] != 58 or data[a + 16] != 58:
            continue
        y, m, d = _digits(data, a, 4), _digits(data, a + 5, 2), _digits(data, a + 8, 2)
        hour, minute, second = _digits(data, a + 11, 2), _digits(data, a + 14, 2), _digits(data, a + 17, 2)
        if data[a + 10] not in (84, 32) or not (1970 <= y < 2100 and 1 <= m <= 12):
            continue
        leap = y % 4 == 0
        length = days_before[m] - days_before[m - 1] + (leap and m == 2)
        if not (1 <= d <= length and 0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
            continue
        day = 365 * (y - 1970) + (y - 1969) // 4 + days_before[m - 1] + (leap and m > 2) + d - 1
        local = 86_400 * day + 3600 * hour + 60 * minute + second
        a += 19
        if a + 1 < b and data[a] == 46 and 48 <= data[a + 1] <= 57:
            a += 1
            while a < b and 48 <= data[a] <= 57:
                a += 1
        if a == b:
            kinds[i] = 2
        elif b - a == 1 and data[a] == 90:
            kinds[i] = 1
        elif b - a == 6 and data[a] in (43, 45) and data[a + 3] == 58:
            hour, minute = _digits(data, a + 1, 2), _digits(data, a + 4, 2)
            if not (0 <= hour < 24 and 0 <= minute < 60):
                continue
            local -= (44 - np.int64(data[a])) * (3600 * hour + 60 * minute)
            kinds[i] = 1
        seconds[i] = local


def _text_times(text: pa.Array, timezone: str | None) -> tuple[np.ndarray, bool]:
    """(UTC seconds of ISO 8601 texts, `_BAD_TIME` where there are none; whether UTC is a guess)."""
    seconds = np.empty(len(text), np.int64)
    kinds = np.zeros(len(text), np.int8)
    _plain_iso(*text_bytes(text), seconds, kinds)
    local = timezone not in (None, "UTC")
    other = np.flatnonzero(kinds != 1 if local else kinds == 0)
    offset = bool((kinds == 1).any())
    if len(other):
        rest = pl.Series(text.take(pa.array(other)))
        seconds[other] = _iso_seconds(rest, timezone or "UTC").fill_null(_BAD_TIME).to_numpy()
        offset = offset or bool(rest.str.contains(r"([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)$").any())
    return seconds, timezone is None and not offset


def _times(array: pa.Array, reading: Reading) -> tuple[np.ndarray, int, bool]:
    """A time column as (int64, units a second, whether UTC is a guess); `_NULL_TIME` and `_BAD_TIME` stand apart.

    UTC is a guess where times have no offset and no time zone was named: `refuse_misread` looks at them.
    """
    guessed = False
    if pa.types.is_timestamp(array.type):
        unit = _UNITS[array.type.unit]
        if array.type.tz is None:
            guessed = reading.timezone is None
            if reading.local(array.type):
                series = pl.Series(array).cast(pl.Datetime("us"))
                there = series.dt.replace_time_zone(reading.timezone, ambiguous="earliest", non_existent="null")
                seconds = there.dt.epoch("s").fill_null(_BAD_TIME).to_numpy()
                return np.where(series.is_null().to_numpy(), _NULL_TIME, seconds), 1, False
        units = array.cast(pa.int64())
        return (pc.fill_null(units, _NULL_TIME) if units.null_count else units).to_numpy(), unit, guessed
    if pa.types.is_integer(array.type) or reading.time_unit is not None:
        if reading.time_unit is None:
            raise InputError('the time column holds integers: say their unit, time_unit = "s", "ms" or "us"')
        out = pl.Series(array).cast(pl.Int64, strict=False).fill_null(_BAD_TIME).to_numpy()
        unit = _UNITS[reading.time_unit]
    else:
        out, guessed = _text_times(array, reading.timezone)
        unit = 1
    if array.null_count:
        out = np.where(array.is_null().to_numpy(zero_copy_only=False), _NULL_TIME, out)
    return out, unit, guessed


@compiled(inline="always")
def second_of(since: np.uint64, unit: int) -> np.uint64:
    """The second of the day, from the units since it began."""
    if unit == 1_000_000:  # each division is by a constant: a division by a variable costs 8 ns
        return since // np.uint64(1_000_000)
    if unit == 1:
        return since
    if unit == 1_000:
        return since // np.uint64(1_000)
    return since // np.uint64(1_000_000_000)


@compiled
def _events(ids, times, unit, start, length, locations, events, counts):
    """Write the event of every ping and count those rejected for each reason: the first that applies, as in REASONS."""
    begin, span = start * unit, np.uint64(length * unit)
    for i in range(len(ids)):
        since = np.uint64(times[i] - begin)
        if ids[i] < 0:
            reason = 0
        elif times[i] == _NULL_TIME:
            reason = 1
        elif times[i] == _BAD_TIME:
            reason = 2
        elif since >= span:
            reason = 3
        elif locations[i] < 0:
            reason = -1 - locations[i]
        else:
            events[i] = second_of(since, unit) << np.uint64(SECOND_SHIFT) | np.uint64(locations[i])
            continue
        counts[reason] += 1
        events[i] = np.uint32(REJECTED + reason)


@compiled
def _on_day(times, unit, first):
    """(times that could be read, those of them in the 24 hours from second `first`)."""
    some = inside = np.int64(0)
    for time in times:
        some += time > _BAD_TIME
        inside += np.uint64(time - first * unit) < np.uint64(86_400 * unit)
    return some, inside


# ---------------------------------------------------------------------------------------------------- sifting


@dataclass(slots=True)
class Counts:
    """What became of the rows read so far."""

    read: int = 0
    rejected: np.ndarray = field(default_factory=lambda: np.zeros(len(REASONS), np.int64))
    positions: int = 0
    located: int = 0
    located_swapped: int = 0
    naive: int = 0
    naive_elsewhere: int = 0  # naive times on the day when read in the store's time zone
    quarters: np.ndarray = field(default_factory=lambda: np.zeros(QUARTERS, np.int64))  # clean pings in each

    @property
    def clean(self) -> int:
        return self.read - int(self.rejected.sum())

    def by_reason(self) -> dict[str, int]:
        return {reason: int(n) for reason, n in zip(REASONS, self.rejected, strict=True) if n}

    def add(self, other: Counts) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Sifted:
    """One batch decided: ids (int64, or text still to be numbered), one event a row, rejects, counts."""

    file: str | pa.Array
    ids: np.ndarray | pa.Array
    events: np.ndarray
    rejects: pa.Table | None
    counts: Counts


@dataclass(frozen=True, slots=True)
class Numbers:
    """Rows whose times are numbers and whose locations are known; what is missing is below zero.

    Subscribers are numbers too, or text that is still to be numbered.
    """

    ids: np.ndarray | pa.Array
    times: np.ndarray
    locations: np.ndarray
    unit: int
    guessed: bool  # times were taken for UTC without being told


def parts(piece: Piece, sieve: Sieve, desk: Desk) -> Iterator[Batch | Block]:
    """The rows of a piece in parts; as a block where it is one and cells are looked up by their numbers."""
    block = None
    if piece.block is not None and sieve.cells is not None and sieve.cells.known is None:
        block = piece.block(desk)
    yield from piece.batches() if block is None else [block]


def numbers(batch: Batch, reading: Reading, sieve: Sieve) -> Numbers | None:
    """The rows as numbers, or None where a time or cell is none, a time is local, or integers are written as text."""
    if not len(batch) or sieve.cells is None or not _plain(batch, reading, sieve.cells):
        return None
    ids, times, cells = (batch.columns[name] for name in ("subscriber", "time", "cell"))
    locations = sieve.cells.find(cells)
    ids = raw(ids) if batch.numeric else as_text(ids)
    return Numbers(ids, raw(times), locations, *units(times.type, reading))


def units(kind: pa.DataType, reading: Reading) -> tuple[int, bool]:
    """(units a second of times that are numbers, whether they were taken for UTC without being told)."""
    if pa.types.is_timestamp(kind):
        return _UNITS[kind.unit], kind.tz is None and reading.timezone is None
    return _UNITS[reading.time_unit or ""], False


def _plain(batch: Batch, reading: Reading, cells: Cells) -> bool:
    """Whether times are numbers and none is local, cells are what the inventory has, no integer is written as text."""
    kinds = {name: column.type for name, column in batch.columns.items()}
    if "cell" not in kinds or batch.numeric != pa.types.is_integer(kinds["subscriber"]):
        return False
    time, cell = kinds["time"], kinds["cell"]
    if reading.local(time) or not (pa.types.is_integer(time) or pa.types.is_timestamp(time)):
        return False
    return bool(pa.types.is_integer(cell) if pa.types.is_integer(cells.ids.type) else not is_number(cell))


def sift(batch: Batch, reading: Reading, sieve: Sieve) -> Iterator[Sifted]:
    """Decide every row of a batch: a clean ping's event, or REJECTED + the index of the first reason that applies.

    A batch comes back in blocks, in order.
    """
    for block in batch.blocks(_BLOCK):
        yield decided(block, reading, sieve)


def decided(batch: Batch, reading: Reading, sieve: Sieve) -> Sifted:
    """`sift` for some rows at once."""
    columns = {
        name: column if name == "subscriber" or is_number(column.type) else as_text(column)
        for name, column in batch.columns.items()
    }
    ids: np.ndarray | pa.Array
    if batch.numeric:
        ids, whole = integers(columns["subscriber"])
        usable = ids = ids if whole.all() else np.where(whole, ids, -1)
    else:
        ids = as_text(columns["subscriber"])
        usable = np.where(ids.is_valid().to_numpy(zero_copy_only=False), 0, -1)
    times, unit, guessed = _times(columns["time"], reading)
    locations, by_position = locations_of(columns, len(batch), sieve)
    events, rejected = np.empty(len(batch), np.uint32), np.zeros(len(REASONS), np.int64)
    _events(usable, times, unit, sieve.start, sieve.length, locations, events, rejected)
    quarter = (events[events < REJECTED] >> np.uint32(SECOND_SHIFT)) // np.uint32(900)
    counts = Counts(read=len(batch), rejected=rejected, quarters=np.bincount(quarter, minlength=QUARTERS))
    if by_position is not None:
        _count_swapped(counts, columns, by_position, locations, sieve)
    if guessed:
        counts.naive, counts.naive_elsewhere = _on_day(times, unit, sieve.start + sieve.local)
    return Sifted(batch.file, ids, events, _rejects(batch, events) if rejected.any() else None, counts)


def _count_swapped(
    counts: Counts, columns: Mapping[str, pa.Array], rows: np.ndarray, locations: np.ndarray, sieve: Sieve
) -> None:
    """How many positions were found, and how many of the others would be with latitude and longitude swapped."""
    found = locations >= 0
    lost = rows & ~found
    counts.positions, counts.located = int(rows.sum()), int((rows & found).sum())
    if "lat" in columns and "lon" in columns and lost.any():
        at = pa.array(np.flatnonzero(lost))
        lat, lon = floats(columns["lon"].take(at)), floats(columns["lat"].take(at))
        counts.located_swapped = int((by_position(lat, lon, None, sieve) >= 0).sum())


def _rejects(batch: Batch, events: np.ndarray) -> pa.Table:
    """The rejected rows of a batch as `LOST`: reason, file, row and the offending value; never the subscriber."""
    rows = np.flatnonzero(events >= REJECTED)
    reason = (events[rows] - np.uint32(REJECTED)).astype(np.int32)
    told = np.flatnonzero(~np.isin(reason, _WITHOUT_VALUE))
    where = np.full(len(rows), -1)
    where[told] = np.arange(len(told))
    value = _offending(batch.take(rows[told]).columns, np.isin(reason[told], _ABOUT_TIME))
    return pa.Table.from_arrays(
        [
            pa.DictionaryArray.from_arrays(reason, list(REASONS)),
            of_file(batch.file, len(rows)) if isinstance(batch.file, str) else batch.file.take(pa.array(rows)),
            pa.array((rows if batch.at is None else batch.at[rows].astype(np.int64)) + batch.row),
            value.take(pa.array(where, mask=where < 0)),
        ],
        schema=LOST,
    )


def _offending(columns: Mapping[str, pa.Array], about_time: np.ndarray) -> pa.Array:
    """What was wrong in rejected rows, their time or where they were, as text; never the subscriber."""
    text = {name: as_text(column) for name, column in columns.items() if name != "time"}
    none = pa.nulls(len(about_time), pa.string())
    if "lat" in text or "lon" in text:
        lat, lon, accuracy = (pc.fill_null(text.get(name, none), "") for name in ("lat", "lon", "accuracy"))
        with_accuracy = pc.if_else(pc.equal(accuracy, ""), "", pc.binary_join_element_wise("", accuracy, ","))
        position = pc.binary_join_element_wise(pc.binary_join_element_wise(lat, lon, ","), with_accuracy, "")
        text["position"] = pc.if_else(pc.and_(pc.equal(lat, ""), pc.equal(lon, "")), None, position)
    where = [text[name] for name in ("cell", "position", "plmn") if name in text]
    # a time takes a microsecond to write as text: only those that are asked for
    mask = pa.array(about_time)
    value = pc.replace_with_mask(pc.coalesce(*where, none), mask, as_text(columns["time"].filter(mask)))
    return pc.if_else(pc.fill_null(pc.equal(value, text["subscriber"]), False), None, value)


def refuse_misread(counts: Counts, sieve: Sieve, where: str) -> None:
    """Refuse a day that only fits when read otherwise: coordinates swapped, or local times taken for UTC."""
    if counts.located_swapped > counts.positions / 2 and counts.located < counts.positions / 10:
        raise InputError(
            f"{where}: latitude and longitude are swapped: {counts.located_swapped} of {counts.positions} positions "
            "lie in a place only that way round; exchange the two columns"
        )
    outside = int(counts.rejected[_OUTSIDE_DAY])
    if counts.naive >= 1000 and counts.naive_elsewhere == counts.naive and outside > counts.read / 5:
        raise InputError(
            f"{where}: the times have no time zone; read as UTC, {outside} of {counts.read} are not on {sieve.day}, "
            f'read in {sieve.tz} all are: set [pings] timezone = "{sieve.tz}" (or "UTC", if that is meant)'
        )


def read_pings(
    source: Any,
    *,
    day: date,
    cells: Inventory | None = None,
    places: Places | None = None,
    columns: Mapping[str, str] | None = None,
    time_unit: str | None = None,
    timezone: str | None = None,
    subscriber_type: str | None = None,
    tz: str = "Asia/Shanghai",
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One day's pings as a carrier has them, sifted into clean pings and rejects: clean + rejected = read.

    Parameters
    ----------
    source
        A pattern of files (``"pings/*.parquet"``), a path, a list of paths (Parquet; CSV plain, .gz or .zst), or any
        table with the Arrow PyCapsule interface.
    day
        The calendar day in `tz` being processed; pings on other days are rejected as `outside_day`.
    cells
        The cell map, for pings by cell.
    places
        The boundaries, for pings by latitude and longitude (WGS 84 degrees).
    columns
        travelcard's column name -> the source's, where they differ: `subscriber`, `time`, and `cell`, or `lat`, `lon`
        and perhaps `accuracy` (metres), or `plmn`. A row that has several is read in that order, with no falling back.
        A column that is not named is read under travelcard's name, unless it would come before one that is named.
    time_unit
        ``"s"``, ``"ms"`` or ``"us"``: the unit of integer times since 1970 UTC.
    timezone
        Zone of times without an offset; UTC unless given. In an hour that a clock has twice, the first is meant.
    subscriber_type
        ``"integer"`` or ``"string"``; by default as the column's type says, and integer in CSV.
    tz
        Time zone of the day.

    Returns
    -------
    pings : polars.DataFrame
        `subscriber`, `time` (timestamp[us, UTC], whole seconds), `place`, `inner`, in the order of the source.
    rejects : polars.DataFrame
        `reason`, `file`, `row` (from 0), `value`.

    Raises
    ------
    InputError
        No file, a file that does not fit, is empty or is truncated; positions that fit only when swapped.

    Examples
    --------
    >>> import polars as pl, travelcard as tc
    >>> from datetime import date
    >>> pings, rejects = tc.read_pings(
    ...     pl.DataFrame({"msisdn": [7, 7], "time": ["2022-03-14T09:00:00+08:00", "?"], "plmn": ["44010", "44010"]}),
    ...     day=date(2022, 3, 14), columns={"subscriber": "msisdn"})
    >>> pings["place"].to_list(), rejects.rows()
    (['JPN'], [('bad_time', 'table', 1, '?')])
    """
    a_date(day, "day")
    reading = Reading(columns or {}, time_unit, timezone, subscriber_type)
    pieces = pieces_of(source, reading, day)
    wanted = sieve(day, cells=cells, places=places, tz=tz)
    names = pa.array(wanted.codes)
    counts, clean, rejected = Counts(), [], [LOST.empty_table()]
    for piece in pieces:
        for done in (part for batch in piece.batches() for part in sift(batch, reading, wanted)):
            counts.add(done.counts)
            if done.rejects is not None:
                rejected.append(done.rejects)
            good = np.flatnonzero(done.events < REJECTED)
            events = done.events[good]
            ids = done.ids if isinstance(done.ids, pa.Array) else pa.array(done.ids)
            seconds = wanted.start + (events >> SECOND_SHIFT).astype(np.int64)
            clean.append(
                pa.table(
                    {
                        "subscriber": ids.take(pa.array(good)),
                        "time": pa.array(seconds * 1_000_000).cast(SECONDS),
                        "place": names.take(pa.array((events >> 1 & (MAX_PLACES - 1)).astype(np.int16))),
                        "inner": pa.array((events & 1).astype(bool)),
                    }
                )
            )
    refuse_misread(counts, wanted, "the pings")
    if not clean:
        clean = [pa.table({"subscriber": pa.nulls(0, pa.int64()), "time": pa.nulls(0, SECONDS),
                           "place": pa.nulls(0, pa.string()), "inner": pa.nulls(0, pa.bool_())})]  # fmt: skip
    lost = pa.concat_tables(rejected).cast(REJECTS.arrow())
    return pl.from_arrow(pa.concat_tables(clean)), pl.from_arrow(lost)  # type: ignore[return-value]
