"""What travelcard.toml says: every key, its default, and the things that a run needs made from it."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from travelcard.errors import InputError, reading, refuse
from travelcard.files import remote
from travelcard.keys import Size, Span, made, over

if TYPE_CHECKING:
    import shlex
    import subprocess

    from travelcard import cells, gate, places, policy, pseudonyms, risk, schema, sources, store
    from travelcard.cells import CellMap
    from travelcard.gate import Gate
    from travelcard.places import Places
    from travelcard.policy import Policy
    from travelcard.pseudonyms import Pseudonyms
    from travelcard.risk import Risk
    from travelcard.sources import Reading
    from travelcard.store import Store
else:
    from travelcard.late import Late

    shlex, subprocess = Late("shlex"), Late("subprocess")  # for the command of a key alone
    # what a file says is known long before all that a run is made of is loaded
    cells, gate, places, policy, pseudonyms, risk, schema, sources, store = (
        Late(f"travelcard.{name}")
        for name in ("cells", "gate", "places", "policy", "pseudonyms", "risk", "schema", "sources", "store")
    )

__all__ = ["Config", "ServiceSection"]


_Positive = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class _Table(Struct, frozen=True):
    """A table of the file: its keys, what each may be, and its default."""


class Pings(_Table, frozen=True):
    """Where a day's pings are and how they are to be read."""

    path: str
    columns: Mapping[str, str] = field(default_factory=dict)
    time_unit: Literal["s", "ms", "us"] | None = None
    timezone: str | None = None
    subscriber_type: Literal["integer", "string"] | None = None


class Cells(_Table, frozen=True):
    """The cell inventory, or a cell map saved from one; `columns` as in [pings]."""

    path: str
    columns: Mapping[str, str] = field(default_factory=dict)


class PlacesFile(_Table, frozen=True):
    """A carrier's own boundaries, saved or as `places.from_file` reads them; without it China's of 2022 are taken."""

    path: str
    code: str = "code"
    name: str = "name"
    province: str | None = None
    name_en: str | None = None
    crs: str = "WGS84"


class PolicyChoice(_Table, frozen=True):
    """A preset by name, ``dated`` for the one in force, or a file of one's own."""

    preset: str = "dated"
    path: str | None = None


class Listed(_Table, frozen=True):
    """A file that changes with the day: ``{day}`` in its path is the date it is dated."""

    path: str


class LimitOf(_Table, frozen=True):
    """As `gate.Limit`."""

    min: float | None = None
    max: float | None = None
    sigmas: Annotated[float, Meta(gt=0)] | None = None
    fall: _Share | None = None
    rise: Annotated[float, Meta(ge=0)] | None = None


class GateSection(_Table, frozen=True):
    """What a night must keep to be published: above which share of rejected pings a day was misread, and limits of what
    is measured, by name.
    """

    max_rejected: _Share | None = None
    look_back: _Positive = 14
    limits: Mapping[str, LimitOf] = field(default_factory=dict)


class Retention(_Table, frozen=True):
    """How many days longer than the window stays and cards are kept."""

    margin: Annotated[int, Meta(ge=0)] = 0


class PseudonymKey(_Table, frozen=True):
    """Where the key of the pseudonyms is: in a file, or printed by a command; ``TRAVELCARD_KEY`` goes before both."""

    file: str | None = None
    command: str | None = None


class ServiceSection(_Table, frozen=True):
    """Who is served what, and where the service keeps its own data (docs/service.md)."""

    database: str = "sqlite:///service.db"  # or postgresql://...; a file is relative to this one
    secret_file: str | None = None  # 64 hexadecimal digits; TRAVELCARD_SECRET goes before it
    region: str = "CN"  # of numbers without a country's code, ISO 3166
    numbers: Literal["national", "e164"] = "national"  # how the store has those of that region
    new_numbers: str | None = None  # a table subscriber, since: who is told to wait
    sms: str = "outbox"  # or terminal, or module:function(number, text)
    verifier: str = "known"  # or module:function(context, name, identity)
    face: str | None = None  # module:function(name, identity, evidence)
    health_policy: str = "healthcode-9th"  # or a file of one's own
    max_age: Annotated[int, Meta(ge=0)] = 1  # days that the newest card may be old
    today: date | None = None  # for a demo, whose data is of another year
    token_minutes: Annotated[int, Meta(ge=1, le=1440)] = 30
    codes_a_minute: _Positive = 6000
    an_address_an_hour: _Positive = 600  # codes sent, and codes tried; a network may share one
    keep_days: _Positive = 180  # looks, earlier colours, what is decided
    in_flight: _Positive = 64  # requests at a time in each process
    secure: bool = True  # cookies over TLS alone; false for a demo on this machine


class _Keys(_Table, frozen=True):
    """What stands at the top of the file."""

    store: str = "store"
    tz: str | None = None
    buckets: int | None = None
    max_silence: Span | None = None
    memory: Size | None = None
    pings: Pings | None = None
    cells: Cells | None = None
    places: PlacesFile | None = None
    policy: PolicyChoice = PolicyChoice()
    risk: Listed | None = None
    statuses: Listed | None = None
    gate: GateSection = GateSection()
    retention: Retention = Retention()
    pseudonyms: PseudonymKey | None = None
    service: ServiceSection = ServiceSection()


class Config(_Keys, frozen=True, dict=True):
    """travelcard.toml. Environment variables win over it: ``TRAVELCARD_STORE``, ``TRAVELCARD_PINGS__PATH``.

    Relative paths are relative to the folder of the file.
    """

    folder: Path = Path()  # where the file is

    @classmethod
    def read(cls, path: Path) -> Config:
        """The configuration in a file, or one `InputError` that lists everything wrong in it."""
        if not path.is_file():
            raise InputError(f"{path} is not there: write one (README, the nightly run) or name yours with --config")
        with reading(path):
            try:
                said = tomllib.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(f"{path} is no TOML: {error}") from error
        wrong: list[str] = []
        values = made(_Keys, over(said, os.environ, _Keys), wrong)
        refuse(str(path), wrong)
        return cls(**values, folder=path.parent)

    # ------------------------------------------------------------------------------------------------ what it leads to

    def at(self, path: str) -> str:
        """A path of the file, seen from the working directory."""
        return path if remote(path) else str(self.folder / path)

    def open_store(self) -> Store:
        silence = self.max_silence
        asked = {
            "tz": self.tz,
            "buckets": self.buckets,
            "max_silence_s": None if silence is None else schema.whole_seconds(silence, "max_silence"),
        }
        return store.Store(self.at(self.store), asked={k: v for k, v in asked.items() if v is not None}, key=self.key())

    def key(self, variable: str = "TRAVELCARD_KEY") -> Pseudonyms | None:
        """The key of the pseudonyms, from an environment variable or where the file says; None where neither is.

        It is never in the file itself, which is copied, kept and shown.
        """
        if (given := os.environ.get(variable)) is not None:
            return pseudonyms.Pseudonyms(given.strip())
        return None if self.pseudonyms is None else _key_from(self, self.pseudonyms)

    def secret(self) -> str:
        """The service's secret, from the environment or its file; it is never in travelcard.toml itself."""
        if (given := os.environ.get("TRAVELCARD_SECRET")) is not None:
            return given.strip()
        if self.service.secret_file is None:
            raise InputError("the service needs a secret: TRAVELCARD_SECRET, or [service] secret_file")
        path = self.at(self.service.secret_file)
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"[service] secret_file {path} cannot be read: {type(error).__name__}") from error

    @cached_property
    def boundaries(self) -> Places:
        if self.places is None:
            return places.china()
        path = self.at(self.places.path)
        return (
            places.Places.load(path)
            if schema.saved_as(path) == "places"
            else places.from_file(path, **_but_path(self.places))
        )

    def reading(self) -> Reading:
        return sources.Reading(**_but_path(self.ping_source()))

    def limits(self) -> dict[str, Any]:
        """What a run is limited to, as far as the file says."""
        given = {"memory": self.memory, "max_rejected": self.gate.max_rejected, "gate": self.quality_gate()}
        return {name: value for name, value in given.items() if value is not None}

    def quality_gate(self) -> Gate:
        """The gate with its own limits, those of the file over them."""
        given = {name: gate.Limit(**asdict(limit)) for name, limit in self.gate.limits.items()}
        return gate.Gate({**gate.Gate().limits, **given}, self.gate.look_back)

    def ping_source(self) -> Pings:
        if self.pings is None:
            raise InputError('no pings are configured: add [pings] path = "pings/{day}/*.parquet"')
        return self.pings

    @property
    def pings_path(self) -> str:
        """The pattern of a day's pings, seen from the working directory."""
        return self.at(self.ping_source().path)

    def cell_map(self, kept_in: Store) -> CellMap | None:
        """The cell map of the inventory: loaded if it was saved as one, or built once per inventory and kept."""
        if self.cells is None:
            return None
        path = Path(self.at(self.cells.path))
        if not path.is_file():
            raise InputError(f"{path} is not there: [cells] path must be a cell inventory or a saved cell map")
        if schema.saved_as(path) == "cells":
            return cells.CellMap.load(path)
        with reading(path), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(json.dumps([cells.VERSION, self.boundaries.digest, sorted(self.cells.columns.items())]).encode())
        kept = kept_in.scratch / "cells" / f"{digest.hexdigest()[:32]}.parquet"
        if schema.saved_as(kept) == "cells":  # not there, or damaged from outside: made anew
            return cells.CellMap.load(kept)
        built = cells.CellMap.build(path, places=self.boundaries, columns=self.cells.columns)
        partial = kept.with_name(f"{kept.name}.{os.getpid()}")  # under its name there is only what is whole
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            built.save(partial)
            partial.replace(kept)
        except OSError as error:
            raise InputError(f"{kept_in.root} cannot be written: {error}") from error
        return built

    def rules(self, as_of: date, named: str | None = None) -> Policy:
        """The policy of a card's date: the one named on the command line, else the file's."""
        if named is None and self.policy.path is not None:
            return policy.Policy.read(self.at(self.policy.path))
        if named is not None and named.endswith(".toml"):
            return policy.Policy.read(named)
        preset = named or self.policy.preset
        return policy.Policy.in_force(as_of) if preset == "dated" else policy.Policy.preset(preset)

    def risk_on(self, as_of: date, rules: Policy) -> Risk | None:
        """The list of risk areas in force, or None when the policy needs none."""
        if not rules.needs_risk:
            return None
        if self.risk is None:
            raise InputError(f'{rules.id} marks cities with risk areas: add [risk] path = "risk/{{day}}.json"')
        lists = risk.dated_lists(self.at(self.risk.path))
        path, day = risk.risk_in_force(lists, as_of)
        if not any(rule.levels and rule.at == "visit" for rule in rules.colours):
            return risk.read_risk(path, places=self.boundaries, day=day)
        _, oldest = risk.risk_in_force(lists, rules.window(as_of)[0])
        wanted = {d: p for d, p in lists.items() if oldest <= d <= day}
        return risk.join_risk(risk.read_risk(p, places=self.boundaries, day=d) for d, p in wanted.items())

    def status_list(self, as_of: date) -> Any:
        """The status list of a card's date, or None when none is configured."""
        if self.statuses is None:
            return None
        path = Path(self.at(self.statuses.path).replace("{day}", as_of.isoformat()))
        if not path.is_file():
            raise InputError(f"{path} is not there: [statuses] path must be a Parquet or CSV file")
        return schema.STATUSES.read(sources.read_table(path, "subscriber"), where=str(path))


def _key_from(settings: Config, where: PseudonymKey) -> Pseudonyms:
    if (where.file is None) == (where.command is None):
        raise InputError("[pseudonyms] must have one of file and command, or TRAVELCARD_KEY be set")
    if where.file is not None:
        path = settings.at(where.file)
        try:
            return pseudonyms.Pseudonyms(Path(path).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"[pseudonyms] file {path} cannot be read: {type(error).__name__}") from error
    try:
        said = subprocess.run(shlex.split(where.command or ""), capture_output=True, text=True, check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:  # what it printed may be a key
        raise InputError(f"[pseudonyms] command failed: {type(error).__name__}") from error
    return pseudonyms.Pseudonyms(said.stdout.strip())


def _but_path(section: Struct) -> dict[str, Any]:
    return {name: value for name, value in asdict(section).items() if name != "path"}
