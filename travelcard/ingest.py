"""Pings as carriers have them, files or tables, to clean pings and rejects: clean + rejected = read (DESIGN 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from travelcard.errors import InputError
from travelcard.places import Places, country_of_mcc
from travelcard.schema import (
    MAX_PLACES,
    REASONS,
    REJECTED,
    REJECTS,
    SECOND_SHIFT,
    SECONDS,
    a_date,
    midnights,
)
from travelcard.sources import Batch, Reading, as_text, is_number, pieces_of

__all__ = ["read_pings"]

_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_BLOCK = 1 << 16  # rows decided at a time: what is made of them stays in the second-level cache
_NULL_TIME, _BAD_TIME = np.iinfo(np.int64).min, np.iinfo(np.int64).min + 1
(
    _NULL_SUBSCRIBER,
    _NULL_TIME_REASON,
    _BAD_TIME_REASON,
    _OUTSIDE_DAY,
    _NULL_CELL,
    _BAD_POSITION,
    _UNKNOWN_CELL,
    _NO_PLACE,
) = range(8)


class Inventory(Protocol):
    """What of a `CellMap` is needed here: the cells valid on a day, as a frame `cell`, `place`, `inner`."""

    def on(self, day: date) -> pl.DataFrame: ...


# ---------------------------------------------------------------------------------------------------- where a ping is


def _reason(index: int) -> int:
    """How a location stands for a reason: below zero, so that it is never a place."""
    return -1 - index


_MISSING, _NOWHERE = _reason(_UNKNOWN_CELL), _reason(_NO_PLACE)
_KEYS = np.uint64(1 << 47)  # ids counted from the smallest one; an inventory that spans more is looked up as text is


@njit(cache=True, nogil=True)
def _table(keys: np.ndarray, locations: np.ndarray) -> np.ndarray:
    """An open-addressing table, at most half full. A slot is one word, the id in front of 16 bits of location, so that
    a probe is one cache line and the cells of a country fit a cache; -1 is a free slot.
    """
    size = 16
    while size < 2 * len(keys):
        size *= 2
    table = np.full(size, -1, np.int64)
    mask = np.uint64(size - 1)
    for row in range(len(keys)):
        h = np.uint64(keys[row]) * np.uint64(0x9E3779B97F4A7C15)
        h = (h ^ h >> np.uint64(32)) & mask
        while table[h] != -1:
            h = (h + np.uint64(1)) & mask
        table[h] = keys[row] << 16 | (locations[row] & 0xFFFF)
    return table


@njit(cache=True, nogil=True, inline="always")
def location_of(cell: int, base: int, table: np.ndarray, mask: np.uint64) -> int:
    """The location of a cell's id; below zero the reason why it has none."""
    key = np.uint64(cell - base)
    if key >= _KEYS:
        return _MISSING
    h = key * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ h >> np.uint64(32)) & mask
    slot = table[h]
    while slot != -1 and np.uint64(slot >> 16) != key:
        h = (h + np.uint64(1)) & mask
        slot = table[h]
    if slot == -1:
        return _MISSING
    location = slot & 0xFFFF
    return location if location < 0x8000 else _NOWHERE


@njit(cache=True, nogil=True)
def _find(cells: np.ndarray, base: int, table: np.ndarray) -> np.ndarray:
    """`location_of` for an array."""
    out = np.empty(len(cells), np.int32)
    mask = np.uint64(len(table) - 1)
    for i in range(len(cells)):
        out[i] = location_of(cells[i], base, table, mask)
    return out


@dataclass(frozen=True, slots=True)
class Sieve:
    """All that decides one day's pings: the day, the place codes in bytewise order, and what each location means.

    A location is place index * 2 + inner, or below zero a reason (`_reason`).
    """

    day: date
    tz: str
    start: int
    length: int
    local: int  # the second of this day at which the day begins for who takes its local times for UTC
    codes: tuple[str, ...]
    cells: pa.Array | None  # distinct ids, int64 or string
    cell_locations: np.ndarray  # of them
    cell_base: int
    cell_table: np.ndarray  # of integer ids, counted from the base: see _table; empty where there is none
    places: Places | None
    place_index: np.ndarray  # of places.codes, in codes
    countries: Mapping[str, int]  # mcc -> place index


def sieve(day: date, *, cells: Inventory | None, places: Places | None, tz: str) -> Sieve:
    """Make the sieve of one day from that day's cells, the places for pings by position, and the countries."""
    mcc = country_of_mcc()
    frame = cells.on(day) if cells is not None else None
    listed = set(mcc.values()) | set(places.codes if places is not None else ())
    if frame is not None:
        listed |= set(frame["place"].drop_nulls().unique())
    codes = tuple(sorted(listed))
    if len(codes) > MAX_PLACES:
        raise InputError(f"{len(codes)} distinct places: the kernel holds at most {MAX_PLACES}")
    index = {code: i for i, code in enumerate(codes)}
    ids, locations, base, table = None, np.empty(0, np.int32), 0, np.empty(0, np.int64)
    if frame is not None:
        ids = frame["cell"].to_arrow().cast(pa.int64() if frame["cell"].dtype.is_integer() else pa.string())
        place = frame["place"].replace_strict(index, default=None, return_dtype=pl.Int32)
        located = (place * 2 + frame["inner"].cast(pl.Int32)).fill_null(_NOWHERE)
        locations = located.to_numpy().astype(np.int32)
        if pa.types.is_integer(ids.type) and len(ids):
            keys = frame["cell"].cast(pl.Int64).to_numpy()
            base = int(keys.min())
            if int(keys.max()) - base < _KEYS:
                table = _table(keys - base, locations)
    start, end = midnights(day, 1, tz)
    return Sieve(
        day=day,
        tz=tz,
        start=int(start),
        length=int(end - start),
        local=int(np.datetime64(day, "s").astype(np.int64) - start),
        codes=codes,
        cells=ids,
        cell_locations=locations,
        cell_base=base,
        cell_table=table,
        places=places,
        place_index=np.array([index[code] for code in places.codes] if places is not None else [], np.int32),
        countries={code: index[country] for code, country in mcc.items()},
    )


def _integers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """An id column as (int64, whether each is a whole number of 0 to 2**63 - 1)."""
    if pa.types.is_int64(array.type) and not array.null_count:
        values = array.to_numpy()
        return values, values >= 0
    series = pl.Series(array).cast(pl.Int64, strict=False)
    return series.fill_null(-1).to_numpy(), (series >= 0).fill_null(False).to_numpy()


def _by_cell(cells: pa.Array, sieve: Sieve) -> np.ndarray:
    """Locations of pings by cell; a null is `null_cell`."""
    if sieve.cells is None:
        raise InputError("these pings name cells, but there is no cell inventory: pass cells=, or [cells] path")
    if len(sieve.cell_table):
        values, whole = _integers(cells)
        out = _find(values, sieve.cell_base, sieve.cell_table)
        if not whole.all():
            out[~whole] = _MISSING
    else:
        if pa.types.is_integer(sieve.cells.type):
            values, whole = _integers(cells)
            encoded = pc.dictionary_encode(pa.array(values, mask=~whole))
        else:
            encoded = pc.dictionary_encode(as_text(cells))
        row = pc.fill_null(pc.index_in(encoded.dictionary, sieve.cells), -1).to_numpy()
        known = np.append(np.append(sieve.cell_locations, _MISSING)[row], _MISSING)  # row -1: not there
        out = known[pc.fill_null(encoded.indices, len(row)).to_numpy()].astype(np.int32)
    if cells.null_count:
        out[pc.is_null(cells).to_numpy(zero_copy_only=False)] = _reason(_NULL_CELL)
    return out


def _floats(array: pa.Array) -> np.ndarray:
    """A coordinate column as float64; null and what is no number are NaN."""
    return pl.Series(array).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()


def _by_position(lat: np.ndarray, lon: np.ndarray, accuracy: np.ndarray | None, sieve: Sieve) -> np.ndarray:
    """Locations of pings by latitude and longitude in degrees, accuracy in metres."""
    if sieve.places is None:
        raise InputError("these pings have positions, but there are no places to find them in: pass places=")
    out = np.full(len(lat), _reason(_BAD_POSITION), np.int32)
    good = (np.abs(lat) <= 90) & (np.abs(lon) <= 180)  # false for NaN
    radius = np.zeros(len(lat)) if accuracy is None else accuracy
    good &= np.isfinite(radius) & (radius >= 0)
    lat, lon, radius = lat[good], lon[good], radius[good]
    place = sieve.places.locate(lat, lon)
    found = place >= 0
    located = np.full(len(lat), _NOWHERE, np.int32)
    inner = sieve.places.inner(lat[found], lon[found], radius[found], place[found])
    located[found] = sieve.place_index[place[found]] * 2 + inner
    out[good] = located
    return out


def _by_plmn(plmn: pa.Array, sieve: Sieve) -> np.ndarray:
    """Locations of roaming pings: the country of the first three digits; always inner; a null is `null_cell`."""
    encoded = pc.dictionary_encode(as_text(plmn), null_encoding="encode")
    meaning = [
        _reason(_NULL_CELL) if text is None else sieve.countries.get(text[:3], -1) * 2 + 1
        for text in encoded.dictionary.to_pylist()
    ]
    known = np.array([_NOWHERE if m == -1 else m for m in meaning], np.int32)
    return known[encoded.indices.to_numpy()]


def _present(*arrays: pa.Array | None) -> np.ndarray | None:
    """Which rows have a value in any of these columns; None when no row has."""
    some = [array.is_valid().to_numpy(zero_copy_only=False) for array in arrays if array is not None]
    either = np.logical_or.reduce(some) if some else None
    return either if either is not None and either.any() else None


def _locations(columns: Mapping[str, pa.Array], rows: int, sieve: Sieve) -> tuple[np.ndarray, np.ndarray | None]:
    """(location of every row: cell before position before plmn, no falling back; the rows read by position or None)."""
    cell = columns.get("cell")
    if cell is not None and not cell.null_count:
        return _by_cell(cell, sieve), None
    out = np.full(rows, _reason(_NULL_CELL), np.int32)
    open_ = np.ones(rows, bool)
    if (has := _present(cell)) is not None:
        out[has] = _by_cell(cell.filter(pa.array(has)), sieve)  # type: ignore[union-attr]
        open_ &= ~has
    by_position = None
    if (has := _present(columns.get("lat"), columns.get("lon"))) is not None:
        by_position = has & open_
        missing = np.full(rows, np.nan)
        lat, lon = (_floats(columns[c])[by_position] if c in columns else missing[by_position] for c in ("lat", "lon"))
        accuracy = columns.get("accuracy")
        radius = None if accuracy is None else np.where(
            accuracy.is_valid().to_numpy(zero_copy_only=False), _floats(accuracy), 0.0
        )[by_position]  # fmt: skip
        out[by_position] = _by_position(lat, lon, radius, sieve)
        open_ &= ~has
    if (has := _present(columns.get("plmn"))) is not None:
        has &= open_
        out[has] = _by_plmn(columns["plmn"].filter(pa.array(has)), sieve)
    return out, by_position


# ---------------------------------------------------------------------------------------------------- when a ping was

_ISO = (  # extended and basic format, to the second or less, with or without an offset
    r"^(\d{4})-?(\d{2})-?(\d{2})(?:[Tt ](\d{2})(?::?(\d{2})(?::?([0-5]\d)(?:[.,]\d+)?)?)?"
    r"\s?(?:([Zz])|([+-]\d{2}):?(\d{2})?)?)?$"
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


def _times(array: pa.Array, reading: Reading) -> tuple[np.ndarray, int, bool]:
    """A time column as (int64, units a second, whether UTC is a guess); `_NULL_TIME` and `_BAD_TIME` stand apart.

    UTC is a guess where times have no offset and no time zone was named: `refuse_misread` looks at them.
    """
    guessed = False
    if pa.types.is_timestamp(array.type):
        unit = _UNITS[array.type.unit]
        if array.type.tz is None:
            guessed = reading.timezone is None
            if reading.timezone not in (None, "UTC"):
                series = pl.Series(array).cast(pl.Datetime("us"))
                there = series.dt.replace_time_zone(reading.timezone, ambiguous="earliest", non_existent="null")
                seconds = there.dt.epoch("s").fill_null(_BAD_TIME).to_numpy()
                return np.where(series.is_null().to_numpy(), _NULL_TIME, seconds), 1, False
        units = array.cast(pa.int64())
        return (pc.fill_null(units, _NULL_TIME) if units.null_count else units).to_numpy(), unit, guessed
    if pa.types.is_integer(array.type) or reading.time_unit is not None:
        if reading.time_unit is None:
            raise InputError('the time column holds integers: say their unit, time_unit = "s", "ms" or "us"')
        values = pl.Series(array).cast(pl.Int64, strict=False)
        unit = _UNITS[reading.time_unit]
    else:
        text = pl.Series(array)
        values, unit = _iso_seconds(text, reading.timezone or "UTC"), 1
        guessed = reading.timezone is None and not text.str.contains(r"([Zz]|[+-]\d{2}(:?\d{2})?)$").any()
    out = values.fill_null(_BAD_TIME).to_numpy()
    if array.null_count:
        out = np.where(array.is_null().to_numpy(zero_copy_only=False), _NULL_TIME, out)
    return out, unit, guessed


@njit(cache=True, nogil=True, inline="always")
def event_of(since: np.uint64, unit: int, location: int) -> np.uint32:
    """A clean ping's event, from the units since the day began."""
    if unit == 1_000_000:  # each division is by a constant: a division by a variable costs 8 ns
        second = since // np.uint64(1_000_000)
    elif unit == 1:
        second = since
    elif unit == 1_000:
        second = since // np.uint64(1_000)
    else:
        second = since // np.uint64(1_000_000_000)
    return np.uint32(second) << np.uint32(SECOND_SHIFT) | np.uint32(location)


@njit(cache=True, nogil=True)
def _events(ids, times, unit, start, length, locations):
    """(event of every ping, rejected per reason): the first reason that applies, in the order of REASONS."""
    events = np.empty(len(ids), np.uint32)
    counts = np.zeros(8, np.int64)
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
            events[i] = event_of(since, unit, locations[i])
            continue
        counts[reason] += 1
        events[i] = np.uint32(REJECTED + reason)
    return events, counts


@njit(cache=True, nogil=True)
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

    ids: np.ndarray | pa.Array
    events: np.ndarray
    rejects: pa.Table | None
    counts: Counts


@dataclass(frozen=True, slots=True)
class Numbers:
    """A batch whose subscribers, times and cells are all numbers: int64, and a bitmap of the rows without a null."""

    ids: np.ndarray
    times: np.ndarray
    cells: np.ndarray
    valid: np.ndarray
    unit: int
    guessed: bool  # times were taken for UTC without being told


def numbers(batch: Batch, reading: Reading, sieve: Sieve) -> Numbers | None:
    """The batch as numbers, or None where something in it is none: text, or local times."""
    if not batch.numeric or "cell" not in batch.columns or not len(sieve.cell_table):
        return None
    columns = [batch.columns[name] for name in ("subscriber", "time", "cell")]
    time = columns[1].type
    local = pa.types.is_timestamp(time) and time.tz is None and reading.timezone not in (None, "UTC")
    if local or not all(pa.types.is_integer(c.type) or pa.types.is_timestamp(c.type) for c in columns):
        return None
    valid = pc.and_(pc.and_(columns[0].is_valid(), columns[1].is_valid()), columns[2].is_valid())
    if valid.offset % 8:
        valid = pa.concat_arrays([valid, pa.array([], pa.bool_())])  # a copy, from bit 0 on
    bits = np.frombuffer(valid.buffers()[1], np.uint8)[valid.offset // 8 :]
    unit = _UNITS[time.unit if pa.types.is_timestamp(time) else reading.time_unit or ""]
    guessed = pa.types.is_timestamp(time) and time.tz is None and reading.timezone is None
    ids, times, cells = map(_raw, columns)
    return Numbers(ids, times, cells, bits, unit, guessed)


def _raw(array: pa.Array) -> np.ndarray:
    """A column of integers or timestamps as int64, whatever under nulls; too large a number comes out below zero."""
    if array.type.bit_width == 64:
        return np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array)]
    return np.asarray(pc.fill_null(array, 0).to_numpy().astype(np.int64))


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
        ids, whole = _integers(columns["subscriber"])
        usable = ids = ids if whole.all() else np.where(whole, ids, -1)
    else:
        ids = as_text(columns["subscriber"])
        usable = np.where(ids.is_valid().to_numpy(zero_copy_only=False), 0, -1)
    times, unit, guessed = _times(columns["time"], reading)
    locations, by_position = _locations(columns, len(batch), sieve)
    events, rejected = _events(usable, times, unit, sieve.start, sieve.length, locations)
    counts = Counts(read=len(batch), rejected=rejected)
    if by_position is not None:
        _count_swapped(counts, columns, by_position, locations, sieve)
    if guessed:
        counts.naive, counts.naive_elsewhere = _on_day(times, unit, sieve.start + sieve.local)
    return Sifted(ids, events, _rejects(batch, events) if rejected.any() else None, counts)


def _count_swapped(
    counts: Counts, columns: Mapping[str, pa.Array], rows: np.ndarray, locations: np.ndarray, sieve: Sieve
) -> None:
    """How many positions were found, and how many of the others would be with latitude and longitude swapped."""
    found = locations >= 0
    lost = rows & ~found
    counts.positions, counts.located = int(rows.sum()), int((rows & found).sum())
    if "lat" in columns and "lon" in columns and lost.any():
        lat, lon = _floats(columns["lon"])[lost], _floats(columns["lat"])[lost]
        counts.located_swapped = int((_by_position(lat, lon, None, sieve) >= 0).sum())


def _rejects(batch: Batch, events: np.ndarray) -> pa.Table:
    """The rejected rows of a batch: reason, file, row and the offending value as text; never the subscriber."""
    rows = np.flatnonzero(events >= REJECTED)
    reason = (events[rows] - np.uint32(REJECTED)).astype(np.int8)
    none = pa.nulls(len(rows), pa.string())
    text = {name: as_text(column) for name, column in batch.take(rows).columns.items()}
    lat, lon, accuracy = (pc.fill_null(text.get(name, none), "") for name in ("lat", "lon", "accuracy"))
    with_accuracy = pc.if_else(pc.equal(accuracy, ""), "", pc.binary_join_element_wise("", accuracy, ","))
    position = pc.binary_join_element_wise(pc.binary_join_element_wise(lat, lon, ","), with_accuracy, "")
    position = pc.if_else(pc.and_(pc.equal(lat, ""), pc.equal(lon, "")), None, position)
    where = pc.coalesce(text.get("cell", none), position, text.get("plmn", none))
    value = pc.if_else(pa.array(np.isin(reason, (_BAD_TIME_REASON, _OUTSIDE_DAY))), text["time"], where)
    nothing = pa.array(np.isin(reason, (_NULL_SUBSCRIBER, _NULL_TIME_REASON, _NULL_CELL)))
    return pa.Table.from_arrays(
        [
            pa.array(REASONS).take(pa.array(reason)),
            pa.array([batch.file]).take(pa.array(np.zeros(len(rows), np.int8))),
            pa.array((rows if batch.at is None else batch.at[rows].astype(np.int64)) + batch.row),
            pc.if_else(pc.or_(nothing, pc.fill_null(pc.equal(value, text["subscriber"]), False)), None, value),
        ],
        schema=REJECTS.arrow(),
    )


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
    counts, clean, rejected = Counts(), [], [REJECTS.arrow().empty_table()]
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
    return pl.from_arrow(pa.concat_tables(clean)), pl.from_arrow(pa.concat_tables(rejected))  # type: ignore[return-value]
