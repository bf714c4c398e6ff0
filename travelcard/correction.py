"""A place that is wrongly on somebody's card is taken off by a record, never by an edit (DESIGN 3.6, FACTS 1.8)."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from travelcard.erasure import writing
from travelcard.errors import InputError, NotFound, hidden, mask
from travelcard.places import Places, china
from travelcard.schema import CORRECTIONS, a_date
from travelcard.store import Store

__all__ = ["correct"]


def correct(
    store: Store,
    subscriber: object,
    place: str,
    *,
    first: date,
    last: date,
    reason: str,
    by: str | None = None,
    undo: bool = False,
    places: Places | None = None,
) -> dict[str, Any]:
    """Put on record that a subscriber was not in a place on the days from `first` to `last`, inclusive.

    The cards that are made from now on leave its stays there out, again after every rerun of a day; cards that are made
    already stay what they are until they are made anew.

    Parameters
    ----------
    place
        Its code, or its name in Chinese (as printed, or the city alone) or English.
    reason, by
        Why, and on whose word.
    undo
        Take such a correction back instead: one of the same subscriber, place and days that is in force.
    places
        Whose names are known; China's by default.

    Returns
    -------
    dict
        What is on record now, the number masked.

    Raises
    ------
    InputError, NotFound
        No such place or days; nothing to take back.

    Examples
    --------
    >>> import tempfile, travelcard as tc
    >>> from datetime import date
    >>> store = tc.Store(tempfile.mkdtemp())
    >>> tc.correct(store, 13800001234, "上海市", first=date(2022, 3, 1), last=date(2022, 3, 2), reason="a border cell")
    Traceback (most recent call last):
    travelcard.errors.NotFound: ... holds nothing yet: run `travelcard run DAY` first
    """
    number, code = store.subscriber(subscriber), _code(place, places or china())
    if a_date(first, "from") > a_date(last, "to"):
        raise InputError(f"from {first} to {last}: the first day is after the last")
    if not reason.strip():
        raise InputError("a correction needs a reason: it is shown to whom it concerns")
    kept = store.kept_name(number)
    record = {"place": code, "from": first, "to": last, "reason": hidden(reason), "by": by and hidden(by), "undo": undo}
    with writing(store, "a correction"):
        if undo:
            fields = ["subscriber", "place", "from", "to"]
            if (kept, code, first, last) not in store.corrections().select(fields).rows():
                raise NotFound(f"no correction of {code} from {first} to {last} of {mask(number)} is in force")
        row = {"subscriber": kept, **record, "at": datetime.now(UTC)}
        table = pa.Table.from_pylist([row], schema=CORRECTIONS.arrow(ids=store.layout.ids))
        store.publish(CORRECTIONS, [store.write(CORRECTIONS, table, {})])
    return {"subscriber": mask(number), **record}


def _code(place: str, places: Places) -> str:
    """The code of a place that is named by it or by a name."""
    try:
        places.name(place)
    except NotFound:
        named = {code for code in places.codes if place in _names(places, code)}
        if len(named) != 1:
            found = f"the name of {', '.join(sorted(named))}" if named else "no code or name of a place"
            raise InputError(f"{place!r} is {found}: give its code, as `travelcard card --json` does") from None
        return named.pop()
    return place


def _names(places: Places, code: str) -> tuple[str, ...]:
    return places.printed(code), places.name(code), places.name(code, "en")
