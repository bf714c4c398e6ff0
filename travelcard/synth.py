"""A synthetic country: its network, its people and a carrier's pings of them, with the truth beside it (DESIGN 11).

Everything is a pure function of (seed, subscriber, day, counter) through splitmix64: nothing is remembered from one
ping to the next, so any slice of any day is written alone, in bounded memory, and gives the same rows on any number
of threads. Every row that a run must reject is labelled with its reason as it is written.

No real person, number or cell is in it. Subscribers are 19900000000 + i, a run of numbers that the synthetic country
uses for nobody, or hexadecimal pseudonyms; cells have invented ids; populations are drawn (see `network`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import shapely

from travelcard import places as boundaries
from travelcard.compiled import compiled
from travelcard.errors import InputError
from travelcard.places import Places
from travelcard.schema import INVENTORY, REASONS, SECONDS

__all__ = ["FIRST_SUBSCRIBER", "KINDS", "Country", "country", "demo", "network", "people", "write"]

FIRST_SUBSCRIBER = 19_900_000_000
KINDS = ("stay_at_home", "commuter", "border_resident", "rail_passenger", "traveller", "roamer")
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
NO_COUNTRY = ("90118", "46000", "46001", "99999")  # plmns that no_place faults carry: satellite, home, home, unknown

_ROW_GROUP = 1 << 20
_PART = 1 << 23  # rows that are held at once for a file
_CROWD = 1 << 20  # subscribers whose truth is held at once
_STEP_S = 600  # a traveller is in one cell for ten minutes
_BURST_S = 120  # the pings of one burst lie this close
_BOX = 0.2  # degrees: the grid in which a train finds its next cell
_PLMNS = (0x46000, 0x46001, 0x46011, 0x46002, 0x46007, 0x46015)
_CHINA = ZoneInfo("Asia/Shanghai")  # no clock change since 1991: every day that a card can cover has 86,400 seconds
_DAY = 86_400
_PLAN = 8, 5  # of a subscriber's day: the most parts that it has, and what is known of each
_ROW = np.int32, np.int64, np.int32, np.uint8, np.uint16  # see _pings

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_AT, _MOVING, _ABROAD = 0, 1, 2

# Pings by hour of the local day, as shares of 1: a phone in a drawer at night still updates, but rarely.
_HOURS = np.array([4, 3, 3, 3, 3, 4, 6, 9, 11, 11, 11, 12, 13, 12, 11, 11, 11, 12, 13, 12, 12, 11, 9, 6], np.float64)
_CDF = np.concatenate([[0.0], np.cumsum(_HOURS) / _HOURS.sum()])
_YIELD = 1.44  # pings that one stratum of the day gives: bursts, less the hours switched off


class _Net(NamedTuple):
    """The network as the kernels read it: usable cells sorted by place, neighbours beside each other."""

    lat: np.ndarray
    lon: np.ndarray
    place: np.ndarray  # index into the place codes
    starts: np.ndarray  # of each place's cells
    near: np.ndarray  # a neighbouring cell in the same place
    partner: np.ndarray  # the cell across the border, -1 = none
    border: np.ndarray  # cells with a partner
    border_starts: np.ndarray
    box_starts: np.ndarray  # cells by box of `_BOX` degrees
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
    net: _Net
    cells: np.ndarray  # id by index: usable cells, then cells outside every place, then ids that no day knows
    lat: np.ndarray
    lon: np.ndarray
    range: np.ndarray
    outside: int  # index of the first cell outside every place
    unknown: int  # index of the first id that no day knows


# ------------------------------------------------------------------------------------------------- random numbers


@compiled
def _mix(base, n):
    """splitmix64: word `n` of the stream `base`; a bijection of n."""
    z = base + np.uint64(n) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return z ^ (z >> np.uint64(31))


@compiled
def _unit(w):
    return np.float64(w >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def _below(w, n):
    return np.int64(((w >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


def _words(base: np.uint64, n: np.ndarray) -> np.ndarray:
    """`_mix` for an array."""
    z = base + n.astype(np.uint64) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return np.asarray(z ^ (z >> np.uint64(31)))


def _base(seed: int) -> np.uint64:
    return np.uint64(_words(np.uint64(0x7472_6176), np.array([seed & (2**63 - 1)]))[0])


# --------------------------------------------------------------------------------------------- people and their days


@compiled
def _person(net, base, i):
    """(kind, home cell, stream) of subscriber i: homes follow the cells, so the population."""
    own = _mix(base, i)
    w = _mix(own, 1)
    r = w % np.uint64(100)
    kind = 0
    if r >= 35:
        kind = 1 if r < 70 else 2 if r < 80 else 3 if r < 88 else 4 if r < 96 else 5
    home = _below(_mix(own, 2), len(net.place))
    if kind == 2:
        if len(net.border):
            home = np.int64(net.border[_below(_mix(own, 2), len(net.border))])
        else:
            kind = 0
    return kind, home, own


@compiled
def _put(seg, n, t0, t1, what, a, b):
    if t1 <= t0:
        return n
    seg[n, 0], seg[n, 1], seg[n, 2], seg[n, 3], seg[n, 4] = t0, t1, what, a, b
    return n + 1


@compiled
def _local(net, cell, w, spread):
    """A cell of the same place, at most `spread` further in the order in which neighbours lie together."""
    place = net.place[cell]
    x = cell + _below(w, 2 * spread + 1) - spread
    return min(max(x, net.starts[place]), net.starts[place + 1] - 1)


@compiled
def _at_home(net, own, kind, home, day, seg, n):
    """An ordinary day: to work and back from Monday to Friday, or an errand of one to three hours."""
    w = _mix(own, 10_000_000 + day)
    if kind == 1 and (day + 3) % 7 < 5:  # day 0, 1970-01-01, was a Thursday
        job = _mix(own, 3)
        place = net.place[home]
        crossings = net.border_starts[place + 1] - net.border_starts[place]
        work = _local(net, home, job, 64)
        if job % np.uint64(4) == 0 and crossings > 0:  # works across the border
            work = net.partner[net.border[net.border_starts[place] + _below(job, crossings)]]
        road = 1200 + _below(_mix(job, 1), 3600)
        out = 23_400 + _below(w, 9000)
        back = 59_400 + _below(_mix(w, 1), 10_800)
        n = _put(seg, n, 0, out, _AT, home, 0)
        n = _put(seg, n, out, out + road, _MOVING, home, work)
        n = _put(seg, n, out + road, back, _AT, work, 0)
        n = _put(seg, n, back, back + road, _MOVING, work, home)
        return _put(seg, n, back + road, _DAY, _AT, home, 0)
    out = 32_400 + _below(w, 28_800)
    back = out + 3600 + _below(_mix(w, 1), 7200)
    n = _put(seg, n, 0, out, _AT, home, 0)
    n = _put(seg, n, out, back, _AT, _local(net, home, _mix(w, 2), 16), 0)
    return _put(seg, n, back, _DAY, _AT, home, 0)


@compiled
def _distance(net, a, b):
    """Kilometres, flat: enough to choose a speed and an hour."""
    x = (net.lon[a] - net.lon[b]) * np.cos((net.lat[a] + net.lat[b]) * 0.00872664625997165)
    y = net.lat[a] - net.lat[b]
    return 111.2 * np.sqrt(x * x + y * y)


@compiled
def _plan(net, own, kind, home, day, seg):
    """A subscriber's local day as (from, to, what, cell, other cell); returns how many. Hours without one: in the air.

    Trips repeat in cycles counted from 1970, so that any day is known alone: out on the first day of a cycle, home
    after some nights. Commuters drive to a neighbouring city now and then, rail passengers and air travellers go
    anywhere, roamers go abroad.
    """
    if kind in (0, 2):
        return _at_home(net, own, kind, home, day, seg, 0)
    period = 14 if kind == 1 else 7 if kind == 3 else 10 if kind == 4 else 12
    shifted = day + np.int64(_mix(own, 4) % np.uint64(period))
    since = shifted % period
    trip = _mix(_mix(own, 5), shifted // period)
    nights = 1 + np.int64(trip % np.uint64(3 if kind < 5 else 6))
    if since > nights or (kind == 1 and trip % np.uint64(7) > 2):
        return _at_home(net, own, kind, home, day, seg, 0)
    place = net.place[home]
    away, x, y = _AT, _below(_mix(trip, 1), len(net.place)), _below(_mix(trip, 2), len(net.place))
    if kind == 1:
        crossings = net.border_starts[place + 1] - net.border_starts[place]
        if crossings == 0:
            return _at_home(net, own, kind, home, day, seg, 0)
        there = net.place[net.partner[net.border[net.border_starts[place] + _below(_mix(trip, 3), crossings)]]]
        x = net.starts[there] + _below(_mix(trip, 1), net.starts[there + 1] - net.starts[there])
        road = 3600.0 * _distance(net, home, x) / 70.0
    elif kind == 3:
        if _distance(net, home, y) < _distance(net, home, x):
            x = y
        road = 3600.0 * _distance(net, home, x) / 220.0
    elif kind == 4:
        if _distance(net, home, y) > _distance(net, home, x):
            x = y
        road = 3600.0 + 3600.0 * _distance(net, home, x) / 750.0
    else:
        away, x, road = _ABROAD, _below(_mix(trip, 1), 8), 18_000.0
    road_s = np.int64(min(max(road, 1800.0), 50_000.0))
    if 0 < since < nights:
        return _put(seg, 0, 0, _DAY, away, x, 0)
    out = 25_200 + _below(_mix(trip, 4 + since), 79_200 - 25_200 - road_s)
    n = 0
    if since == 0:
        n = _put(seg, n, 0, out, _AT, home, 0)
        if kind in (1, 3):
            n = _put(seg, n, out, out + road_s, _MOVING, home, x)
        return _put(seg, n, out + road_s, _DAY, away, x, 0)
    n = _put(seg, n, 0, out, away, x, 0)
    if kind in (1, 3):
        n = _put(seg, n, out, out + road_s, _MOVING, x, home)
    return _put(seg, n, out + road_s, _DAY, _AT, home, 0)


@compiled
def _passing(net, own, seg, s, step):
    """The cell that serves step `step` of a journey: any of the box that the straight line is in; -1 = no coverage."""
    t0, t1, a, b = seg[s, 0], seg[s, 1], seg[s, 3], seg[s, 4]
    f = min((step + 0.5) * _STEP_S / (t1 - t0), 1.0)
    row = np.int64((net.lat[a] + (net.lat[b] - net.lat[a]) * f - net.frame[0]) / _BOX)
    column = np.int64((net.lon[a] + (net.lon[b] - net.lon[a]) * f - net.frame[1]) / _BOX)
    box = row * np.int64(net.frame[3]) + column
    n = net.box_starts[box + 1] - net.box_starts[box]
    if n == 0:
        return np.int64(-1)
    w = _mix(_mix(own, 20_000_000 + t0), step)
    return np.int64(net.box_cells[net.box_starts[box] + _below(w, n)])


@compiled
def _served(net, own, day, seg, n, t, flicker):
    """The cell that serves second `t`: an index, -1 = none, -2 - c = country c of ABROAD.

    At rest a phone changes to a near cell of the place now and then, and beside a border to the cell across it.
    """
    for s in range(n):
        if t < seg[s, 0]:
            return np.int64(-1)
        if t < seg[s, 1]:
            if seg[s, 2] == _ABROAD:
                return -2 - seg[s, 3]
            if seg[s, 2] == _MOVING:
                return _passing(net, own, seg, s, (t - seg[s, 0]) // _STEP_S)
            cell = seg[s, 3]
            w = _mix(_mix(own, 30_000_000 + day), t // 150)
            if net.partner[cell] >= 0 and _unit(w) < flicker:
                return np.int64(net.partner[cell])
            return np.int64(net.near[cell]) if w & np.uint64(3) == 0 else cell
    return np.int64(-1)


@compiled
def _true_stays(net, base, lo, hi, day, abroad, seg, who, place, arrive, depart):
    """Write the places of subscribers lo..hi on a day, in order, and the first and last second there: how many.

    Where there are more than the arrays hold, -1. `seg` is room for a day's `_plan`.
    """
    rows = 0
    for i in range(lo, hi):
        kind, home, own = _person(net, base, i)
        n = _plan(net, own, kind, home, day, seg)
        first = rows
        for s in range(n):
            t = seg[s, 0]
            while t < seg[s, 1]:
                until = seg[s, 1]
                if seg[s, 2] == _ABROAD:
                    here = abroad + seg[s, 3]
                elif seg[s, 2] == _AT:
                    here = np.int64(net.place[seg[s, 3]])
                else:
                    until = min(t + _STEP_S, until)
                    cell = _passing(net, own, seg, s, (t - seg[s, 0]) // _STEP_S)
                    here = np.int64(net.place[cell]) if cell >= 0 else np.int64(-1)
                if here >= 0:
                    if rows > first and place[rows - 1] == here and depart[rows - 1] == t - 1:
                        depart[rows - 1] = until - 1
                    else:
                        if rows == len(who):
                            return -1
                        who[rows], place[rows], arrive[rows], depart[rows] = i, here, t, until - 1
                        rows += 1
                t = until
    return rows


@compiled
def _write_who(net, base, lo, kinds, homes):
    for i in range(len(kinds)):
        kind, home, _ = _person(net, base, lo + i)
        kinds[i], homes[i] = kind, net.place[home]


def _who(country: Country, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """(kinds, homes) of subscribers lo..hi."""
    kinds, homes = np.empty(hi - lo, np.int8), np.empty(hi - lo, np.int32)
    _write_who(country.net, _base(country.seed), lo, kinds, homes)
    return kinds, homes


# ------------------------------------------------------------------------------------------------------------- pings


@compiled
def _share(t, cdf):
    """The share of a day's pings that come before second `t`."""
    if t <= 0:
        return 0.0
    if t >= _DAY:
        return 1.0
    h = t // 3600
    return cdf[h] + (cdf[h + 1] - cdf[h]) * (t - 3600 * h) / 3600.0


@compiled
def _second(share, cdf):
    """The inverse of `_share`."""
    h = 0
    while h < 23 and cdf[h + 1] <= share:
        h += 1
    return 3600.0 * (h + (share - cdf[h]) / (cdf[h + 1] - cdf[h]))


@compiled
def _pings(net, base, subscribers, day, rate, cdf, windows, deal, flicker, faults, reasons, first_bad, seg, out):
    """Write the rows of one part of a file, (who, microsecond of the local day, cell, fault, sort key): how many.

    A subscriber's day is cut into strata of equal activity, each with a burst of one to three pings at a random
    moment: to fill a window only the strata that meet it are looked at. `windows` is one row per slice of the day
    whose pings reach this file (its own, and those before it, late): slice, from, to, slices of delay, last slice.
    `deal` (part, parts) picks rows by hash instead of by time when parts > 0.

    Where there are more than `out` holds, -1. A fault is its index in `REASONS` + 1, and 16 times a variant. `seg` is
    room for a day's `_plan`.
    """
    who, micro, cells, fault, keys = out
    rows = 0
    for i in range(subscribers):
        kind, home, own = np.int64(0), np.int64(0), _mix(base, i)
        today = _mix(own, 40_000_000 + day)
        strata = np.floor(rate * (0.3 + 1.4 * _unit(_mix(own, 6))) + _unit(today))
        segments = -1
        off0, off1, night = np.int64(0), np.int64(0), False
        for v in range(len(windows)):
            piece, a, b, delay, last = windows[v]
            w = _mix(today, 10_000 + piece)
            late = min(np.int64(1 + (w >> np.uint64(9)) % np.uint64(2)) if w % np.uint64(128) == 0 else 0, last - piece)
            if delay != late and deal[1] == 0:
                continue
            low = np.int64(max(np.floor(_share(a - _BURST_S, cdf) * strata - 1e-6), 0.0))
            high = np.int64(min(np.floor(_share(b, cdf) * strata + 1e-6), strata - 1.0))
            for k in range(low, high + 1):
                w = _mix(today, 1_000_000 + k)
                start = np.int64(1e6 * _second((k + _unit(w)) / strata, cdf))
                burst = 3 if w & np.uint64(7) == 0 else 2 if w & np.uint64(7) < 3 else 1
                for j in range(burst):
                    t = start + j * np.int64(1_000_000 + (w >> np.uint64(3)) % np.uint64(59_000_000))
                    if t < a * 1_000_000 or t >= b * 1_000_000:
                        continue
                    ping = _mix(w, 1 + j)
                    if deal[1] > 0 and np.int64((ping >> np.uint64(8)) % np.uint64(deal[1])) != deal[0]:
                        continue
                    if segments < 0:  # only now is the day needed
                        kind, home, own = _person(net, base, i)
                        segments = _plan(net, own, kind, home, day, seg)
                        night = own % np.uint64(5) == 0
                        x = _mix(today, 1)
                        if x % np.uint64(20) == 0:
                            off0 = _below(x, 72_000)
                            off1 = off0 + 7200 + _below(_mix(today, 2), 10_800)
                    second = t // 1_000_000
                    if off0 <= second < off1 or (night and (second < 23_400 or second >= 84_600)):
                        continue
                    cell = _served(net, own, day, seg, segments, second, flicker)
                    if cell == -1:
                        continue
                    for copy in range(2 if ping % np.uint64(500) == 0 else 1):  # a duplicate follows its ping
                        if rows == len(who):
                            return -1
                        x = _mix(ping, 10 + copy)
                        what = 0
                        c = cell
                        if _unit(x) < faults:
                            y = _mix(x, 1)
                            what = reasons[_below(y, len(reasons))] + 1
                            if what == 5:  # null_cell
                                c = np.int64(-1)
                            elif what == 7:  # unknown_cell
                                c = first_bad[1] + _below(_mix(y, 1), first_bad[2] - first_bad[1])
                            elif what == 8:  # no_place: a plmn of no country for roamers, a cell at sea for the rest
                                if cell < -1:
                                    c = -10 - _below(_mix(y, 1), 4)
                                else:
                                    c = first_bad[0] + _below(_mix(y, 1), first_bad[1] - first_bad[0])
                            what += 16 * np.int64(y & np.uint64(3))
                        who[rows], micro[rows], cells[rows], fault[rows] = i, t, c, what
                        if deal[1] > 0:
                            keys[rows] = x >> np.uint64(48)
                        else:  # nearly in time order: up to a minute of disorder
                            moment = min(t // 1_000_000 - a + np.int64(x >> np.uint64(48)) % 60, b - a - 1)
                            keys[rows] = moment * 65_535 // (b - a)
                        rows += 1
    return rows


# ----------------------------------------------------------------------------------------------------------- network


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


def _moved(lat: np.ndarray, lon: np.ndarray, metres: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
        return _moved(lats[p], lons[p], reach * size[p], rng.uniform(0, 2 * np.pi, len(p)))

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
        same = ours(*_moved(lat, lon, middle, angle), snap=0.0) == start
        near, far = np.where(same, middle, near), np.where(same, far, middle)
    here = _moved(lat, lon, near - rng.uniform(100, 1500, n), angle)
    there = _moved(lat, lon, far + rng.uniform(100, 1500, n), angle)
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


def _net(lat: np.ndarray, lon: np.ndarray, place: np.ndarray, label: np.ndarray, codes: int) -> _Net:
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
    rows, columns = int((lat.max() - south) / _BOX) + 1, int((lon.max() - west) / _BOX) + 1
    box = ((lat - south) / _BOX).astype(np.int64) * columns + ((lon - west) / _BOX).astype(np.int64)
    return _Net(
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


def people(country: Country, start: int = 0, stop: int | None = None) -> pa.Table:
    """Who the subscribers `start` to `stop` are: subscriber, kind (one of `KINDS`), home (place code)."""
    stop = country.subscribers if stop is None else min(stop, country.subscribers)
    kinds, homes = _who(country, start, stop)
    return pa.table(
        {
            "subscriber": _subscribers(country, np.arange(start, stop)),
            "kind": pa.array(KINDS).take(pa.array(kinds)),
            "home": pa.array(country.codes).take(pa.array(homes)),
        }
    )


# ------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True, slots=True)
class _Feed:
    """What a carrier's files look like."""

    rate: float
    files: int
    order: str
    kind: str
    format: str
    faults: float
    plmn: bool
    inner: np.ndarray | None  # cells around which a phone may stand anywhere within half the range


def _pseudonyms(country: Country, who: np.ndarray) -> pa.Array:
    words = _words(_base(country.seed) ^ _M2, who).astype(">u8").view(np.uint8).reshape(-1, 8)  # a bijection
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.stack([digits[words >> 4], digits[words & 15]], axis=2).tobytes()
    offsets = np.arange(len(who) + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(len(who), pa.py_buffer(offsets), pa.py_buffer(text))


def _subscribers(country: Country, who: np.ndarray) -> pa.Array:
    return pa.array(who + np.int64(FIRST_SUBSCRIBER)) if country.ids == "integer" else _pseudonyms(country, who)


def _midnight(day: date) -> int:
    """The microsecond at which a day of the country begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=_CHINA).timestamp()) * 1_000_000


def _positions(country: Country, feed: _Feed, who: np.ndarray, micro: np.ndarray, cell: np.ndarray) -> list[np.ndarray]:
    """Where the phone says it is: at its cell, or, well inside a place, anywhere within half the cell's range."""
    at = np.maximum(cell, 0)
    w = _words(_base(country.seed) ^ _M1, (who.astype(np.int64) << 37) ^ micro)
    reach = np.zeros(len(at)) if feed.inner is None else np.where(feed.inner[at], country.range[at] / 2, 0.0)
    metres = reach * np.sqrt((w >> np.uint64(32)).astype(np.float64) / 2**32)
    angle = (w & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2**32)
    lat, lon = _moved(country.lat[at], country.lon[at], metres, angle)
    return [lat, lon, 5.0 + np.floor((w & np.uint64(0xFF)).astype(np.float64) / 4)]


def _rows(country: Country, feed: _Feed, day: date, part: tuple[np.ndarray, ...]) -> pa.Table:
    """Rows as a carrier sends them, each fault done to its row."""
    who, micro, cell, fault = part
    faulty = np.flatnonzero(fault)
    reason, variant = fault[faulty] & 15, fault[faulty] >> 4

    def rows(index: int, *variants: int) -> np.ndarray:  # those with REASONS[index - 1]
        return np.asarray(faulty[(reason == index) & (np.isin(variant, variants) if variants else True)])

    def without(*which: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(who), np.bool_)
        mask[np.concatenate(which)] = True
        return mask

    if country.ids == "integer":
        number = who + np.int64(FIRST_SUBSCRIBER)
        number[rows(1, 2, 3)] *= -1
        ids = pa.array(number, mask=without(rows(1, 0, 1)))
    else:
        ids = pc.if_else(pa.array(without(rows(1, 2, 3))), "", _pseudonyms(country, who))
        ids = pc.if_else(pa.array(without(rows(1, 0, 1))), pa.scalar(None, ids.type), ids)
    times = micro + _midnight(day)
    times[rows(4, 0, 1)] -= _DAY * 1_000_000
    times[rows(4, 2, 3)] += _DAY * 1_000_000
    columns = {"msisdn": ids, "time": pa.array(times, mask=without(rows(2))).view(SECONDS)}
    if feed.format == "csv":
        text = pc.strftime(columns["time"], format="%Y-%m-%dT%H:%M:%SZ")
        columns["time"] = pc.if_else(pa.array(without(rows(3))), "2022-02-30 25:61", text)
    if feed.kind == "cell":
        columns["cell"] = pa.array(country.cells[cell], mask=cell < 0)  # -1 and below take any id, and are null
    else:
        lat, lon, accuracy = _positions(country, feed, who, micro, cell)
        lat[rows(6, 0)], lat[rows(6, 1)], accuracy[rows(6, 3)] = np.nan, 91.5, -1.0
        nowhere = cell < 0
        nowhere[rows(6)] = False
        columns["lat"] = pa.array(lat, mask=nowhere | without(rows(6, 2)))
        columns["lon"], columns["accuracy"] = pa.array(lon, mask=nowhere), pa.array(accuracy, mask=nowhere)
    if feed.plmn:
        plmns = pa.array([None] * 2 + [plmn for _, plmn in ABROAD] + list(NO_COUNTRY), pa.string())
        columns["plmn"] = pa.DictionaryArray.from_arrays(np.maximum(-cell, 0), plmns).cast(pa.string())
    return pa.table(columns)


def _reasons(feed: _Feed) -> list[str]:
    possible = {"null_subscriber", "null_time", "outside_day", "null_cell", "no_place"}
    possible.add("unknown_cell" if feed.kind == "cell" else "bad_position")
    if feed.format == "csv":
        possible.add("bad_time")
    return [reason for reason in REASONS if reason in possible]


def _parts(country: Country, feed: _Feed, day: date, file: int) -> Iterator[tuple[np.ndarray, ...]]:
    """A file's pings in the order of its rows, a bounded number at once: (who, microsecond, cell, fault)."""
    parts = max(1, int(country.subscribers * feed.rate * 1.4 / feed.files / _PART) + 1)
    reasons = np.array([REASONS.index(reason) for reason in _reasons(feed)], np.int64)
    bad = np.array([country.outside, country.unknown, len(country.cells)], np.int64)
    edges = [_DAY * f // feed.files for f in range(feed.files + 1)]
    capacity = int(2.0 * country.subscribers * feed.rate / feed.files / parts) + 1024
    for j in range(parts):
        windows = []
        for f in range(max(file - 2, 0), file + 1):
            cuts = [edges[f] + (edges[f + 1] - edges[f]) * k // parts for k in (j, j + 1)]
            windows.append((f, *cuts, file - f, feed.files - 1))
        deal = (0, 0)
        if feed.order == "shuffled":
            windows, deal = [(0, 0, _DAY, 0, 0)], (file * parts + j, feed.files * parts)
        count = -1
        while count < 0:
            out = tuple(np.empty(capacity, kind) for kind in _ROW)
            count = _pings(
                country.net,
                _base(country.seed),
                country.subscribers,
                (day - date(1970, 1, 1)).days,
                feed.rate / _YIELD,
                _CDF,
                np.array(windows, np.int64),
                np.array(deal, np.int64),
                country.flicker,
                feed.faults,
                reasons,
                bad,
                np.empty(_PLAN, np.int64),
                out,
            )
            capacity = capacity if count >= 0 else 2 * capacity
        order = np.argsort(out[-1][:count], kind="stable")
        columns = [column[:count][order] for column in out[:-1]]
        for a in range(0, count, _ROW_GROUP):
            yield tuple(column[a : a + _ROW_GROUP] for column in columns)


def _write_file(country: Country, feed: _Feed, day: date, file: int, path: Path) -> tuple[int, np.ndarray, np.ndarray]:
    """One file of pings; returns its rows, and the numbers and reasons of the faulty ones. No row, no file."""
    writer: Any = None
    rows, where, why = 0, [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    for part in _parts(country, feed, day, file):
        table = _rows(country, feed, day, part)
        if writer is None and feed.format == "csv":
            writer = pcsv.CSVWriter(path, table.schema)
        elif writer is None:
            writer = _parquet(path, table.schema)
        writer.write_table(table)
        faulty = np.flatnonzero(part[3])
        where.append(rows + faulty)
        why.append(((part[3][faulty] & 15) - 1).astype(np.uint8))
        rows += len(table)
    if writer is not None:
        writer.close()
    return rows, np.concatenate(where), np.concatenate(why)


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    repeated = [name for name in ("cell", "plmn", "place", "reason", "file", "kind", "home") if name in schema.names]
    return pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=repeated, write_page_checksum=True)


_TRUTH = (("place", pa.string()), ("arrive", SECONDS), ("depart", SECONDS))
_FAULTS = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())])


def _write_stays(country: Country, day: date, path: Path) -> None:
    schema = pa.schema([("subscriber", _subscribers(country, np.empty(0, np.int64)).type), *_TRUTH])
    abroad = len(country.places.codes)
    with closing(_parquet(path, schema)) as writer:
        for a in range(0, country.subscribers, _CROWD):
            b = min(a + _CROWD, country.subscribers)
            number = (day - date(1970, 1, 1)).days
            size, rows, plan = 8 * (b - a) + 1024, -1, np.empty(_PLAN, np.int64)
            while rows < 0:
                out = [np.empty(size, kind) for kind in (np.int64, np.int32, np.int64, np.int64)]
                rows = _true_stays(country.net, _base(country.seed), a, b, number, abroad, plan, *out)
                size *= 2
            who, place, arrive, depart = (column[:rows] for column in out)
            times = [pa.array(_midnight(day) + t * 1_000_000).view(SECONDS) for t in (arrive, depart)]
            place = pa.array(country.codes).take(pa.array(place))
            writer.write_table(pa.Table.from_arrays([_subscribers(country, who), place, *times], schema=schema))


def _write_risk(country: Country, days: Sequence[date], folder: Path) -> None:
    """A list for every day and the one after the last: six outbreaks, two at high level, three without an end."""
    folder.mkdir()
    areas = []
    for n in range(6):
        w = int(_words(_base(country.seed) ^ _GOLDEN, np.array([n]))[0])
        start = days[0] + timedelta(days=w % (len(days) + 3) - 3)
        end = None if n % 2 == 0 else start + timedelta(days=3 + (w >> 16) % 8)
        place = country.codes[country.net.place[(w >> 24) % len(country.net.place)]]
        areas.append((place, "high" if n % 3 == 0 else "medium", start, end))
    for day in [*days, days[-1] + timedelta(days=1)]:
        lines = [
            f"{place},{level},{start},{end or ''}"
            for place, level, start, end in sorted(areas, key=lambda area: area[:3])
            if start <= day and (end is None or day <= end)
        ]
        (folder / f"{day}.csv").write_text("\n".join(["place,level,from,to", *lines]) + "\n")


def _config(feed: _Feed) -> str:
    names = ["cell"] if feed.kind == "cell" else ["lat", "lon", "accuracy"]
    columns = ", ".join(f'{n} = "{n}"' for n in [*names, *(["plmn"] if feed.plmn else [])])
    return f"""# Written by travelcard synth: an invented country, and how to run it. No number in it is anybody's.
store = "store"
[pings]
path = "pings/{{day}}/*.{feed.format}"
columns = {{ subscriber = "msisdn", time = "time", {columns} }}
[cells]
path = "cells.parquet"
[policy]
preset = "dated"
[risk]
path = "risk/{{day}}.csv"
"""


def write(
    folder: str | Path,
    *,
    subscribers: int,
    days: Sequence[date],
    pings_per_subscriber: float = 100,
    cells: int = 20_000,
    seed: int = 0,
    files: int = 24,
    ids: str = "integer",
    order: str = "time",
    kind: str = "cell",
    format: str = "parquet",
    faults: float = 0.001,
    flicker: float = 0.1,
    places: Places | None = None,
    threads: int | None = None,
) -> dict[date, int]:
    """Write a synthetic country, and the truth beside it, into a new folder.

    ::

        cells.parquet  travelcard.toml  risk/{day}.csv
        pings/{day}/part-00.parquet ...  msisdn, time, cell (or lat, lon, accuracy), plmn where anybody roams
        truth/people.parquet             subscriber, kind, home
        truth/{day}/stays.parquet        subscriber, place, arrive, depart (first and last second): where people were
        truth/{day}/faults.parquet       file, row (from 0), reason: exactly the rows that a run must reject

    Parameters
    ----------
    subscribers, days, pings_per_subscriber
        How many people, which days of Asia/Shanghai, and about how many pings a day each makes on average.
    cells, ids, flicker, seed, places
        As in `country`; `places` None is `places.china()`.
    files, order
        ``"time"``: a file is a slice of the day, its rows within a minute of time order, one in a hundred phones late
        by a file or two. ``"shuffled"``: rows are dealt to files, and lie in them, at random. A file that would have
        no row is not written.
    kind
        ``"cell"`` or ``"position"``.
    format
        ``"parquet"`` (timestamps in UTC), or ``"csv"`` (times as text, with their offset), which adds `bad_time`.
    faults
        The share of rows made faulty, each with one reason of `schema.REASONS`.
    threads
        Files written at a time, default one for every core. Not a byte of data depends on it; a thread holds about
        0.4 GB, however long the day.

    Returns
    -------
    Rows written, by day.

    Raises
    ------
    InputError
        The folder is not empty, no day, or a setting that does not exist.
    """
    root, days = Path(folder), sorted(set(days))
    for name, value, allowed in (
        ("order", order, ("time", "shuffled")),
        ("kind", kind, ("cell", "position")),
        ("format", format, ("parquet", "csv")),
    ):
        if value not in allowed:
            raise InputError(f"{name}={value!r}: one of {', '.join(allowed)}")
    if not days:
        raise InputError("days is empty: name at least one day to write")
    if not (1 <= files <= 8640 and pings_per_subscriber > 0 and 0 <= faults <= 1 and 0 <= flicker <= 1):
        raise InputError("files must be 1 to 8640, pings_per_subscriber above 0, faults and flicker between 0 and 1")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is not an empty folder: name a new one, or remove it first")
    made = country(
        boundaries.china() if places is None else places,
        subscribers=subscribers,
        cells=cells,
        seed=seed,
        ids=ids,
        flicker=flicker,
        changed=days[len(days) // 2],
    )
    inner = None
    if kind == "position":  # where a step within half the range cannot lead into another place, nor off the map
        where, n = made.places.locate(made.lat, made.lon, snap=0.0), made.outside
        inner = np.zeros(len(made.lat), np.bool_)
        inner[:n] = made.places.inner(made.lat[:n], made.lon[:n], made.range[:n], made.net.place) & (where[:n] >= 0)
    crowds = [(a, min(a + _CROWD, subscribers)) for a in range(0, subscribers, _CROWD)]
    roams = any((_who(made, a, b)[0] == KINDS.index("roamer")).any() for a, b in crowds)
    feed = _Feed(float(pings_per_subscriber), files, order, kind, format, faults, roams, inner)

    for day in days:
        (root / "pings" / str(day)).mkdir(parents=True)
        (root / "truth" / str(day)).mkdir(parents=True)
    pq.write_table(made.inventory, root / "cells.parquet", compression="zstd")
    (root / "travelcard.toml").write_text(_config(feed))
    _write_risk(made, days, root / "risk")
    with closing(_parquet(root / "truth" / "people.parquet", people(made, 0, 0).schema)) as writer:
        for a, b in crowds:
            writer.write_table(people(made, a, b))
    width, counts = max(2, len(str(files - 1))), dict.fromkeys(days, 0)
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        stays = [pool.submit(_write_stays, made, day, root / "truth" / str(day) / "stays.parquet") for day in days]
        paths = [
            (day, f, root / "pings" / str(day) / f"part-{f:0{width}d}.{format}") for day in days for f in range(files)
        ]
        written = pool.map(lambda task: _write_file(made, feed, *task), paths)
        for day in days:
            with closing(_parquet(root / "truth" / str(day) / "faults.parquet", _FAULTS)) as writer:
                for _, _, path in paths[days.index(day) * files :][:files]:
                    rows, where, why = next(written)
                    counts[day] += rows
                    reasons = pa.array(REASONS).take(pa.array(why))
                    names = pa.array([path.name]).take(pa.array(np.zeros(len(where), np.int8)))
                    writer.write_table(pa.Table.from_arrays([names, pa.array(where), reasons], schema=_FAULTS))
        for task in stays:
            task.result()
    return counts


def demo(folder: str | Path, *, last: date = date(2022, 3, 14), seed: int = 0) -> dict[date, int]:
    """The small country of ``travelcard demo``: 2,000 people, 14 days up to `last`, real boundaries, a few seconds."""
    days = [last - timedelta(days=n) for n in range(13, -1, -1)]
    return write(folder, subscribers=2000, days=days, cells=20_000, files=4, seed=seed)
