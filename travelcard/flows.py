"""Counts that may leave: subscribers by city, and from city to city, of which none tells of fewer than k people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import NamedTuple

import polars as pl

from travelcard.errors import InputError, NotFound
from travelcard.schema import a_date, dates
from travelcard.store import Store

__all__ = ["Flows", "K", "flows"]

K = 15  # subscribers


class Flows(NamedTuple):
    """`cities`: day, place, subscribers. `trips`: day, origin, destination, subscribers. Sorted; multiples of k."""

    cities: pl.DataFrame
    trips: pl.DataFrame


def flows(store: Store, first: date, last: date, *, k: int = K) -> Flows:
    """How many subscribers were in each city on each day from `first` to `last`, and how many went from one to another.

    A subscriber counts once on a day for a city, and once for an origin and destination: two of its stays one after
    the other in different places, the second of which begins on that day and the first on it or on the day before.

    Counts are rounded down to multiples of `k`, and what comes to nothing is left out: 14 is not shown, 15 is, and 29
    is shown as 15. So is any sum or difference of what is shown, of whatever tables, days or totals, a multiple of k:
    nobody gets a number from 1 to k - 1 out of them, which counts that are only suppressed under k would let out, by
    101 today beside 100 yesterday.

    Raises
    ------
    InputError, NotFound
        The days do not fit, or `k` is below 2; the store has no day of them.
    """
    if a_date(first, "first") > a_date(last, "last"):
        raise InputError(f"from {first} to {last}: the first day is after the last")
    if k < 2:
        raise InputError(f"k is {k}: it must be 2 or more")
    days = dates(first, last)
    if not set(days) & set(store.days("stays")):
        raise NotFound(f"{store.root} has no day from {first} to {last}")
    cities, trips = [], []
    for stays in _by_bucket(store, [first - timedelta(days=1), *days]):
        each = stays.sort("subscriber", "arrive", "place")
        follows = pl.col("subscriber") == pl.col("subscriber").shift()
        soon = pl.col("day") - pl.col("day").shift() <= timedelta(days=1)
        moves = each.with_columns(pl.col("place").shift().alias("origin")).filter(
            follows & soon & (pl.col("place") != pl.col("place").shift())
        )
        cities.append(_counted(each, ["day", "place"]))
        trips.append(_counted(moves.rename({"place": "destination"}), ["day", "origin", "destination"]))
    wanted = pl.col("day").is_in(days)
    return Flows(*(_rounded(pl.concat(parts).filter(wanted), k) for parts in (cities, trips)))


def _by_bucket(store: Store, days: list[date]) -> Iterator[pl.DataFrame]:
    """The stays of some days, a bucket at a time: which subscriber, on which day, in which place, from when on."""
    paths: dict[str, list[tuple[str, str]]] = {}
    wanted = {day.isoformat() for day in days}
    for values, path in store.files("stays"):
        if values["day"] in wanted:
            paths.setdefault(values["bucket"], []).append((values["day"], path))
    for of_bucket in paths.values():
        parts = [
            pl.DataFrame(store.read("stays", [path], ["subscriber", "place", "arrive"])).with_columns(
                pl.lit(date.fromisoformat(day)).alias("day")
            )
            for day, path in of_bucket
        ]
        yield pl.concat(parts)


def _counted(rows: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    return rows.unique([*by, "subscriber"]).group_by(by).agg(pl.len().cast(pl.Int64).alias("subscribers"))


def _rounded(counts: pl.DataFrame, k: int) -> pl.DataFrame:
    by = counts.columns[:-1]
    shown = counts.group_by(by).agg(pl.col("subscribers").sum() // k * k)
    return shown.filter(pl.col("subscribers") > 0).sort(by)
