"""What every request of the service uses: the store, the database, the secret, the settings, the time."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import phonenumbers
from sqlalchemy import Engine

from travelcard.config import Config, ServiceSection
from travelcard.errors import InputError
from travelcard.places import Places
from travelcard.policy import Policy
from travelcard.schema import KNOWN_SINCE, zone
from travelcard.service.database import engine_of, migrate
from travelcard.service.ledgers import Audit
from travelcard.service.refusals import Refused
from travelcard.service.vault import Vault
from travelcard.sources import read_table
from travelcard.store import Store

__all__ = ["Context", "Number"]


@dataclass(frozen=True)
class Number:
    """A phone number: as the store keys it, as it is dialled, and its keyed hash."""

    subscriber: str = field(repr=False)
    dialled: str = field(repr=False)
    key: str


@dataclass(frozen=True)
class Context:
    """Made once in each process."""

    config: Config
    settings: ServiceSection
    store: Store
    engine: Engine
    vault: Vault
    audit: Audit
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @classmethod
    def of(cls, config: Config, *, clock: Callable[[], datetime] | None = None) -> Context:
        """Open the store and the database of a configuration, whose schema is brought up to date."""
        settings = config.service
        engine = engine_of(settings.database, config.folder)
        migrate(engine)
        made = cls(config, settings, config.open_store(), engine, Vault(config.secret()), Audit(engine))
        return made if clock is None else cls(**{**vars(made), "clock": clock})

    def close(self) -> None:
        self.audit.close()
        self.engine.dispose()

    @property
    def places(self) -> Places:
        return self.config.boundaries

    @property
    def tz(self) -> str:
        return self.config.tz or "Asia/Shanghai"

    def today(self) -> date:
        """The day of the clock, in the time zone of the cards; a demo's is fixed."""
        return self.settings.today or self.clock().astimezone(zone(self.tz)).date()

    @cached_property
    def policy(self) -> Policy:
        """Of the health code."""
        named = self.settings.health_policy
        path = Path(self.config.at(named))
        made = Policy.read(path) if named.endswith(".toml") else Policy.preset(named)
        if made.form != "healthcode":
            raise InputError(
                f"[service] health_policy {named} is the policy of a travel card: expected a health code's"
            )
        return made

    def number(self, text: str) -> Number:
        """A phone number as a person types it; raises `Refused` for what is none."""
        try:
            parsed = phonenumbers.parse(text, self.settings.region)
        except phonenumbers.NumberParseException as error:
            raise Refused("bad_number") from error
        if not phonenumbers.is_possible_number(parsed):
            raise Refused("bad_number")
        dialled = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
        home = phonenumbers.country_code_for_region(self.settings.region) == parsed.country_code
        national = phonenumbers.national_significant_number(parsed)
        subscriber = national if home and self.settings.numbers == "national" else dialled.removeprefix("+")
        return Number(subscriber, dialled, self.vault.key("number", dialled))

    def since(self, number: Number) -> date | None:
        """Since when a number exists, where the carrier says so."""
        if self.settings.new_numbers is None:
            return None
        path = self.config.at(self.settings.new_numbers)
        return _known_since(path, Path(path).stat().st_mtime_ns).get(number.subscriber)

    def plugged(self, name: str) -> Any:
        """A function of the carrier's, by ``module:name``."""
        module, _, function = name.partition(":")
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"[service] {name!r} names no function: expected module:name") from error


@lru_cache(maxsize=1)
def _known_since(path: str, _: int) -> dict[str, date]:
    rows = KNOWN_SINCE.read(read_table(path, "subscriber"), where=path)
    return {
        str(number): day for number, day in zip(rows["subscriber"].to_pylist(), rows["since"].to_pylist(), strict=True)
    }
