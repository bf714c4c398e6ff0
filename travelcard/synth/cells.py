"""The country and its network: usable cells by place, neighbours, pairs across borders, cells that are no use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import shapely

from travelcard.errors import InputError
from travelcard.places import Places
from travelcard.schema import INVENTORY

__all__ = ["ABROAD", "BOX", "Country", "Net", "country", "network", "shifted"]

ABROAD = (  # where roamers go, and a network there
    ("JPN", "44010"),
    ("HKG", "45400"),
    ("KOR", "45005"),
    ("THA", "52003"),
    ("USA", "310260"),
    ("MAC", "45500"),
    ("TWN", "46692"),
    ("GBR", "23410"),
)
_PLMNS = (0x46000, 0x46001, 0x46011, 0x46002, 0x46007, 0x46015)
BOX = 0.2  # degrees: the grid in which a train finds its next cell


class Net(NamedTuple):
    """The network as the kernels read it: usable cells sorted by place, neighbours beside each other."""

    lat: np.ndarray
    lon: np.ndarray
    place: np.ndarray  # index into the place codes
    starts: np.ndarray  # of each place's cells
    near: np.ndarray  # a neighbouring cell in the same place
    partner: np.ndarray  # the cell across the border, -1 = none
    border: np.ndarray  # cells with a partner
    border_starts: np.ndarray
    box_starts: np.ndarray  # cells by box of `BOX` degrees
    box_cells: np.ndarray
    frame: np.ndarray  # south, west, rows, columns of the boxes


@dataclass(frozen=True, slots=True, eq=False)
class Country:
    """Boundaries, network and settings of one synthetic country; `country` makes it."""

    places: Places
    seed: int
    subscribers: int
    ids: str
    flicker: float
    inventory: pa.Table
    codes: tuple[str, ...]  # places.codes, then the countries of ABROAD
    net: Net
    cells: np.ndarray  # id by index: usable cells, then cells outside every place, then ids that no day knows
    lat: np.ndarray
    lon: np.ndarray
    range: np.ndarray
    outside: int  # index of the first cell outside every place
    unknown: int  # index of the first id that no day knows


def _cell_ids(n: int) -> np.ndarray:
    """Invented ids in the form of an ECGI: the PLMN's digits in hexadecimal, 20 bits of site, 8 of sector."""
    site, sector = np.divmod(np.arange(n, dtype=np.int64), 3)
    if n and site[-1] >> 20 >= len(_PLMNS):
        raise InputError(f"{n} cells: at most {3 * len(_PLMNS) << 20} have an id")
    plmn = np.array(_PLMNS, np.int64)[site >> 20]
    return np.asarray((plmn << 28) | ((site & 0xFFFFF) << 8) | (sector + 1))


def _morton(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """An order in which neighbours mostly lie together: the bits of both coordinates, taken in turn."""
    out = np.zeros(len(lat), np.uint64)
    for values, shift in ((lat, 0), (lon, 1)):
        spread = ((values + 360.0) * 90.0).astype(np.uint64)
        for bit in range(16):
            out |= ((spread >> np.uint64(bit)) & np.uint64(1)) << np.uint64(2 * bit + shift)
    return out


def shifted(lat: np.ndarray, lon: np.ndarray, metres: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    north = lat + metres * np.sin(angle) / 111_200.0
    east = lon + metres * np.cos(angle) / (111_200.0 * np.cos(np.radians(lat)))
    return np.round(north, 6), np.round(east, 6)


def _spread(places: Places, cells: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(lat, lon, range, place, pair) of usable cells: a few a place, pairs across borders, more by population."""
    home = np.array([len(code) != 3 or not code.isalpha() for code in places.codes])  # no network of ours abroad
    outlines = places.polygons[home]
    if cells < 4 * len(outlines):
        raise InputError(
            f"{cells} cells are too few for {len(outlines)} places: ask for at least {5 * len(outlines) + 100}"
        )
    centre = shapely.point_on_surface(outlines)
    lats, lons = shapely.get_y(centre), shapely.get_x(centre)
    size = np.sqrt(shapely.area(outlines) * np.cos(np.radians(lats)) / np.pi) * 111_200.0
    codes = [code for code, kept in zip(places.codes, home, strict=True) if kept]
    drawn = rng.lognormal(0.0, 0.9, len(codes))
    people = drawn * [6.0 if c.endswith("0000") else 0.25 if c[2:4] == "90" else 1.0 for c in codes]
    people /= people.sum()

    def around(p: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return shifted(lats[p], lons[p], reach * size[p], rng.uniform(0, 2 * np.pi, len(p)))

    def reaches(n: int) -> np.ndarray:  # most cells in town, the rest anywhere
        town = 0.25 * np.abs(rng.standard_normal(n)) ** 1.5
        return np.where(rng.random(n) < 0.7, town, 1.3 * np.sqrt(rng.random(n)))

    def ours(lat: np.ndarray, lon: np.ndarray, **snap: float) -> np.ndarray:
        at = np.asarray(places.locate(lat, lon, **snap)).astype(np.int64)
        return np.where((at >= 0) & home[at], at, -1)

    # every place: three cells at its centre, where the centre is not another's
    p = np.repeat(np.arange(len(codes)), 3)
    lat, lon = around(p, np.tile([0.0, 0.01, 0.02], len(codes)))
    at = ours(lat, lon)
    stray = at != np.flatnonzero(home)[p]
    lat[stray], lon[stray] = np.round(lats[p[stray]], 6), np.round(lons[p[stray]], 6)
    parts = [(lat, lon, np.full(len(p), 500.0), ours(lat, lon), np.full(len(p), -1))]

    # pairs: from somewhere in a place walk straight on, find where it ends by halving, stand on both sides
    n = max(cells // 12, 64)
    p = rng.choice(len(codes), n, p=people)
    lat, lon = around(p, reaches(n))
    start, angle = ours(lat, lon, snap=0.0), rng.uniform(0, 2 * np.pi, n)
    near, far = np.zeros(n), 2.0 * size[p]
    for _ in range(18):
        middle = 0.5 * (near + far)
        same = ours(*shifted(lat, lon, middle, angle), snap=0.0) == start
        near, far = np.where(same, middle, near), np.where(same, far, middle)
    here = shifted(lat, lon, near - rng.uniform(100, 1500, n), angle)
    there = shifted(lat, lon, far + rng.uniform(100, 1500, n), angle)
    a, b = ours(*here), ours(*there)
    pair = np.flatnonzero((a >= 0) & (b >= 0) & (a != b))[: cells // 24]
    coast = np.flatnonzero((a >= 0) & (a == b))[: cells // 100]  # also on piers and bridges, within `snap` of the land
    reach = np.round(rng.uniform(800, 3000, n), -2)
    for (y, x), at, chosen, label in ((here, a, pair, pair), (there, b, pair, pair), (there, b, coast, coast * 0 - 1)):
        parts.append((y[chosen], x[chosen], reach[chosen], at[chosen], label))

    missing = cells - sum(len(part[0]) for part in parts)
    while missing > 0:
        n = missing + missing // 3 + 64
        p, r = rng.choice(len(codes), n, p=people), reaches(n)
        lat, lon = around(p, r)
        at = ours(lat, lon)
        kept = np.flatnonzero(at >= 0)[:missing]
        reach = np.round(np.clip(500 + 4500 * r[kept], 500, 5000), -2)
        parts.append((lat[kept], lon[kept], reach, at[kept], np.full(len(kept), -1)))
        missing -= len(kept)
    lat, lon, reach, at, label = (np.concatenate(column)[:cells] for column in zip(*parts, strict=True))
    order = np.lexsort((_morton(lat, lon), at))
    return lat[order], lon[order], reach[order], at[order], label[order]


def _net(lat: np.ndarray, lon: np.ndarray, place: np.ndarray, label: np.ndarray, codes: int) -> Net:
    n = len(lat)
    starts = np.searchsorted(place, np.arange(codes + 1))
    index = np.arange(n)
    near, best = index.copy(), np.full(n, 15.0)  # kilometres: a phone does not change further
    for other in (np.maximum(index - 1, 0), np.minimum(index + 1, n - 1)):
        away = 111.2 * np.hypot(lat - lat[other], (lon - lon[other]) * np.cos(np.radians(lat)))
        closer = (place == place[other]) & (other != index) & (away < best)
        near, best = np.where(closer, other, near), np.where(closer, away, best)
    partner = np.full(n, -1)
    paired = np.flatnonzero(label >= 0)
    paired = paired[np.argsort(label[paired], kind="stable")]
    twin = np.flatnonzero(label[paired[1:]] == label[paired[:-1]])
    partner[paired[twin]], partner[paired[twin + 1]] = paired[twin + 1], paired[twin]
    border = np.flatnonzero(partner >= 0)
    south, west = lat.min(), lon.min()
    rows, columns = int((lat.max() - south) / BOX) + 1, int((lon.max() - west) / BOX) + 1
    box = ((lat - south) / BOX).astype(np.int64) * columns + ((lon - west) / BOX).astype(np.int64)
    return Net(
        lat,
        lon,
        place.astype(np.int32),
        starts.astype(np.int64),
        near.astype(np.int32),
        partner.astype(np.int32),
        border.astype(np.int32),
        np.searchsorted(place[border], np.arange(codes + 1)).astype(np.int64),
        np.searchsorted(np.sort(box), np.arange(rows * columns + 1)).astype(np.int64),
        np.argsort(box, kind="stable").astype(np.int32),
        np.array([south, west, rows, columns], np.float64),
    )


def country(
    places: Places,
    *,
    subscribers: int,
    cells: int,
    seed: int = 0,
    ids: str = "integer",
    flicker: float = 0.1,
    changed: date = date(2022, 3, 8),
) -> Country:
    """The country that `write` writes, as data: network, settings, and what the kernels read.

    Parameters
    ----------
    places
        The boundaries; codes of three letters get no cell, since a carrier has no network abroad.
    subscribers, seed
        How many people, and the whole number from which everything follows.
    cells
        Rows of the inventory: at least about five for every place.
    ids
        ``"integer"`` (19900000000 + i) or ``"string"`` (16 hexadecimal digits).
    flicker
        How often a phone at rest in a border cell is served from across the border, of 1, anew every 150 seconds.
    changed
        The day from which replaced cells stand somewhere else in their place.

    Raises
    ------
    InputError
        Too few cells for the places, or a setting that does not exist.
    """
    if ids not in ("integer", "string"):
        raise InputError(f'ids={ids!r}: "integer" or "string"')
    if not 1 <= subscribers <= 100_000_000:
        raise InputError(f"{subscribers} subscribers: from 1 to 100,000,000, the numbers that the country has")
    rng = np.random.default_rng([seed & (2**63 - 1), 11])
    few = max(cells // 2000, 4)  # cells outside every place; cells that are no more or not yet; replaced cells
    lat, lon, reach, place, label = _spread(places, cells - 3 * few, rng)
    net = _net(lat, lon, place, label, len(places.codes))
    sea: list[np.ndarray] = [np.empty((0, 2))]
    while sum(map(len, sea)) < few:
        y = np.round(rng.uniform(lat.min() - 1, lat.max() + 1, 4 * few), 6)
        x = np.round(rng.uniform(lon.min() - 1, lon.max() + 1, 4 * few), 6)
        sea.append(np.column_stack([y, x])[np.asarray(places.locate(y, x)) < 0])
    out = np.concatenate(sea)[:few]
    usable, twice = len(lat), rng.choice(len(lat), few, replace=False)
    gone = rng.choice(usable, few)
    numbers = _cell_ids(usable + 2 * few + 16)  # the last 16 are in no inventory
    lats = np.concatenate([lat, out[:, 0], lat[gone]])
    lons = np.concatenate([lon, out[:, 1], lon[gone]])
    ranges = np.concatenate([reach, np.full(few, 2000.0), reach[gone]])
    start, end = np.full(usable + 3 * few, None, object), np.full(usable + 3 * few, None, object)
    end[usable + few : usable + few + few // 2] = date(2019, 12, 31)
    start[usable + few + few // 2 : usable + 2 * few] = date(2040, 1, 1)
    end[twice], start[usable + 2 * few :] = changed - timedelta(days=1), changed
    moved = net.near[twice]
    inventory = pa.Table.from_arrays(
        [
            pa.array(np.concatenate([numbers[: usable + 2 * few], numbers[twice]])),
            pa.array(np.concatenate([lats, lat[moved]])),
            pa.array(np.concatenate([lons, lon[moved]])),
            pa.array(np.concatenate([ranges, reach[moved]])),
            pa.array(start, pa.date32()),
            pa.array(end, pa.date32()),
        ],
        schema=INVENTORY.arrow(),
    )
    codes = (*places.codes, *(code for code, _ in ABROAD))
    return Country(
        places,
        seed,
        subscribers,
        ids,
        flicker,
        inventory,
        codes,
        net,
        numbers,
        lats,
        lons,
        ranges,
        usable,
        usable + few,
    )


def network(places: Places, *, cells: int, seed: int = 0) -> pa.Table:
    """The cell inventory of a synthetic country, as `schema.INVENTORY` declares it.

    Populations are drawn, not known: log-normal (sigma 0.9) by seed, six times that for a municipality and a quarter
    for a province-administered county. Cells follow the population, seven of ten in town around the representative
    point; every place has at least three, one in twelve stands in a pair across a border, one in a hundred on a pier or
    bridge within reach of the land. Ranges go from 500 m in town to 5 km outside. One in 2,000 each is outside
    every place, is no more or not yet valid, or was replaced (two rows, by date).

    Returns
    -------
    Arrow table: cell int64, lat and lon (WGS 84 degrees), range (metres), valid_date_start and valid_date_end.
    """
    return country(places, subscribers=1, cells=cells, seed=seed).inventory
