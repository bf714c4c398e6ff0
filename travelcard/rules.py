"""Where rules hold: of every subscriber's visits and statuses, those that colour or mark (DESIGN 3.6).

A rule is looked up once per place or per row of the status list, for all subscribers together; what it finds are
arrays of evidence, which `cards` lays out as reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from travelcard.late import compute as pc
from travelcard.places import DOMESTIC
from travelcard.policy import Policy, Rule
from travelcard.risk import Risk
from travelcard.schema import midnights
from travelcard.window import Visits

__all__ = ["Evidence", "Statuses", "evidence", "holding", "marked_places", "marks_of", "plain", "taken"]

EPOCH = date(1970, 1, 1)
OPEN = np.iinfo(np.int64).min  # stands for null among the microseconds of reasons
NO_END = np.int64(1 << 40)  # days: a status without an end
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Reasons of one kind, one row each, sorted by `who`: rule's index, place's index (-1 = none), microseconds."""

    who: NDArray[np.intp]
    rule: NDArray[np.int32]
    place: NDArray[np.integer[Any]]
    begin: Ints
    end: Ints


@dataclass(frozen=True, slots=True)
class Statuses:
    """The status list; days since 1970, `end` NO_END where open."""

    who: NDArray[np.intp]
    status: pa.ChunkedArray
    begin: Ints
    end: Ints


def evidence(listed: Visits, hits: Bools, rule: int) -> Evidence:
    """The visits for which `hits` (per row) holds, as reasons of a rule."""
    at = np.flatnonzero(hits)
    return Evidence(
        listed.who[at], np.full(len(at), rule, np.int32), listed.place[at], listed.first[at], listed.last[at]
    )


def marked_places(policy: Policy, risk: Risk | None, as_of: date, listed: Visits) -> dict[str, Bools]:
    """For each level that marks, the places it marks: cities alone, by the list in force on the card's date."""
    if risk is None or not policy.marks:
        return {}
    levels = risk.levels_on(as_of)
    city = ~listed.abroad & ~_each(listed.codes, DOMESTIC.__contains__)
    none: frozenset[str] = frozenset()
    held = [levels.get(code, none) for code in listed.codes]
    return {level: city & np.array([level in at for at in held], np.bool_) for level in policy.marks}


def holding(
    rule: Rule, index: int, listed: Visits, held: Statuses, *, policy: Policy, risk: Risk | None, as_of: date, tz: str
) -> Evidence:
    """Everything for which a colour rule holds; `index` stands for it in reasons."""
    if rule.statuses:
        return _of_statuses(rule, index, held, as_of, tz)
    if rule.levels and rule.at == "visit" and risk is not None:
        return evidence(listed, _at_visit(rule, listed, policy, risk, as_of, tz), index)
    if rule.abroad:
        hit = listed.abroad
    elif rule.places:
        hit = _each(listed.codes, lambda c: c in rule.places or (c.isdigit() and c[:2] in rule.places))
    else:
        levels = risk.levels_on(as_of) if risk is not None else {}
        hit = _each(listed.codes, lambda c: not levels.get(c, frozenset()).isdisjoint(rule.levels))
    return evidence(listed, hit[listed.place], index)


def _each(codes: tuple[str, ...], holds: Callable[[str], bool]) -> Bools:
    return np.array([holds(code) for code in codes], np.bool_)


def _at_visit(rule: Rule, listed: Visits, policy: Policy, risk: Risk, as_of: date, tz: str) -> Bools:
    """Whether a visited place had one of the levels on some day from the visit's first to its last, days in `tz`."""
    first, _ = policy.window(as_of)
    at = risk.days_at(rule.levels, listed.codes, first, policy.days)
    until = np.concatenate([np.zeros((len(at), 1), np.int64), np.cumsum(at, axis=1)], axis=1)  # days at it before a day
    starts = midnights(first, policy.days, tz) * 1_000_000
    begin, end = (
        np.clip(np.searchsorted(starts, times, "right") - 1, 0, policy.days - 1)
        for times in (listed.first, listed.last)
    )
    return until[listed.place, end + 1] > until[listed.place, begin]


def _of_statuses(rule: Rule, index: int, held: Statuses, as_of: date, tz: str) -> Evidence:
    """The statuses that hold on the card's date, on the rule's days of them: the earlier end wins."""
    today = (as_of - EPOCH).days
    end = held.end if rule.day_to is None else np.minimum(held.end, held.begin + (rule.day_to - 1))
    told = pc.is_in(held.status, value_set=pa.array(rule.statuses, pa.string())).to_numpy()
    holds = told & (held.begin + (rule.day_from - 1) <= today) & (today <= end)
    rows = np.unique(np.column_stack([held.who[holds], held.begin[holds], end[holds]]), axis=0)
    n = len(rows)
    none = np.full(n, -1, np.int32)
    return Evidence(
        rows[:, 0].astype(np.intp),
        np.full(n, index, np.int32),
        none,
        _midnights(rows[:, 1], tz),
        _midnights(rows[:, 2], tz),
    )


def _midnights(days: Ints, tz: str) -> Ints:
    """Microseconds of the starts of days since 1970; NO_END is null."""
    unique, at = np.unique(days, return_inverse=True)
    starts = [
        OPEN if d == NO_END else int(midnights(EPOCH + timedelta(days=int(d)), 0, tz)[0]) * 1_000_000 for d in unique
    ]
    return np.array(starts, np.int64)[at] if len(unique) else np.zeros(0, np.int64)


def plain(who: NDArray[np.intp], rule: int) -> Evidence:
    """A reason without a place or a time."""
    n = len(who)
    none = np.full(n, OPEN)
    return Evidence(who, np.full(n, rule, np.int32), np.full(n, -1, np.int32), none, none)


def taken(evidence: Evidence, keep: Bools) -> Evidence:
    """The rows of evidence for which `keep` holds."""
    return Evidence(*(getattr(evidence, name)[keep] for name in evidence.__slots__))


def marks_of(evidence: Evidence, risk: Risk | None, tz: str) -> Evidence:
    """Marks: from the midnight of the date of the list in force, without an end."""
    dated = None if risk is None else risk.date
    begin = OPEN if dated is None else int(midnights(dated, 0, tz)[0]) * 1_000_000
    n = len(evidence.who)
    return Evidence(evidence.who, evidence.rule, evidence.place, np.full(n, begin), np.full(n, OPEN))
