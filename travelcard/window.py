"""Stays to visits: the visited-city set of a window of days, for every subscriber (DESIGN 3.5)."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from travelcard.compiled import compiled
from travelcard.errors import InputError
from travelcard.places import is_abroad
from travelcard.schema import CORRECTIONS, VISITS, a_date, midnights, whole_seconds
from travelcard.stays import (
    MAX_SILENCE,
    days_of,
    id_codes,
    place_codes,
    seconds_of,
    sorted_stays,
    stitched,
    timestamps,
)

__all__ = ["visits"]

RULES = ("day_span", "continuous", "cumulative")


class VisitRule(Protocol):
    """What of a policy decides which places count as visited."""

    @property
    def days(self) -> int: ...
    @property
    def rule(self) -> str: ...
    @property
    def min_stay(self) -> timedelta: ...
    @property
    def flicker(self) -> timedelta: ...
    @property
    def border(self) -> str: ...
    @property
    def abroad_from(self) -> date | None: ...


def window_of(as_of: date, days: int) -> tuple[date, date]:
    """First and last day of the window of a card: the `days` full days before `as_of`.

    >>> window_of(date(2022, 3, 15), 14)
    (datetime.date(2022, 3, 1), datetime.date(2022, 3, 14))
    """
    return as_of - timedelta(days=days), as_of - timedelta(days=1)


@compiled
def _day(starts, second, day):
    """Day index of a second at or after the start of `day`: stays come in time order, so this mostly stands still."""
    while second >= starts[day + 1]:
        day += 1
    return day


@compiled
def _without_border(place, day, inner, abroad, slot, a, b, keep, heard):
    """Mark in `keep` the day-stays that `border = inner` leaves: on each day, see DESIGN 3.5."""
    i = a
    while i < b:
        j = i
        some = False
        while j < b and day[j] == day[i]:
            heard[slot[place[j]]] = 0
            j += 1
        for k in range(i, j):
            if not abroad[place[k]]:
                heard[slot[place[k]]] += inner[k]
                some = some or inner[k] > 0
        for k in range(i, j):
            keep[k] = abroad[place[k]] or not some or heard[slot[place[k]]] > 0
        i = j


@compiled
def _visits(
    who,
    place,
    arrive,
    depart,
    pings,
    inner,
    starts,
    abroad,
    rule,
    min_stay,
    flicker,
    max_silence,
    border,
    abroad_counts,
):
    """Every subscriber's places of the window, from its day-stays sorted by (subscriber, arrive, place).

    Stays outside the window are gone already. Returns (who, place, first, last, days, longest, transit, days_seen).
    """
    n, days = len(who), len(starts) - 1
    most = a = 0
    for i in range(n):  # scratch is as long as the busiest subscriber
        if who[i] != who[a]:
            a = i
        most = max(most, i + 1 - a)
    slot = np.full(len(abroad), -1, np.int32)  # place -> its number among this subscriber's places
    seen = np.empty(most, np.int16)
    day, keep, heard = np.empty(n, np.int16), np.ones(n, np.bool_), np.empty(most, np.int64)
    first, last, count, latest = (
        np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int32), np.empty(most, np.int32),
    )  # fmt: skip
    longest, holds = np.empty(most, np.int64), np.empty(most, np.bool_)
    begun, ended = np.empty(most, np.int64), np.empty(most, np.int64)  # the day's first and last ping of a place
    on_day, total = np.empty(most, np.int32), np.empty(most, np.int64)  # the day that `begun` or `total` is about
    s_place, s_arrive, s_depart, s_pings, s_inner = (
        np.empty(most, np.int16), np.empty(most, np.int64), np.empty(most, np.int64),
        np.empty(most, np.int32), np.empty(most, np.int32),
    )  # fmt: skip
    o_who, o_place = np.empty(n, np.int64), np.empty(n, np.int16)
    o_first, o_last = np.empty(n, np.int64), np.empty(n, np.int64)
    o_days, o_longest, o_seen = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    o_transit = np.empty(n, np.bool_)
    out = a = 0
    while a < n:
        b = a
        places = days_seen = 0
        d = 0
        while b < n and who[b] == who[a]:  # all pings of the window: first, last, days
            d = _day(starts, arrive[b], d)
            day[b] = d
            days_seen += 1 if b == a or day[b - 1] != d else 0
            at = slot[place[b]]
            if at < 0:
                at = places
                slot[place[b]], seen[at] = at, place[b]
                first[at], last[at], count[at], latest[at] = arrive[b], depart[b], 1, d
                longest[at], holds[at], on_day[at] = 0, False, -1
                places += 1
            else:
                last[at] = max(last[at], depart[b])
                count[at] += 1 if latest[at] != d else 0
                latest[at] = d
            b += 1
        if border:
            _without_border(place, day, inner, abroad, slot, a, b, keep, heard)
        k = 0
        for i in range(a, b):
            if keep[i]:
                s_place[k], s_arrive[k], s_depart[k] = place[i], arrive[i], depart[i]
                s_pings[k], s_inner[k] = pings[i], inner[i]
                k += 1
                if rule == 0:  # day_span looks at every ping that border left
                    at = slot[place[i]]
                    if on_day[at] != day[i]:
                        on_day[at], begun[at], ended[at] = day[i], arrive[i], depart[i]
                    ended[at] = max(ended[at], depart[i])
                    holds[at] = holds[at] or ended[at] - begun[at] >= min_stay
        k = stitched(s_place, s_arrive, s_depart, s_pings, s_inner, 0, k, max_silence, flicker)
        d = 0
        for i in range(k):
            at = slot[s_place[i]]
            lasts = s_depart[i] - s_arrive[i]
            longest[at] = max(longest[at], lasts)
            if rule == 1:
                holds[at] = holds[at] or lasts >= min_stay
            elif rule == 2:  # cut at every 24:00, each day's pieces added up
                d = _day(starts, s_arrive[i], d)
                e = d
                while e < days and starts[e] <= s_depart[i]:
                    if on_day[at] != e:
                        on_day[at], total[at] = e, 0
                    total[at] += min(s_depart[i], starts[e + 1]) - max(s_arrive[i], starts[e])
                    holds[at] = holds[at] or total[at] >= min_stay
                    e += 1
        start = out
        for at in range(places):
            p = seen[at]
            slot[p] = -1
            k = out  # insertion by (first, place): a subscriber has few places
            while k > start and (o_first[k - 1] > first[at] or (o_first[k - 1] == first[at] and o_place[k - 1] > p)):
                o_place[k], o_first[k], o_last[k], o_days[k] = (
                    o_place[k - 1],
                    o_first[k - 1],
                    o_last[k - 1],
                    o_days[k - 1],
                )
                o_longest[k], o_transit[k] = o_longest[k - 1], o_transit[k - 1]
                k -= 1
            o_place[k], o_first[k], o_last[k], o_days[k], o_longest[k] = p, first[at], last[at], count[at], longest[at]
            o_transit[k] = not (abroad_counts if abroad[p] else holds[at])
            o_who[out], o_seen[out] = who[a], days_seen
            out += 1
        a = b
    return (
        o_who[:out].copy(), o_place[:out].copy(), o_first[:out].copy(), o_last[:out].copy(), o_days[:out].copy(),
        o_longest[:out].copy(), o_transit[:out].copy(), o_seen[:out].copy(),
    )  # fmt: skip


def visits_of_sorted(table: pa.Table, *, as_of: date, policy: VisitRule, tz: str, max_silence: int) -> pa.Table:
    """`visits` of day-stays that are sorted by (subscriber, arrive, place) already: one bucket, or a whole frame."""
    if policy.rule not in RULES or policy.border not in ("any", "inner") or policy.days < 1:
        raise InputError(
            f"rule {policy.rule!r}, border {policy.border!r}, days {policy.days}: a policy has one of "
            f"{', '.join(RULES)}; any or inner; 1 day or more"
        )
    ids, names = id_codes(table["subscriber"])
    place, codes = place_codes(table["place"])
    columns = (
        ids,
        place,
        seconds_of(table["arrive"]),
        seconds_of(table["depart"]),
        table["pings"].to_numpy(),
        table["inner"].to_numpy(),
    )
    starts = midnights(window_of(as_of, policy.days)[0], policy.days, tz)
    inside = (columns[2] >= starts[0]) & (columns[2] < starts[-1])
    who, at, first, last, days, longest, transit, seen = _visits(
        *(columns if inside.all() else (column[inside] for column in columns)),
        starts,
        np.array([is_abroad(code) for code in codes.to_pylist()] or [False]),
        RULES.index(policy.rule),
        whole_seconds(policy.min_stay, "min_stay"),
        whole_seconds(policy.flicker, "flicker"),
        max_silence,
        policy.border == "inner",
        policy.abroad_from is None or as_of >= policy.abroad_from,
    )
    arrays = [
        pa.array(who) if names is None else names.take(pa.array(who)),
        codes.take(pa.array(at)),
        timestamps(first),
        timestamps(last),
        pa.array(days),
        pa.array(longest),
        pa.array(transit),
        pa.array(seen),
    ]
    return pa.Table.from_arrays(arrays, schema=VISITS.arrow(ids=table.schema.field("subscriber").type))


def without_corrected(table: pa.Table, corrections: Any, tz: str) -> pa.Table:
    """The day-stays that no correction takes off: (subscriber, place) on the days `from` to `to`, inclusive."""
    wrong = CORRECTIONS.read(corrections, where="the corrections")
    if not len(wrong):
        return table
    if wrong.schema.field("subscriber").type != table.schema.field("subscriber").type:
        raise InputError("corrections and stays differ in their subscribers' type (integer or string)")
    rows = pl.from_arrow(table).with_row_index("row")  # type: ignore[union-attr]
    hits = rows.join(
        pl.from_arrow(wrong.select(["subscriber", "place", "from", "to"])),  # type: ignore[arg-type]
        on=["subscriber", "place"],
    ).filter(pl.col("arrive").dt.convert_time_zone(tz).dt.date().is_between("from", "to"))
    return table.filter(pa.array(~np.isin(np.arange(len(table)), hits["row"].to_numpy())))


def visits(
    stays: Any,
    *,
    as_of: date,
    policy: VisitRule,
    corrections: Any = None,
    tz: str = "Asia/Shanghai",
    max_silence: timedelta = MAX_SILENCE,
) -> pl.DataFrame:
    """Which places each subscriber was in during the window of a card, and which of them count as visited.

    Parameters
    ----------
    stays
        Day-stays as `tc.stays` returns them, one table or a list of tables, in any order. They are stitched here: a
        stay that crosses midnight is refused.
    as_of
        The day on which the card is shown; the window is the `policy.days` full days before it, in `tz`.
    policy
        Gives `days`, `rule`, `min_stay`, `flicker`, `border` and `abroad_from`.
    corrections
        A table `subscriber`, `place`, `from`, `to` (days, inclusive): those day-stays are removed before all else.
    tz
        Time zone of days and midnights.
    max_silence
        Longest gap inside a stay.

    Returns
    -------
    polars.DataFrame
        One row per subscriber and place seen: `subscriber`, `place`, `first`, `last` (timestamp[us, UTC]), `days` and
        `longest_s` (int32), `transit` (boolean: seen, not visited), `days_seen` (int32: days of the window on which
        the subscriber had any ping). Sorted by (subscriber, first, place).

    Raises
    ------
    InputError
        The table does not fit, or a stay crosses midnight.

    Notes
    -----
    DESIGN 3.5. `day_span` is the operators' own description of January 2022 (FACTS 1.4), `continuous` the wording of
    July 2022.

    Examples
    --------
    >>> import polars as pl, travelcard as tc
    >>> from datetime import date, datetime
    >>> pings = pl.DataFrame({
    ...     "subscriber": [7, 7, 7],
    ...     "time": [datetime(2022, 3, 14, 1), datetime(2022, 3, 14, 2), datetime(2022, 3, 14, 5)],
    ...     "place": ["330100", "310000", "330100"],
    ... })
    >>> policy = tc.Policy.preset("card-2022-01")
    >>> tc.visits(tc.stays(pings), as_of=date(2022, 3, 15), policy=policy).select("place", "transit").rows()
    [('330100', False), ('310000', True)]
    """
    a_date(as_of, "as_of")
    if isinstance(policy, str):
        raise InputError(f"policy: expected a Policy, such as Policy.preset({policy!r})")
    table = sorted_stays(stays)
    if corrections is not None:
        table = without_corrected(table, corrections, tz)
    arrive, depart = seconds_of(table["arrive"]), seconds_of(table["depart"])
    day, _ = days_of(np.concatenate([arrive, depart]), tz)
    crossing = int((day[: len(arrive)] != day[len(arrive) :]).sum())
    if crossing:
        raise InputError(
            f"{crossing} of {len(arrive)} stays cross a midnight of {tz}: give day-stays, as tc.stays returns them "
            "(tc.visits stitches by itself)"
        )
    silence = whole_seconds(max_silence, "max_silence")
    rows = visits_of_sorted(table, as_of=as_of, policy=policy, tz=tz, max_silence=silence)
    return pl.from_arrow(rows)  # type: ignore[return-value]
