"""Whose number it is: a code by SMS, and for it a token that lives a while (DESIGN 10)."""

from __future__ import annotations

import hmac
import logging
import math
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, delete, desc, exists, func, insert, select, update

from travelcard.errors import mask
from travelcard.service.context import Context, Number
from travelcard.service.database import (
    appeals,
    audit,
    codes,
    colours,
    corrections,
    erasures,
    outbox,
    sessions,
    statuses,
)
from travelcard.service.limits import Limit, count, forget_old
from travelcard.service.refusals import Refused
from travelcard.service.vault import fingerprint, new_token

__all__ = ["Session", "claimed", "messages", "send_code", "session_of", "sign_in", "sign_out", "tidy"]

log = logging.getLogger("travelcard.service")
LIFE = timedelta(minutes=5)
TRIES = 5
DIGITS = 6
APART, A_DAY = timedelta(minutes=1), 10  # codes of one number
TEXT = "【通信行程卡】验证码 {code}，5分钟内有效。请勿告诉他人。Your travel card code is {code}, good for 5 minutes."


@dataclass(frozen=True)
class Session:
    """Who asks."""

    id: str
    number: Number
    expires: datetime
    erased: bool  # the number's data is being deleted


def send_code(context: Context, text: str, address: str) -> int:
    """Send a code to a number: for how many seconds it is good. Whoever's number it is, the same is done and said."""
    number, now = context.number(text), context.clock()
    overall = Limit("codes overall", context.settings.codes_a_minute, 60)
    per_address = Limit("codes of an address", context.settings.an_address_an_hour, 3600)
    with context.engine.begin() as connection:
        for limit, whose in ((overall, ""), (per_address, context.vault.key("address", address))):
            count(connection, limit, whose, now)
        _refuse_often(connection, number, now)
        code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
        name, message = uuid.uuid4().hex, TEXT.format(code=code)
        connection.execute(
            insert(codes).values(
                id=name, number_key=number.key, code=context.vault.key("code", name, code), sent=now,
                expires=now + LIFE, tries=TRIES,
            )
        )  # fmt: skip
        connection.execute(
            insert(outbox).values(
                id=name, number_key=number.key, at=now, number=context.vault.seal(number.dialled, "outbox.number"),
                text=context.vault.seal(message, "outbox.text"),
            )
        )  # fmt: skip
    log.info("a code for %s is in the outbox", mask(number.subscriber))
    return int(LIFE.total_seconds())


def _refuse_often(connection: Connection, number: Number, now: datetime) -> None:
    """One code a minute, ten in any 24 hours. Who counts first holds the others up until it is written."""
    mine = (codes.c.number_key == number.key) & (codes.c.sent > now - timedelta(days=1))
    sent = connection.execute(select(codes.c.sent).where(mine).order_by(desc(codes.c.sent))).scalars().all()
    free = [sent[0] + APART] if sent else []
    free += [sent[A_DAY - 1] + timedelta(days=1)] if len(sent) >= A_DAY else []
    if free and max(free) > now:
        raise Refused("too_many", wait=math.ceil((max(free) - now).total_seconds()))


def messages(context: Context, send: Callable[[str, str], Any]) -> int:
    """Hand every message that was not sent yet to a sender, (number, text): how many there were."""
    with context.engine.connect() as connection:
        waiting = connection.execute(select(outbox).where(outbox.c.sent.is_(None)).order_by(outbox.c.at)).all()
    sent = 0
    for row in waiting:
        with context.engine.begin() as connection:
            mine = (outbox.c.id == row.id) & outbox.c.sent.is_(None)
            if connection.execute(update(outbox).where(mine).values(sent=context.clock())).rowcount:
                send(context.vault.open(row.number, "outbox.number"), context.vault.open(row.text, "outbox.text"))
                sent += 1
    return sent


def sign_in(context: Context, text: str, code: str, bound: str, address: str, *, agreed: bool) -> tuple[str, datetime]:
    """A token for a number, for a code that was sent to it: (token, until when it is good).

    It is good for that number and from the client (`bound`) that asked. A code serves once; a wrong, an old and one
    that was never sent are the same refusal.
    """
    number, now = context.number(text), context.clock()
    if not agreed:
        raise Refused("not_authorised")
    with context.engine.begin() as connection:
        tries = Limit("tries of an address", context.settings.an_address_an_hour, 3600)
        count(connection, tries, context.vault.key("address", address), now)
        right = _tried(context, connection, number, code, now)
    if not right:  # the try is counted all the same
        raise Refused("code")
    token, until = new_token(), now + timedelta(minutes=context.settings.token_minutes)
    with context.engine.begin() as connection:
        connection.execute(
            insert(sessions).values(
                id=fingerprint(token), number_key=number.key, bound=context.vault.key("client", bound), begun=now,
                number=context.vault.seal(f"{number.dialled} {number.subscriber}", "sessions.number"), expires=until,
            )
        )  # fmt: skip
    return token, until


def _tried(context: Context, connection: Connection, number: Number, code: str, now: datetime) -> bool:
    """Whether a code is the newest one of a number, which has a try less now, or none where it is."""
    newest = select(codes).where(codes.c.number_key == number.key).order_by(desc(codes.c.sent)).limit(1)
    row = connection.execute(newest).first()
    name = "none" if row is None else row.id
    given = context.vault.key("code", name, code)
    left = (codes.c.id == name) & (codes.c.tries > 0) & (codes.c.expires > now) & codes.c.claimed.is_(None)
    counted = connection.execute(update(codes).where(left).values(tries=codes.c.tries - 1)).rowcount == 1
    if not hmac.compare_digest(given, "none" if row is None else row.code) or not counted:
        return False
    mine = (codes.c.id == name) & codes.c.claimed.is_(None)
    return connection.execute(update(codes).where(mine).values(claimed=now)).rowcount == 1


_PENDING = exists().where(erasures.c.number_key == sessions.c.number_key, erasures.c.done.is_(None))
_SESSION = select(sessions, _PENDING.label("erased")).where(sessions.c.id == bindparam("token"))


def session_of(context: Context, token: str | None, bound: str) -> Session:
    """Whose token it is; raises `Refused` for one that is old, revoked, not ours, or another client's."""
    if not token:
        raise Refused("session")
    with context.engine.connect() as connection:
        row = connection.execute(_SESSION, {"token": fingerprint(token)}).first()
    if row is None or row.expires <= context.clock():
        raise Refused("session")
    if not hmac.compare_digest(row.bound, context.vault.key("client", bound)):
        raise Refused("session")
    dialled, subscriber = context.vault.open(row.number, "sessions.number").split()
    number = Number(subscriber, dialled, row.number_key)
    return Session(row.id, number, row.expires, row.erased)


def sign_out(context: Context, session: Session) -> None:
    with context.engine.begin() as connection:
        connection.execute(delete(sessions).where(sessions.c.id == session.id))


def claimed(context: Context, hours: int = 24) -> list[dict[str, Any]]:
    """Codes sent and claimed in each of the last hours, newest first; `pumped` where most of many were never used.

    Who sends codes to numbers that are not his, for a share of what an SMS costs, does not enter them.
    """
    now, rows = context.clock(), []
    with context.engine.begin() as connection:
        for n in range(hours):
            end = now - timedelta(hours=n)
            begin = end - timedelta(hours=1)
            within = (codes.c.sent > begin) & (codes.c.sent <= end)
            sent, used = connection.execute(select(func.count(), func.count(codes.c.claimed)).where(within)).one()
            rows.append(
                {"from": begin, "to": end, "sent": sent, "claimed": used, "pumped": sent >= 50 and used < sent / 4}
            )
    return rows


def tidy(context: Context) -> None:
    """Remove what has expired: counts, sessions; codes and messages after a day; what is on record in its time."""
    now = context.clock()
    past = now - timedelta(days=context.settings.keep_days)
    newest = select(func.max(colours.c.id)).group_by(colours.c.person)
    with context.engine.begin() as connection:
        forget_old(connection, now)
        connection.execute(delete(sessions).where(sessions.c.expires < now))
        connection.execute(delete(codes).where(codes.c.sent < now - timedelta(days=1)))
        connection.execute(delete(outbox).where(outbox.c.at < now - timedelta(days=1)))
        connection.execute(delete(audit).where(audit.c.at < past))
        connection.execute(delete(colours).where(colours.c.at < past, colours.c.id.not_in(newest)))
        connection.execute(delete(statuses).where(statuses.c.last < past.date()))
        for table in (appeals, corrections):
            connection.execute(delete(table).where(table.c.state != "open", table.c.decided < past))
