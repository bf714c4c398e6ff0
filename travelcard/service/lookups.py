"""What is shown of a number: its card, the evidence, earlier cards; or which reason holds that there is nothing."""

from __future__ import annotations

import uuid
from datetime import date, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update

from travelcard.card import Card
from travelcard.correction import correct
from travelcard.erasure import forget
from travelcard.errors import Busy, InputError, NotFound
from travelcard.explain import Explanation
from travelcard.history import History, history
from travelcard.service.access import Session
from travelcard.service.context import Context, Number
from travelcard.service.database import (
    audit,
    codes,
    colours,
    corrections,
    declarations,
    erasures,
    insert_once,
    numbers,
    outbox,
    people,
    sessions,
)
from travelcard.service.ledgers import looks_at
from travelcard.service.limits import Limit, count_alone
from travelcard.service.refusals import Refused
from travelcard.service.signed import issue, verify

__all__ = [
    "ask_for_correction",
    "card_of",
    "corrections_of",
    "erase",
    "evidence_of",
    "history_of",
    "mine",
    "scanned",
    "settle",
    "share",
]


CORRECTIONS = Limit("corrections", 20, 86_400)  # of a number


def card_of(context: Context, number: Number) -> Card:
    """A number's card of today, or the newest before it; raises `Refused` where there is none, with the reason."""
    store, today = context.store, context.today()
    try:
        as_of = max((day for day in store.days("cards") if day <= today), default=date.min)
        if as_of < today - timedelta(days=context.settings.max_age):
            raise Refused("out_of_date")
        card = store.card(number.subscriber, as_of=as_of)
    except NotFound as error:
        since = context.since(number)
        if since is not None and since > today - timedelta(days=14):
            raise Refused("too_new") from error
        raise Refused("not_in_data") from error
    return card


def _shown(context: Context, number: Number) -> Card:
    """`card_of`, unless the number's data is being deleted."""
    with context.engine.connect() as connection:
        pending = select(erasures.c.id).where((erasures.c.number_key == number.key) & erasures.c.done.is_(None))
        if connection.execute(pending).first() is not None:
            raise Refused("erased")
    return card_of(context, number)


def mine(context: Context, session: Session) -> Card:
    """The card of who asks."""
    if session.erased:
        raise Refused("erased")
    return card_of(context, session.number)


def evidence_of(context: Context, session: Session) -> Explanation:
    """Why everything is on the card; that it was looked at is on record."""
    card, number = mine(context, session), session.number
    try:
        risk = context.config.risk_on(card.as_of, card.policy)
    except InputError:
        if card.policy.needs_risk and context.config.risk is not None:
            raise
        risk = None  # this machine has the store, and not the carrier's lists: areas are not named
    found = context.store.explain(number.subscriber, as_of=card.as_of, risk=risk, places=context.places)
    context.audit.put(number.key, "self", "evidence", context.clock()).result()
    return found


def history_of(context: Context, session: Session) -> History:
    """The cards of all dates that are kept; that they were looked at is on record."""
    mine(context, session)
    found = history(context.store, session.number.subscriber, places=context.places)
    context.audit.put(session.number.key, "self", "history", context.clock()).result()
    return found


# ---------------------------------------------------------------------------------------------------- a checkpoint


def share(context: Context, number: Number) -> str:
    """A token for a QR code: whoever scans it within its life sees the card."""
    return issue(
        context.vault.signing, "card", {"n": context.vault.seal(number.dialled, "card.n").hex()}, context.clock()
    )


def scanned(context: Context, token: str, who: str) -> tuple[Number, Card]:
    """The card that somebody shows; it is put on record that it was looked at."""
    try:
        claims = verify(token, context.vault.public, "card", now=context.clock())
        dialled = context.vault.open(bytes.fromhex(str(claims["n"])), "card.n")
    except (InputError, KeyError, ValueError) as error:
        raise Refused("scan") from error
    number = context.number(dialled)
    card = _shown(context, number)
    context.audit.put(number.key, who, "card scanned", context.clock()).result()
    return number, card


# ---------------------------------------------------------------------------------------------------- corrections


def ask_for_correction(
    context: Context, session: Session, place: str, first: date, last: date, reason: str
) -> dict[str, Any]:
    """Say that one was not in a place: an operator decides."""
    card = mine(context, session)
    listed = {visit.place for visit in card.visits}
    if place not in listed or first > last or last - first > timedelta(days=62) or not reason.strip():
        raise Refused("bad_input", about="place, from, to, reason")
    count_alone(context.engine, CORRECTIONS, session.number.key, context.clock())
    name = uuid.uuid4().hex
    row = {
        "id": name, "number_key": session.number.key, "place": place, "first": first, "last": last,
        "number": context.vault.seal(session.number.dialled, "corrections.number"), "at": context.clock(),
        "reason": context.vault.seal(reason, "corrections.reason"), "state": "open",
    }  # fmt: skip
    with context.engine.begin() as connection:
        connection.execute(insert(corrections).values(**row))
    return {"id": name, "state": "open"}


def corrections_of(context: Context, number: Number) -> list[dict[str, Any]]:
    """What somebody asked to have corrected, and what came of it, newest first."""
    with context.engine.connect() as connection:
        mine = select(corrections).where(corrections.c.number_key == number.key).order_by(corrections.c.at.desc())
        rows = connection.execute(mine).all()
    return [
        {
            "id": row.id, "place": row.place, "from": row.first, "to": row.last, "at": row.at, "state": row.state,
            "reason": context.vault.open(row.reason, "corrections.reason"), "applied": row.applied,
            "note": None if row.note is None else context.vault.open(row.note, "corrections.note"),
        }
        for row in rows
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------- erasure


def erase(context: Context, session: Session) -> dict[str, Any]:
    """Delete all that is held of a number: here at once, and in the store now, or as soon as nobody writes it.

    Of a health code this number's part goes, and all of it with its last number. What is left is when it was asked for
    and done, under the keyed hash of the number.
    """
    key, name = session.number.key, uuid.uuid4().hex
    with context.engine.begin() as connection:
        row = {
            "id": name, "number_key": key, "at": context.clock(),
            "number": context.vault.seal(session.number.dialled, "erasures.number"),
        }  # fmt: skip
        insert_once(connection, erasures, row)
        owner = connection.execute(select(numbers.c.person).where(numbers.c.number_key == key)).scalar()
        for table in (outbox, codes, corrections, sessions, audit, numbers):
            connection.execute(delete(table).where(table.c.number_key == key))
        if owner is not None:
            others = connection.execute(select(numbers.c.number_key).where(numbers.c.person == owner)).first()
            for table in (colours, declarations) if others is not None else ():
                connection.execute(delete(table).where(table.c.person == owner))  # they rest on this number, too
            if others is None:
                its = select(people.c.id).where((people.c.id == owner) | (people.c.guardian == owner))
                connection.execute(delete(audit).where(audit.c.number_key.in_(its)))
                connection.execute(delete(people).where(people.c.id == owner))
    settle(context)
    with context.engine.connect() as connection:
        done = connection.execute(select(erasures.c.done).where(erasures.c.id == name)).scalar()
    return {"id": name, "done": done is not None}


def settle(context: Context) -> dict[str, int]:
    """Do in the store what was asked for and decided: erasures, approved corrections. What is locked out waits.

    A process that is killed on the way leaves nothing half done: each is repeated until it is on record here, and has
    no second effect.
    """
    done = {"erasures": 0, "corrections": 0}
    with context.engine.connect() as connection:
        wanted = connection.execute(select(erasures).where(erasures.c.done.is_(None))).all()
        approved = (corrections.c.state == "approved") & corrections.c.applied.is_(None)
        decided = connection.execute(select(corrections).where(approved)).all()
    try:
        for row in wanted:
            number = context.number(context.vault.open(row.number, "erasures.number"))
            if context.store.exists:
                forget(context.store, number.subscriber, by="the service, on the subscriber's request")
            with context.engine.begin() as connection:
                here = erasures.c.id == row.id
                connection.execute(update(erasures).where(here).values(done=context.clock(), number=None))
            done["erasures"] += 1
        for row in decided:
            number = context.number(context.vault.open(row.number, "corrections.number"))
            why = f"{context.vault.open(row.reason, 'corrections.reason')} [{row.id[:6]}-{row.id[6:12]}]"
            if why not in set(context.store.corrections_of(number.subscriber)["reason"]):
                correct(
                    context.store, number.subscriber, row.place, first=row.first, last=row.last, reason=why,
                    by=row.decided_by, places=context.places,
                )  # fmt: skip
            with context.engine.begin() as connection:
                connection.execute(
                    update(corrections).where(corrections.c.id == row.id).values(applied=context.clock())
                )
            done["corrections"] += 1
    except Busy:  # a night is being run: the next time
        pass
    return done


def seen_by(context: Context, keys: list[str]) -> list[dict[str, Any]]:
    """Who looked at one's data."""
    with context.engine.connect() as connection:
        return looks_at(connection, keys)
