"""Every error that travelcard raises on purpose, and the one way in which a number is shown.

TravelcardError
  InputError(ValueError)        a table, file or option that does not fit
  NotFound(LookupError)         no such subscriber, day, place or preset
  GateError(RuntimeError)       a quality gate refused; nothing was published
  Busy(RuntimeError)            somebody else is writing the store
  MissingExtra(ImportError)     names the extra to install
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "Busy",
    "GateError",
    "InputError",
    "MissingExtra",
    "NotFound",
    "TravelcardError",
    "hidden",
    "mask",
    "one_line",
    "reading",
    "refuse",
]


class TravelcardError(Exception):
    """Root of the tree: the message says what, where and what to do, and never holds a phone number."""

    exit_code = 1


class InputError(TravelcardError, ValueError):
    """A table, file, setting or argument that does not fit."""


class NotFound(TravelcardError, LookupError):
    """No such subscriber, day, place or preset."""


class GateError(TravelcardError, RuntimeError):
    """A quality gate refused the result; nothing was published."""


class Busy(TravelcardError, RuntimeError):
    """Another process is writing the store; the message says which."""


class MissingExtra(TravelcardError, ImportError):
    """A part of travelcard needs an extra that is not installed; the message names it."""


def mask(subscriber: object) -> str:
    """A subscriber as any message, log or page may show it: three characters, ``****``, four characters.

    The form is the travel card's own. Whatever is too short to keep four characters hidden is hidden whole.

    >>> mask(13800001234)
    '138****1234'
    >>> mask("12345678")
    '****'
    """
    text = str(subscriber)
    return f"{text[:3]}****{text[-4:]}" if len(text) >= 11 else "****"


def hidden(text: str) -> str:
    """Any text with every run of seven digits or more masked: it may be a number in the wrong place.

    >>> hidden("found 13800001234, time")
    'found 138****1234, time'
    """
    return re.sub(r"\d{7,}", lambda digits: mask(digits[0]), text)


def broken(path: str, error: Exception) -> InputError:
    """What is raised for a file of the input that cannot be read to its end."""
    return InputError(f"{path} cannot be read to its end (truncated, damaged, or of another kind): {one_line(error)}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name a file that the system will not read: otherwise it would be told of as an output that cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def refuse(what: str, lines: Sequence[str]) -> None:
    """Raise one `InputError` that names every problem, a line each, if there is any."""
    if lines:
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise InputError(f"{what}: {count}\n  " + "\n  ".join(lines))


def one_line(error: Exception) -> str:
    """The first line of what a library says, with the causes that Delta's sets below it, and without its colours."""
    first, *rest = re.sub(r"\x1b\[\d+m", "", str(error)).splitlines() or [type(error).__name__]
    causes = [line.strip().removeprefix("↳ ") for line in rest if line.lstrip().startswith("↳ ")]
    return ": ".join([first, *(cause for cause in causes if not cause.startswith("<"))])
