"""The command line: a command parses, calls one library function, prints. Data on stdout, the rest on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from travelcard import __version__
from travelcard.errors import GateError, InputError, MissingExtra, TravelcardError, hidden, mask, reading

if TYPE_CHECKING:
    import numpy as np

    from travelcard.config import Config
    from travelcard.engine import Engine
    from travelcard.store import Store

__all__ = ["main"]

app = App(
    name="travelcard",
    help="From telecom location records to each number's travel card.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # the process says what came of it
)
PolicyName = Annotated[
    str | None, Parameter(name="--policy", help='A preset, "dated", or a .toml file; as configured by default.')
]
Accept = Annotated[
    str | None, Parameter(name="--accept", help="Why it is published though the quality gate refuses it.")
]
ConfigPath = Annotated[Path, Parameter(name="--config", help="The configuration file.")]
AsOf = Annotated[date | None, Parameter(name="--as-of", help="The day the card is shown; the newest by default.")]
Language = Annotated[Literal["zh", "en"], Parameter(name="--language", help="zh or en.")]
EngineName = Annotated[
    Literal["threads", "spark"], Parameter(name="--engine", help="This machine's threads, or Apache Spark.")
]
Master = Annotated[str | None, Parameter(name="--master", help="Spark's master; as spark-submit says by default.")]
CONFIG = Path("travelcard.toml")


@contextmanager
def _progress() -> Iterator[Any]:
    """A progress callback: a bar on a terminal, nothing otherwise (each step then prints one JSON line)."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description:>6}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    ) as bars:  # fmt: skip
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done)

        yield show


def _tell(step: dict[str, Any]) -> None:
    """One step's result: a line of JSON, or on a terminal the same as words."""
    if not sys.stdout.isatty():
        print(json.dumps(step, ensure_ascii=False))
        return
    head = f"{step.pop('step')} {step.pop('day')}"
    parts = [f"{key} {_words(value)}" for key, value in step.items() if value not in (None, {}, [])]
    print(f"{head}: {', '.join(parts)}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_words(v)}" for k, v in value.items()) + ")"
    if isinstance(value, list):
        return f"({', '.join(map(str, value))})"
    return f"{value:,}" if isinstance(value, int) else str(value)


@app.command
def run(
    day: date, *, config: ConfigPath = CONFIG, policy: PolicyName = None, accept: Accept = None,
    engine: EngineName = "threads", master: Master = None,
) -> None:  # fmt: skip
    """The nightly run: the stays of DAY, then every card as of the day after.

    Parameters
    ----------
    day
        The day that ended, YYYY-MM-DD.
    """
    from travelcard.schema import a_date

    settings = _settings(config)
    room = _room(settings, day, engine)
    store = settings.open_store()
    as_of = a_date(day, "day") + timedelta(days=1)
    second = _second_half(settings, store, as_of, policy, accept)  # refused before a ping is read
    with store.writing(f"the run of {day}"), _engine(engine, master) as where:
        _stays(settings, store, day, room, accept, where)
        second(where)
    _warn_of_stale(store)


@app.command
def stays(
    day: date, *, config: ConfigPath = CONFIG, accept: Accept = None, engine: EngineName = "threads",
    master: Master = None,
) -> None:  # fmt: skip
    """The first half of a night: the pings of DAY to its stays.

    Parameters
    ----------
    day
        The day to process, YYYY-MM-DD. What the store holds for it is replaced.
    """
    settings = _settings(config)
    room = _room(settings, day, engine)
    store = settings.open_store()
    # from the map of cells on: an expiry removes what is half written
    with store.writing(f"the stays of {day}"), _engine(engine, master) as where:
        _stays(settings, store, day, room, accept, where)
    _warn_of_stale(store)


@app.command
def cards(
    as_of: date | None = None, *, stale: Annotated[bool, Parameter(negative="")] = False, config: ConfigPath = CONFIG,
    policy: PolicyName = None, accept: Accept = None, engine: EngineName = "threads", master: Master = None,
) -> None:  # fmt: skip
    """The second half, alone: every card as of AS_OF from the stays in the store; no ping is read.

    Parameters
    ----------
    as_of
        The day on which the cards are shown, YYYY-MM-DD.
    stale
        Instead of one date, every date whose cards were made before a day of their window was run again.
    """
    if (as_of is None) != stale:
        raise InputError("name one date, AS_OF, or --stale for every date that is out of date")
    settings = _settings(config)
    store = settings.open_store()
    with store.writing("the cards"), _engine(engine, master) as where:
        for date_ in store.stale() if as_of is None else [as_of]:
            _second_half(settings, store, date_, policy, accept)(where)


@app.command
def expire(as_of: date, *, config: ConfigPath = CONFIG) -> None:
    """Remove what no card from AS_OF on needs, and every file that no table names.

    Parameters
    ----------
    as_of
        The oldest date whose cards can still be made: stays before its window go, and a margin later (see [retention]).
    """
    from travelcard.retention import expire as remove

    settings = _settings(config)
    days = settings.rules(as_of).days
    _tell(remove(settings.open_store(), as_of=as_of, days=days, margin=settings.retention.margin).as_dict())


@app.command
def check(*, as_of: AsOf = None, config: ConfigPath = CONFIG) -> None:
    """Whether the store is as it should be: files, ledger, days of the window, stale cards, disk, versions, writer.

    One JSON line for each finding, on a terminal a table. Exit code 0 when nothing is wrong, 1 otherwise.
    """
    from travelcard.check import check as looked_at
    from travelcard.ledger import latest

    settings = _settings(config)
    store = settings.open_store()
    on = as_of or latest(store)
    found = looked_at(store, as_of=on, days=settings.rules(on).days)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("", "check", "where", "says", title=f"{store.root}, cards as of {on}")
        for one in found:
            table.add_row("[red]wrong[/]" if one.wrong else "", one.what, one.where, one.says)
        Console().print(table)
    else:
        print("\n".join(json.dumps(one.as_dict(), ensure_ascii=False) for one in found))
    if any(one.wrong for one in found):
        sys.exit(1)


@app.command
def report(day: date, *, out: Path | None = None, config: ConfigPath = CONFIG) -> None:
    """A page of HTML about DAY and its cards, beside the 14 days before it; it needs nothing but itself.

    Parameters
    ----------
    day
        A day that was run, YYYY-MM-DD.
    out
        Where it is written; report-DAY.html by default.
    """
    from travelcard.report import report as page

    settings = _settings(config)
    store = settings.open_store()
    text = page(store, day, places=settings.boundaries, cells=settings.cell_map(store))
    path = out or Path(f"report-{day}.html")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    _tell({"step": "report", "day": day.isoformat(), "file": str(path), "bytes": path.stat().st_size})


By = Annotated[str | None, Parameter(name="--by", help="On whose word; it is kept on record.")]
First = Annotated[date, Parameter(name="--from", help="The first day, YYYY-MM-DD.")]
Last = Annotated[date, Parameter(name="--to", help="The last day, YYYY-MM-DD, inclusive.")]


@app.command
def correct(
    subscriber: str, place: str, *, first: First, last: Last, reason: str, by: By = None,
    undo: Annotated[bool, Parameter(negative="")] = False, config: ConfigPath = CONFIG,
) -> None:  # fmt: skip
    """Put on record that a subscriber was not in PLACE on some days: the cards made from now on leave it out.

    Parameters
    ----------
    subscriber
        The number.
    place
        Its code (card --json), or its name.
    reason
        Why; `explain` shows it.
    undo
        Take such a correction back.
    """
    from travelcard.correction import correct as put_on_record

    settings = _settings(config)
    record = put_on_record(
        settings.open_store(), subscriber, place, first=first, last=last, reason=reason, by=by, undo=undo,
        places=settings.boundaries,
    )  # fmt: skip
    print(json.dumps(record, ensure_ascii=False, default=str))


@app.command
def forget(subscriber: str, *, by: By = None, config: ConfigPath = CONFIG) -> None:
    """Remove a subscriber from every table, and the versions before; what stays on record does not say who it was.

    Parameters
    ----------
    subscriber
        The number.
    """
    from travelcard.erasure import forget as remove

    _tell(remove(_settings(config).open_store(), subscriber, by=by).as_dict())


@app.command
def purge(*, yes: Annotated[bool, Parameter(negative="")] = False, by: By = None, config: ConfigPath = CONFIG) -> None:
    """End it: remove the store whole, and leave a note of when and on whose word.

    Parameters
    ----------
    yes
        Nothing is removed without it.
    """
    from travelcard.erasure import purge as remove

    store = _settings(config).open_store()
    if not yes:
        raise InputError(f"this removes all of {store.root}, for good: say so with --yes")
    print(json.dumps({"step": "purge", **remove(store, by=by)}, ensure_ascii=False))


@app.command
def rekey(*, config: ConfigPath = CONFIG) -> None:
    """Give every subscriber a new pseudonym: from the configured key to that in TRAVELCARD_NEW_KEY.

    Until it ends nothing else may write the store; run it again with both keys if it was killed.
    """
    from travelcard.rekey import rekey as replace

    settings = _settings(config)
    store = settings.open_store()
    old, new = store.key, settings.key("TRAVELCARD_NEW_KEY")
    if old is None or new is None:
        raise InputError("rekey needs the old key (TRAVELCARD_KEY or [pseudonyms]) and TRAVELCARD_NEW_KEY")
    store.key = new
    _tell(replace(store, old).as_dict())


@app.command
def history(
    subscriber: str, *, json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    language: Language = "zh", config: ConfigPath = CONFIG,
) -> None:  # fmt: skip
    """The cards of earlier dates that the store still has, what changed from one to the next, and why.

    Parameters
    ----------
    subscriber
        The number.
    json_
        As JSON.
    """
    from travelcard.history import history as told

    settings = _settings(config)
    found = told(settings.open_store(), subscriber, places=settings.boundaries)
    print(json.dumps(found.as_dict(), ensure_ascii=False, indent=2) if json_ else found.text(language))


@app.command
def flows(
    first: date, last: date | None = None, *, k: Annotated[int, Parameter(validator=Number(gte=2))] = 15,
    out: Path = Path("flows"), config: ConfigPath = CONFIG,
) -> None:  # fmt: skip
    """Subscribers by city and day, and from city to city, rounded down to multiples of K: cities.csv and trips.csv.

    Parameters
    ----------
    first
        The first day, YYYY-MM-DD.
    last
        The last one; the first by default.
    k
        Fewer subscribers than these are not told of, in any table or difference of what is told.
    out
        The folder they are written to.
    """
    from travelcard.flows import flows as counted

    store = _settings(config).open_store()
    found = counted(store, first, last or first, k=k)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, table in found._asdict().items():
            table.write_csv(out / f"{name}.csv")
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
    counts = {name: len(table) for name, table in found._asdict().items()}
    _tell({"step": "flows", "day": first.isoformat(), "folder": str(out), "k": k, **counts})


def _settings(config: Path) -> Config:
    from travelcard.config import Config

    return Config.read(config)


def _warn_of_stale(store: Store) -> None:
    if late := store.stale():
        dates = ", ".join(map(str, late))
        print(f"stale: the cards as of {dates}; `travelcard cards --stale` makes them anew", file=sys.stderr)


@contextmanager
def _engine(name: str, master: str | None) -> Iterator[Engine | None]:
    """Where a night is done: None for this machine."""
    if name == "threads":
        if master is not None:
            raise InputError("--master is of --engine spark")
        yield None
        return
    from travelcard.spark import Cluster, session

    spark = session(master)
    try:
        yield Cluster(spark)
    finally:
        spark.stop()


def _room(settings: Config, day: date, engine: str = "threads") -> Callable[[int], np.ndarray]:
    """What gives memory for a day's pings: on this machine it is made from here on, while modules are loaded."""
    from travelcard.files import bytes_of
    from travelcard.memory import MEMORY, Ahead, words

    if engine != "threads":
        return words
    return Ahead(bytes_of(settings.pings_path, day), settings.memory or MEMORY).words


def _stays(
    settings: Config, store: Store, day: date, room: Callable[[int], np.ndarray], accept: str | None = None,
    engine: Engine | None = None,
) -> None:  # fmt: skip
    from travelcard.batch import run_stays

    with _progress() as progress:
        step = run_stays(
            store,
            day=day,
            pings=settings.pings_path,
            cells=settings.cell_map(store),
            places=settings.boundaries,
            reading=settings.reading(),
            progress=progress,
            accept=accept,
            engine=engine,
            room=room,
            **settings.limits(),
        )
    _tell(step.as_dict())


def _second_half(
    settings: Config, store: Store, as_of: date, policy: str | None, accept: str | None = None
) -> Callable[[Engine | None], None]:
    """The cards of a date, ready to be made: policy, list of risk areas and status list are read now."""
    rules = settings.rules(as_of, policy)
    risk, statuses = settings.risk_on(as_of, rules), settings.status_list(as_of)

    def make(engine: Engine | None) -> None:
        from travelcard.batch import run_cards
        from travelcard.memory import MEMORY

        with _progress() as progress:
            step = run_cards(
                store,
                as_of=as_of,
                policy=rules,
                places=settings.boundaries,
                risk=risk,
                statuses=statuses,
                memory=settings.memory or MEMORY,
                gate=settings.quality_gate(),
                accept=accept,
                progress=progress,
                engine=engine,
            )
        _tell(step.as_dict())

    return make


@app.command
def card(
    subscriber: str, *, as_of: AsOf = None, json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    language: Language = "zh", config: ConfigPath = CONFIG,
) -> None:  # fmt: skip
    """One subscriber's card, as it is shown.

    Parameters
    ----------
    subscriber
        The number (or pseudonym) as the store keys it.
    json_
        As JSON.
    """
    settings = _settings(config)
    shown = settings.open_store().card(subscriber, as_of=as_of)
    if json_:
        print(json.dumps(shown.as_dict(places=settings.boundaries), ensure_ascii=False, indent=2))
    else:  # in Chinese the names are on the card
        print(shown.text(language, places=None if language == "zh" else settings.boundaries))


@app.command
def explain(
    subscriber: str, *, as_of: AsOf = None, json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
    language: Language = "zh", config: ConfigPath = CONFIG,
) -> None:  # fmt: skip
    """The evidence behind a card: stays, transit, rule, risk areas, corrections.

    Parameters
    ----------
    subscriber
        The number (or pseudonym) as the store keys it.
    json_
        As JSON.
    """
    settings = _settings(config)
    store = settings.open_store()
    shown = store.card(subscriber, as_of=as_of)
    risk = settings.risk_on(shown.as_of, shown.policy)
    evidence = store.explain(subscriber, as_of=shown.as_of, risk=risk, places=settings.boundaries)
    print(json.dumps(evidence.as_dict(), ensure_ascii=False, indent=2) if json_ else evidence.text(language))


@app.command
def synth(
    folder: Path, *, subscribers: int = 10_000, start: date = date(2022, 3, 1), days: int = 1, pings: float = 100,
    cells: int = 20_000, files: int = 24, seed: int = 0, faults: float = 0.001,
    ids: Literal["integer", "string"] = "integer", order: Literal["time", "shuffled"] = "time",
    kind: Literal["cell", "position"] = "cell",
    format_: Annotated[Literal["parquet", "csv"], Parameter(name="--format")] = "parquet",
) -> None:  # fmt: skip
    """Write a synthetic country with the truth beside it: people, cells, pings, faults, and a travelcard.toml.

    Parameters
    ----------
    folder
        A new folder.
    subscribers
        How many people.
    start
        The first day, YYYY-MM-DD.
    days
        How many days.
    pings
        Mean pings a day of each person.
    cells
        How many radio cells.
    files
        Files a day.
    seed
        Same seed, same country, to the byte.
    faults
        Share of rows made faulty, each labelled with its reason.
    ids
        Subscribers as integers or as text.
    order
        Files as slices of the day, or rows at random.
    kind
        Pings by cell or by position.
    format_
        parquet or csv.
    """
    from travelcard import synth as country

    span = [start + timedelta(days=i) for i in range(days)]
    written = country.write(
        folder, subscribers=subscribers, days=span, pings_per_subscriber=pings, cells=cells, files=files, seed=seed,
        faults=faults, ids=ids, order=order, kind=kind, format=format_,
    )  # fmt: skip
    for day, rows in written.items():
        _tell({"step": "synth", "day": day.isoformat(), "pings": rows, "folder": str(folder / "pings" / str(day))})


@app.command
def serve(
    *, config: ConfigPath = CONFIG, host: str = "127.0.0.1", port: int = 8000,
    processes: Annotated[int | None, Parameter(validator=Number(gte=1))] = None, certificate: Path | None = None,
    key: Path | None = None,
) -> None:  # fmt: skip
    """Let people ask for their cards and health codes, by number and SMS code (docs/service.md).

    Parameters
    ----------
    host, port
        Where it listens.
    processes
        One for each core by default.
    certificate, key
        Files of TLS; without them something in front has to do it.
    """
    from travelcard.memory import threads_here

    with _service():
        from travelcard.service.serve import serve as begin
    begin(config, host=host, port=port, processes=processes or threads_here(), certificate=certificate, key=key)


@app.command
def outbox(*, config: ConfigPath = CONFIG) -> None:
    """Hand over the SMS that were not sent yet, one JSON object a line: number and text. Each comes out once.

    The one place where a number is not masked: it is what the carrier's sender reads.
    """
    with _service():
        from travelcard.service.access import messages
    with _context(config) as context:
        messages(context, lambda number, text: print(json.dumps({"number": number, "text": text}, ensure_ascii=False)))


@app.command
def operator(name: str, role: list[str], *, config: ConfigPath = CONFIG) -> None:
    """Let somebody decide corrections (role corrections), appeals and statuses (health), or watch codes (watch).

    The token to sign in with is printed this once; for who has one it is replaced.

    Parameters
    ----------
    name
        Who decides: it stands beside every decision.
    role
        corrections, health, watch; several may be given.
    """
    with _service():
        from travelcard.service.desk import add_operator
    with _context(config) as context:
        print(add_operator(context, name, role))


@app.command
def known(file: Path, *, config: ConfigPath = CONFIG) -> None:
    """Enter people whom the service's own verifier knows: a CSV file with columns name and identity.

    Parameters
    ----------
    file
        Only keyed hashes of it are kept.
    """
    import polars as pl

    with _service():
        from travelcard.service.people import known_person
    with _context(config) as context:
        try:
            rows = pl.read_csv(file, schema_overrides={"identity": pl.String}).select("name", "identity").rows()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise InputError(f"{file} cannot be read as a table of name and identity") from error
        new = sum(known_person(context, name, identity) for name, identity in rows)
    _tell({"step": "known", "day": str(date.today()), "read": len(rows), "new": new})


@app.command
def settle(*, config: ConfigPath = CONFIG) -> None:
    """Carry out what the service could not do while a night was being run, and bring every health code up to date.

    To be called after the nightly run.
    """
    with _service():
        from travelcard.service.lookups import settle as carry_out
        from travelcard.service.people import recolour_all
    with _context(config) as context:
        _tell(
            {
                "step": "settle",
                "day": context.today().isoformat(),
                **carry_out(context),
                "recoloured": recolour_all(context),
            }
        )


@app.command
def verify(token: str, *, key: Path, kind: Literal["card", "health"] = "health") -> None:
    """Whether a scanned code is one of the service's, and still good; asks nobody.

    Parameters
    ----------
    token
        What the QR code holds.
    key
        The service's public key, a PEM file.
    kind
        card or health.
    """
    with _service():
        from travelcard.service.signed import verify as verified
    with reading(key):
        pem = key.read_text(encoding="latin-1")  # any bytes: what is no key has signed nothing
    claims = verified(token, pem, kind)
    print(json.dumps({"valid": True, **claims}, ensure_ascii=False))


@contextmanager
def _service() -> Iterator[None]:
    """Say which extra is missing, where it is."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(f"this needs {error.name}: pip install 'travelcard[service]'") from error


@contextmanager
def _context(config: Path) -> Iterator[Any]:
    from travelcard.service.context import Context

    context = Context.of(_settings(config))
    try:
        yield context
    finally:
        context.close()


@app.command
def demo(folder: Path = Path("demo"), *, serve: Annotated[bool, Parameter(name="--serve", negative="")] = False,
         port: int = 8000) -> None:  # fmt: skip
    """Two weeks of a small synthetic country on real city boundaries, end to end, and three of its cards.

    Parameters
    ----------
    folder
        Where it is written; a demo that is already there is run again.
    serve
        Then let them be asked for, on this machine alone; it says which numbers to try, and shows the SMS here.
    port
        Where it is served.
    """
    import shutil

    import pyarrow.parquet as pq

    from travelcard import synth as country

    if not (folder / CONFIG).is_file():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        country.demo(partial)
        partial.rename(folder)
    days = sorted(date.fromisoformat(path.name) for path in (folder / "pings").iterdir())
    settings = _settings(folder / CONFIG)
    store = settings.open_store()
    for day in days:
        _stays(settings, store, day, _room(settings, day))
    as_of = days[-1] + timedelta(days=1)
    _second_half(settings, store, as_of, None)(None)
    people = pq.read_table(folder / "truth" / "people.parquet").to_pylist()
    rows = store.frame("cards", as_of=as_of).select("subscriber", "visits").iter_rows()
    marked = {number for number, visits in rows if any(visit["marked"] for visit in visits)}
    shown: dict[str, int] = {}
    for kind in ("stay_at_home", "traveller", "roamer"):
        numbers = [person["subscriber"] for person in people if person["kind"] == kind]
        number = next((n for n in numbers if kind == "traveller" and n in marked), numbers[0])
        shown[kind] = number
        print(f"\n--- a {kind.replace('_', ' ')}\n\n{store.card(number, as_of=as_of).text()}")
    print(f"\nThe tables are in {folder / 'store'}, every number in {folder / 'truth' / 'people.parquet'}.")
    print(f"More: travelcard explain NUMBER --config {folder / CONFIG}")
    if serve:
        with _service():
            from travelcard.service import trial
        trial.serve(folder / CONFIG, as_of, shown, port)


@app.command
def bench(*, pings: Annotated[float, Parameter(validator=Number(gte=1e5))] = 5e6, runs: int = 3) -> None:
    """How fast this machine is: decoding alone, `travelcard stays`, and the other engines that are installed, in turns.

    The input is made in a temporary folder. Polars is always compared; DuckDB, chDB and PySpark where they are
    installed. It takes a minute, and two more with PySpark. `python -m travelcard.bench.stays --help` has the larger
    and other cases.

    Parameters
    ----------
    pings
        How many, about.
    runs
        Rounds, of which medians are shown.
    """
    from travelcard.bench.stays import small

    if not small(pings=pings, runs=runs):
        sys.exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 0 done, 1 refused (in one line on stderr), 2 usage."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        _end(f"usage: {hidden(str(error))}", 2)
    except GateError as error:  # one line for each limit
        print("\n".join(f"refused: {line}" for line in str(error).splitlines()), file=sys.stderr)
        sys.exit(error.exit_code)
    except TravelcardError as error:
        _end(f"refused: {_QUOTED.sub(lambda number: mask(number[0]), str(error))}", error.exit_code)


_QUOTED = re.compile(r"(?<=['\"])\d{11,}(?=['\"])")  # an argument that a message repeats


def _end(message: str, code: int) -> NoReturn:
    print("; ".join(line.strip() for line in message.splitlines()).replace(":;", ":"), file=sys.stderr)
    sys.exit(code)
