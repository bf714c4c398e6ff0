"""The quality gate: limits that a night's numbers must keep, by themselves and beside the nights before it.

What is measured of the stays of a day: ``pings``, ``subscribers``, ``rejected`` and ``rejected.REASON`` (shares of the
pings), ``silent`` (cells of the inventory that no ping names) and ``empty_hours``; of the cards of a date: ``cards``,
``cards.COLOUR`` (shares of the cards) and ``risk`` (places on the list of risk areas).
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from statistics import fmean, stdev
from typing import Any

from travelcard.errors import InputError
from travelcard.ledger import newest
from travelcard.policy import COLOURS
from travelcard.schema import REASONS
from travelcard.store import Store

__all__ = ["Gate", "Limit", "accepted", "measures"]

OF_STAYS = ("pings", "subscribers", "rejected", *(f"rejected.{reason}" for reason in REASONS), "silent", "empty_hours")
OF_CARDS = ("cards", *(f"cards.{colour}" for colour in COLOURS), "risk")
ENOUGH = 5  # days on record before a spread means anything
SPREAD = 0.01  # of the mean: days that are alike to the last ping would otherwise leave no room at all


@dataclass(frozen=True, slots=True)
class Limit:
    """What one number must keep: at least `min`, at most `max`; beside the mean of the days that are looked back on, at
    most `sigmas` standard deviations away, and at most the share `fall` below or `rise` above it. None = no limit.
    """

    min: float | None = None
    max: float | None = None
    sigmas: float | None = None
    fall: float | None = None
    rise: float | None = None

    def broken(self, value: float, past: list[float]) -> Iterable[str]:
        """In what way a number breaks it, given those of earlier days."""
        if self.min is not None and value < self.min:
            yield f"is below {self.min:g}"
        if self.max is not None and value > self.max:
            yield f"is above {self.max:g}"
        if not past:
            return
        mean = fmean(past)
        beside = f"the mean of {len(past)} days, {mean:.6g}"
        if self.fall is not None and value < mean * (1 - self.fall):
            yield f"is more than {100 * self.fall:g} % below {beside}"
        if self.rise is not None and value > mean * (1 + self.rise):
            yield f"is more than {100 * self.rise:g} % above {beside}"
        if self.sigmas is not None and len(past) >= ENOUGH:
            away = abs(value - mean) / (max(stdev(past), SPREAD * abs(mean)) or 1)
            if away > self.sigmas:
                yield f"is {away:.1f} standard deviations from {beside} (limit {self.sigmas:g})"


# Real lists lost cities by mistake, one issue 195 of 220; that a wave ends takes more than a day.
_LOST = {"risk": Limit(fall=0.8)}


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits by the name of what is measured, and how many days are looked back on."""

    limits: Mapping[str, Limit] = field(default_factory=lambda: _LOST)
    look_back: int = 14

    def __post_init__(self) -> None:
        unknown = [name for name in self.limits if name not in (*OF_STAYS, *OF_CARDS)]
        if unknown:
            raise InputError(f"nothing is called {', '.join(unknown)}; there are {', '.join((*OF_STAYS, *OF_CARDS))}")

    def broken(self, store: Store, what: str, day: date, now: Mapping[str, float], alike: str | None) -> list[str]:
        """One line for each limit that the numbers of a day break.

        Beside it stand the days before it that the ledger has, each as it was last run; of cards only those by the
        policy with the hash `alike`, since another one colours otherwise.
        """
        runs = newest(store, what) if store.exists else []
        before = [row for row in runs if day - timedelta(days=self.look_back) <= row["day"] < day]
        past = [measures(row) for row in before if alike is None or row["policy_hash"] == alike]
        return [
            f"{day}: {name} {now[name]:.6g} {how}"
            for name, limit in self.limits.items()
            if name in now
            for how in limit.broken(now[name], [one[name] for one in past if name in one])
        ]


def measures(row: Mapping[str, Any]) -> dict[str, float]:
    """What is measured, from a row of the ledger as Python objects."""
    if row["what"] == "stays":
        out: dict[str, float] = {"pings": row["read"], "subscribers": row["subscribers"]}
        lost = dict(row["rejected"])
        out["rejected"] = sum(lost.values()) / max(row["read"], 1)
        out |= {f"rejected.{reason}": lost.get(reason, 0) / max(row["read"], 1) for reason in REASONS}
        out["empty_hours"] = sum(not n for n in row["hours"])
        return out if row["silent"] is None else out | {"silent": row["silent"]}
    out = {"cards": row["subscribers"]}
    shown = dict(row["cards"])
    out |= {f"cards.{colour}": shown.get(colour, 0) / max(row["subscribers"], 1) for colour in COLOURS}
    return out if row["risk_places"] is None else out | {"risk": row["risk_places"]}


def accepted(why: str) -> str:
    """Who accepts what the gate would refuse, and why, as the ledger keeps it."""
    return f"{getpass.getuser()}@{socket.gethostname()}: {why}"
