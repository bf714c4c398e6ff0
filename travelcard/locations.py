"""Where a ping was: what a cell, a position or a plmn means on one day, in numbers that the kernels can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled, prefetch, shift_of, slot_of
from travelcard.errors import InputError
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.memory import pages
from travelcard.names import Known
from travelcard.places import Places, country_of_mcc
from travelcard.schema import MAX_PLACES, REASONS, midnights
from travelcard.sources import as_text, text_bytes

__all__ = [
    "MISSING",
    "UNSEEN",
    "Inventory",
    "Sieve",
    "Silent",
    "by_position",
    "by_text",
    "countries_of",
    "expect",
    "find",
    "floats",
    "integers",
    "location_of",
    "locations_of",
    "mark",
    "seen",
    "sieve",
    "silent",
]

_NULL_CELL, _BAD_POSITION, _UNKNOWN_CELL, _NO_PLACE = map(
    REASONS.index, ("null_cell", "bad_position", "unknown_cell", "no_place")
)


class Inventory(Protocol):
    """What of a `CellMap` is needed here: a table `cell`, `place`, `inner` sorted by cell, and the rows a day has."""

    def dated(self, day: date) -> tuple[pa.Table, np.ndarray]: ...


def reason(index: int) -> int:
    """How a location stands for a reason: below zero, so that it is never a place."""
    return -1 - index


MISSING, _UNKNOWN, _NOWHERE = reason(_NULL_CELL), reason(_UNKNOWN_CELL), reason(_NO_PLACE)
UNSEEN = np.iinfo(np.int32).min  # of a word of a dictionary that no ping has named so far
_LOW = np.uint64(17)  # bits of a slot behind the id: whether a ping has named the cell, and its location
_SEEN = 1 << 16
_AHEAD = 16  # rows
_NAMED = 10_000  # silent cells that are on record by name; how many there were is on record always
_KEYS = np.uint64(1 << 46)  # ids counted from the smallest one; an inventory that spans more is looked up as text is


@compiled
def _located(places: np.ndarray, inner: np.ndarray, meaning: np.ndarray, out: np.ndarray) -> None:
    """Write the location of each cell; `meaning` has that of each place where the cell is not inner."""
    for row in range(len(places)):
        location = meaning[places[row]]
        out[row] = location + inner[row] if location >= 0 else location


@compiled
def expect(cells: np.ndarray, row: int, base: int, table: np.ndarray, shift: np.uint64) -> None:
    """Have the slots fetched in which the search for the cell some rows further on begins.

    A table of 5 million cells fits no cache: a loop that waits for each slot spends 60 ns a row, with this 27.
    """
    prefetch(table, slot_of(np.uint64(cells[min(row + _AHEAD, len(cells) - 1)] - base), shift))


@compiled
def _enter(cells: np.ndarray, base: int, locations: np.ndarray, table: np.ndarray) -> None:
    """Enter cells into a table whose slots are all free."""
    mask, shift = np.uint64(len(table) - 1), shift_of(table)
    for row in range(len(cells)):
        expect(cells, row, base, table, shift)
        key = cells[row] - base
        h = slot_of(np.uint64(key), shift)
        while table[h] != -1:
            h = (h + np.uint64(1)) & mask
        table[h] = key << 17 | (locations[row] & 0xFFFF)


def _free(cells: int) -> np.ndarray:
    """An open-addressing table for so many cells, at most half full; nothing is in it yet.

    A slot is one word, the id in front of a bit for whether a ping has named it and 16 bits of location, so that the
    cells of a country fit a cache; -1 is a free slot, its location that of no cell.

    A fuller table is smaller and yet slower, since more probes are mispredicted: 21 instead of 15 ns a look-up among
    5 million cells.
    """
    table = pages(max(16, 1 << (2 * cells - 1).bit_length()), np.int64)
    table[:] = -1
    return table


@compiled
def _search(table, h, key):
    """The location of a key, and 1, from a slot on; from now on its cell has been named."""
    mask = np.uint64(len(table) - 1)
    while table[h] != -1 and np.uint64(table[h]) >> _LOW != key:
        h = (h + np.uint64(1)) & mask
    table[h] |= _SEEN  # by whichever thread: they all write the same
    return (table[h] & 0xFFFF) + 1


@compiled
def _entry(cell, base, table, shift):
    """As `_search`, from the first slot on. Four are compared without a branch, which is foreseen wrongly for one cell
    in five, at 5 ns.
    """
    key = np.uint64(cell - base)
    h = slot_of(key, shift)
    a, b = table[h], table[h + np.uint64(1)]
    c, d = table[h + np.uint64(2)], table[h + np.uint64(3)]
    found = (a & 0x1FFFF) if np.uint64(a) >> _LOW == key else 0
    found |= (b & 0x1FFFF) if np.uint64(b) >> _LOW == key else 0
    found |= (c & 0x1FFFF) if np.uint64(c) >> _LOW == key else 0
    found |= (d & 0x1FFFF) if np.uint64(d) >> _LOW == key else 0
    return found - _SEEN + 1 if found >= _SEEN else _search(table, h, key)


@compiled
def location_of(cell: int, base: int, table: np.ndarray, shift: np.uint64) -> int:
    """The location of a cell's id; below zero the reason why it has none."""
    found = _entry(cell, base, table, shift)
    return found - 1 if found <= 0x8000 else _NOWHERE if found <= 0xFFFF else _UNKNOWN


def find(cells: np.ndarray, sieve: Sieve) -> np.ndarray:
    """The locations of cells by their ids."""
    out = np.empty(len(cells), np.int32)
    _find(cells, sieve.cell_base, sieve.cell_table, out)
    return out


@compiled
def _find(cells: np.ndarray, base: int, table: np.ndarray, out: np.ndarray) -> None:
    """`location_of` for an array."""
    shift = shift_of(table)
    for i in range(len(cells)):
        expect(cells, i, base, table, shift)
        out[i] = location_of(cells[i], base, table, shift)


@dataclass(frozen=True, slots=True)
class Sieve:
    """All that decides one day's pings: the day, the place codes in bytewise order, and what each location means.

    A location is place index * 2 + inner, or below zero a reason (`reason`).
    """

    day: date
    tz: str
    start: int
    length: int
    local: int  # the second of this day at which the day begins for who takes its local times for UTC
    codes: tuple[str, ...]
    cells: pa.ChunkedArray | None  # ids, ascending: of other days, too, if there is a table; else distinct
    cell_base: int
    cell_table: np.ndarray  # of integer ids, counted from the base: see `_free`; empty where there is none
    known: Known | None  # where there is none, the cells
    cell_locations: np.ndarray  # of these, and at last of one that is not known
    named: np.ndarray  # of these, and at last of any other, whether a ping has named it; a table has it in its slots
    places: Places | None
    place_index: np.ndarray  # of places.codes, in codes
    countries: Mapping[str, int]  # mcc -> place index


class _Part(NamedTuple):
    """Some of an inventory's cells: all ids, and of those valid on a day the place, as a number, and the inner flag."""

    ids: pa.Array
    valid: np.ndarray | slice
    place: np.ndarray
    inner: np.ndarray
    codes: list[str | None]  # of each number; None of one that no valid cell has, and at last of no place

    def keys(self) -> np.ndarray:
        """The ids that are valid, of an inventory of integers."""
        return np.asarray(self.ids.to_numpy()[self.valid].astype(np.int64, copy=False))

    def locations(self, index: Mapping[str, int]) -> np.ndarray:
        """Where the valid ones are, as in `Sieve`."""
        out = np.empty(len(self.place), np.int16)
        meaning = [_NOWHERE if code is None else 2 * index[code] for code in self.codes]
        _located(self.place, self.inner, np.array(meaning, np.int16), out)
        return out


def _parts_of(rows: pa.Table, valid: np.ndarray) -> Iterator[_Part]:
    """An inventory as it lies in memory, by NumPy: a night needs Arrow's functions for nothing else before it reads."""
    if not pa.types.is_dictionary(rows["place"].type):
        rows = rows.set_column(rows.schema.get_field_index("place"), "place", rows["place"].dictionary_encode())
    end = 0
    for batch in rows.to_batches():
        begin, end = end, end + len(batch)
        some = slice(None) if valid[begin:end].all() else valid[begin:end]  # a copy of millions is for nothing
        texts = batch["place"].dictionary.to_pylist()
        place = _indices(batch["place"].indices, len(texts))[some]
        used = np.zeros(len(texts) + 1, np.bool_)
        used[place] = True
        inner = batch["inner"]
        inner = (pc.fill_null(inner, False) if inner.null_count else inner).to_numpy(zero_copy_only=False)[some]
        codes = [text if used[i] else None for i, text in enumerate(texts)]
        yield _Part(batch["cell"], some, place, inner, [*codes, None])


def _indices(array: pa.Array, none: int) -> np.ndarray:
    """Whole numbers as int32, `none` where there is no value."""
    known, data = array.buffers()
    rows = slice(array.offset, array.offset + len(array))
    values = np.frombuffer(data, array.type.to_pandas_dtype())[rows].astype(np.int32)
    if array.null_count:
        values[np.unpackbits(np.frombuffer(known, np.uint8), bitorder="little")[rows] == 0] = none
    return values


def _entered(parts: list[_Part], located: list[np.ndarray], table: np.ndarray) -> tuple[int, np.ndarray]:
    """(what ids are counted from, the table with the cells in it); an empty one where ids lie too far apart for it."""
    keys = [part.keys() for part in parts]
    usable = [some >= 0 for some in keys]  # no ping's cell is below zero
    top = np.iinfo(np.int64).max
    base = min((int(some.min(where=use, initial=top)) for some, use in zip(keys, usable, strict=True)), default=top)
    if max((int(some.max(initial=0)) for some in keys), default=0) - base >= _KEYS:
        return base, np.empty(0, np.int64)
    for some, use, locations in zip(keys, usable, located, strict=True):
        good = slice(None) if use.all() else use
        _enter(some[good], base, locations[good], table)
    return base, table


def sieve(day: date, *, cells: Inventory | None, places: Places | None, tz: str) -> Sieve:
    """Make the sieve of one day from that day's cells, the places for pings by position, and the countries."""
    mcc = country_of_mcc()
    listed = set(mcc.values()) | set(places.codes if places is not None else ())
    rows, valid = (None, np.empty(0, np.bool_)) if cells is None else cells.dated(day)
    integer = rows is not None and pa.types.is_integer(rows["cell"].type)
    with ThreadPoolExecutor(1) as beside:  # to make and fill a country's table takes as long as to go over its cells
        free = beside.submit(_free, int(valid.sum()) if integer else 0)
        parts = [] if rows is None else list(_parts_of(rows, valid))
    listed.update(code for part in parts for code in part.codes if code is not None)
    codes = tuple(sorted(listed))
    if len(codes) > MAX_PLACES:
        raise InputError(f"{len(codes)} distinct places: the kernel holds at most {MAX_PLACES}")
    index = {code: i for i, code in enumerate(codes)}
    located = [part.locations(index) for part in parts]
    ids = None if rows is None else rows["cell"]
    base, table = _entered(parts, located, free.result()) if integer else (0, np.empty(0, np.int64))
    known, named = None, 0
    if ids is not None and not len(table):
        kind = pa.int64() if integer else pa.string()
        ids = ids if valid.all() else ids.filter(pa.array(valid))
        ids = ids if ids.type == kind else ids.cast(kind)
        known, named = Known.of(ids), len(ids) + 1
    start, end = midnights(day, 1, tz)
    return Sieve(
        day=day,
        tz=tz,
        start=int(start),
        length=int(end - start),
        local=int(np.datetime64(day, "s").astype(np.int64) - start),
        codes=codes,
        cells=ids,
        cell_base=base,
        cell_table=table,
        known=known,
        cell_locations=np.array([_UNKNOWN])
        if known is None
        else np.concatenate([*located, [_UNKNOWN]], dtype=np.int16),
        named=np.zeros(named, np.bool_),
        places=places,
        place_index=np.array([index[code] for code in places.codes] if places is not None else [], np.int32),
        countries={code: index[country] for code, country in mcc.items()},
    )


def integers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """An id column as (int64, whether each is a whole number of 0 to 2**63 - 1)."""
    if pa.types.is_int64(array.type):
        values = array.fill_null(-1).to_numpy()
        return values, values >= 0
    series = pl.Series(array).cast(pl.Int64, strict=False)
    return series.fill_null(-1).to_numpy(), (series >= 0).fill_null(False).to_numpy()


class Silent(NamedTuple):
    """The cells of a day that no ping has named: how many, and the first of them, ascending."""

    total: int
    first: pa.ChunkedArray


def silent(sieve: Sieve) -> Silent | None:
    """The cells of the day that no ping has named so far; None where there is no inventory."""
    if sieve.cells is None:
        return None
    if sieve.known is not None:
        end, room, some = 0, _NAMED, []
        for chunk in sieve.cells.chunks:
            begin, end = end, end + len(chunk)
            rows = np.flatnonzero(~sieve.named[begin:end])[:room]
            some.append(chunk.take(pa.array(rows)))
            room -= len(rows)
        return Silent(end - int(sieve.named[:end].sum()), pa.chunked_array(some, sieve.cells.type))
    first, n = np.empty(_NAMED, np.int64), 0
    for chunk in sieve.cells.chunks:  # in their order: to sort what the table holds takes longer than its pings
        n = _first_silent(chunk.to_numpy().astype(np.int64, copy=False), sieve.cell_base, sieve.cell_table, first, n)
    return Silent(_silent(sieve.cell_table), pa.chunked_array([first[:n]]))


@compiled
def _first_silent(cells: np.ndarray, base: int, table: np.ndarray, out: np.ndarray, n: int) -> int:
    """Write which of these cells, ascending, no ping has named, behind the first n, while there is room."""
    mask, shift = np.uint64(len(table) - 1), shift_of(table)
    for row in range(len(cells)):
        if n == len(out):
            break
        cell = cells[row]
        if cell < base or (n > 0 and out[n - 1] == cell):  # below zero, or a second row of the same id
            continue
        h, key = slot_of(np.uint64(cell - base), shift), np.uint64(cell - base)
        while table[h] != -1 and np.uint64(table[h]) >> _LOW != key:
            h = (h + np.uint64(1)) & mask
        if table[h] != -1 and table[h] & _SEEN == 0:
            out[n] = cell
            n += 1
    return n


@compiled
def _silent(table: np.ndarray) -> int:
    n = 0
    for slot in table:
        n += (slot != -1) & (slot & _SEEN == 0)
    return n


def seen(sieve: Sieve) -> np.ndarray:
    """Which cells a ping has named so far, in the sieve's own order."""
    return (sieve.cell_table != -1) & (sieve.cell_table & _SEEN != 0) if len(sieve.cell_table) else sieve.named.copy()


def mark(sieve: Sieve, named: np.ndarray) -> None:
    """Take cells for named that another copy of the sieve has `seen`."""
    if len(sieve.cell_table):
        sieve.cell_table[named] |= _SEEN
    else:
        sieve.named[named] = True


def _by_cell(cells: pa.Array, sieve: Sieve) -> np.ndarray:
    """Locations of pings by cell; a null is `null_cell`."""
    if sieve.cells is None:
        raise InputError("these pings name cells, but there is no cell inventory: pass cells=, or [cells] path")
    if sieve.known is None or pa.types.is_integer(sieve.cells.type):
        values, whole = integers(cells)
        out = find(values, sieve) if sieve.known is None else _found(pa.array(values), sieve)
        if not whole.all():
            out[~whole] = _UNKNOWN
    else:
        out = by_text(cells, sieve)
    if cells.null_count:
        out[pc.is_null(cells).to_numpy(zero_copy_only=False)] = MISSING
    return out


def _found(cells: pa.Array, sieve: Sieve) -> np.ndarray:
    """Locations of cells where there is no table."""
    rows = sieve.known.rows(cells)  # type: ignore[union-attr]
    sieve.named[rows] = True
    return sieve.cell_locations[rows].astype(np.int32)


def by_text(cells: pa.Array, sieve: Sieve) -> np.ndarray:
    """Locations of cells whose ids are texts; an empty one is missing, a null is anything."""
    cells = cells.cast(pa.string())
    _, ends = text_bytes(cells)
    return np.where(ends[1:] == ends[:-1], MISSING, _found(cells, sieve))


def floats(array: pa.Array, null: float = np.nan) -> np.ndarray:
    """A column of numbers as float64; what is none is NaN."""
    if not pa.types.is_float64(array.type):
        series = pl.Series(array)
        numbers = series.cast(pl.Float64, strict=False).fill_null(np.nan)
        return np.asarray(numbers.set(series.is_null(), null).to_numpy())
    return np.asarray((pc.fill_null(array, null) if array.null_count else array).to_numpy())


@compiled
def _meant(good: np.ndarray, place: np.ndarray, inner: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Write the location of each position: `index` has that of each place where the position is not inner."""
    for i in range(len(place)):
        if not good[i]:
            out[i] = -1 - _BAD_POSITION
        elif place[i] < 0:
            out[i] = _NOWHERE
        else:
            out[i] = index[place[i]] + inner[i]


def by_position(lat: np.ndarray, lon: np.ndarray, accuracy: np.ndarray | None, sieve: Sieve) -> np.ndarray:
    """Locations of pings by latitude and longitude in degrees, accuracy in metres."""
    if sieve.places is None:
        raise InputError("these pings have positions, but there are no places to find them in: pass places=")
    good = (np.abs(lat) <= 90) & (np.abs(lon) <= 180)  # false for NaN
    radius = np.zeros(len(lat)) if accuracy is None else accuracy
    good &= np.isfinite(radius) & (radius >= 0)
    if not good.all():
        lat, radius = np.where(good, lat, np.nan), np.where(good, radius, 0.0)
    place, inner = sieve.places.located(lat, lon, radius)
    out = np.empty(len(lat), np.int32)
    _meant(good, place, inner, 2 * sieve.place_index, out)
    return out


def _by_plmn(plmn: pa.Array, sieve: Sieve) -> np.ndarray:
    """Locations of roaming pings: the country of the first three digits; always inner; a null is `null_cell`."""
    encoded = pc.dictionary_encode(as_text(plmn), null_encoding="encode")
    return countries_of(encoded.dictionary, sieve)[encoded.indices.to_numpy()]


def countries_of(words: pa.Array, sieve: Sieve) -> np.ndarray:
    """`_by_plmn` of a few texts, one by one."""
    meaning = [MISSING if text is None else sieve.countries.get(text[:3], -1) * 2 + 1 for text in words.to_pylist()]
    return np.array([_NOWHERE if m == -1 else m for m in meaning], np.int32)


def _present(*arrays: pa.Array | None) -> np.ndarray | None:
    """Which rows have a value in any of these columns; None when no row has."""
    some = [array.is_valid().to_numpy(zero_copy_only=False) for array in arrays if array is not None]
    either = np.logical_or.reduce(some) if some else None
    return either if either is not None and either.any() else None


def locations_of(columns: Mapping[str, pa.Array], rows: int, sieve: Sieve) -> tuple[np.ndarray, np.ndarray | None]:
    """(location of every row: cell before position before plmn, no falling back; the rows read by position or None)."""
    cell = columns.get("cell")
    if cell is not None and not cell.null_count:
        return _by_cell(cell, sieve), None
    out = np.full(rows, MISSING, np.int32)
    open_ = np.ones(rows, bool)
    if (has := _present(cell)) is not None:
        out[has] = _by_cell(cell.filter(pa.array(has)), sieve)  # type: ignore[union-attr]
        open_ &= ~has
    positioned = None
    if (has := _present(columns.get("lat"), columns.get("lon"))) is not None:
        positioned = has & open_
        missing = np.full(rows, np.nan)
        lat, lon = (floats(columns[c]) if c in columns else missing for c in ("lat", "lon"))
        accuracy = columns.get("accuracy")
        radius = None if accuracy is None else floats(accuracy, null=0.0)
        found = by_position(np.where(positioned, lat, np.nan), lon, radius, sieve)
        out = np.where(positioned, found, out)
        open_ &= ~has
    if (has := _present(columns.get("plmn"))) is not None:
        has &= open_
        out[has] = _by_plmn(columns["plmn"].filter(pa.array(has)), sieve)
    return out, positioned
