"""`travelcard check`: a healthy store has nothing wrong, and each kind of damage is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import travelcard as tc
from travelcard.batch import run_cards, run_stays
from travelcard.check import Finding, check
from travelcard.gate import Gate, Limit
from travelcard.ledger import days
from travelcard.retention import expire
from travelcard.schema import CARDS, REJECTS, STAYS, bucket_of

DAYS = [date(2022, 7, 1) + timedelta(days=n) for n in range(14)]
AS_OF = DAYS[-1] + timedelta(days=1)
POLICY = tc.Policy.preset("card-2022-07-08").replace(days=14)
PEOPLE = [13900000000 + n for n in range(30)]


def pings(day: date, people: int = 30, faults: int = 1) -> pl.DataFrame:
    """One ping an hour of each of some people, and rows without a place."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=8)
    rows = [(n, midnight + timedelta(hours=h), "44010") for n in PEOPLE[:people] for h in range(24)]
    rows += [(7, midnight, "?")] * faults
    types = {"subscriber": pl.Int64, "time": pl.Datetime("us", "UTC"), "plmn": pl.String}
    return pl.DataFrame(rows, schema=types, orient="row")


def cards(store: tc.Store, as_of: date) -> None:
    run_cards(store, as_of=as_of, policy=POLICY, places=tc.places.china())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A store with all days of a window and the cards of two dates."""
    root = tmp_path_factory.mktemp("whole") / "store"
    store = tc.Store(root, asked={"buckets": 4})
    for day in DAYS:
        run_stays(store, day=day, pings=pings(day))
        if day >= DAYS[-2]:
            cards(store, day + timedelta(days=1))
    return root


@pytest.fixture
def store(whole, tmp_path) -> tc.Store:
    return tc.Store(shutil.copytree(whole, tmp_path / "store"))


def wrong(store: tc.Store, **options: object) -> list[Finding]:
    return [one for one in check(tc.Store(store.root), **options) if one.wrong]


def notes(store: tc.Store) -> set[tuple[str, str]]:
    return {(one.what, one.where) for one in check(tc.Store(store.root)) if not one.wrong}


def some_file(store: tc.Store, name: str, **partition: object) -> tuple[Path, str]:
    _, path = store.files(name, **partition)[0]
    return Path(store.root) / name / path, f"{name}/{path}"


def test_a_healthy_store_has_nothing_wrong(store):
    assert wrong(store) == []
    assert notes(store) == {("disk", name) for name in ("stays", "rejects", "cards", "corrections", "runs", "free")}
    assert {one.state for one in days(store, DAYS[0], DAYS[-1])} == {"complete"}


def test_looking_changes_nothing(store):
    before = {path: path.read_bytes() for path in Path(store.root).rglob("*") if path.is_file()}
    wrong(store)
    assert {path: path.read_bytes() for path in Path(store.root).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["stays", "rejects", "cards"])
def test_a_file_that_is_gone(store, name):
    path, where = some_file(store, name, **{"as_of": AS_OF} if name == "cards" else {"day": DAYS[-1]})
    path.unlink()
    assert Finding("files", where, "is gone") in wrong(store)


def test_a_file_that_is_cut_short(store):
    path, where = some_file(store, "stays", day=DAYS[3])
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    assert Finding("files", where, f"has {size // 2} bytes, the log says {size}") in wrong(store)


def test_a_file_of_the_right_size_that_is_no_parquet(store):
    path, where = some_file(store, "stays", day=DAYS[3])
    path.write_bytes(bytes(path.stat().st_size))
    (found,) = wrong(store)
    assert (found.what, found.where) == ("files", where)
    assert "gone or damaged" in found.says


def test_a_file_with_other_rows_than_the_log_says(store):
    _, path = store.files("stays", day=DAYS[3])[0]
    for log in (Path(store.root) / "stays" / "_delta_log").glob("*.json"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        for line in lines:
            if line.get("add", {}).get("path") == path:
                line["add"]["stats"] = json.dumps({"numRecords": 10_000})
        log.write_text("\n".join(map(json.dumps, lines)))
    (found,) = wrong(store)
    assert found.where == f"stays/{path}"
    assert "the log says 10000" in found.says


def published_again(store: tc.Store, change) -> str:
    """The newest file of stays, changed, in the place of itself."""
    values, path = store.files("stays", day=DAYS[-1])[0]
    keys = {"day": DAYS[-1], "bucket": int(values["bucket"])}
    rows = store.read("stays", [path])
    file = store.write(STAYS, change(rows), keys)
    (Path(store.root) / "stays" / file.path).replace(Path(store.root) / "stays" / path)
    return f"stays/{path}"


def test_subscribers_out_of_order(store):
    where = published_again(store, lambda rows: rows.take(pa.array(range(len(rows)))[::-1]))
    assert ("subscribers", where) in {(one.what, one.where) for one in wrong(store)}
    assert any("not in order" in one.says for one in wrong(store))


def test_subscribers_in_the_wrong_bucket(store):
    def moved(rows: pa.Table) -> pa.Table:
        home = bucket_of(rows["subscriber"][0].as_py(), 4)
        other = next(n for n in PEOPLE if bucket_of(n, 4) != home)
        return rows.set_column(0, rows.schema.field(0), pa.array([other] * len(rows)))

    published_again(store, moved)
    (found,) = [one for one in wrong(store) if one.what == "subscribers"]
    assert "belong into another bucket" in found.says
    assert not any(str(n) in one.says for one in wrong(store) for n in PEOPLE)


def test_two_files_in_a_bucket(store):
    values, path = store.files("cards", as_of=AS_OF)[0]
    keys = {"as_of": AS_OF, "bucket": int(values["bucket"])}
    store.publish(CARDS, [store.write(CARDS, store.read("cards", [path]), keys, store.about(AS_OF))])
    assert Finding("files", f"cards {AS_OF}/{values['bucket']}", "2 files where one belongs") in wrong(store)


def test_files_that_no_table_names(store):
    (Path(store.root) / "stays" / "stray.parquet").write_bytes(b"half")
    found = next(one for one in check(store) if one.what == "orphans")
    assert (found.where, found.wrong) == ("stays", False)
    assert found.says.startswith("1 files, 4 bytes")


def test_a_missing_day(store):
    store.publish(STAYS, [], {"day": DAYS[5]})
    said = {(one.what, one.where) for one in wrong(store)}
    assert said >= {("days", str(DAYS[5])), ("ledger", f"stays of {DAYS[5]}"), ("cards", str(AS_OF))}
    assert days(store, DAYS[5], DAYS[5])[0].state == "missing"


def test_days_that_were_never_run(store):
    found = wrong(store, as_of=AS_OF + timedelta(days=2))
    assert [one.where for one in found if "missing" in one.says] == [str(AS_OF), str(AS_OF + timedelta(days=1))]


def test_late_days_and_stale_cards(store):
    run_stays(store, day=DAYS[4], pings=pings(DAYS[4], 29))
    states = {one.day: one.state for one in days(store, DAYS[0], DAYS[-1])}
    assert {day for day, state in states.items() if state == "late"} == {DAYS[4]}
    assert {day for day, state in states.items() if state == "stale"} == set(DAYS[-2:])
    said = {(one.what, one.where) for one in wrong(store)}
    assert said == {("days", str(DAYS[4])), ("cards", str(DAYS[-1])), ("cards", str(AS_OF))}
    for as_of in store.stale():
        cards(store, as_of)
    assert wrong(store) == []


def test_cards_that_are_not_made(store):
    run_stays(store, day=AS_OF, pings=pings(AS_OF))
    (found,) = wrong(store)
    assert found.where == str(AS_OF)
    assert found.says == f"its cards are not made: run `travelcard cards {AS_OF + timedelta(days=1)}`"


KILLED = """
import sys, os, signal
from datetime import date
from deltalake import DeltaTable
sys.path.insert(0, sys.argv[3])
from test_check import DAYS, POLICY, cards, pings
from travelcard.batch import run_stays
from travelcard.store import Store
real, left = DeltaTable.create_write_transaction, int(sys.argv[2])
def commit(*args, **kwargs):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(*args, **kwargs)
DeltaTable.create_write_transaction = commit
run_stays(Store(sys.argv[1]), day=DAYS[-1], pings=pings(DAYS[-1], 28, 2))
"""


@pytest.mark.parametrize(("commits", "tables"), [(1, {"rejects"}), (2, {"rejects", "stays"})])
def test_a_run_that_was_killed_between_two_commits(store, commits, tables):
    arguments = [sys.executable, "-c", KILLED, store.root, str(commits), str(Path(__file__).parent)]
    assert subprocess.run(arguments, check=False).returncode == -9
    found = [one for one in check(store) if one.what == "ledger"]
    assert {one.where for one in found} == {f"{name} of {DAYS[-1]}" for name in tables}
    assert all("did not end" in one.says for one in found)
    (writer,) = [one for one in check(store) if one.what == "writer"]
    assert "locks nobody out" in writer.says
    run_stays(store, day=DAYS[-1], pings=pings(DAYS[-1], 28, 2))
    cards(store, AS_OF)
    assert wrong(store) == []


def test_who_writes_is_named_and_is_nothing_wrong(store):
    with store.writing("the run of a day"):
        assert ("writer", store.root) in notes(store)
        assert wrong(store) == []
    assert ("writer", store.root) not in notes(store)


def test_what_was_accepted_by_hand(store):
    limit = Gate({"pings": Limit(max=1)})
    run_stays(store, day=AS_OF, pings=pings(AS_OF), gate=limit, accept="a cable was cut")
    cards(store, AS_OF + timedelta(days=1))
    (found,) = [one for one in check(store) if "accepted" in one.says]
    assert "a cable was cut" in found.says
    assert not found.wrong


def test_other_versions(store, monkeypatch):
    monkeypatch.setattr("travelcard.check.versions", lambda: {"numba": "0.0"})
    assert ("versions", "numba") in notes(store)


def test_a_disk_on_which_the_next_night_has_no_room(store, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "free")(10))
    (found,) = wrong(store)
    assert (found.what, found.where) == ("disk", "free")


def test_what_expired_is_not_missed(store):
    expire(store, as_of=DAYS[-1] + timedelta(days=1), days=14)
    assert wrong(store) == []
    expire(store, as_of=DAYS[-1] + timedelta(days=4), days=14)
    assert [one for one in wrong(store) if one.what == "ledger"] == []
    expire(store, as_of=DAYS[-1] + timedelta(days=4), days=14, margin=9)
    assert [one for one in wrong(store) if one.what == "ledger"] == [], "the first one was not undone"
    run_stays(store, day=DAYS[0], pings=pings(DAYS[0]))
    store.publish(STAYS, [], {"day": DAYS[0]})
    assert [one.where for one in wrong(store) if one.what == "ledger"] == [f"stays of {DAYS[0]}"], "run since"


def test_rejects_that_a_run_that_died_took_away(store):
    store.publish(REJECTS, [], {"day": DAYS[-1]})
    (found,) = wrong(store)
    assert (found.what, found.where) == ("ledger", f"rejects of {DAYS[-1]}")


def test_the_command(store, tmp_path):
    (tmp_path / "travelcard.toml").write_text('store = "store"\n')
    command = [sys.executable, "-m", "travelcard", "check", "--config", str(tmp_path / "travelcard.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(set(json.loads(line)) == {"check", "where", "says", "wrong"} for line in done.stdout.splitlines())
    some_file(store, "stays")[0].unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0])["says"] == "is gone"


def test_a_store_that_holds_nothing_is_said_to(tmp_path):
    with pytest.raises(tc.NotFound, match="holds nothing yet"):
        check(tc.Store(tmp_path))
