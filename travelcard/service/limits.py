"""How often something may be asked: counts per period, shared by all processes through the database."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from travelcard.service.database import counters
from travelcard.service.refusals import Refused

__all__ = ["Limit", "count", "count_alone", "forget_old"]


class Limit(NamedTuple):
    """At most `most` of something in each `seconds`."""

    name: str
    most: int
    seconds: int


def count(connection: Connection, limit: Limit, whose: str, now: datetime) -> None:
    """Count one more; raises `Refused` (429), with the seconds to wait, when that is too many. `whose` is a hash."""
    period, since = divmod(int(now.timestamp()), limit.seconds)
    wait = limit.seconds - since
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = {"what": f"{limit.name} {whose}", "period": period, "n": 1, "expires": now + timedelta(seconds=wait)}
    more = kind.insert(counters).values(**row)
    more = more.on_conflict_do_update(index_elements=["what", "period"], set_={"n": counters.c.n + 1})
    connection.execute(more)
    here = (counters.c.what == row["what"]) & (counters.c.period == period)
    if connection.execute(select(counters.c.n).where(here)).scalar_one() > limit.most:
        raise Refused("too_many", wait=wait)


def count_alone(engine: Engine, limit: Limit, whose: str, now: datetime) -> None:
    """`count` in a transaction of its own: it stays counted, whatever becomes of the request."""
    with engine.begin() as connection:
        count(connection, limit, whose, now)


def forget_old(connection: Connection, now: datetime) -> None:
    """Remove counts whose period is over."""
    connection.execute(delete(counters).where(counters.c.expires < now))
