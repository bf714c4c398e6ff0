"""The cards of earlier dates, what is another way on the next one, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl

from travelcard.card import COLOUR_WORDS, Card, place_name, utc_text
from travelcard.errors import NotFound, mask
from travelcard.places import Places
from travelcard.policy import Policy
from travelcard.schema import dates
from travelcard.store import Store, in_force
from travelcard.window import visits

__all__ = ["Change", "History", "history"]

WHY = {
    "zh": {
        "visited": "新到访", "window": "窗口移动", "policy": "规则变更", "correction": "更正", "late": "数据补录",
        "risk": "风险地区名单变更", "status": "名单变更",
    },
    "en": {
        "visited": "new visit", "window": "the window moved on", "policy": "the policy changed",
        "correction": "a correction", "late": "data of a day came late", "risk": "the list of risk areas changed",
        "status": "the status list changed",
    },
}  # fmt: skip
LINES = {
    "zh": {
        "head": "{number}的卡，共{n}张",
        "card": "{as_of}：{colour}；{places}",
        "nothing": "无", "between": "、",
        "added": "  ＋{name}（{why}）", "removed": "  －{name}（{why}）",
        "marked": "  {name}加标记（{why}）", "unmarked": "  {name}去标记（{why}）",
        "colour": "  颜色由{before}变为{after}（{why}）",
    },
    "en": {
        "head": "The cards of {number}: {n}",
        "card": "{as_of}: {colour}; {places}",
        "nothing": "no place", "between": ", ",
        "added": "  + {name} ({why})", "removed": "  - {name} ({why})",
        "marked": "  {name} is marked now ({why})", "unmarked": "  {name} is not marked any more ({why})",
        "colour": "  {before} became {after} ({why})",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """What a card has another way than the one before it, and what made it so.

    `what`: ``added``, ``removed``, ``marked``, ``unmarked`` (of a `place`) or ``colour``. `why`: ``visited`` (new in
    the window), ``window`` (out of it), ``policy``, ``correction``, ``late`` (a day was run again), ``risk`` (the list
    of risk areas) or ``status``; of a colour all that made it so.
    """

    what: str
    why: tuple[str, ...]
    place: str | None = None


@dataclass(frozen=True)
class History:
    """What `history` returns, oldest card first, with its changes; `as_dict()` is JSON-able, `text()` for people."""

    cards: tuple[tuple[Card, datetime, tuple[Change, ...]], ...]
    places: Places | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "subscriber": self.cards[0][0].masked,
            "cards": [
                {
                    "card": card.as_dict(places=self.places),
                    "made": utc_text(made),
                    "changes": [{"what": c.what, "place": c.place, "why": list(c.why)} for c in changes],
                }
                for card, made, changes in self.cards
            ],
        }

    def text(self, language: str = "zh") -> str:
        """The cards and their changes in words, lines joined by newlines."""
        say, colours = LINES[language], COLOUR_WORDS[language]
        names = {visit.place: visit.name for card, _, _ in self.cards for visit in card.visits}

        def name(place: str) -> str:
            return place_name(place, names[place], language, self.places)

        lines = [say["head"].format(number=self.cards[0][0].masked, n=len(self.cards))]
        before = ""
        for card, _, changes in self.cards:
            colour = colours[card.colour]
            listed = say["between"].join(name(visit.place) for visit in card.visits) or say["nothing"]
            lines.append(say["card"].format(as_of=card.as_of, colour=colour, places=listed))
            for change in changes:
                why = ", ".join(WHY[language][one] for one in change.why)
                called = name(change.place) if change.place is not None else ""
                lines.append(say[change.what].format(name=called, why=why, before=before, after=colour))
            before = colour
        return "\n".join(lines)


def history(store: Store, subscriber: object, *, places: Places | None = None) -> History:
    """One subscriber's cards of all dates that the store keeps, and why each differs from the one before.

    A difference is put down to what it comes with when, from the one card to the other, the dates, then the policy,
    then the corrections are changed in turn; what is left is a day that was run again since. How long cards are kept is
    ``[retention] margin``.

    Raises
    ------
    NotFound
        The store has no card of that number.
    """
    found = []
    for as_of in store.days("cards"):
        try:
            found.append(store.card_and_made(subscriber, as_of))
        except NotFound:  # it was in no ping of that window
            continue
    if not found:
        raise NotFound(f"no card for {mask(store.subscriber(subscriber))}: the number was in no ping of a window")
    stays = store.stays_of(subscriber, found[0][0].window[0], found[-1][0].window[1])
    on_record = store.corrections_of(subscriber)
    before = [None, *found[:-1]]
    return History(
        tuple(
            (card, made, () if old is None else _changes(store, stays, on_record, old, (card, made)))
            for old, (card, made) in zip(before, found, strict=True)
        ),
        places,
    )


def _changes(
    store: Store, stays: pl.DataFrame, on_record: pl.DataFrame, old: tuple[Card, datetime], new: tuple[Card, datetime]
) -> tuple[Change, ...]:
    (before, then), (after, now) = old, new
    held = set(store.days("stays"))
    gone = [day for day in dates(*before.window) if day not in held and day not in before.missing]

    def listed(as_of: date, policy: Policy, at: datetime) -> set[str]:
        rows = visits(
            stays, as_of=as_of, policy=policy, corrections=in_force(on_record, at=at), tz=after.tz,
            max_silence=timedelta(seconds=store.layout.max_silence_s),
        )  # fmt: skip
        return set(rows.filter(~pl.col("transit"))["place"])

    steps = [
        ("late", _listed(before)),
        ("window" if gone else "late", listed(before.as_of, before.policy, then)),
        ("window", listed(after.as_of, before.policy, then)),
        ("policy", listed(after.as_of, after.policy, then)),
        ("correction", listed(after.as_of, after.policy, now)),
        ("late", _listed(after)),
    ]
    changes = []
    for place in sorted(steps[0][1] ^ steps[-1][1]):
        turns = [why for (_, a), (why, b) in pairwise(steps) if (place in a) != (place in b)]
        what, why = ("added" if place in steps[-1][1] else "removed"), turns[-1]
        changes.append(Change(what, ("visited" if (what, why) == ("added", "window") else why,), place))
    same_list = before.risk_date == after.risk_date
    mark = "policy" if same_list and before.policy.hash != after.policy.hash else "risk"
    was, is_ = ({visit.place: visit.marked for visit in card.visits} for card in (before, after))
    other = [place for place in sorted(was.keys() & is_.keys()) if was[place] != is_[place]]
    changes += [Change("marked" if is_[place] else "unmarked", (mark,), place) for place in other]
    if before.colour != after.colour:
        causes = {one for change in changes for one in change.why}
        causes |= {"policy"} if before.policy.hash != after.policy.hash else set()
        changes.append(Change("colour", tuple(sorted(causes or {"status" if same_list else "risk"}))))
    return tuple(changes)


def _listed(card: Card) -> set[str]:
    return {visit.place for visit in card.visits}
