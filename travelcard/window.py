"""Stays to visits: the visited-city set of a window of days, for every subscriber (DESIGN 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from travelcard.compiled import compiled
from travelcard.errors import InputError
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.pages import Desk
from travelcard.places import is_abroad
from travelcard.schema import CORRECTIONS, SECONDS, VISITS, a_date, midnights, whole_seconds
from travelcard.stays import (
    MAX_SILENCE,
    days_of,
    id_codes,
    place_codes,
    seconds_of,
    sorted_stays,
    stitched,
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


@compiled(inline="always")
def _day(starts, second, day):
    """Day index of a second at or after the start of `day`: stays come in time order, so this mostly stands still."""
    while second >= starts[day + 1]:
        day += 1
    return day


# A place in which one subscriber was seen: what is known of it so far. `latest` is a day, `day` the one that `total` is
# about; times are microseconds.
_SPOT = np.dtype(
    [
        ("first", np.int64), ("last", np.int64), ("longest", np.int64), ("begun", np.int64), ("total", np.int64),
        ("days", np.int32), ("latest", np.int32), ("day", np.int32), ("place", np.int16), ("holds", np.bool_),
    ],
    align=True,
)  # fmt: skip
_PEOPLE = {"who": np.int64, "days seen": np.int32, "places": np.int32}
_PLACES = {
    "place": np.int16, "first": np.int64, "last": np.int64, "days": np.int32, "longest": np.int32, "transit": np.bool_,
}  # fmt: skip

_STITCHING = {"stitched place": np.int16, "arrive": np.int64, "depart": np.int64}


@compiled
def _most(begins, ends, who):
    """A power of two that no subscriber has more rows than in any one run."""
    most, more = 8, True
    while more:
        most *= 2
        more = False
        for r in range(len(begins)):
            for i in range(begins[r], ends[r] - most):
                more |= who[i] == who[i + most]
    return most


@compiled
def _hear(who, place, arrive, inner, stands, abroad, i, end, midnight, heard):
    """Count the inner pings of each place on the day that begins in row i: whether any is; places abroad have some."""
    some, me = False, who[i]
    for k in range(2):  # counts begin at zero
        j = i
        while j < end and who[j] == me and arrive[j] < midnight:
            if len(stands) == 0 or stands[j]:
                p = np.uint16(place[j])
                heard[p] = 0 if k == 0 else 1 if abroad[p] else heard[p] + inner[j]
                some = some or (heard[p] > 0 and not abroad[p])
            j += 1
    return some


@compiled
def _visits(
    head,
    ends,
    who,
    place,
    arrive,
    depart,
    inner,
    stands,
    starts,
    abroad,
    rule,
    min_stay,
    flicker,
    max_silence,
    border,
    abroad_counts,
    transit,
    slot,
    heard,
    spot,
    stitching,
    out_people,
    out_places,
):
    """Every subscriber's places of the window, from runs of day-stays, each sorted by (subscriber, arrive, place).

    Run r is the rows from head[r], which moves on, to ends[r]; a subscriber's stays in it are earlier than those in
    run r + 1, so that days are merged by walking along them. All times are microseconds. `stands` says which stays no
    correction takes off (empty: all stand), `transit` whether places in transit are wanted; `inner` is read for
    `border` alone. `slot`, of zeros, and `heard` are room for each place, `spot` and the five of `stitching`, whose
    last two are zeros, for one subscriber's rows.
    Writes _PEOPLE of each subscriber and _PLACES of each place, and returns how many of both.
    """
    o_who, o_seen, o_places = out_people
    o_place, o_first, o_last, o_days, o_longest, o_transit = out_places
    s_place, s_arrive, s_depart, s_pings, s_inner = stitching  # no rule counts the pings of stitched stays
    runs, days = len(head), len(starts) - 1
    people = out = left = 0
    nobody = np.iinfo(np.int64).max
    me = nobody
    for r in range(runs):
        me = min(me, who[head[r]] if head[r] < ends[r] else nobody)
        left += ends[r] - head[r]
    while left:
        after = nobody  # who comes after me
        places = days_seen = k = d = 0
        today, some, flickers = -1, False, False
        for r in range(runs):
            i, end = head[r], ends[r]
            left += i
            while i < end and who[i] == me:
                begin, until, p = arrive[i], depart[i], np.uint16(place[i])
                if starts[0] <= begin < starts[days] and (len(stands) == 0 or stands[i]):
                    d = _day(starts, begin, d)
                    if today != d:
                        today = d
                        days_seen += 1
                        if border:
                            some = _hear(who, place, arrive, inner, stands, abroad, i, end, starts[d + 1], heard)
                    if slot[p] == 0:
                        places += 1
                        slot[p] = places
                        x = spot[places]
                        x.place, x.first, x.last, x.longest = place[i], begin, until, 0
                        x.days, x.latest, x.day, x.holds = 0, -1, -1, False
                    x = spot[slot[p]]
                    x.last = max(x.last, until)
                    if x.latest != d:
                        x.latest, x.begun = d, begin
                        x.days += 1
                    if not border or not some or heard[p] > 0:
                        if rule == 0:  # day_span looks at every ping that border left
                            x.holds |= until - x.begun >= min_stay
                        if k > 0 and s_place[k - 1] == place[i] and begin - s_depart[k - 1] <= max_silence:
                            s_depart[k - 1] = until
                        else:
                            flickers |= k > 1 and s_place[k - 2] == place[i] and begin - s_depart[k - 2] <= flicker
                            s_place[k], s_arrive[k], s_depart[k] = place[i], begin, until
                            k += 1
                i += 1
            head[r] = i
            left -= i
            after = min(after, who[i] if i < end else nobody)
        if flickers:  # most have none, and are joined already
            k = stitched(s_place, s_arrive, s_depart, s_pings, s_inner, 0, k, max_silence, flicker)
        d = 0
        for i in range(k):
            x = spot[slot[np.uint16(s_place[i])]]
            lasts = s_depart[i] - s_arrive[i]
            x.longest = max(x.longest, lasts)
            if rule == 1:
                x.holds |= lasts >= min_stay
            elif rule == 2:  # cut at every 24:00, each day's pieces added up
                d = _day(starts, s_arrive[i], d)
                e = d
                while e < days and starts[e] <= s_depart[i]:
                    if x.day != e:
                        x.day, x.total = e, 0
                    x.total += min(s_depart[i], starts[e + 1]) - max(s_arrive[i], starts[e])
                    x.holds |= x.total >= min_stay
                    e += 1
        start = out
        for at in range(1, places + 1):  # met in order of (first, place)
            x = spot[at]
            p = np.uint16(x.place)
            slot[p] = 0
            visited = abroad_counts if abroad[p] else x.holds
            if visited or transit:
                o_place[out], o_first[out], o_last[out], o_days[out] = x.place, x.first, x.last, x.days
                o_longest[out], o_transit[out] = x.longest // 1_000_000, not visited
                out += 1
        o_who[people], o_seen[people], o_places[people] = me, days_seen, out - start
        people += 1
        me = after
    return people, out


@dataclass(frozen=True, slots=True)
class Visits:
    """Everyone who is in some stays, and places of theirs, a row each, sorted by (who, first, place).

    `who` is an index into `subscribers`, distinct and ascending, `place` one into `codes`, ascending bytewise, and
    into `abroad`; `first` and `last` are microseconds.
    """

    subscribers: pa.Array
    days_seen: NDArray[np.int32]
    codes: tuple[str, ...]
    abroad: NDArray[np.bool_]
    who: NDArray[np.intp]
    place: NDArray[np.int16]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    days: NDArray[np.int32]
    longest_s: NDArray[np.int32]
    transit: NDArray[np.bool_]


class Runs(NamedTuple):
    """Day-stays, run by run, each sorted by (subscriber, arrive, place) and later than the one before; times in µs.

    Run r is the rows from begins[r] to ends[r] of the columns. Ids are in the order of the subscribers.
    """

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    ids: NDArray[np.int64]
    names: pa.Array | None  # what ids stand for, None for themselves
    place: NDArray[np.int16]
    codes: Sequence[str]  # what a place stands for, in any order
    arrive: NDArray[np.int64]
    depart: NDArray[np.int64]
    inner: NDArray[np.int32]  # of each row, or empty where nobody asks


def runs_of(tables: Sequence[pa.Table], *, inner: bool) -> Runs:
    """Sorted tables as runs."""
    table, edges = pa.concat_tables(tables), np.cumsum([0, *map(len, tables)])
    ids, names = id_codes(table["subscriber"])
    place, codes = place_codes(table["place"])
    arrive, depart = (table[name].cast(pa.int64()).to_numpy() for name in ("arrive", "depart"))
    counts = table["inner"].to_numpy() if inner else np.empty(0, np.int32)
    return Runs(edges[:-1], edges[1:], ids, names, place, codes.to_pylist(), arrive, depart, counts)


def visits_of(
    runs: Runs,
    *,
    as_of: date,
    policy: VisitRule,
    tz: str,
    max_silence: int,
    corrections: pa.Table | None = None,
    transit: bool = True,
    desk: Desk | None = None,
) -> Visits:
    """The visits of day-stays, a run of which may also hold several days.

    `transit`: with the places that were only passed through. `desk` has room that is used again by the next call;
    nothing that is returned lies there.
    """
    if policy.rule not in RULES or policy.border not in ("any", "inner") or policy.days < 1:
        raise InputError(
            f"rule {policy.rule!r}, border {policy.border!r}, days {policy.days}: a policy has one of "
            f"{', '.join(RULES)}; any or inner; 1 day or more"
        )
    columns: list[NDArray[Any]] = [runs.ends, runs.ids, runs.place, runs.arrive, runs.depart, runs.inner]
    for column in columns:  # some are Arrow's memory and some copies: one compiled kernel for all
        column.setflags(write=False)
    abroad = np.array([is_abroad(code) for code in runs.codes], np.bool_)
    desk, rows = desk or Desk(), int((runs.ends - runs.begins).sum())
    most = len(runs.ends) * _most(runs.begins, runs.ends, runs.ids)
    out_people, out_places, stitching = (
        tuple(desk.rooms("visits'", tuple(kinds), tuple(kinds.values()), n))
        for kinds, n in ((_PEOPLE, rows), (_PLACES, rows), (_STITCHING, most))
    )
    people, out = _visits(
        runs.begins.copy(),
        *columns,
        np.empty(0, np.bool_) if corrections is None else standing(runs, corrections, tz),
        midnights(window_of(as_of, policy.days)[0], policy.days, tz) * 1_000_000,
        abroad,
        RULES.index(policy.rule),
        whole_seconds(policy.min_stay, "min_stay") * 1_000_000,
        whole_seconds(policy.flicker, "flicker") * 1_000_000,
        max_silence * 1_000_000,
        policy.border == "inner",
        policy.abroad_from is None or as_of >= policy.abroad_from,
        transit,
        np.zeros(len(abroad), np.uint32),
        np.empty(len(abroad), np.int64),
        desk.room("spots", most + 1, _SPOT),
        (*stitching, np.zeros(most, np.int32), np.zeros(most, np.int32)),
        out_people,
        out_places,
    )
    who, days_seen, places = (column[:people].copy() for column in out_people)
    place, *found = (column[:out].copy() for column in out_places)
    order = sorted(range(len(runs.codes)), key=runs.codes.__getitem__)
    codes, rank = tuple(runs.codes[i] for i in order), np.empty(len(order), np.int16)
    rank[order] = np.arange(len(order))
    subscribers = pa.array(who) if runs.names is None else runs.names.take(pa.array(who))
    who = np.repeat(np.arange(len(who)), places)
    return Visits(subscribers, days_seen, codes, abroad[order], who, rank[place], *found)


def standing(runs: Runs, corrections: Any, tz: str) -> NDArray[np.bool_]:
    """Which day-stays no correction takes off, empty without any: (subscriber, place), `from` to `to` inclusive."""
    wrong = CORRECTIONS.read(corrections, where="the corrections")
    if not len(wrong):
        return np.empty(0, np.bool_)
    who = wrong["subscriber"]
    if pa.types.is_integer(who.type) != (runs.names is None):
        raise InputError("corrections and stays differ in their subscribers' type (integer or string)")
    if runs.names is not None:
        who = pc.index_in(who, value_set=runs.names).cast(pa.int64())
    at = np.flatnonzero(pc.is_in(pa.array(runs.ids), value_set=who))
    places = pa.DictionaryArray.from_arrays(pa.array(runs.place[at]), pa.array(runs.codes, pa.string()))
    rows = {"who": runs.ids[at], "place": places.cast(pa.string()), "arrive": pa.array(runs.arrive[at]).view(SECONDS)}
    hits = (
        pl.DataFrame(pa.table(rows))
        .with_columns(row=pl.Series(at))
        .join(
            pl.DataFrame(wrong.select(["place", "from", "to"])).with_columns(who=pl.Series(who)),
            on=["who", "place"],
        )
        .filter(pl.col("arrive").dt.convert_time_zone(tz).dt.date().is_between("from", "to"))
    )
    stands = np.ones(len(runs.ids), np.bool_)
    stands[hits["row"].to_numpy()] = False
    return stands


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
    arrive, depart = seconds_of(table["arrive"]), seconds_of(table["depart"])
    day, _ = days_of(np.concatenate([arrive, depart]), tz)
    crossing = int((day[: len(arrive)] != day[len(arrive) :]).sum())
    if crossing:
        raise InputError(
            f"{crossing} of {len(arrive)} stays cross a midnight of {tz}: give day-stays, as tc.stays returns them "
            "(tc.visits stitches by itself)"
        )
    seen = visits_of(
        runs_of([table], inner=True), as_of=as_of, policy=policy, tz=tz,
        max_silence=whole_seconds(max_silence, "max_silence"), corrections=corrections,
    )  # fmt: skip
    who = pa.array(seen.who)
    columns = {
        "subscriber": seen.subscribers.take(who),
        "place": pa.array(seen.codes, pa.string()).take(pa.array(seen.place)),
        "first": seen.first,
        "last": seen.last,
        "days": seen.days,
        "longest_s": seen.longest_s,
        "transit": seen.transit,
        "days_seen": seen.days_seen[seen.who],
    }
    return pl.DataFrame(pa.table(columns).cast(VISITS.arrow(ids=seen.subscribers.type)))
