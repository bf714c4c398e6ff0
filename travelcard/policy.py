"""Policies: dated sets of rules as data, and the ten presets that the public systems used (FACTS 7).

Every arguable number of a card is a field of one frozen `Policy`; its hash stands beside every output. The lists of
risk areas that marks and some rules look at are in `travelcard.risk`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from travelcard.errors import InputError, NotFound, refuse
from travelcard.risk import LEVELS, Risk, dated_lists, join_risk, read_risk, risk_in_force

__all__ = ["COLOURS", "Policy", "Risk", "Rule", "dated_lists", "join_risk", "read_risk", "risk_in_force"]

COLOURS = ("unknown", "green", "yellow", "orange", "red")  # by severity; the first is no rule's
VISIT_RULES = ("day_span", "continuous", "cumulative")  # as in window, which loads the kernel's compiler
BORDERS = ("any", "inner")
MARK_FORMS = ("none", "red_name", "bracket", "star")
FORMS = ("card", "sms", "healthcode")
NEVER = date.max  # `abroad_from` of a policy that lists no place abroad
# Reasons that are not a colour rule's: a rule of that id would be explained by another's words.
RESERVED = ("no_ping", "nothing_visited", "abroad_any", *VISIT_RULES, *(f"mark_{level}" for level in LEVELS))

_PRESETS = Path(__file__).parent / "presets"
_PLACE = re.compile(r"\d{2}|\d{6}|[A-Z]{3}")
_ID = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Rule:
    """One colour rule: a colour, an id, and one condition (DESIGN 3.6). Green may do without: it is what is left.

    Attributes
    ----------
    colour : ``"green"``, ``"yellow"``, ``"orange"`` or ``"red"``.
    id : names the rule in reasons and finds its words in data/texts.toml.
    abroad : a visited place abroad; HKG, MAC and TWN are not.
    places : a visited place with one of these codes, or whose code begins with one of two digits (a province).
    levels : a visited place with an area at one of these risk levels; see `at`.
    at : ``"as_of"``, by the list in force on the card's date; ``"visit"``, on some day from the visit's first to its
        last. Either is an over-approximation (FACTS 7, note a): a city-level visit cannot tell who was in the area.
    statuses : one of these words in the status list, held on the card's date.
    day_from, day_to : the days of a status on which the rule holds, its `from` being day 1; `day_to` None = open.
    """

    colour: str
    id: str
    abroad: bool = False
    places: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    at: str = "as_of"
    statuses: tuple[str, ...] = ()
    day_from: int = 1
    day_to: int | None = None

    @property
    def condition(self) -> str:
        """What the rule looks at: ``abroad``, ``places``, ``levels``, ``statuses``, or ``""``."""
        return next((name for name in ("abroad", "places", "levels", "statuses") if getattr(self, name)), "")

    def as_dict(self) -> dict[str, Any]:
        """The rule as a preset writes it: what says nothing is left out."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}


@dataclass(frozen=True, slots=True)
class Policy:
    """A dated set of rules: window, visit rule, marks, colours (DESIGN 3.5, 3.6). Bad values raise one `InputError`.

    Attributes
    ----------
    id, form : its name; ``"card"``, ``"sms"`` (a text without a colour) or ``"healthcode"``, how it is shown.
    in_force_from, in_force_to : card dates, inclusive; None = open.
    source : keys of FACTS 9, or what a carrier's own policy rests on.
    days : full days in the window.
    rule, min_stay : how a domestic place counts as visited, and from how long (``>=``).
    flicker : longest way there and back that is taken for a phone between two cells (DESIGN 3.4); 0 = off.
    border : ``"inner"`` leaves out a neighbour's signal (DESIGN 3.5).
    abroad_from : first card date on which places abroad are visits; None = always, ``date.max`` = never.
    marks, mark_form : risk levels that mark a city, and how a mark is printed.
    colours : the rules; the most severe that holds gives the colour. None at all prints no colour.
    """

    id: str
    in_force_from: date | None = None
    in_force_to: date | None = None
    source: tuple[str, ...] = ()
    days: int = 14
    rule: str = "day_span"
    min_stay: timedelta = timedelta(hours=4)
    flicker: timedelta = timedelta(minutes=10)
    border: str = "any"
    abroad_from: date | None = None
    marks: tuple[str, ...] = ()
    mark_form: str = "none"
    colours: tuple[Rule, ...] = ()
    form: str = "card"

    def __post_init__(self) -> None:
        refuse("the policy", _problems({f.name: getattr(self, f.name) for f in dataclasses.fields(self)}))

    # ------------------------------------------------------------------------------------------------ where from

    @classmethod
    def preset(cls, name: str) -> Policy:
        """A preset by name. Raises `NotFound` with the names that exist.

        >>> Policy.preset("card-2022-07-08").days
        7
        """
        if name not in cls.presets():
            raise NotFound(f"no preset {name!r}: there are {', '.join(cls.presets())}")
        return _preset(name)

    @staticmethod
    def presets() -> tuple[str, ...]:
        """The names of the presets, sorted."""
        found = (path.name for path in _PRESETS.iterdir())
        return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))

    @classmethod
    def in_force(cls, day: date) -> Policy:
        """Of the `sms-` and `card-` presets, the one in force on a card's date (``policy.preset = "dated"``).

        Raises `InputError` on a date that none covers.

        >>> Policy.in_force(date(2022, 3, 15)).id
        'card-2022-01'
        """
        for policy in map(_preset, cls.presets()):
            if policy.id.startswith(("sms-", "card-")) and policy.holds_on(day):
                return policy
        raise InputError(
            f"no card was in force on {day} (2020-02-13 to 2022-12-12 are covered): "
            f"name a preset, one of {', '.join(cls.presets())}"
        )

    @classmethod
    def read(cls, path: str | Path) -> Policy:
        """A policy of one's own, a TOML file with the keys of a preset. One `InputError` lists all that is wrong."""
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path} cannot be read as a policy (TOML): {error}") from error
        return cls.from_dict(data, where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "the policy") -> Policy:
        """What `as_dict` gave, or the content of a preset file."""
        values, lines = _converted(data)
        lines += _problems(values)
        if "id" not in values:
            lines.insert(0, "id  is missing")
        refuse(where, lines)
        return cls(**values)

    # ------------------------------------------------------------------------------------------------ what it says

    def as_dict(self) -> dict[str, Any]:
        """Every field, JSON-able, under the keys of a preset file; `from_dict` takes it back."""
        never = self.abroad_from == NEVER
        return {
            "id": self.id,
            "form": self.form,
            "in_force_from": _iso(self.in_force_from),
            "in_force_to": _iso(self.in_force_to),
            "source": list(self.source),
            "days": self.days,
            "rule": self.rule,
            "min_stay_s": int(self.min_stay.total_seconds()),
            "flicker_s": int(self.flicker.total_seconds()),
            "border": self.border,
            "abroad_from": "never" if never else _iso(self.abroad_from),
            "marks": list(self.marks),
            "mark_form": self.mark_form,
            "colours": [rule.as_dict() for rule in self.colours],
        }

    @property
    def hash(self) -> str:
        """SHA-256, hex, of the canonical JSON (sorted keys, no spaces, UTF-8) of every field."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def replace(self, **changes: Any) -> Policy:
        """A variant with other values (`min_stay`, `rule`, `days`, `flicker`, `border`, ...), checked as a whole.

        >>> Policy.preset("card-2022-01").replace(days=7).days
        7
        """
        unknown = sorted(changes.keys() - {f.name for f in dataclasses.fields(self)})
        refuse("the policy", [f"{name}  is no field of a policy" for name in unknown])
        return dataclasses.replace(self, **changes)

    def holds_on(self, day: date) -> bool:
        """Whether the policy was in force on a card's date."""
        return (self.in_force_from or date.min) <= day <= (self.in_force_to or date.max)

    def window(self, as_of: date) -> tuple[date, date]:
        """First and last day of the window of a card: the `days` full days before `as_of`."""
        return as_of - timedelta(days=self.days), as_of - timedelta(days=1)

    def abroad_counts(self, as_of: date) -> bool:
        """Whether places abroad are visits on a card as of this date."""
        return self.abroad_from is None or as_of >= self.abroad_from

    @property
    def needs_risk(self) -> bool:
        """Whether a card needs a list of risk areas: for its marks, or for a colour."""
        return bool(self.marks) or any(rule.levels for rule in self.colours)

    @property
    def green(self) -> str:
        """Id of the rule for what no other rule colours."""
        return next((rule.id for rule in self.colours if not rule.condition), "green")


@lru_cache(maxsize=32)
def _preset(name: str) -> Policy:
    data = tomllib.loads((_PRESETS / f"{name}.toml").read_text(encoding="utf-8"))
    return Policy.from_dict(data, where=f"preset {name}")


# ------------------------------------------------------------------------------------------------ checking


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def _is_date(value: Any) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)


def _is_int(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_span(value: Any) -> bool:
    return isinstance(value, timedelta) and value >= timedelta(0) and not value % timedelta(seconds=1)


def _are(value: Any, fits: Callable[[Any], Any]) -> bool:
    return (
        isinstance(value, tuple) and all(isinstance(v, str) and fits(v) for v in value) and len({*value}) == len(value)
    )


def _one_of(words: tuple[str, ...]) -> tuple[Callable[[Any], Any], str]:
    return (lambda value: isinstance(value, str) and value in words), f"one of {', '.join(words)}"


_FITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "id": (lambda v: isinstance(v, str) and _ID.fullmatch(v), "small letters and digits, joined by - or _"),
    "in_force_from": (lambda v: v is None or _is_date(v), "a date"),
    "in_force_to": (lambda v: v is None or _is_date(v), "a date"),
    "source": (lambda v: _are(v, len), "a list of texts"),
    "days": (lambda v: _is_int(v, 1, 366), "a whole number from 1 to 366"),
    "min_stay": (_is_span, "whole seconds, 0 or more"),
    "flicker": (_is_span, "whole seconds, 0 or more"),
    "abroad_from": (lambda v: v is None or _is_date(v), 'a date, or "never"'),
    "marks": (lambda v: _are(v, LEVELS.__contains__), f"of {', '.join(LEVELS)}, each once"),
    "colours": (lambda v: isinstance(v, tuple) and all(isinstance(r, Rule) for r in v), "rules"),
    "rule": _one_of(VISIT_RULES),
    "border": _one_of(BORDERS),
    "mark_form": _one_of(MARK_FORMS),
    "form": _one_of(FORMS),
}
_RULE_FITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "colour": _one_of(COLOURS[1:]),
    "id": (lambda v: _FITS["id"][0](v) and v not in RESERVED, "small letters and digits, and no reason's own word"),
    "abroad": (lambda v: isinstance(v, bool), "true or false"),
    "places": (lambda v: _are(v, _PLACE.fullmatch), "codes (330100, JPN) or provinces (42), each once"),
    "levels": _FITS["marks"],
    "at": _one_of(("as_of", "visit")),
    "statuses": (lambda v: _are(v, len), "a list of words, each once"),
    "day_from": (lambda v: _is_int(v, 1, 36600), "a whole number from 1"),
    "day_to": (lambda v: v is None or _is_int(v, 1, 36600), "a whole number from 1"),
}


def _problems(values: Mapping[str, Any]) -> list[str]:
    """All that is wrong with the fields given, one line each."""
    lines = [f"{k}  expected {_FITS[k][1]}, got {v!r}" for k, v in values.items() if not _FITS[k][0](v)]
    if lines:
        return lines
    if (values.get("in_force_from") or date.min) > (values.get("in_force_to") or date.max):
        lines.append("in_force_to  is before in_force_from")
    if bool(values.get("marks")) != (values.get("mark_form", "none") != "none"):
        lines.append("mark_form  expected a form where marks are given, and none where they are not")
    rules: tuple[Rule, ...] = values.get("colours", ())
    for rule in rules:
        where = f"colours.{rule.id}"
        lines += _rule_problems({f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}, where)
    ids = [rule.id for rule in rules]
    lines += [
        f"colours.{i}  is there twice: an id names one rule" for i in sorted({i for i in ids if ids.count(i) > 1})
    ]
    if sum(not rule.condition for rule in rules) > 1:
        lines.append("colours  more than one rule without a condition")
    return lines


def _rule_problems(values: Mapping[str, Any], where: str) -> list[str]:
    lines = [
        f"{where}.{k}  expected {_RULE_FITS[k][1]}, got {v!r}" for k, v in values.items() if not _RULE_FITS[k][0](v)
    ]
    if lines:
        return lines
    rule = Rule(**values)
    conditions = [name for name in ("abroad", "places", "levels", "statuses") if getattr(rule, name)]
    if len(conditions) > 1 or (not conditions and rule.colour != "green"):
        found = ", ".join(conditions) or "none"
        lines.append(f"{where}  expected one condition (abroad, places, levels or statuses), got {found}")
    if not rule.levels and rule.at != "as_of":
        lines.append(f"{where}.at  belongs to a rule on levels")
    if not rule.statuses and (rule.day_from, rule.day_to) != (1, None):
        lines.append(f"{where}.day_from, day_to  belong to a rule on statuses")
    if rule.day_to is not None and rule.day_to < rule.day_from:
        lines.append(f"{where}.day_to  is before day_from")
    return lines


def _converted(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields that a preset file or JSON gives, in their own types, and a line for each that cannot be."""
    values: dict[str, Any] = {}
    lines: list[str] = []
    for key, value in data.items():
        name = key.removesuffix("_s") if key in ("min_stay_s", "flicker_s") else key
        if name not in _FITS or (name == key and name in ("min_stay", "flicker")):
            known = [f"{k}_s" if k in ("min_stay", "flicker") else k for k in _FITS]
            lines.append(f"{key}  is no key of a policy: those are {', '.join(known)}")
        elif name in ("min_stay", "flicker"):
            if _is_int(value, 0, 366 * 86400):
                values[name] = timedelta(seconds=value)
            else:
                lines.append(f"{key}  expected whole seconds, 0 or more, got {value!r}")
        elif name == "colours":
            values[name] = _rules(value, lines)
        elif name == "abroad_from" and value == "never":
            values[name] = NEVER
        elif name in ("in_force_from", "in_force_to", "abroad_from") and isinstance(value, str):
            try:
                values[name] = date.fromisoformat(value)
            except ValueError:
                lines.append(f"{key}  expected {_FITS[name][1]}, got {value!r}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return values, lines


def _rules(value: Any, lines: list[str]) -> tuple[Rule, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        lines.append("colours  expected a list of tables, [[colours]]")
        return ()
    rules = []
    for i, entry in enumerate(value):
        where = f"colours.{entry.get('id', i)}"
        bad = [
            f"{where}.{k}  is no key of a rule: those are {', '.join(_RULE_FITS)}" for k in entry if k not in _RULE_FITS
        ]
        bad += [f"{where}.{k}  is missing" for k in ("colour", "id") if k not in entry]
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in _RULE_FITS
        }
        if not bad:
            bad = _rule_problems(values, where)
        if bad:
            lines += bad
        else:
            rules.append(Rule(**values))
    return tuple(rules)
