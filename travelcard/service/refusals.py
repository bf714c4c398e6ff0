"""Why somebody gets nothing, and what to do: each reason has a word, a status, and its text in two languages."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files

from travelcard.errors import TravelcardError

__all__ = ["STATUS", "Refused", "words"]

STATUS = {
    "bad_number": 422,
    "bad_input": 422,
    "bad_identity": 422,
    "too_many": 429,
    "busy": 503,
    "code": 401,
    "session": 401,
    "not_authorised": 403,
    "forbidden": 403,
    "no_form": 403,
    "not_verified": 403,
    "face": 403,
    "no_application": 404,
    "not_in_data": 404,
    "too_new": 404,
    "out_of_date": 404,
    "erased": 404,
    "no_page": 404,
    "method": 405,
    "too_large": 413,
    "scan": 410,
    "decided": 409,
}


class Refused(TravelcardError):
    """A request that is not answered: `reason` is its word, `wait` how many seconds later it may be tried again."""

    def __init__(self, reason: str, *, wait: int | None = None, about: str = "") -> None:
        super().__init__(f"{reason}: {about}" if about else reason)
        self.reason, self.wait, self.about = reason, wait, about

    @property
    def status(self) -> int:
        return STATUS[self.reason]

    def text(self, language: str) -> tuple[str, str]:
        """(what holds, what to do)."""
        told = words()["refused"][self.reason]
        return told[language], told[f"advice_{language}"]


@lru_cache(maxsize=1)
def words() -> dict[str, dict[str, dict[str, str]]]:
    """The service's own words, by kind and name."""
    return tomllib.loads((files("travelcard.service") / "words.toml").read_text(encoding="utf-8"))
