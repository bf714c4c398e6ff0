"""What a card can list: cities and countries, their names, and which of them a location is in (DESIGN 2 and 3.2).

`Places` holds the boundaries of a country's cities. `china()` is the one that comes with the package, `from_file`
reads a carrier's own. Places abroad have no boundary here: a ping abroad names its country by the network's MCC.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from travelcard.boundaries import from_gcj02, km2, overlaps, problems, read
from travelcard.errors import InputError, NotFound, one_line, refuse
from travelcard.late import polars as pl
from travelcard.late import shapely
from travelcard.schema import read_parquet

if TYPE_CHECKING:
    from travelcard.borders import Borders

__all__ = [
    "SNAP",
    "Places",
    "china",
    "countries",
    "country_of_mcc",
    "from_file",
    "from_polygons",
    "is_abroad",
]

SNAP = 5000.0  # metres, DESIGN 3.2
HOME_MCC = ("460", "461")
DOMESTIC = ("HKG", "MAC", "TWN")  # listed like countries, coloured as domestic (DESIGN 2)
CELLS_A_PLACE = (
    5000  # H3 resolution 7 for the prefectures of China (5 km2): finer ones grow the index, not what it answers
)
REACH = (
    1.25  # average edges; no descendant of an H3 cell reaches farther from its centre (1.14 seen, all over the globe)
)
_VERSION = "1"
_NAMES, _SHAPES = ("code", "name", "name_en", "province"), ("geometry", "h3")  # columns of a file of places
_WGS84 = ("EPSG:4326", "EPSG:4490", "EPSG:4979", "OGC:CRS84", "OGC:CRS84H")  # 4490: CGCS2000, within a metre
_DATA = Path(__file__).parent / "data"
_POSITION = np.uint64((1 << 52) - 1)  # of an H3 index: base cell and fifteen digits of three bits


@dataclass(frozen=True, eq=False)
class Places:
    """Places with boundaries, sorted by code, bytewise; an index into `codes` stands for a place in arrays.

    Made by `china`, `from_file`, `from_polygons` or `Places.load`. Polygons, grid and H3 index are made at first use;
    threads may share one object, and it pickles without them.
    """

    codes: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)
    names_en: tuple[str | None, ...] = field(repr=False)
    provinces: tuple[str, ...] = field(repr=False)
    shapes: pa.Table | Callable[[], pa.Table] = field(repr=False)  # geometry (WKB), h3; or what reads them

    def __reduce__(self) -> tuple[Any, ...]:
        return Places, (self.codes, self.names, self.names_en, self.provinces, self._shapes)

    @cached_property
    def _shapes(self) -> pa.Table:
        """The shapes, read once."""
        return self.shapes if isinstance(self.shapes, pa.Table) else self.shapes()

    @cached_property
    def polygons(self) -> NDArray[Any]:
        """The boundaries as shapely polygons, in the order of `codes`: degrees, WGS 84, x = longitude."""
        return np.asarray(shapely.from_wkb(self._shapes["geometry"].to_numpy(zero_copy_only=False)), object)

    @cached_property
    def borders(self) -> Borders:
        """The boundaries laid in a grid, which answers for positions."""
        from travelcard.borders import Borders  # noqa: PLC0415  it imports Numba, which a card does not need

        return Borders.of(self.polygons)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of codes, names and boundaries: what a cell map was built with."""
        whole = hashlib.sha256(json.dumps([self.codes, self.names, self.provinces]).encode())
        for shape in self._shapes["geometry"]:
            whole.update(shape.as_buffer())
        return whole.hexdigest()

    @cached_property
    def _at(self) -> dict[str, int]:
        return {code: i for i, code in enumerate(self.codes)}

    def name(self, code: str, language: str = "zh") -> str:
        """The name of a place, or of a country (ISO 3166-1 alpha-3), in Chinese (``"zh"``) or English (``"en"``).

        A place whose source gave no English name is called by its name in both.

        >>> china().name("330100"), china().name("330100", "en"), china().name("JPN")
        ('杭州市', 'Hangzhou', '日本')
        """
        if language not in ("zh", "en"):
            raise InputError(f"language {language!r}: expected 'zh' or 'en'")
        at = self._at.get(code)
        if at is not None:
            return (self.names_en[at] or self.names[at]) if language == "en" else self.names[at]
        if code not in _countries():
            raise NotFound(
                f"no place {code!r}: expected one of {len(self.codes)} codes with a boundary or an ISO alpha-3"
            )
        return _countries()[code][language == "en"]

    def province(self, code: str) -> str:
        """The province of a city; empty for a country, a region, and a place whose source gave none."""
        at = self._at.get(code)
        if at is None:
            self.name(code)  # a country, or no place at all
            return ""
        return self.provinces[at]

    @lru_cache(maxsize=4096)  # noqa: B019  asked of every bucket
    def printed(self, code: str) -> str:
        """A place as the card prints it: province and city joined, a municipality or a country alone (DESIGN 3.6).

        >>> [china().printed(code) for code in ("330100", "110000", "HKG", "JPN")]
        ['浙江省杭州市', '北京市', '中国香港', '日本']
        """
        province, name = self.province(code), self.name(code)
        return name if province == name else province + name

    def locate(self, lat: ArrayLike, lon: ArrayLike, *, snap: float = SNAP) -> NDArray[np.int32]:
        """The place that covers each position, or the nearest within `snap`, as an index into `codes` (DESIGN 3.2).

        Parameters
        ----------
        lat, lon : float arrays of shape (n,), degrees, WGS 84. A NaN or a value out of range is in no place.
        snap : metres, geodesic, inclusive; 0 = off. Distances within 0.01 mm of each other are ties.

        Returns
        -------
        int32 array of shape (n,); -1 = outside every place. An edge counts as covered; the smaller code wins.

        >>> p = china(); [p.codes[i] for i in p.locate([30.25, 22.3], [120.17, 114.17])]
        ['330100', 'HKG']
        """
        y, x = _positions(lat, lon)
        _metres("snap", np.asarray(snap))
        out = self.borders.locate(y, x)
        if snap > 0:
            outside = np.flatnonzero(out == -1 if snap <= SNAP else out < 0)
            out[outside] = self.borders.nearest(y[outside], x[outside], float(snap))
        return np.maximum(out, -1, out=out)

    def inner(self, lat: ArrayLike, lon: ArrayLike, radius: ArrayLike, place: ArrayLike) -> NDArray[np.bool_]:
        """Whether the closed disc round each position meets no polygon but that of its place; the sea does not count.

        `radius` in metres (one, or one each, 0 or more); `place` as `locate` gives it: False where it is -1.
        """
        y, x = _positions(lat, lon)
        metres = np.array(np.broadcast_to(np.asarray(radius, np.float64), y.shape))
        _metres("radius", metres)
        of = np.array(np.broadcast_to(np.asarray(place, np.int32), y.shape))
        out = of >= 0
        at = np.flatnonzero(out)
        out[at] = self.borders.alone(y[at], x[at], metres[at], of[at])
        return out

    def located(self, lat: ArrayLike, lon: ArrayLike, radius: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """(`locate`, `inner`) of every position at once: the grid answers for most by one look.

        >>> place, inner = china().located([30.25], [120.17], 50.0)
        >>> china().codes[place.item()], inner.item()
        ('330100', True)
        """
        y, x = _positions(lat, lon)
        metres = np.array(np.broadcast_to(np.asarray(radius, np.float64), y.shape))
        _metres("radius", metres)
        place, inner = self.borders.located(y, x, metres)
        outside = np.flatnonzero(place == -1)
        place[outside] = self.borders.nearest(y[outside], x[outside], SNAP)
        found = outside[place[outside] >= 0]
        inner[found] = self.borders.alone(y[found], x[found], metres[found], place[found])
        np.maximum(place, -1, out=place)
        return place, inner

    def of_h3(self, cells: ArrayLike) -> NDArray[np.int32]:
        """The place in which the whole of each H3 cell lies, its descendants included; -1 = ask `locate`.

        The cells of the index are compacted, so each stands for an interval of H3 positions (base cell and digits),
        and intervals do not overlap: one binary search finds the ancestor of a cell at whatever resolution.
        """
        low, high, place = self._intervals
        first, last = _interval(np.asarray(cells, np.uint64))
        at = np.searchsorted(low, first, side="right") - 1
        found = (at >= 0) & (last <= high[at]) if len(low) else np.zeros(len(first), np.bool_)
        return np.where(found, place[at] if len(low) else -1, -1).astype(np.int32)

    @cached_property
    def _intervals(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int32]]:
        cells = self._cells
        low, high = _interval(np.concatenate(cells))
        place = np.repeat(np.arange(len(cells), dtype=np.int32), [len(c) for c in cells])
        order = np.argsort(low)
        return low[order], high[order], place[order]

    @cached_property
    def _cells(self) -> Sequence[NDArray[np.uint64]]:
        """The H3 cells that lie wholly in exactly one place, compacted, per place; 10 s for China's prefectures, unless
        they were saved.
        """
        if "h3" in self._shapes.column_names:
            lists = self._shapes["h3"].combine_chunks()
            return np.split(lists.flatten().to_numpy(), np.cumsum(lists.value_lengths().to_numpy())[:-1])
        import h3.api.numpy_int as h3  # noqa: PLC0415  only who makes an index needs it, and a card is shown at once

        area = km2(self.polygons).sum()
        resolution = next(
            (r for r in range(8, -1, -1) if area / h3.average_hexagon_area(r) <= CELLS_A_PLACE * len(self.codes)), 0
        )
        reach = REACH * h3.average_hexagon_edge_length(resolution, "m")
        out = []
        for i, polygon in enumerate(self.polygons):
            cells = np.asarray(h3.geo_to_cells(polygon, resolution), np.uint64)
            centre = np.array([h3.cell_to_latlng(c) for c in cells.tolist()]).reshape(-1, 2)
            lat, lon = np.ascontiguousarray(centre[:, 0]), np.ascontiguousarray(centre[:, 1])
            whole = self.borders.nearest(lat, lon, reach) < 0  # no edge within reach: one side of every border
            whole &= self.borders.locate(lat, lon) == i
            whole &= self.borders.alone(lat, lon, np.zeros(len(lat)), np.full(len(lat), i, np.int32))
            out.append(np.sort(np.asarray(h3.compact_cells(cells[whole]), np.uint64)))
        return out

    def save(self, path: str | Path) -> None:
        """Write boundaries, names and the H3 index to one Parquet file, for `Places.load`."""
        table = pa.table(
            {
                "code": pa.array(self.codes, pa.string()),
                "name": pa.array(self.names, pa.string()),
                "name_en": pa.array(self.names_en, pa.string()),
                "province": pa.array(self.provinces, pa.string()),
                "geometry": self._shapes["geometry"],
                "h3": pa.array(self._cells, pa.list_(pa.uint64())),
            }
        ).replace_schema_metadata({"travelcard": "places", "version": _VERSION})
        pq.write_table(
            table,
            path,
            compression="zstd",
            compression_level=19,
            use_dictionary=False,
            column_encoding={"h3.list.element": "DELTA_BINARY_PACKED"},
            write_page_checksum=True,
        )

    @classmethod
    def load(cls, path: str | Path) -> Places:
        """Read what `save` wrote. Raises `InputError` for any other file."""
        return cls._named(path, _saved(path, _SHAPES))

    @classmethod
    def _named(cls, path: str | Path, shapes: pa.Table | Callable[[], pa.Table]) -> Places:
        """Codes and names from what `save` wrote, and these shapes."""
        codes, names, names_en, provinces = (tuple(c.to_pylist()) for c in _saved(path, _NAMES).select(_NAMES))
        return cls(codes, names, names_en, provinces, shapes)


def _saved(path: str | Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a file of places."""
    try:
        table = read_parquet(path, columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as places: {one_line(error)}") from error
    metadata = table.schema.metadata or {}
    if metadata.get(b"travelcard") != b"places" or metadata.get(b"version") != _VERSION.encode():
        raise InputError(f"{path} is no file of places (version {_VERSION}): read boundaries with places.from_file")
    return table


def _interval(cells: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First and last H3 position of the descendants of each cell: the unused digits all 0, and all 7."""
    position = cells & _POSITION
    unused = np.uint64(3) * (np.uint64(15) - (cells >> np.uint64(52) & np.uint64(15)))
    mask = (np.uint64(1) << unused) - np.uint64(1)
    return position & ~mask, position | mask


def _positions(lat: ArrayLike, lon: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = (np.ascontiguousarray(a, np.float64) for a in (lat, lon))
    if y.shape != x.shape or y.ndim != 1:
        raise InputError(f"lat and lon: expected one array of numbers each, equally long, got {y.shape} and {x.shape}")
    return y, x


def _metres(what: str, value: NDArray[np.float64]) -> None:
    if not (np.isfinite(value) & (value >= 0)).all():
        raise InputError(f"{what}: expected metres, 0 or more")


@lru_cache(maxsize=1)
def china() -> Places:
    """The prefecture-level places of China in 2022 with HKG, MAC and TWN, read once (371; their source: NOTICE)."""
    return Places._named(_DATA / "china.parquet", _china_shapes)


def _china_shapes() -> pa.Table:
    """The boundaries, apart: to read them takes 15 ms, and a card shows names alone."""
    return _saved(_DATA / "china.parquet", _SHAPES)


def from_polygons(
    codes: Sequence[str],
    names: Sequence[str],
    provinces: Sequence[str | None],
    geometries: Iterable[Any],
    names_en: Sequence[str | None] | None = None,
) -> Places:
    """Places of shapely polygons in degrees, WGS 84, x = longitude; they may overlap (the smaller code wins).

    Raises one `InputError` with every duplicate code, and every geometry that is no valid polygon in range.
    """
    polygons = np.array(list(geometries), dtype=object)
    if not len(codes) == len(names) == len(provinces) == len(polygons) == len(names_en or codes):
        raise InputError("codes, names, provinces and geometries: expected equally many of each")
    refuse("the boundaries cannot be read as places", problems(list(codes), polygons))
    order = sorted(range(len(codes)), key=lambda i: codes[i].encode())
    return Places(
        tuple(codes[i] for i in order),
        tuple(names[i] for i in order),
        tuple(names_en[i] if names_en else None for i in order),
        tuple(provinces[i] or "" for i in order),
        pa.table({"geometry": pa.array(shapely.to_wkb(polygons[order]), pa.binary())}),
    )


def from_file(
    path: str | Path,
    *,
    code: str = "code",
    name: str = "name",
    province: str | None = None,
    name_en: str | None = None,
    crs: str = "WGS84",
) -> Places:
    """Places of a boundary file: GeoParquet, GeoJSON, a shapefile, or whatever else GDAL reads.

    Parameters
    ----------
    code, name, province, name_en : the columns to read; the last two may be left out.
    crs : ``"WGS84"``, or ``"GCJ-02"`` for the shifted coordinates of Chinese web maps, which are converted.

    Raises
    ------
    InputError
        One error with all that does not fit: missing columns, another declared coordinate system, duplicate codes,
        geometries that are no valid polygons, swapped coordinates, and polygons that overlap by more than a sliver
        (1 km2, or 1 % of the smaller one).
    MissingExtra
        Formats other than GeoParquet need ``travelcard[places]``.
    """
    if crs not in ("WGS84", "GCJ-02"):
        raise InputError(f"crs {crs!r}: expected 'WGS84' or 'GCJ-02'")
    columns, wkb, declared = read(path)
    lines = []
    for argument, column in (("code", code), ("name", name), ("province", province), ("name_en", name_en)):
        if column is not None and column not in columns:
            found = ", ".join(columns) or "no column"
            lines.append(f'{argument}  column {column!r} is missing  found {found}: pass {argument}="..."')
    if declared is not None and declared not in _WGS84:
        lines.append(
            f"crs  declared as {declared.split(',')[0]}: convert the file to WGS 84 longitude/latitude (EPSG:4326)"
        )
    if not len(wkb):
        lines.append("no rows")
    refuse(f"{path} cannot be read as places", lines)
    codes, names = columns[code], columns[name]
    lines += [
        f"row {i}: no {what}" for what, got in (("code", codes), ("name", names)) for i, v in enumerate(got) if not v
    ]
    codes = [str(c) for c in codes]
    polygons = shapely.from_wkb(np.asarray(wkb, object), on_invalid="ignore")  # what is no WKB is no geometry
    if crs == "GCJ-02":
        polygons = shapely.transform(polygons, lambda xy: np.column_stack(from_gcj02(xy[:, 1], xy[:, 0])[::-1]))
    lines += problems(codes, polygons) + overlaps(codes, polygons)
    refuse(f"{path} cannot be read as places", lines)
    provinces = columns[province] if province is not None else [None] * len(codes)
    return from_polygons(codes, names, provinces, polygons, columns[name_en] if name_en is not None else None)


@lru_cache(maxsize=1)
def _countries() -> dict[str, tuple[str, str]]:
    lines = (_DATA / "countries.csv").read_text(encoding="utf-8").splitlines()
    return {row["alpha3"]: (row["zh"], row["en"]) for row in csv.DictReader(lines)}


def countries() -> pl.DataFrame:
    """Countries and regions: `alpha3` (ISO 3166-1, and XKX), `zh`, `en`; sorted by code."""
    rows = [(code, *names) for code, names in _countries().items()]
    return pl.DataFrame(rows, schema=["alpha3", "zh", "en"], orient="row")


@lru_cache(maxsize=1)
def country_of_mcc() -> dict[str, str]:
    """Three-digit mobile country code to alpha-3; the home country's (460, 461) and 9xx name no country abroad."""
    lines = (_DATA / "mcc_country.csv").read_text("utf-8").splitlines()
    pairs = ((row["mcc"], row["country"]) for row in csv.DictReader(lines))
    return {mcc: country for mcc, country in pairs if mcc not in HOME_MCC and not mcc.startswith("9") and country}


@lru_cache(maxsize=4096)
def is_abroad(code: str) -> bool:
    """Whether a place is abroad: a country's code, and not HKG, MAC or TWN.

    >>> [is_abroad(code) for code in ("JPN", "HKG", "330100")]
    [True, False, False]
    """
    return len(code) == 3 and code.isalpha() and code not in DOMESTIC
