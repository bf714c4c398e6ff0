"""The keys of travelcard.toml: from what the file and the environment say to the values that are declared for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, get_args, get_origin

from msgspec import Struct, ValidationError, convert
from msgspec.structs import fields

__all__ = ["Size", "Span", "made", "over"]


class Size(int):
    """Bytes: a number, or text with a unit, ``"4GiB"`` or ``"500 MB"``."""


class Span(timedelta):
    """A number of seconds, or text, ``"12:00:00"``."""


def over(said: dict[str, Any], environment: Mapping[str, str], kind: type[Struct]) -> dict[str, Any]:
    """What a file says, and over it what the environment says of its keys; other variables are not the file's.

    ``TRAVELCARD_PINGS__PATH`` is ``path`` in ``[pings]``.
    """
    known = {key.name for key in fields(kind)}
    for name, value in environment.items():
        first, _, rest = name.lower().partition("_")
        *tables, key = rest.split("__")
        if first != "travelcard" or (*tables, key)[0] not in known:
            continue
        at: Any = said
        for table in tables:
            at = at.setdefault(table, {}) if isinstance(at, dict) else None
        if isinstance(at, dict):  # or the file is wrong there, and it is told of that
            at[key] = value
    return said


def made(kind: type[Struct], given: dict[str, Any], wrong: list[str], at: str = "") -> dict[str, Any]:
    """The values of a table's keys. Each that is wrong is added to a list, where msgspec stops at the first."""
    known = {key.name: key for key in fields(kind)}
    wrong += [f"{at}{name}  is no key of travelcard.toml" for name in given if name not in known]
    wrong += [f"{at}{name}  is missing" for name, key in known.items() if key.required and name not in given]
    return {name: _value(known[name].type, value, wrong, at + name) for name, value in given.items() if name in known}


def _value(kind: Any, given: Any, wrong: list[str], at: str) -> Any:
    table = next((one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, Struct)), None)
    if table is None:
        try:
            return convert(given, kind, strict=False, dec_hook=_of_text)
        except ValidationError as error:
            wrong.append(f"{at}  expected {_expected(kind, error)}, got {given!r}")
    elif not isinstance(given, dict):
        wrong.append(f"{at}  expected a table, got {given!r}")
    elif get_origin(kind) is Mapping:
        return {name: _value(table, one, wrong, f"{at}.{name}") for name, one in given.items()}
    else:
        values = made(table, given, wrong, f"{at}.")
        return None if wrong else table(**values)  # nothing is made of a file with a problem
    return None


def _of_text(kind: type, given: Any) -> Any:
    """A `Size` or a `Span`."""
    text = str(given)
    if kind is Size:
        if (found := re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(I?)B?", text, re.IGNORECASE)) is None:
            raise ValueError("bytes, as 4GiB")
        number, unit, binary = found.groups()
        return Size(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))
    if (found := re.fullmatch(r"(?:(\d{1,6}):([0-5]\d):)?(\d{1,9}(?:\.\d+)?)", text)) is None:
        raise ValueError("seconds, or a time as 12:00:00")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return Span(hours=hours, minutes=minutes, seconds=seconds)


def _expected(kind: Any, error: ValidationError) -> str:
    """What should have been there, without what msgspec says of the value, which stands behind it."""
    choices = [str(one) for part in (kind, *get_args(kind)) if get_origin(part) is Literal for one in get_args(part)]
    if choices:
        return f"one of {', '.join(choices)}"
    return re.sub(r"^(Expected|Invalid RFC3339 encoded) |`| \| null|,? got .*| - at .*", "", str(error))
