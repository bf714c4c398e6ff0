"""The service's relational database: SQLite or PostgreSQL, one schema, brought up to date by migrations.

A number or identity number stands in it only as a keyed hash, to be found by, and encrypted, to be shown masked or sent
to. Times are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as Alembic
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from travelcard.errors import InputError

__all__ = [
    "METADATA",
    "appeals",
    "audit",
    "codes",
    "colours",
    "corrections",
    "counters",
    "declarations",
    "engine_of",
    "erasures",
    "insert_once",
    "known",
    "migrate",
    "numbers",
    "operators",
    "outbox",
    "people",
    "sessions",
    "statuses",
]

METADATA = MetaData()


class Utc(TypeDecorator[datetime]):
    """A moment in UTC, whole seconds kept as they are: SQLite has no time zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _table(name: str, *columns: Any) -> Table:
    return Table(name, METADATA, *columns)


def _id() -> Column[str]:
    return Column("id", String(32), primary_key=True)


def _key(name: str = "number_key", *, index: bool = True, **options: Any) -> Column[str]:
    """A keyed hash, as hexadecimal digits."""
    return Column(name, String(64), index=index, nullable=options.pop("nullable", False), **options)


def _sealed(name: str, *, nullable: bool = False) -> Column[bytes]:
    """Something encrypted."""
    return Column(name, LargeBinary, nullable=nullable)


def _at(name: str, *, nullable: bool = False, index: bool = False) -> Column[datetime]:
    return Column(name, Utc, nullable=nullable, index=index)


def _person(*, index: bool = True) -> Column[str]:
    return Column("person", ForeignKey("people.id", ondelete="CASCADE"), nullable=False, index=index)


outbox = _table("outbox", _id(), _key(), _sealed("number"), _sealed("text"), _at("at"), _at("sent", nullable=True))
codes = _table(
    "codes",
    _id(),
    _key(index=False),
    Column("code", String(64), nullable=False),
    _at("sent", index=True),
    _at("expires"),
    Column("tries", Integer, nullable=False),
    _at("claimed", nullable=True),
)
sessions = _table(
    "sessions",
    Column("id", String(64), primary_key=True),  # a hash of the token
    _key(),
    _sealed("number"),
    Column("bound", String(64), nullable=False),
    _at("begun"),
    _at("expires", index=True),
)
counters = _table(
    "counters",
    Column("what", String(96), primary_key=True),
    Column("period", Integer, primary_key=True),
    Column("n", Integer, nullable=False),
    _at("expires", index=True),
)
audit = _table(
    "audit",
    Column("id", Integer, primary_key=True, autoincrement=True),
    _key(index=False),
    _at("at"),
    Column("who", String(80), nullable=False),
    Column("what", String(40), nullable=False),
)
corrections = _table(
    "corrections",
    _id(),
    _key(),
    _sealed("number"),
    Column("place", String(40), nullable=False),
    Column("first", Date, nullable=False),
    Column("last", Date, nullable=False),
    _sealed("reason"),
    _at("at"),
    Column("state", String(10), nullable=False),  # open, approved, refused
    Column("decided_by", String(40)),
    _at("decided", nullable=True),
    _sealed("note", nullable=True),
    _at("applied", nullable=True),
)
erasures = _table("erasures", _id(), _key(), _sealed("number", nullable=True), _at("at"), _at("done", nullable=True))
people = _table(
    "people",
    _id(),
    _key("identity_key", unique=True),
    _sealed("identity"),
    _sealed("name"),
    Column("guardian", ForeignKey("people.id", ondelete="CASCADE"), index=True),
    _at("applied"),
    _at("verified", nullable=True),
    _at("face", nullable=True),
)
numbers = _table("numbers", _key(primary_key=True, index=False), _person(), _sealed("number"), _at("at"))
declarations = _table(
    "declarations",
    Column("id", Integer, primary_key=True, autoincrement=True),
    _person(),
    Column("once", String(64), nullable=False),
    _sealed("said"),
    _at("at"),
    UniqueConstraint("person", "once"),
)
colours = _table(
    "colours",
    Column("id", Integer, primary_key=True, autoincrement=True),
    _person(),
    _at("at"),
    Column("as_of", Date, nullable=False),
    Column("colour", String(10), nullable=False),
    Column("policy_hash", String(64), nullable=False),
    _sealed("code"),
)
statuses = _table(
    "statuses",
    _id(),
    _key("identity_key"),
    Column("status", String(40), nullable=False),
    Column("first", Date, nullable=False),
    Column("last", Date),
    Column("source", String(200), nullable=False),
    Column("by", String(40), nullable=False),
    _at("at"),
)
appeals = _table(
    "appeals",
    _id(),
    _person(),
    Column("once", String(64), nullable=False),
    _sealed("text"),
    _at("at"),
    Column("state", String(10), nullable=False),
    Column("decided_by", String(40)),
    _at("decided", nullable=True),
    _sealed("note", nullable=True),
    UniqueConstraint("person", "once"),
)
known = _table("known", _key("identity_key", primary_key=True, index=False), _key("name_key", index=False))
operators = _table(
    "operators",
    Column("name", String(40), primary_key=True),
    Column("roles", String(80), nullable=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("revoked", Boolean, nullable=False, default=False),
)
Index("codes_newest", codes.c.number_key, codes.c.sent)
Index("audit_mine", audit.c.number_key, audit.c.at)


def engine_of(url: str, folder: Path) -> Engine:
    """The engine of a database; the file of SQLite is relative to a folder."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            path = folder / (parsed.database or "service.db")
            made = create_engine(f"sqlite:///{path.resolve()}", connect_args={"timeout": 30}, hide_parameters=True)
            event.listen(made, "connect", _prepared)
        elif parsed.get_backend_name() == "postgresql":
            made = create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_size=20, pool_pre_ping=True, hide_parameters=True
            )
        else:
            raise InputError(f"[service] database is of {parsed.get_backend_name()}: expected sqlite or postgresql")
    except (ArgumentError, NoSuchModuleError) as error:
        raise InputError("[service] database is no URL: expected sqlite:///service.db or postgresql://...") from error
    return made


def _prepared(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest version; what is there is kept."""
    settings = Alembic()
    settings.set_main_option("script_location", str(files("travelcard.service") / "migrations"))
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # processes that start together do it one after the other
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7421988)")
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
    except SQLAlchemyError as error:
        said = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise InputError(f"[service] database cannot be opened: {said}") from error


def insert_once(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless its keys are there already: whether it was inserted."""
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    return connection.execute(kind.insert(table).values(**row).on_conflict_do_nothing()).rowcount == 1
