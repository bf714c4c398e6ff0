"""Where a ping was: what a cell, a position or a plmn means on one day, in numbers that the kernels can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled
from travelcard.errors import InputError
from travelcard.inventory import MISSING, NOWHERE, Cells, Inventory, coded, reason
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.places import Places, country_of_mcc
from travelcard.schema import REASONS, midnights
from travelcard.sources import as_text

__all__ = ["Sieve", "by_position", "countries_of", "floats", "locations_of", "sieve"]

_BAD_POSITION = reason(REASONS.index("bad_position"))


@dataclass(frozen=True, slots=True)
class Sieve:
    """All that decides one day's pings: the day, the place codes in bytewise order, and what each location means.

    A location is as in `Cells`.
    """

    day: date
    tz: str
    start: int
    length: int
    local: int  # the second of this day at which the day begins for who takes its local times for UTC
    codes: tuple[str, ...]
    cells: Cells | None
    places: Places | None
    place_index: np.ndarray  # of places.codes, in codes
    countries: Mapping[str, int]  # mcc -> place index


def sieve(day: date, *, cells: Inventory | None, places: Places | None, tz: str) -> Sieve:
    """Make the sieve of one day from that day's cells, the places for pings by position, and the countries."""
    mcc = country_of_mcc()
    others = set(mcc.values()) | set(places.codes if places is not None else ())
    known, codes = (None, coded(others)) if cells is None else Cells.of(cells, day, others)
    index = {code: i for i, code in enumerate(codes)}
    start, end = midnights(day, 1, tz)
    return Sieve(
        day=day,
        tz=tz,
        start=int(start),
        length=int(end - start),
        local=int(np.datetime64(day, "s").astype(np.int64) - start),
        codes=codes,
        cells=known,
        places=places,
        place_index=np.array([index[code] for code in places.codes] if places is not None else [], np.int32),
        countries={code: index[country] for code, country in mcc.items()},
    )


def _by_cell(cells: pa.Array, sieve: Sieve) -> np.ndarray:
    """Locations of pings by cell; a null is `null_cell`."""
    if sieve.cells is None:
        raise InputError("these pings name cells, but there is no cell inventory: pass cells=, or [cells] path")
    return sieve.cells.find(cells)


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
            out[i] = _BAD_POSITION
        elif place[i] < 0:
            out[i] = NOWHERE
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
    return np.array([NOWHERE if m == -1 else m for m in meaning], np.int32)


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
