"""Visits to cards, for every subscriber at once: marks, one colour, and a reason for everything (DESIGN 3.6).

No Python object is made per card: rules are looked up per place, and lists are laid out by counting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from travelcard.card import Card
from travelcard.errors import InputError
from travelcard.explain import explain
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.places import Places, china, is_abroad
from travelcard.policy import COLOURS, Policy
from travelcard.risk import Risk
from travelcard.rules import (
    EPOCH,
    NO_END,
    OPEN,
    Bools,
    Evidence,
    Ints,
    Statuses,
    evidence,
    holding,
    marked_places,
    marks_of,
    plain,
    taken,
)
from travelcard.schema import CARDS, SECONDS, STATUSES, VISITS, Column, Table, a_date, zone
from travelcard.stays import place_codes
from travelcard.window import Visits

__all__ = ["Card", "cards", "explain"]

KNOWN = Table("subscribers", (Column("subscriber", None, ("integer", "string")),))


def cards(
    visits: Any,
    *,
    as_of: date,
    policy: Policy,
    risk: Risk | None = None,
    statuses: Any = None,
    places: Places | None = None,
    subscribers: Any = None,
    tz: str = "Asia/Shanghai",
) -> pl.DataFrame:
    """The card of every subscriber: the visited places with their marks, one colour, and the reasons.

    Parameters
    ----------
    visits
        A table as `tc.visits` returns it, for this `as_of` and this policy; transit is left out here.
    as_of
        The day on which the cards are shown.
    policy
        Its marks, its colour rules, and what its visit rule is called.
    risk
        The list of risk areas in force on `as_of`, when the policy marks or a rule looks at levels.
    statuses
        The status list: `subscriber`, `status`, `from`, `to` (days, inclusive; null = open).
    places
        Names the places; China's by default.
    subscribers
        Further subscribers that get a card: an array, or a table with a column of that name.
    tz
        Time zone of days and midnights.

    Returns
    -------
    polars.DataFrame
        As `schema.CARDS`: `subscriber`, `colour`, `visits`, `reasons`, `days_seen`; one row per subscriber that is in
        `visits`, `statuses` or `subscribers`, sorted. Visits are in order of their first ping, ties by place code.
        Reasons, in this order: every piece of evidence of every rule that holds at the card's colour, or ``no_ping``,
        ``nothing_visited``, or the policy's green rule; one for each listed place (the visit rule, or ``abroad_any``);
        one for each mark (``mark_high``, ``mark_medium``, ``mark_low``, `from` = midnight of the list's date). Of a
        status, `from` is its first day and `to` the last day on which it colours, as midnights of `tz`.

    Raises
    ------
    InputError
        A table does not fit; ids are integers here and strings there; the policy needs a list of risk areas and there
        is none, or one that does not reach from the window's first day (a rule on the level at the visit) or is dated
        after `as_of`.
    NotFound
        A place that has no name in `places`.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> import travelcard as tc
    >>> day = dict(days=1, longest_s=20000, transit=False, days_seen=1)
    >>> first, last = datetime(2022, 3, 14, 1, tzinfo=UTC), datetime(2022, 3, 14, 7, tzinfo=UTC)
    >>> visits = pl.DataFrame([{"subscriber": 7, "place": "JPN", "first": first, "last": last, **day}])
    >>> tc.cards(visits, as_of=date(2022, 7, 15), policy=tc.Policy.preset("card-2022-07-08"))["colour"].item()
    'yellow'
    """
    zone(tz)
    if not isinstance(policy, Policy):
        raise InputError(f"policy: expected a Policy, such as Policy.preset('card-2022-01'), got {policy!r}")
    a_date(as_of, "as_of")
    further = KNOWN.read(_as_table(subscribers), where="the subscribers")["subscriber"]
    seen = _read(VISITS.read(visits, where="the visits"))
    made = cards_of(
        seen, as_of=as_of, policy=policy, risk=risk, statuses=statuses, further=further, places=places, tz=tz
    )
    return pl.from_arrow(made.cast(CARDS.arrow(ids=made["subscriber"].type)))  # type: ignore[return-value]


def cards_of(
    listed: Visits,
    *,
    as_of: date,
    policy: Policy,
    risk: Risk | None,
    statuses: Any,
    places: Places | None,
    tz: str,
    further: pa.ChunkedArray | None = None,
) -> pa.Table:
    """`cards` of visits that are arrays already and hold no transit: one bucket, or a whole frame.

    Texts are dictionaries: to lay each of them out and find it again was half of what writing a card took.
    """
    check_risk(risk, policy, as_of)
    status = STATUSES.arrow().empty_table() if statuses is None else STATUSES.read(statuses, where="the status list")
    others = [column for column in (status["subscriber"], further) if column is not None and len(column)]
    listed = _with(listed, others)
    held = _statuses(status, listed)
    seen = listed.days_seen
    named = places or china()
    rules, indexed = _rule_names(policy)
    marks = marked_places(policy, risk, as_of, listed)

    found = [
        (
            COLOURS.index(rule.colour),
            holding(rule, indexed[rule.id], listed, held, policy=policy, risk=risk, as_of=as_of, tz=tz),
        )
        for rule in policy.colours
        if rule.condition
    ]
    colour = (seen > 0).astype(np.int8)  # unknown, green
    for severity, holds in sorted(found, key=lambda pair: pair[0]):
        if severity > 1:
            colour[holds.who] = severity

    nothing = np.bincount(listed.who, minlength=len(seen)) == 0
    told = colour > 1
    kinds = []
    for severity, holds in found:
        wins = colour[holds.who] == severity
        if severity == 1:
            told[holds.who[wins]] = True
        kinds.append(taken(holds, wins))
    kinds.append(plain(np.flatnonzero(colour == 0), indexed["no_ping"]))
    kinds.append(plain(np.flatnonzero((colour == 1) & nothing), indexed["nothing_visited"]))
    kinds.append(plain(np.flatnonzero((colour == 1) & ~nothing & ~told), indexed[policy.green]))
    of_place = np.where(listed.abroad, indexed["abroad_any"], indexed[policy.rule]).astype(np.int32)
    kinds.append(Evidence(listed.who, of_place[listed.place], listed.place, listed.first, listed.last))
    for level, marked in marks.items():
        kinds.append(marks_of(evidence(listed, marked[listed.place], indexed[f"mark_{level}"]), risk, tz))

    any_mark = np.any([np.zeros(len(listed.codes), np.bool_), *marks.values()], axis=0)
    names = [named.printed(code) for code in listed.codes]
    schema = CARDS.arrow(ids=listed.subscribers.type)
    arrays = [
        listed.subscribers,
        _words(colour, COLOURS),
        _visit_lists(listed, len(seen), names, any_mark, schema.field("visits").type),
        _reason_lists(kinds, len(seen), rules, listed.codes, schema.field("reasons").type),
        pa.array(seen),
    ]
    return pa.table(dict(zip(schema.names, arrays, strict=True)))


def check_risk(risk: Risk | None, policy: Policy, as_of: date) -> None:
    """Refuse a list of risk areas that is not what the policy needs on a card's date."""
    if not policy.needs_risk:
        return
    if risk is None:
        raise InputError(f"{policy.id} needs the list of risk areas in force on {as_of}: pass risk=tc.read_risk(...)")
    if risk.date is not None and risk.date > as_of:
        raise InputError(f"the risk list is dated {risk.date}, after the card's date {as_of}: pass the one in force")
    first, _ = policy.window(as_of)
    at_visit = any(rule.levels and rule.at == "visit" for rule in policy.colours)
    if at_visit and risk.since is not None and risk.since > first:
        raise InputError(
            f"{policy.id} asks for levels at the time of the visit, and the risk list speaks of {risk.since} and "
            f"later, not of the window from {first}: join the lists of those days with tc.join_risk"
        )


# ------------------------------------------------------------------------------------------------ reading


def _read(table: pa.Table) -> Visits:
    """A table of visits as arrays, sorted, transit left out."""
    place, codes = place_codes(table["place"])
    ids = _series(table["subscriber"])
    first = _microseconds(table["first"])
    starts = _starts(ids)
    if not _in_order(ids, starts, first, place):
        order = pl.DataFrame({"i": ids, "f": first, "p": place}).select(pl.arg_sort_by("i", "f", "p")).to_series()
        table, ids = table.take(order.to_arrow()), ids.gather(order)
        place, first, starts = place[order.to_numpy()], first[order.to_numpy()], _starts(ids)
    who = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(ids))))
    visited = ~table["transit"].to_numpy()
    rows: list[NDArray[Any]] = [who, place, first, _microseconds(table["last"])]
    rows += [table[name].to_numpy() for name in ("days", "longest_s", "transit")]
    subscribers = ids.gather(starts).to_arrow().cast(table.schema.field("subscriber").type)
    seen = table["days_seen"].to_numpy()[starts]
    known = tuple(codes.to_pylist())
    abroad = np.array([is_abroad(code) for code in known], np.bool_)
    return Visits(subscribers, seen, known, abroad, *(row[visited] for row in rows))


def _with(listed: Visits, others: list[pa.ChunkedArray]) -> Visits:
    """The same, with further subscribers among the others: they were not seen."""
    if not others:
        return listed
    columns = [pa.chunked_array([listed.subscribers]), *others] if len(listed.subscribers) else others
    if len({column.type for column in columns}) > 1:
        raise InputError("visits, statuses and subscribers differ in their subscribers' type (integer or string)")
    everyone = pl.concat(map(_series, columns)).unique().sort().to_arrow().cast(columns[0].type)
    at = _number(listed.subscribers.cast(everyone.type), everyone)
    days_seen = np.zeros(len(everyone), np.int32)
    days_seen[at] = listed.days_seen
    return replace(listed, subscribers=everyone, days_seen=days_seen, who=at[listed.who])


def _number(column: pa.Array | pa.ChunkedArray, subscribers: pa.Array) -> NDArray[np.intp]:
    subscribers = subscribers if len(column) else subscribers[:0]  # nobody to look up, no table to be made
    return np.asarray(pc.index_in(column, value_set=subscribers).to_numpy(zero_copy_only=False), np.intp)


def _statuses(status: pa.Table, listed: Visits) -> Statuses:
    begin = _days(status["from"])
    end = np.where(status["to"].is_null().to_numpy(), NO_END, _days(status["to"].fill_null(EPOCH)))
    who = _number(status["subscriber"].cast(listed.subscribers.type), listed.subscribers)
    return Statuses(who, status["status"], begin, end)


def _as_table(subscribers: Any) -> Any:
    if subscribers is None:
        return KNOWN.arrow().empty_table()
    if isinstance(subscribers, pl.Series | np.ndarray | list | tuple | pa.Array | pa.ChunkedArray):
        series = pl.Series("subscriber", subscribers)
        return (series.cast(pl.Int64) if series.dtype == pl.Null else series).to_frame()
    return subscribers


def _series(column: pa.ChunkedArray) -> pl.Series:
    return pl.from_arrow(column)  # type: ignore[return-value]


def _starts(ids: pl.Series) -> NDArray[np.intp]:
    """Where each subscriber's rows begin."""
    return np.flatnonzero((ids != ids.shift()).fill_null(value=True).to_numpy())


def _in_order(ids: pl.Series, starts: NDArray[np.intp], first: Ints, place: NDArray[np.int16]) -> bool:
    """Whether rows are sorted by (subscriber, first, place), as `tc.visits` leaves them."""
    step = np.diff(first)
    wrong = (step < 0) | ((step == 0) & (np.diff(place) < 0))
    wrong[starts[1:] - 1] = False
    return not wrong.any() and ids.gather(starts).is_sorted()


def _microseconds(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)


def _days(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int32()).to_numpy(), np.int64)


def _rule_names(policy: Policy) -> tuple[list[str], dict[str, int]]:
    """Every rule that a reason of this policy can name, and its index."""
    own = [rule.id for rule in policy.colours]
    names = [
        "no_ping",
        "nothing_visited",
        policy.rule,
        "abroad_any",
        *(f"mark_{level}" for level in policy.marks),
        *own,
    ]
    names += [] if policy.green in own else [policy.green]
    return names, {name: i for i, name in enumerate(names)}


# ------------------------------------------------------------------------------------------------ lists


def _offsets(counts: NDArray[np.intp]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))


def _words(index: NDArray[Any], words: Sequence[str]) -> pa.Array:
    """Texts by where they stand among some words; below zero is null."""
    return pa.DictionaryArray.from_arrays(pa.array(index, mask=index < 0), pa.array(words, pa.string()))


def _lists(offsets: pa.Array, columns: Mapping[str, pa.Array], kind: pa.ListType) -> pa.Array:
    """Lists of structs of these columns, of a declared type but for their dictionaries."""
    fields = [field.with_type(columns[field.name].type) for field in kind.value_type]
    values = pa.StructArray.from_arrays([columns[field.name] for field in fields], fields=fields)
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(kind.value_field.with_type(values.type)))


def _visit_lists(listed: Visits, n: int, names: Sequence[str], marked: Bools, kind: pa.ListType) -> pa.Array:
    columns = {
        "place": _words(listed.place, listed.codes),
        "name": _words(listed.place, names),
        "first": pa.array(listed.first).view(SECONDS),
        "last": pa.array(listed.last).view(SECONDS),
        "longest_s": pa.array(listed.longest_s),
        "days": pa.array(listed.days),
        "marked": pa.array(marked[listed.place]),
    }
    return _lists(_offsets(np.bincount(listed.who, minlength=n)), columns, kind)


def _reason_lists(
    kinds: list[Evidence], n: int, rules: list[str], codes: tuple[str, ...], kind: pa.ListType
) -> pa.Array:
    """Lay the reasons of each subscriber side by side, kinds in order: counted, then put, never sorted."""
    kinds = [part for part in kinds if len(part.who)]
    counts = [np.bincount(part.who, minlength=n) for part in kinds]
    total = np.sum([np.zeros(n, np.int64), *counts], axis=0)
    offsets = _offsets(total)
    fill = offsets.to_numpy()[:-1].astype(np.int64)
    size = int(total.sum())
    rule, place = np.empty(size, np.int32), np.empty(size, np.int32)
    begin, end = np.empty(size, np.int64), np.empty(size, np.int64)
    for part, count in zip(kinds, counts, strict=True):
        before = np.cumsum(count) - count  # rows of this kind that earlier subscribers have
        at = (fill - before)[part.who] + np.arange(len(part.who))
        rule[at], place[at], begin[at], end[at] = part.rule, part.place, part.begin, part.end
        fill += count
    columns = {
        "rule": _words(rule, rules),
        "place": _words(place, codes),
        "from": pa.array(begin, mask=begin == OPEN).cast(SECONDS),
        "to": pa.array(end, mask=end == OPEN).cast(SECONDS),
    }
    return _lists(offsets, columns, kind)
