"""Boundary files: read, checked, and converted from GCJ-02. `places.from_file` is the way in."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from travelcard.errors import InputError, MissingExtra, one_line
from travelcard.late import shapely
from travelcard.schema import read_parquet

__all__ = ["from_gcj02", "km2", "overlaps", "problems", "read"]

SLIVER_KM2 = 1.0  # two polygons may overlap by less than this and by less than 1 % of the smaller one
SLIVER_SHARE = 0.01


def read(path: str | Path) -> tuple[dict[str, list[Any]], list[bytes], str | None]:
    """Columns, WKB geometry and declared coordinate system (None: not declared) of a vector file.

    GeoParquet is read by pyarrow (the wheels of pyogrio come with a GDAL without Parquet), all else by pyogrio.
    """
    return _read_parquet(path) if Path(path).suffix in (".parquet", ".geoparquet") else _read_gdal(path)


def km2(geometry: NDArray[Any]) -> NDArray[np.float64]:
    """Areas of geometries in degrees, by a cylindrical equal-area projection of the sphere."""

    def project(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return 6371.0072 * np.column_stack([np.radians(xy[:, 0]), np.sin(np.radians(xy[:, 1]))])

    return np.asarray(shapely.area(shapely.transform(np.asarray(geometry, object), project)), np.float64)


def problems(codes: list[str], polygons: NDArray[Any]) -> list[str]:
    """All that keeps polygons from being places, one line each."""
    if not codes:
        return ["no rows"]
    lines = [f"{code}: {n} rows have this code" for code, n in sorted(Counter(codes).items()) if n > 1]
    kind = shapely.get_type_id(polygons)
    empty = shapely.is_missing(polygons) | shapely.is_empty(polygons)
    fit = np.isin(kind, (3, 6)) & ~empty
    for i in np.flatnonzero(~fit):
        what = "no geometry" if empty[i] else f"a {polygons[i].geom_type}"
        lines.append(f"{codes[i]}: {what}, expected a Polygon or MultiPolygon")
    bad = fit & ~shapely.is_valid(polygons)
    lines += [f"{codes[i]}: {shapely.is_valid_reason(polygons[i])}" for i in np.flatnonzero(bad)]
    if fit.any():
        west, south, east, north = shapely.total_bounds(polygons[fit])
        inside = west >= -180 and east <= 180 and south >= -90 and north <= 90
        turned = west >= 3 and east <= 54 and south >= 73 and north <= 136  # China, with the axes exchanged
        adcodes = all(len(c) == 6 and c.isdigit() for c in codes)
        if inside and not (turned and adcodes):
            return lines
        fits_swapped = west >= -90 and east <= 90 and south >= -180 and north <= 180
        lines.append(
            f"coordinates x {west:.6g} to {east:.6g}, y {south:.6g} to {north:.6g}: "
            + ("latitude and longitude are swapped" if fits_swapped else "not longitude and latitude in degrees")
        )
    return lines


def overlaps(codes: list[str], polygons: NDArray[Any]) -> list[str]:
    """The pairs of polygons that share more than a sliver, one line each; those that are no valid polygon left out."""
    fit = np.flatnonzero(np.isin(shapely.get_type_id(polygons), (3, 6)) & shapely.is_valid(polygons))
    codes, polygons = [codes[i] for i in fit], polygons[fit]
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    one, other = one[one < other], other[one < other]
    shared = km2(shapely.intersection(polygons[one], polygons[other]))
    area = km2(polygons)
    too_much = (shared >= SLIVER_KM2) | (shared >= SLIVER_SHARE * np.minimum(area[one], area[other]))
    pairs = sorted((*sorted((codes[one[k]], codes[other[k]])), shared[k]) for k in np.flatnonzero(too_much))
    return [f"{a} and {b} overlap by {km2:.3g} km2" for a, b, km2 in pairs]


def _read_parquet(path: str | Path) -> tuple[dict[str, list[Any]], list[bytes], str | None]:
    """Columns, WKB and declared coordinate system of a GeoParquet file."""
    try:
        table = read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as places: {one_line(error)}") from error
    geo = json.loads((table.schema.metadata or {}).get(b"geo", b"{}"))
    column = geo.get("primary_column")
    about = geo.get("columns", {}).get(column, {})
    if about.get("encoding") != "WKB" or column not in table.column_names:
        raise InputError(f"{path} cannot be read as places: it is no GeoParquet file with WKB geometry")
    crs = about.get("crs", {"id": {"authority": "OGC", "code": "CRS84"}})  # the format's default; null: not declared
    declared = None
    if crs is not None:
        declared = f"{crs['id']['authority']}:{crs['id']['code']}" if "id" in crs else str(crs.get("name", "unnamed"))
    columns = {n: table[n].to_pylist() for n in table.column_names if n != column}
    return columns, table[column].to_pylist(), declared


def _read_gdal(path: str | Path) -> tuple[dict[str, list[Any]], list[bytes], str | None]:
    """Columns, WKB and declared coordinate system of any other vector file."""
    try:
        import pyogrio  # noqa: PLC0415  an extra
    except ImportError as error:
        raise MissingExtra(f"{path}: reading it needs pyogrio: pip install 'travelcard[places]'") from error
    try:
        meta, _, wkb, fields = pyogrio.raw.read(path)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InputError(f"{path} cannot be read as places: {one_line(error)}") from error
    return {n: list(f) for n, f in zip(meta["fields"], fields, strict=True)}, list(wkb), meta["crs"]


def from_gcj02(lat: ArrayLike, lon: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """WGS 84 latitudes and longitudes of GCJ-02 ones, to a millimetre; what is outside China is left as it is."""
    goal_y, goal_x = np.asarray(lat, np.float64), np.asarray(lon, np.float64)
    # the rectangle in which the published shift applies
    shifted = (goal_x >= 72.004) & (goal_x <= 137.8347) & (goal_y >= 0.8293) & (goal_y <= 55.8271)
    y, x = goal_y.copy(), goal_x.copy()
    for _ in range(8):  # the shift changes by less than a thousandth of a step: each turn gains three digits
        dy, dx = _gcj02_shift(y, x)
        y, x = np.where(shifted, goal_y - dy, goal_y), np.where(shifted, goal_x - dx, goal_x)
    return y, x


def _gcj02_shift(lat: NDArray[np.float64], lon: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """GCJ-02 minus WGS 84 in degrees: the shift as published in many places, on Krasovsky's ellipsoid."""
    x, y, pi, sin = lon - 105.0, lat - 35.0, np.pi, np.sin
    root = np.sqrt(np.abs(x))
    wave = (20.0 * sin(6.0 * x * pi) + 20.0 * sin(2.0 * x * pi)) * 2.0 / 3.0
    north = -100.0 + 2.0 * x + 3.0 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root + wave
    north += (20.0 * sin(y * pi) + 40.0 * sin(y / 3.0 * pi)) * 2.0 / 3.0
    north += (160.0 * sin(y / 12.0 * pi) + 320.0 * sin(y / 30.0 * pi)) * 2.0 / 3.0
    east = 300.0 + x + 2.0 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root + wave
    east += (20.0 * sin(x * pi) + 40.0 * sin(x / 3.0 * pi)) * 2.0 / 3.0
    east += (150.0 * sin(x / 12.0 * pi) + 300.0 * sin(x / 30.0 * pi)) * 2.0 / 3.0
    a, e2 = 6378245.0, 0.00669342162296594323
    phi = np.radians(lat)
    w = 1.0 - e2 * sin(phi) ** 2
    return np.degrees(north * w**1.5 / (a * (1.0 - e2))), np.degrees(east * np.sqrt(w) / (a * np.cos(phi)))
