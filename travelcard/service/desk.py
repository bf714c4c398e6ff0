"""The operator's side: requests and appeals are decided, statuses entered and ended; each by somebody with the role."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Any

from sqlalchemy import Row, Table, insert, select, update

from travelcard.errors import mask
from travelcard.service.context import Context
from travelcard.service.database import appeals, corrections, operators, people, statuses
from travelcard.service.lookups import settle
from travelcard.service.people import identity_number, recolour
from travelcard.service.refusals import Refused
from travelcard.service.vault import fingerprint, new_token

__all__ = [
    "ROLES",
    "add_operator",
    "decide_appeal",
    "decide_correction",
    "end_status",
    "enter_status",
    "operator_of",
    "waiting",
]

ROLES = ("corrections", "health", "watch")


def add_operator(context: Context, name: str, roles: list[str]) -> str:
    """Somebody with roles: the token to sign in with, shown once. Who is there already gets a new one."""
    if unknown := set(roles) - set(ROLES):
        raise Refused("bad_input", about=f"no role {', '.join(sorted(unknown))}: there are {', '.join(ROLES)}")
    token = new_token()
    row = {"name": name, "roles": ",".join(roles), "token": fingerprint(token), "revoked": False}
    with context.engine.begin() as connection:
        if not connection.execute(update(operators).where(operators.c.name == name).values(**row)).rowcount:
            connection.execute(insert(operators).values(**row))
    return token


def operator_of(context: Context, token: str | None, role: str) -> str:
    """The name of who has this token, if the role is theirs."""
    with context.engine.connect() as connection:
        row = connection.execute(select(operators).where(operators.c.token == fingerprint(token or ""))).first()
    if row is None or row.revoked:
        raise Refused("session")
    if role not in row.roles.split(","):
        raise Refused("forbidden")
    return str(row.name)


def waiting(context: Context, who: str) -> dict[str, list[dict[str, Any]]]:
    """Corrections and appeals that nobody has decided, oldest first; that somebody looked is on record."""
    vault, now = context.vault, context.clock()
    with context.engine.connect() as connection:
        asked = connection.execute(
            select(corrections).where(corrections.c.state == "open").order_by(corrections.c.at)
        ).all()
        open_ = select(appeals, people.c.name, people.c.id.label("owner")).join(people, people.c.id == appeals.c.person)
        appealed = connection.execute(open_.where(appeals.c.state == "open").order_by(appeals.c.at)).all()
    looked = [context.audit.put(row.number_key, who, "correction read", now) for row in asked]
    looked += [context.audit.put(row.owner, who, "appeal read", now) for row in appealed]
    for one in looked:
        one.result()
    return {
        "corrections": [
            {
                "id": row.id, "place": row.place, "from": row.first, "to": row.last, "at": row.at,
                "number": mask(context.number(vault.open(row.number, "corrections.number")).subscriber),
                "reason": vault.open(row.reason, "corrections.reason"),
            }
            for row in asked
        ],
        "appeals": [
            {"id": row.id, "at": row.at, "name": vault.open(row.name, "people.name")[:1] + "*",
             "text": vault.open(row.text, "appeals.text")}
            for row in appealed
        ],
    }  # fmt: skip


def _decided(context: Context, table: Table, name: str, by: str, note: str, *, approved: bool) -> Row[Any]:
    """Decide once: who comes second is told so."""
    values = {
        "state": "approved" if approved else "refused", "decided_by": by, "decided": context.clock(),
        "note": context.vault.seal(note, f"{table.name}.note"),
    }  # fmt: skip
    with context.engine.begin() as connection:
        row = connection.execute(select(table).where(table.c.id == name)).first()
        if row is None:
            raise Refused("no_page")
        mine = (table.c.id == name) & (table.c.state == "open")
        if not connection.execute(update(table).where(mine).values(**values)).rowcount:
            raise Refused("decided")
        return row


def decide_correction(context: Context, name: str, by: str, note: str, *, approved: bool) -> None:
    """Approve or refuse a correction; one that is approved is on record in the store, now or when nobody writes it."""
    _decided(context, corrections, name, by, note, approved=approved)
    settle(context)


def decide_appeal(context: Context, name: str, by: str, note: str, *, approved: bool) -> None:
    """Approve or refuse an appeal; with one that is approved the statuses that the code rests on end yesterday."""
    row = _decided(context, appeals, name, by, note, approved=approved)
    if approved:
        with context.engine.begin() as connection:
            its = select(people.c.identity_key).where(people.c.id == row.person).scalar_subquery()
            today = context.today()
            connection.execute(statuses.delete().where((statuses.c.identity_key == its) & (statuses.c.first >= today)))
            holds = (statuses.c.identity_key == its) & (statuses.c.last.is_(None) | (statuses.c.last >= today))
            connection.execute(update(statuses).where(holds).values(last=date.fromordinal(today.toordinal() - 1)))
    recolour(context, row.person)


def enter_status(
    context: Context, by: str, identity: str, status: str, first: date, last: date | None, source: str
) -> str:
    """Put a status of a person on record, with its source and author; who has a code has its colour at once."""
    number = identity_number(identity)
    about = {word for rule in context.policy.colours for word in rule.statuses}
    if status not in about or (last is not None and last < first) or not source.strip() or len(source) > 200:
        raise Refused("bad_input", about=f"status (one of {', '.join(sorted(about))}), from, to, source")
    name, key = uuid.uuid4().hex, context.vault.key("identity", number)
    row = {"id": name, "identity_key": key, "status": status, "first": first, "last": last, "source": source.strip()}
    with context.engine.begin() as connection:
        connection.execute(insert(statuses).values(**row, by=by, at=context.clock()))
        person = connection.execute(select(people.c.id).where(people.c.identity_key == key)).scalar()
    if person is not None:
        context.audit.put(person, by, "status entered", context.clock()).result()
        recolour(context, person)
    return name


def end_status(context: Context, by: str, name: str, last: date) -> None:
    """Say on which day a status ends."""
    with context.engine.begin() as connection:
        row = connection.execute(select(statuses).where(statuses.c.id == name)).first()
        if row is None:
            raise Refused("no_page")
        connection.execute(update(statuses).where(statuses.c.id == name).values(last=last, by=by))
        person = connection.execute(select(people.c.id).where(people.c.identity_key == row.identity_key)).scalar()
    if person is not None:
        context.audit.put(person, by, "status ended", context.clock()).result()
        recolour(context, person)
