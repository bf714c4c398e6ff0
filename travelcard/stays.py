"""Pings to stays, stays to longer stays, frames in and frames out; and the merge that stitches (DESIGN 3.3, 3.4)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled
from travelcard.errors import InputError
from travelcard.kernel import Packing, Pieces, Room, stays_of_bucket
from travelcard.late import compute as pc
from travelcard.late import polars as pl
from travelcard.schema import (
    MAX_PLACES,
    PINGS,
    SECONDS,
    STAYS,
    midnights,
    whole_seconds,
    zone,
)

__all__ = ["MAX_SILENCE", "stays", "stitch"]

MAX_SILENCE = timedelta(hours=12)  # a night with the phone off (FACTS 4)


# ---------------------------------------------------------------------------------------------------- the merge


@compiled
def join(place, arrive, depart, pings, inner, a, b, max_silence):
    """Join, in place, neighbours among one subscriber's stays a..b-1 in one place with a gap <= max_silence."""
    k = a
    for i in range(a + 1, b):
        if place[i] == place[k] and arrive[i] - depart[k] <= max_silence:
            depart[k] = depart[i]
            pings[k] += pings[i]
            inner[k] += inner[i]
        else:
            k += 1
            place[k], arrive[k], depart[k], pings[k], inner[k] = place[i], arrive[i], depart[i], pings[i], inner[i]
    return k + 1 if b > a else a


@compiled
def without_flicker(place, arrive, depart, pings, inner, a, b, flicker):
    """Remove, in place, the 1st, 3rd, 5th ... of every maximal run of flicker candidates (DESIGN 3.4)."""
    k = a
    run = 0  # how many candidates stand in a row up to here
    before_place, before_depart = -1, 0  # of the stay before i, as it was: k may have moved past it
    for i in range(a, b):
        candidate = (
            a < i < b - 1
            and before_place == place[i + 1]
            and place[i] != before_place
            and arrive[i + 1] - before_depart <= flicker
        )
        run = run + 1 if candidate else 0
        before_place, before_depart = place[i], depart[i]
        if run % 2 == 0:
            if k < i:
                place[k], arrive[k], depart[k], pings[k], inner[k] = place[i], arrive[i], depart[i], pings[i], inner[i]
            k += 1
    return k


@compiled
def stitched(place, arrive, depart, pings, inner, a, b, max_silence, flicker):
    """One subscriber's stays a..b-1, in time order: joined, flicker removed (0: none), joined again; the new end."""
    b = join(place, arrive, depart, pings, inner, a, b, max_silence)
    left = without_flicker(place, arrive, depart, pings, inner, a, b, flicker) if flicker > 0 else b
    return join(place, arrive, depart, pings, inner, a, left, max_silence) if left < b else b


@compiled
def _stitch(who, place, arrive, depart, pings, inner, max_silence, flicker):
    """`stitched` for every subscriber of a sorted table, then packed: how many rows are left."""
    k = a = 0
    while a < len(who):
        b = a + 1
        while b < len(who) and who[b] == who[a]:
            b += 1
        end = stitched(place, arrive, depart, pings, inner, a, b, max_silence, flicker)
        for i in range(a, end):
            who[k], place[k], arrive[k], depart[k] = who[i], place[i], arrive[i], depart[i]
            pings[k], inner[k] = pings[i], inner[i]
            k += 1
        a = b
    return k


# ---------------------------------------------------------------------------------------------------- time and ids


def days_of(seconds: np.ndarray, tz: str) -> tuple[np.ndarray, np.ndarray]:
    """(day index of every UTC second, midnights of those days): calendar days in `tz`, counted from the first seen."""
    if not len(seconds):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    where = zone(tz)
    first, last = (datetime.fromtimestamp(int(s), where).date() for s in (seconds.min(), seconds.max()))
    starts = midnights(first, (last - first).days + 1, tz)
    return np.searchsorted(starts, seconds, "right") - 1, starts


def seconds_of(column: pa.ChunkedArray) -> np.ndarray:
    """A timestamp[us] column as whole UTC seconds, floored, int64."""
    return np.floor_divide(column.cast(pa.int64()).to_numpy(), 1_000_000)


def timestamps(seconds: np.ndarray) -> pa.Array:
    """UTC seconds as timestamp[us, UTC]."""
    return pa.array(seconds.astype(np.int64) * 1_000_000).cast(SECONDS)


def codes(column: pa.ChunkedArray, kind: Any = np.int64) -> tuple[np.ndarray, pa.Array]:
    """A column of ids or place codes as (index of every row, distinct values in order): bytewise for strings.

    Integers that are ids stay what they are: see `id_codes`.
    """
    encoded = pc.dictionary_encode(column.combine_chunks())
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order), kind)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], encoded.dictionary.take(order)


def place_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """`codes` of a place column; more places than an event can hold are refused."""
    index, names = codes(column, np.int16)
    if len(names) > MAX_PLACES:
        raise InputError(f"{len(names)} distinct places: the kernel holds at most {MAX_PLACES}")
    return index, names


def id_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array | None]:
    """A subscriber column as int64 whose order is the subscribers' order, and the names when they are strings."""
    if pa.types.is_integer(column.type):
        return column.to_numpy(), None
    return codes(column)


# ---------------------------------------------------------------------------------------------------- frames


def named(ids: np.ndarray, names: pa.Array | None) -> pa.Array:
    """Ids as subscribers: what they stand for, or themselves."""
    return pa.array(ids) if names is None else names.take(pa.array(ids))


def in_order(ids: pa.Array) -> np.ndarray:
    """Which of some ids comes first, second, and so on."""
    # NumPy's sort takes a sixth of the time
    return np.argsort(ids.to_numpy()) if pa.types.is_integer(ids.type) else pc.sort_indices(ids).to_numpy()


@compiled
def _laid(order, ids, begin, place, arrive, depart, pings, inner, start, rows):
    """Lay stays out as rows, subscriber by subscriber: `order` says whose come next, `begin` where they are."""
    to_id, to_place, to_arrive, to_depart, to_pings, to_inner = rows
    k = np.uint64(0)
    for rank in range(len(order)):
        who = order[rank]
        for row in range(begin[who], begin[who + 1]):
            i = np.uint64(row)
            to_id[k], to_place[k], to_pings[k], to_inner[k] = ids[who], place[i], pings[i], inner[i]
            to_arrive[k], to_depart[k] = 1_000_000 * (start + arrive[i]), 1_000_000 * (start + depart[i])
            k += np.uint64(1)


def stays_table(
    ids: pa.Array, codes: pa.Array, begin: np.ndarray, room: Room, start: int, order: np.ndarray | None = None
) -> pa.Table:
    """The kernel's stays as a table, of `ids` or of these in an order: seconds since `start` as times.

    It lies in the room, too, until that is used again.
    """
    plain = pa.types.is_integer(ids.type)
    order = np.arange(len(ids)) if order is None else order
    rows = room.rows(int(begin[-1]))
    _laid(
        order, ids.to_numpy() if plain else np.arange(len(ids)), begin, *room.stays(len(rows[0]), len(rows[0])),
        int(start), rows,
    )  # fmt: skip
    who, place, arrive, depart, pings, inner = map(pa.array, rows)
    return _table(
        who if plain else ids.take(who), place, codes, arrive.cast(SECONDS), depart.cast(SECONDS), pings, inner
    )


def _table(ids: pa.Array, place: pa.Array, codes: pa.Array, *others: pa.Array) -> pa.Table:
    """Columns as a table of stays.

    Places are a dictionary: to look each of them up again is a third of what writing a stay takes.
    """
    columns = [ids, pa.DictionaryArray.from_arrays(place, codes), *others]
    return pa.table(columns, STAYS.arrow().names)


def stays(pings: Any, *, tz: str = "Asia/Shanghai", max_silence: timedelta = MAX_SILENCE) -> pl.DataFrame:
    """The stays of clean pings: maximal runs of one subscriber's consecutive pings in one place.

    Runs are cut where two pings are more than `max_silence` apart, and at every midnight of `tz`.

    Parameters
    ----------
    pings
        A table with `subscriber` (integer or string), `time` (timestamp; a naive one is UTC; floored to the second),
        `place` (code) and optionally `inner` (boolean), in any order. Repeated pings count once.
    tz
        Time zone whose midnights end a stay.
    max_silence
        Longest gap inside a stay, whole seconds, inclusive.

    Returns
    -------
    polars.DataFrame
        `subscriber`, `place`, `arrive`, `depart` (timestamp[us, UTC]), `pings`, `inner` (int32), sorted by
        (subscriber, arrive, place); strings sort bytewise.

    Raises
    ------
    InputError
        The table does not fit, holds nulls, or has more than 16,384 places.

    Notes
    -----
    DESIGN 3.1 (merging, order within a second) and 3.3.

    Examples
    --------
    >>> import polars as pl, travelcard as tc
    >>> from datetime import datetime
    >>> pings = pl.DataFrame({
    ...     "subscriber": [7, 7, 7],
    ...     "time": [datetime(2022, 3, 14, 1), datetime(2022, 3, 14, 2), datetime(2022, 3, 14, 5)],
    ...     "place": ["330100", "330100", "310000"],
    ... })
    >>> tc.stays(pings).select("place", "arrive", "pings").rows()[1][0]
    '310000'
    """
    table = PINGS.read(pings, where="the pings")
    silence = whole_seconds(max_silence, "max_silence")
    ids, names = codes(table["subscriber"])
    place, places = place_codes(table["place"])
    packing = Packing.of(len(places))
    seconds = seconds_of(table["time"])
    inner = table["inner"].fill_null(False).to_numpy().astype(np.int64)
    day, starts = days_of(seconds, tz)
    pings = ids << packing.bits | seconds - starts[day] << packing.shift | place.astype(np.int64) << 1 | inner
    pieces = []
    by_day = np.argsort(day, kind="stable")
    pings = pings.view(np.uint64)[by_day]
    edges = np.searchsorted(day[by_day], np.arange(len(starts)))
    for d in np.unique(day):
        mine, room = pings[edges[d] : edges[d + 1]], Room()
        unique, begin, _ = stays_of_bucket(Pieces.of(mine), packing, silence, room)
        pieces.append(stays_table(named(unique, names), places, begin, room, starts[d]))
    if not pieces:
        return no_stays(table["subscriber"].type)
    frame = _frame(pa.concat_tables(pieces))
    return frame if len(pieces) == 1 else frame.sort("subscriber", "arrive", "place")


def _frame(table: pa.Table) -> pl.DataFrame:
    """A table of stays as users have it, places as text."""
    return pl.from_arrow(table.cast(STAYS.arrow(ids=table.schema.field("subscriber").type)))  # type: ignore[return-value]


def no_stays(ids: pa.DataType) -> pl.DataFrame:
    return pl.from_arrow(STAYS.arrow(ids=ids).empty_table())  # type: ignore[return-value]


def sorted_stays(stays: Any) -> pa.Table:
    """One table of stays, or several, as one Arrow table in whole seconds, sorted by (subscriber, arrive, place)."""
    frames = stays if isinstance(stays, (list, tuple)) else [stays]
    tables = [STAYS.read(frame, where="the stays") for frame in frames]
    if len({table.schema.field("subscriber").type for table in tables}) > 1:
        raise InputError("some of these stays have integer subscribers and some have strings: they cannot be one table")
    table = pa.concat_tables(tables) if tables else STAYS.arrow().empty_table()
    whole = pl.DataFrame(table).with_columns(pl.col("arrive", "depart").dt.truncate("1s"))
    ordered = whole.sort("subscriber", "arrive", "place")
    return ordered.to_arrow().cast(STAYS.arrow(ids=table.schema.field("subscriber").type))


def stitch(stays: Any, *, max_silence: timedelta = MAX_SILENCE, flicker: timedelta = timedelta(0)) -> pl.DataFrame:
    """Join neighbouring stays of a subscriber in one place whose gap is at most `max_silence`.

    Pieces cut along time may be grouped at will: ``stitch([stitch(a), b]) == stitch([a, b])``.

    Parameters
    ----------
    stays
        A table of stays as `stays` returns it, or a list of such tables (several days), in any order.
    max_silence
        Longest gap that is joined, whole seconds, inclusive.
    flicker
        Above 0, a stay between two stays of one other place no more than this apart is a flicker candidate; the 1st,
        3rd, 5th ... of each run of candidates are removed and what is left is joined again. 0 removes none.

    Returns
    -------
    polars.DataFrame
        The columns of `stays`, sorted by (subscriber, arrive, place).

    Raises
    ------
    InputError
        The table does not fit, or integer and string subscribers are mixed.

    Notes
    -----
    DESIGN 3.3 (the law) and 3.4 (flicker).

    Examples
    --------
    >>> import polars as pl, travelcard as tc
    >>> from datetime import datetime, timedelta
    >>> day = lambda d, h: tc.stays(pl.DataFrame(
    ...     {"subscriber": [7], "time": [datetime(2022, 3, d, h)], "place": ["330100"]}))
    >>> tc.stitch([day(14, 15), day(14, 17)])["pings"].to_list()
    [2]
    """
    table = sorted_stays(stays)
    silence, between = whole_seconds(max_silence, "max_silence"), whole_seconds(flicker, "flicker")
    ids, names = id_codes(table["subscriber"])
    place, places = place_codes(table["place"])
    columns = [
        place.copy(),
        seconds_of(table["arrive"]),
        seconds_of(table["depart"]),
        table["pings"].to_numpy().copy(),
        table["inner"].to_numpy().copy(),
    ]
    who = ids.copy()
    n = _stitch(who, *columns, silence, between)
    if n == 0:
        return no_stays(table.schema.field("subscriber").type)
    place, arrive, depart, *counts = (column[:n] for column in columns)
    times, others = [timestamps(arrive), timestamps(depart)], map(pa.array, counts)
    return _frame(_table(named(who[:n], names), pa.array(place), places, *times, *others))
