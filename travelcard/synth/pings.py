"""The pings of one day and file, row by row as a carrier sends them, each fault labelled as it is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from travelcard.compiled import compiled
from travelcard.schema import REASONS, SECONDS

from .cells import ABROAD, Country, shifted
from .persons import DAY, FIRST_SUBSCRIBER, PLAN, midnight, person, plan_of, pseudonyms, served
from .words import M1, base_of, below, mix, unit, words

__all__ = ["Feed", "parts_of", "rows_of"]

NO_COUNTRY = ("90118", "46000", "46001", "99999")  # plmns that no_place faults carry: satellite, home, home, unknown
_ROW_GROUP = 1 << 20
_PART = 1 << 23  # rows that are held at once for a file
_ROW = np.int32, np.int64, np.int32, np.uint8, np.uint16  # see _pings
_BURST_S = 120  # the pings of one burst lie this close

# Pings by hour of the local day, as shares of 1: a phone in a drawer at night still updates, but rarely.
_HOURS = np.array([4, 3, 3, 3, 3, 4, 6, 9, 11, 11, 11, 12, 13, 12, 11, 11, 11, 12, 13, 12, 12, 11, 9, 6], np.float64)
_CDF = np.concatenate([[0.0], np.cumsum(_HOURS) / _HOURS.sum()])
_YIELD = 1.44  # pings that one stratum of the day gives: bursts, less the hours switched off


@compiled
def _share(t, cdf):
    """The share of a day's pings that come before second `t`."""
    if t <= 0:
        return 0.0
    if t >= DAY:
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
    room for a day's `plan_of`.
    """
    who, micro, cells, fault, keys = out
    rows = 0
    for i in range(subscribers):
        kind, home, own = np.int64(0), np.int64(0), mix(base, i)
        today = mix(own, 40_000_000 + day)
        strata = np.floor(rate * (0.3 + 1.4 * unit(mix(own, 6))) + unit(today))
        segments = -1
        off0, off1, night = np.int64(0), np.int64(0), False
        for v in range(len(windows)):
            piece, a, b, delay, last = windows[v]
            w = mix(today, 10_000 + piece)
            late = min(np.int64(1 + (w >> np.uint64(9)) % np.uint64(2)) if w % np.uint64(128) == 0 else 0, last - piece)
            if delay != late and deal[1] == 0:
                continue
            low = np.int64(max(np.floor(_share(a - _BURST_S, cdf) * strata - 1e-6), 0.0))
            high = np.int64(min(np.floor(_share(b, cdf) * strata + 1e-6), strata - 1.0))
            for k in range(low, high + 1):
                w = mix(today, 1_000_000 + k)
                start = np.int64(1e6 * _second((k + unit(w)) / strata, cdf))
                burst = 3 if w & np.uint64(7) == 0 else 2 if w & np.uint64(7) < 3 else 1
                for j in range(burst):
                    t = start + j * np.int64(1_000_000 + (w >> np.uint64(3)) % np.uint64(59_000_000))
                    if t < a * 1_000_000 or t >= b * 1_000_000:
                        continue
                    ping = mix(w, 1 + j)
                    if deal[1] > 0 and np.int64((ping >> np.uint64(8)) % np.uint64(deal[1])) != deal[0]:
                        continue
                    if segments < 0:  # only now is the day needed
                        kind, home, own = person(net, base, i)
                        segments = plan_of(net, own, kind, home, day, seg)
                        night = own % np.uint64(5) == 0
                        x = mix(today, 1)
                        if x % np.uint64(20) == 0:
                            off0 = below(x, 72_000)
                            off1 = off0 + 7200 + below(mix(today, 2), 10_800)
                    second = t // 1_000_000
                    if off0 <= second < off1 or (night and (second < 23_400 or second >= 84_600)):
                        continue
                    cell = served(net, own, day, seg, segments, second, flicker)
                    if cell == -1:
                        continue
                    for copy in range(2 if ping % np.uint64(500) == 0 else 1):  # a duplicate follows its ping
                        if rows == len(who):
                            return -1
                        x = mix(ping, 10 + copy)
                        what = 0
                        c = cell
                        if unit(x) < faults:
                            y = mix(x, 1)
                            what = reasons[below(y, len(reasons))] + 1
                            if what == 5:  # null_cell
                                c = np.int64(-1)
                            elif what == 7:  # unknown_cell
                                c = first_bad[1] + below(mix(y, 1), first_bad[2] - first_bad[1])
                            elif what == 8:  # no_place: a plmn of no country for roamers, a cell at sea for the rest
                                if cell < -1:
                                    c = -10 - below(mix(y, 1), 4)
                                else:
                                    c = first_bad[0] + below(mix(y, 1), first_bad[1] - first_bad[0])
                            what += 16 * np.int64(y & np.uint64(3))
                        who[rows], micro[rows], cells[rows], fault[rows] = i, t, c, what
                        if deal[1] > 0:
                            keys[rows] = x >> np.uint64(48)
                        else:  # nearly in time order: up to a minute of disorder
                            moment = min(t // 1_000_000 - a + np.int64(x >> np.uint64(48)) % 60, b - a - 1)
                            keys[rows] = moment * 65_535 // (b - a)
                        rows += 1
    return rows


@dataclass(frozen=True, slots=True)
class Feed:
    """What a carrier's files look like."""

    rate: float
    files: int
    order: str
    kind: str
    format: str
    faults: float
    plmn: bool
    inner: np.ndarray | None  # cells around which a phone may stand anywhere within half the range


def _positions(country: Country, feed: Feed, who: np.ndarray, micro: np.ndarray, cell: np.ndarray) -> list[np.ndarray]:
    """Where the phone says it is: at its cell, or, well inside a place, anywhere within half the cell's range."""
    at = np.maximum(cell, 0)
    w = words(base_of(country.seed) ^ M1, (who.astype(np.int64) << 37) ^ micro)
    reach = np.zeros(len(at)) if feed.inner is None else np.where(feed.inner[at], country.range[at] / 2, 0.0)
    metres = reach * np.sqrt((w >> np.uint64(32)).astype(np.float64) / 2**32)
    angle = (w & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2 * np.pi / 2**32)
    lat, lon = shifted(country.lat[at], country.lon[at], metres, angle)
    return [lat, lon, 5.0 + np.floor((w & np.uint64(0xFF)).astype(np.float64) / 4)]


def rows_of(country: Country, feed: Feed, day: date, part: tuple[np.ndarray, ...]) -> pa.Table:
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
        ids = pc.if_else(pa.array(without(rows(1, 2, 3))), "", pseudonyms(country, who))
        ids = pc.if_else(pa.array(without(rows(1, 0, 1))), pa.scalar(None, ids.type), ids)
    times = micro + midnight(day)
    times[rows(4, 0, 1)] -= DAY * 1_000_000
    times[rows(4, 2, 3)] += DAY * 1_000_000
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


def _reasons(feed: Feed) -> list[str]:
    possible = {"null_subscriber", "null_time", "outside_day", "null_cell", "no_place"}
    possible.add("unknown_cell" if feed.kind == "cell" else "bad_position")
    if feed.format == "csv":
        possible.add("bad_time")
    return [reason for reason in REASONS if reason in possible]


def parts_of(country: Country, feed: Feed, day: date, file: int) -> Iterator[tuple[np.ndarray, ...]]:
    """A file's pings in the order of its rows, a bounded number at once: (who, microsecond, cell, fault)."""
    parts = max(1, int(country.subscribers * feed.rate * 1.4 / feed.files / _PART) + 1)
    reasons = np.array([REASONS.index(reason) for reason in _reasons(feed)], np.int64)
    bad = np.array([country.outside, country.unknown, len(country.cells)], np.int64)
    edges = [DAY * f // feed.files for f in range(feed.files + 1)]
    capacity = int(2.0 * country.subscribers * feed.rate / feed.files / parts) + 1024
    for j in range(parts):
        windows = []
        for f in range(max(file - 2, 0), file + 1):
            cuts = [edges[f] + (edges[f + 1] - edges[f]) * k // parts for k in (j, j + 1)]
            windows.append((f, *cuts, file - f, feed.files - 1))
        deal = (0, 0)
        if feed.order == "shuffled":
            windows, deal = [(0, 0, DAY, 0, 0)], (file * parts + j, feed.files * parts)
        count = -1
        while count < 0:
            out = tuple(np.empty(capacity, kind) for kind in _ROW)
            count = _pings(
                country.net,
                base_of(country.seed),
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
                np.empty(PLAN, np.int64),
                out,
            )
            capacity = capacity if count >= 0 else 2 * capacity
        order = np.argsort(out[-1][:count], kind="stable")
        columns = [column[:count][order] for column in out[:-1]]
        for a in range(0, count, _ROW_GROUP):
            yield tuple(column[a : a + _ROW_GROUP] for column in columns)
