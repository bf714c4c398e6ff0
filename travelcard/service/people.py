"""The health code: a person applies, is verified, and has one colour over all numbers, statuses and the declaration."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import polars as pl
from sqlalchemy import Connection, Row, desc, insert, select, update
from stdnum.cn import ric
from stdnum.exceptions import ValidationError

from travelcard.card import Card
from travelcard.cards import cards
from travelcard.errors import NotFound
from travelcard.policy import Policy
from travelcard.schema import VISITS, zone
from travelcard.service.access import Session
from travelcard.service.context import Context, Number
from travelcard.service.database import (
    appeals,
    colours,
    declarations,
    insert_once,
    known,
    numbers,
    people,
    statuses,
)
from travelcard.service.limits import Limit, count_alone
from travelcard.service.refusals import Refused
from travelcard.service.signed import issue
from travelcard.store import in_force
from travelcard.window import visits

__all__ = [
    "Code",
    "Declaration",
    "appeal",
    "appeals_of",
    "apply",
    "code_of",
    "declare",
    "face_checked",
    "hidden_identity",
    "hidden_name",
    "history_of_colours",
    "identity_number",
    "is_known",
    "keys_of",
    "known_person",
    "person_of",
    "recolour",
    "recolour_all",
    "ticket",
    "together",
    "wards_of",
]

# What a declaration is to a policy: the first of these statuses that one of its rules is about.
DECLARED = {
    "fever": ("fever", "symptoms"),
    "symptoms": ("symptoms", "fever"),
    "contact": ("time_space", "close_contact"),
}
APPLICATIONS = Limit("applications", 10, 86_400)  # of a number: a name and an identity number are not to be guessed
APPEALS = Limit("appeals", 20, 86_400)  # of a person
CHILD, ELDER = 16, 60  # years: whom somebody else may apply for


@dataclass(frozen=True)
class Declaration:
    """What a person says of today: fever, other symptoms, contact with a case, where it was lately."""

    fever: bool = False
    symptoms: bool = False
    contact: bool = False
    trips: str = ""


@dataclass(frozen=True)
class Code:
    """A health code as it is now: its card holds colour, reasons and visits; `since` is when it got this colour."""

    person: str
    name: str
    identity: str
    card: Card
    since: Any


def is_known(context: Context, name: str, identity: str) -> bool:
    """The verifier that is there by default: a table of known people."""
    with context.engine.connect() as connection:
        row = select(known.c.name_key).where(known.c.identity_key == context.vault.key("identity", identity))
        return connection.execute(row).scalar() == context.vault.key("name", _plain(name))


def known_person(context: Context, name: str, identity: str) -> bool:
    """Enter somebody into that table: whether it was new."""
    number = identity_number(identity)
    row = {"identity_key": context.vault.key("identity", number), "name_key": context.vault.key("name", _plain(name))}
    with context.engine.begin() as connection:
        return insert_once(connection, known, row)


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def identity_number(text: str) -> str:
    """A resident identity number (GB 11643) whose check digit, region and date of birth are right."""
    try:
        number = ric.compact(text).upper()
        ric.validate(number)
    except ValidationError as error:
        raise Refused("bad_identity") from error
    return number


def born(identity: str) -> date:
    return date(int(identity[6:10]), int(identity[10:12]), int(identity[12:14]))


def apply(
    context: Context, session: Session, *, name: str, identity: str, said: Declaration, once: str, agreed: bool,
    ward: bool = False,
) -> str:  # fmt: skip
    """Apply for a code, or with a further number for the one that one has: the person's id.

    With `ward` it is for a child or an elder, and the person of this number is the guardian. `once` is the form's own
    word: the same form sent again changes nothing.

    Raises
    ------
    Refused
        No consent, no such identity number, a person whom the verifier does not know, a ward of another age or with
        another guardian.
    """
    number = identity_number(identity)
    if not agreed:
        raise Refused("not_authorised")
    if not name.strip() or len(name) > 100 or not once or len(once) > 64:
        raise Refused("bad_input", about="name, once")
    count_alone(context.engine, APPLICATIONS, session.number.key, context.clock())
    guardian = person_of(context, session).id if ward else None
    if ward:
        today = context.today()
        age = today.year - born(number).year - ((today.month, today.day) < (born(number).month, born(number).day))
        if CHILD <= age < ELDER:
            raise Refused("bad_input", about="a guardian applies for who is under 16 or over 60")
    verifier = is_known if context.settings.verifier == "known" else context.plugged(context.settings.verifier)
    if not verifier(context, name, number):
        raise Refused("not_verified")
    now, key = context.clock(), context.vault.key("identity", number)
    with context.engine.begin() as connection:
        row = {
            "id": uuid.uuid4().hex, "identity_key": key, "identity": context.vault.seal(number, "people.identity"),
            "name": context.vault.seal(name.strip(), "people.name"), "guardian": guardian, "applied": now,
            "verified": now,
        }  # fmt: skip
        insert_once(connection, people, row)
        found = connection.execute(select(people).where(people.c.identity_key == key)).one()
        if found.guardian != guardian:
            raise Refused("forbidden", about="somebody else has applied for this person")
        if not ward:
            _own(context, connection, session.number, found.id)
        _declared(context, connection, found.id, said, once)
    recolour(context, found.id)
    return str(found.id)


def _own(context: Context, connection: Connection, number: Number, person: str) -> None:
    """A number is one person's; it goes over to who holds it now and has applied with it."""
    row = {
        "number_key": number.key, "person": person, "at": context.clock(),
        "number": context.vault.seal(number.dialled, "numbers.number"),
    }  # fmt: skip
    if not insert_once(connection, numbers, row):
        connection.execute(update(numbers).where(numbers.c.number_key == number.key).values(person=person))


def _declared(context: Context, connection: Connection, person: str, said: Declaration, once: str) -> None:
    if len(said.trips) > 500:
        raise Refused("bad_input", about="trips")
    text = json.dumps([said.fever, said.symptoms, said.contact, said.trips])
    row = {
        "person": person, "once": once, "at": context.clock(),
        "said": context.vault.seal(text, "declarations.said"),
    }  # fmt: skip
    insert_once(connection, declarations, row)


def declare(context: Context, person: str, said: Declaration, once: str) -> None:
    """Say how it is today."""
    if not once or len(once) > 64:
        raise Refused("bad_input", about="once")
    with context.engine.begin() as connection:
        _declared(context, connection, person, said, once)
    recolour(context, person)


def face_checked(context: Context, person: str, evidence: str) -> None:
    """Pass the second check, where one is asked for."""
    if context.settings.face is None:
        raise Refused("bad_input", about="no face check is asked for")
    row = _row(context, person)
    name, identity = _opened(context, row)
    if not context.plugged(context.settings.face)(name, identity, evidence):
        raise Refused("not_verified")
    with context.engine.begin() as connection:
        connection.execute(update(people).where(people.c.id == person).values(face=context.clock()))


def person_of(context: Context, session: Session, ward: str | None = None) -> Row[Any]:
    """The person of a session's number, or a ward of that person."""
    with context.engine.connect() as connection:
        mine = select(people).join(numbers, numbers.c.person == people.c.id)
        row = connection.execute(mine.where(numbers.c.number_key == session.number.key)).first()
        if row is not None and ward is not None and ward != row.id:
            its = (people.c.id == ward) & (people.c.guardian == row.id)
            row = connection.execute(select(people).where(its)).first()
    if row is None:
        raise Refused("no_application")
    return row


def keys_of(context: Context, session: Session) -> list[str]:
    """Under what it is on record who looked at somebody's data: the number, and the person with its wards."""
    with context.engine.connect() as connection:
        its = select(numbers.c.person).where(numbers.c.number_key == session.number.key)
        mine = select(people.c.id).where(people.c.id.in_(its) | people.c.guardian.in_(its))
        return [session.number.key, *connection.execute(mine).scalars()]


def wards_of(context: Context, person: str) -> list[dict[str, str]]:
    """For whom a person has applied: ids and masked names."""
    with context.engine.connect() as connection:
        rows = connection.execute(select(people).where(people.c.guardian == person).order_by(people.c.applied)).all()
    return [{"id": row.id, "name": hidden_name(_opened(context, row)[0])} for row in rows]


def _row(context: Context, person: str) -> Row[Any]:
    with context.engine.connect() as connection:
        return connection.execute(select(people).where(people.c.id == person)).one()


def _opened(context: Context, row: Row[Any]) -> tuple[str, str]:
    return context.vault.open(row.name, "people.name"), context.vault.open(row.identity, "people.identity")


def hidden_name(name: str) -> str:
    """A name as a code shows it: the first character.

    >>> hidden_name("张三丰")
    '张**'
    """
    return name[:1] + "*" * min(len(name) - 1, 3)


def hidden_identity(identity: str) -> str:
    """An identity number as a code shows it: who was born where and when cannot be told from it."""
    return f"{identity[:1]}{'*' * 16}{identity[-1:]}"


# ---------------------------------------------------------------------------------------------------- the colour


def code_of(context: Context, person: str) -> Code:
    """A person's code now; a colour that is new is put on record. Raises `Refused` while a check is due."""
    row = _row(context, person)
    if context.settings.face is not None and row.face is None:
        raise Refused("face")
    return recolour(context, person)


def recolour(context: Context, person: str) -> Code:
    """Work out a person's colour, and put it on record where it, its day's reasons or the policy are others."""
    row = _row(context, person)
    name, identity = _opened(context, row)
    policy, as_of = context.policy, context.today()
    held = numbers.c.person == (row.guardian or person)  # who has no phone is with its guardian
    with context.engine.connect() as connection:
        mine = connection.execute(select(numbers).where(held)).all()
        listed = connection.execute(select(statuses).where(statuses.c.identity_key == row.identity_key)).all()
        newest = select(declarations).where(declarations.c.person == person).order_by(desc(declarations.c.id)).limit(1)
        said = connection.execute(newest).first()
    phones = [context.number(context.vault.open(one.number, "numbers.number")) for one in mine]
    told = [{"subscriber": 1, "status": one.status, "from": one.first, "to": one.last} for one in listed]
    told += _of_declaration(context, policy, said, as_of)
    told += _of_list(context, phones, as_of)
    card = _card(context, policy, phones, told, as_of)
    kept = json.dumps([[r.rule, r.place] for r in card.reasons])
    with context.engine.begin() as connection:
        # A write of nothing: until this is done, nobody else colours this person.
        connection.execute(update(people).where(people.c.id == person).values(applied=people.c.applied))
        newest = select(colours).where(colours.c.person == person).order_by(desc(colours.c.id)).limit(1)
        last = connection.execute(newest).first()
        now = context.clock()
        same = last is not None and (last.colour, last.policy_hash) == (card.colour, policy.hash)
        if last is None or not same or context.vault.open(last.code, "colours.code") != kept:
            values = {"person": person, "at": now, "as_of": as_of, "colour": card.colour, "policy_hash": policy.hash}
            connection.execute(insert(colours).values(**values, code=context.vault.seal(kept, "colours.code")))
    since = last.at if last is not None and last.colour == card.colour else now
    return Code(person, name, identity, card, since)


def recolour_all(context: Context) -> int:
    """Work out everybody's colour, which a status, the policy, the night or the day may have changed: of how many."""
    with context.engine.connect() as connection:
        everybody = connection.execute(select(people.c.id)).scalars().all()
    for person in everybody:
        recolour(context, person)
    return len(everybody)


def _of_declaration(context: Context, policy: Policy, said: Row[Any] | None, as_of: date) -> list[dict[str, Any]]:
    """The statuses that the newest declaration amounts to: from its day on, until the next one."""
    if said is None:
        return []
    fever, symptoms, contact, _ = json.loads(context.vault.open(said.said, "declarations.said"))
    about = {status for rule in policy.colours for status in rule.statuses}
    begin, out = said.at.astimezone(zone(context.tz)).date(), []
    for what, holds in (("fever", fever), ("symptoms", symptoms), ("contact", contact)):
        known_ones = [status for status in DECLARED[what] if status in about]
        if holds and known_ones:
            out.append({"subscriber": 1, "status": known_ones[0], "from": min(begin, as_of), "to": None})
    return out


def _of_list(context: Context, phones: Iterable[Number], as_of: date) -> list[dict[str, Any]]:
    """What the carrier's own status list has of the numbers."""
    listed = context.config.status_list(as_of)
    if listed is None:
        return []
    wanted = {phone.subscriber for phone in phones}
    return [{**row, "subscriber": 1} for row in listed.to_pylist() if str(row["subscriber"]) in wanted]


def together(seen: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The visits of several numbers as one person's: listed where one of them is, from the first ping to the last.

    Days and the longest stay are those of the number that has most: the numbers may have been in one pocket.
    """
    by_place = (
        pl.concat(seen)
        .group_by("place")
        .agg(pl.min("first"), pl.max("last"), pl.max("days", "longest_s", "days_seen"), pl.col("transit").all())
    )
    whole = by_place.with_columns(pl.col("days_seen").max(), subscriber=pl.lit(1, pl.Int64))
    return whole.select(VISITS.arrow().names).sort("place")


def _card(context: Context, policy: Policy, phones: list[Number], told: list[dict[str, Any]], as_of: date) -> Card:
    """One card for one person: what each number's window holds, put together by place."""
    store, seen = context.store, []
    first, last = policy.window(as_of)
    for phone in phones:
        try:
            stays = store.stays_of(phone.subscriber, first, last)
        except NotFound:  # no night was run yet
            continue
        if len(stays):
            on_record = in_force(store.corrections_of(phone.subscriber))
            silence = timedelta(seconds=store.layout.max_silence_s)
            seen.append(
                visits(stays, as_of=as_of, policy=policy, corrections=on_record, tz=context.tz, max_silence=silence)
            )
    made = cards(
        together(seen) if seen else VISITS.arrow().empty_table(),
        as_of=as_of, policy=policy, risk=context.config.risk_on(as_of, policy), tz=context.tz, places=context.places,
        statuses=pl.DataFrame(told, schema=STATUSES_FRAME) if told else None,
        subscribers=pl.DataFrame({"subscriber": [1]}),
    )  # fmt: skip
    return Card.of(made.row(0, named=True), as_of=as_of, policy=policy, tz=context.tz)


STATUSES_FRAME = {"subscriber": pl.Int64, "status": pl.String, "from": pl.Date, "to": pl.Date}


def ticket(context: Context, code: Code) -> str:
    """What a code's QR holds: who (masked), the colour, and for how long; a checkpoint verifies it by itself."""
    claims = {"c": code.card.colour, "n": hidden_name(code.name), "i": hidden_identity(code.identity),
              "d": code.card.as_of.isoformat()}  # fmt: skip
    return issue(context.vault.signing, "health", claims, context.clock())


def history_of_colours(context: Context, person: str) -> list[dict[str, Any]]:
    """The colours on record, newest first, each with what it rests on."""
    with context.engine.connect() as connection:
        mine = select(colours).where(colours.c.person == person).order_by(desc(colours.c.id)).limit(100)
        rows = connection.execute(mine).all()
    return [
        {
            "at": row.at, "as_of": row.as_of, "colour": row.colour, "policy_hash": row.policy_hash,
            "rules": [rule for rule, _ in json.loads(context.vault.open(row.code, "colours.code"))],
        }
        for row in rows
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------- appeals


def appeal(context: Context, person: str, text: str, once: str) -> str:
    """Say that a colour is wrong: an operator decides. The same form sent again is the same appeal."""
    if not text.strip() or len(text) > 2000 or not once or len(once) > 64:
        raise Refused("bad_input", about="text, once")
    count_alone(context.engine, APPEALS, person, context.clock())
    row = {
        "id": uuid.uuid4().hex, "person": person, "once": once, "at": context.clock(), "state": "open",
        "text": context.vault.seal(text, "appeals.text"),
    }  # fmt: skip
    with context.engine.begin() as connection:
        insert_once(connection, appeals, row)
        here = (appeals.c.person == person) & (appeals.c.once == once)
        return str(connection.execute(select(appeals.c.id).where(here)).scalar_one())


def appeals_of(context: Context, person: str) -> list[dict[str, Any]]:
    """A person's appeals and what came of them, newest first."""
    with context.engine.connect() as connection:
        rows = connection.execute(select(appeals).where(appeals.c.person == person).order_by(desc(appeals.c.at))).all()
    return [
        {
            "id": row.id, "at": row.at, "state": row.state, "text": context.vault.open(row.text, "appeals.text"),
            "note": None if row.note is None else context.vault.open(row.note, "appeals.note"),
        }
        for row in rows
    ]  # fmt: skip
