"""Who the people of a country are, where each is on any day, and which cell serves it there."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled

from .cells import BOX, Country
from .words import M2, base_of, below, mix, unit, words

__all__ = [
    "DAY",
    "FIRST_SUBSCRIBER",
    "KINDS",
    "PLAN",
    "kinds_and_homes",
    "midnight",
    "named",
    "people",
    "person",
    "plan_of",
    "pseudonyms",
    "served",
    "true_stays",
]

FIRST_SUBSCRIBER = 19_900_000_000
KINDS = ("stay_at_home", "commuter", "border_resident", "rail_passenger", "traveller", "roamer")
DAY = 86_400
PLAN = 8, 5  # of a subscriber's day: the most parts that it has, and what is known of each
_STEP_S = 600  # a traveller is in one cell for ten minutes
_CHINA = ZoneInfo("Asia/Shanghai")  # no clock change since 1991: every day that a card can cover has 86,400 seconds
_AT, _MOVING, _ABROAD = 0, 1, 2


@compiled
def person(net, base, i):
    """(kind, home cell, stream) of subscriber i: homes follow the cells, so the population."""
    own = mix(base, i)
    w = mix(own, 1)
    r = w % np.uint64(100)
    kind = 0
    if r >= 35:
        kind = 1 if r < 70 else 2 if r < 80 else 3 if r < 88 else 4 if r < 96 else 5
    home = below(mix(own, 2), len(net.place))
    if kind == 2:
        if len(net.border):
            home = np.int64(net.border[below(mix(own, 2), len(net.border))])
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
    x = cell + below(w, 2 * spread + 1) - spread
    return min(max(x, net.starts[place]), net.starts[place + 1] - 1)


@compiled
def _at_home(net, own, kind, home, day, seg, n):
    """An ordinary day: to work and back from Monday to Friday, or an errand of one to three hours."""
    w = mix(own, 10_000_000 + day)
    if kind == 1 and (day + 3) % 7 < 5:  # day 0, 1970-01-01, was a Thursday
        job = mix(own, 3)
        place = net.place[home]
        crossings = net.border_starts[place + 1] - net.border_starts[place]
        work = _local(net, home, job, 64)
        if job % np.uint64(4) == 0 and crossings > 0:  # works across the border
            work = net.partner[net.border[net.border_starts[place] + below(job, crossings)]]
        road = 1200 + below(mix(job, 1), 3600)
        out = 23_400 + below(w, 9000)
        back = 59_400 + below(mix(w, 1), 10_800)
        n = _put(seg, n, 0, out, _AT, home, 0)
        n = _put(seg, n, out, out + road, _MOVING, home, work)
        n = _put(seg, n, out + road, back, _AT, work, 0)
        n = _put(seg, n, back, back + road, _MOVING, work, home)
        return _put(seg, n, back + road, DAY, _AT, home, 0)
    out = 32_400 + below(w, 28_800)
    back = out + 3600 + below(mix(w, 1), 7200)
    n = _put(seg, n, 0, out, _AT, home, 0)
    n = _put(seg, n, out, back, _AT, _local(net, home, mix(w, 2), 16), 0)
    return _put(seg, n, back, DAY, _AT, home, 0)


@compiled
def _distance(net, a, b):
    """Kilometres, flat: enough to choose a speed and an hour."""
    x = (net.lon[a] - net.lon[b]) * np.cos((net.lat[a] + net.lat[b]) * 0.00872664625997165)
    y = net.lat[a] - net.lat[b]
    return 111.2 * np.sqrt(x * x + y * y)


@compiled
def plan_of(net, own, kind, home, day, seg):
    """A subscriber's local day as (from, to, what, cell, other cell); returns how many. Hours without one: in the air.

    Trips repeat in cycles counted from 1970, so that any day is known alone: out on the first day of a cycle, home
    after some nights. Commuters drive to a neighbouring city now and then, rail passengers and air travellers go
    anywhere, roamers go abroad.
    """
    if kind in (0, 2):
        return _at_home(net, own, kind, home, day, seg, 0)
    period = 14 if kind == 1 else 7 if kind == 3 else 10 if kind == 4 else 12
    shifted = day + np.int64(mix(own, 4) % np.uint64(period))
    since = shifted % period
    trip = mix(mix(own, 5), shifted // period)
    nights = 1 + np.int64(trip % np.uint64(3 if kind < 5 else 6))
    if since > nights or (kind == 1 and trip % np.uint64(7) > 2):
        return _at_home(net, own, kind, home, day, seg, 0)
    place = net.place[home]
    away, x, y = _AT, below(mix(trip, 1), len(net.place)), below(mix(trip, 2), len(net.place))
    if kind == 1:
        crossings = net.border_starts[place + 1] - net.border_starts[place]
        if crossings == 0:
            return _at_home(net, own, kind, home, day, seg, 0)
        there = net.place[net.partner[net.border[net.border_starts[place] + below(mix(trip, 3), crossings)]]]
        x = net.starts[there] + below(mix(trip, 1), net.starts[there + 1] - net.starts[there])
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
        away, x, road = _ABROAD, below(mix(trip, 1), 8), 18_000.0
    road_s = np.int64(min(max(road, 1800.0), 50_000.0))
    if 0 < since < nights:
        return _put(seg, 0, 0, DAY, away, x, 0)
    out = 25_200 + below(mix(trip, 4 + since), 79_200 - 25_200 - road_s)
    n = 0
    if since == 0:
        n = _put(seg, n, 0, out, _AT, home, 0)
        if kind in (1, 3):
            n = _put(seg, n, out, out + road_s, _MOVING, home, x)
        return _put(seg, n, out + road_s, DAY, away, x, 0)
    n = _put(seg, n, 0, out, away, x, 0)
    if kind in (1, 3):
        n = _put(seg, n, out, out + road_s, _MOVING, x, home)
    return _put(seg, n, out + road_s, DAY, _AT, home, 0)


@compiled
def _passing(net, own, seg, s, step):
    """The cell that serves step `step` of a journey: any of the box that the straight line is in; -1 = no coverage."""
    t0, t1, a, b = seg[s, 0], seg[s, 1], seg[s, 3], seg[s, 4]
    f = min((step + 0.5) * _STEP_S / (t1 - t0), 1.0)
    row = np.int64((net.lat[a] + (net.lat[b] - net.lat[a]) * f - net.frame[0]) / BOX)
    column = np.int64((net.lon[a] + (net.lon[b] - net.lon[a]) * f - net.frame[1]) / BOX)
    box = row * np.int64(net.frame[3]) + column
    n = net.box_starts[box + 1] - net.box_starts[box]
    if n == 0:
        return np.int64(-1)
    w = mix(mix(own, 20_000_000 + t0), step)
    return np.int64(net.box_cells[net.box_starts[box] + below(w, n)])


@compiled
def served(net, own, day, seg, n, t, flicker):
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
            w = mix(mix(own, 30_000_000 + day), t // 150)
            if net.partner[cell] >= 0 and unit(w) < flicker:
                return np.int64(net.partner[cell])
            return np.int64(net.near[cell]) if w & np.uint64(3) == 0 else cell
    return np.int64(-1)


@compiled
def true_stays(net, base, lo, hi, day, abroad, seg, who, place, arrive, depart):
    """Write the places of subscribers lo..hi on a day, in order, and the first and last second there: how many.

    Where there are more than the arrays hold, -1. `seg` is room for a day's `plan_of`.
    """
    rows = 0
    for i in range(lo, hi):
        kind, home, own = person(net, base, i)
        n = plan_of(net, own, kind, home, day, seg)
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
        kind, home, _ = person(net, base, lo + i)
        kinds[i], homes[i] = kind, net.place[home]


def kinds_and_homes(country: Country, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """(kinds, homes) of subscribers lo..hi."""
    kinds, homes = np.empty(hi - lo, np.int8), np.empty(hi - lo, np.int32)
    _write_who(country.net, base_of(country.seed), lo, kinds, homes)
    return kinds, homes


def people(country: Country, start: int = 0, stop: int | None = None) -> pa.Table:
    """Who the subscribers `start` to `stop` are: subscriber, kind (one of `KINDS`), home (place code)."""
    stop = country.subscribers if stop is None else min(stop, country.subscribers)
    kinds, homes = kinds_and_homes(country, start, stop)
    return pa.table(
        {
            "subscriber": named(country, np.arange(start, stop)),
            "kind": pa.array(KINDS).take(pa.array(kinds)),
            "home": pa.array(country.codes).take(pa.array(homes)),
        }
    )


def pseudonyms(country: Country, who: np.ndarray) -> pa.Array:
    """Subscribers as 16 hexadecimal digits."""
    eight = words(base_of(country.seed) ^ M2, who).astype(">u8").view(np.uint8).reshape(-1, 8)  # a bijection
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.stack([digits[eight >> 4], digits[eight & 15]], axis=2).tobytes()
    offsets = np.arange(len(who) + 1, dtype=np.int32) * 16
    return pa.StringArray.from_buffers(len(who), pa.py_buffer(offsets), pa.py_buffer(text))


def named(country: Country, who: np.ndarray) -> pa.Array:
    """Subscribers as the country's files have them."""
    return pa.array(who + np.int64(FIRST_SUBSCRIBER)) if country.ids == "integer" else pseudonyms(country, who)


def midnight(day: date) -> int:
    """The microsecond at which a day of the country begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=_CHINA).timestamp()) * 1_000_000
