"""A store in an object store: what the night's tests ask of a folder, asked of an S3-compatible server."""

from __future__ import annotations

import gzip
import itertools
import random
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import nights
import polars as pl
import pytest
from nights import AS_OF, DAYS, LAST, OLD, command, good, rows, same, told, trial

import travelcard as tc
from travelcard import lease
from travelcard.check import check
from travelcard.schema import CARDS, RUNS

ROOT = "s3://travel"
COLUMNS = {"subscriber": "msisdn", "plmn": "plmn"}


@pytest.fixture(scope="module")
def countries(bucket, tmp_path_factory):
    """Three days of a small country, run into a folder and into the bucket, where it is also kept with two days."""
    folder = tmp_path_factory.mktemp("countries")
    nights.country(folder / "local", run=0, buckets=4)
    nights.copied(folder / "local", folder / "s3")
    local, s3 = folder / "local", told(folder / "s3", f'store = "{ROOT}/three"')
    for day in DAYS:
        if day == LAST:
            copied(bucket, "three", "two")
        for one in (local, s3):
            good(one, "run", day)
    return local, s3


def copied(bucket, store: str, name: str) -> tc.Store:
    for object_ in bucket.objects.filter(Prefix=f"{store}/"):
        bucket.Object(name + object_.key.removeprefix(store)).copy({"Bucket": bucket.name, "Key": object_.key})
    return tc.Store(f"{ROOT}/{name}")


def listing(bucket, store: tc.Store) -> set[str]:
    """The objects of a store, but for its logs and its lock."""
    prefix = store.root.removeprefix(f"{ROOT}/") + "/"
    keys = {object_.key.removeprefix(prefix) for object_ in bucket.objects.filter(Prefix=prefix)}
    return {key for key in keys if "/_delta_log/" not in key and key != lease.OBJECT}


def unfinished(bucket) -> list:
    return list(bucket.multipart_uploads.all())


# ---------------------------------------------------------------------------------------------------- every command


def test_every_command_does_what_it_does_in_a_folder(bucket, countries):
    local, s3 = countries
    ours, theirs = tc.Store(f"{ROOT}/three"), tc.Store(local / "store")
    assert same(rows(ours), rows(theirs))
    who = theirs.frame("cards", as_of=AS_OF)["subscriber"][7]
    for words in (("card", who, "--json"), ("explain", who)):
        said = [good(country, *words) for country in countries]
        assert said[0] == said[1]
    found = check(ours, as_of=AS_OF, days=3)
    assert {one.where for one in found if one.wrong} == set()
    assert {one.what for one in found} == {one.what for one in check(theirs, as_of=AS_OF, days=3)}
    assert {path.name for path in s3.iterdir()} >= {".travelcard"}
    assert not (s3 / "store").exists()
    assert not unfinished(bucket)


def put(bucket, folder, prefix: str) -> str:
    """A folder's files as objects."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        bucket.upload_file(str(path), f"{prefix}/{path.relative_to(folder)}")
    return f"{ROOT}/{prefix}"


def test_pings_that_are_objects(bucket, countries, tmp_path):
    """Parquet by a pattern of days, CSV anywhere below; the ledger and the rejects have the objects' names."""
    local, _ = countries
    where = put(bucket, local / "pings", "pings")
    country = nights.copied(local, tmp_path / "country")
    shutil.rmtree(country / "store")
    shutil.rmtree(country / "pings")
    file = country / "travelcard.toml"
    file.write_text(file.read_text().replace('"pings/', f'"{where}/'))
    for day in DAYS:
        good(country, "run", day)
    store = tc.Store(country / "store")
    assert same(rows(store), rows(tc.Store(local / "store")))
    names = {f"{where}/{LAST}/part-{n:02}.parquet" for n in range(3)}
    assert set(store.runs("stays").filter(pl.col("day") == LAST)["files"][0]) == names
    assert set(store.frame("rejects", day=LAST)["file"]) <= names
    text = file.read_text()
    for path in (local / "pings" / str(LAST)).iterdir():
        csv = pl.read_parquet(path).with_columns(pl.col("time").dt.to_string("iso")).write_csv().encode()
        bucket.put_object(Key=f"csv/deep/er/{LAST}/{path.stem}.csv.gz", Body=gzip.compress(csv))
    file.write_text(text.replace(f"{where}/{{day}}/*.parquet", f"{ROOT}/csv/**/{{day}}/*.csv.gz"))
    before = rows(store)
    good(country, "run", LAST)
    after = rows(store)
    assert after["stays"].equals(before["stays"])
    assert after["cards"].equals(before["cards"])
    assert after["rejects"].height == before["rejects"].height


def test_pings_that_cannot_be_had_are_named(bucket, countries, tmp_path):
    local, _ = countries
    where = put(bucket, local / "pings" / str(LAST), "bad")
    name = "bad/part-01.parquet"
    sound = bucket.Object(name).get()["Body"].read()
    broken = {
        "flipped": sound[:200] + bytes([sound[200] ^ 255]) + sound[201:],
        "cut": sound[: len(sound) // 2],
        "empty": b"",
    }
    for what, body in broken.items():
        bucket.put_object(Key=name, Body=body)
        with pytest.raises(tc.InputError, match=name) as refused:
            tc.read_pings(f"{where}/*", day=LAST, places=tc.places.china(), columns=COLUMNS)
        assert "\n" not in str(refused.value), what
    for pattern in (f"{where}/*.csv", "s3://nowhere/*.parquet", f"{where}/none.parquet", "gopher://a/b.parquet"):
        with pytest.raises(tc.InputError, match=re.escape(pattern.split("*")[0])) as refused:
            tc.read_pings(pattern, day=LAST, columns=COLUMNS)
        assert "\n" not in str(refused.value)


def test_late_hours_and_an_expiry(bucket, countries, tmp_path):
    local, s3 = (nights.copied(country, tmp_path / country.name) for country in countries)
    told(s3, f'store = "{ROOT}/late"')
    nights.without_late_files(s3, "run", days=DAYS)
    for day in DAYS:
        good(s3, "stays", day)
    store = tc.Store(f"{ROOT}/late")
    assert store.stale() == [day + timedelta(days=1) for day in DAYS]
    good(s3, "cards", "--stale")
    assert store.stale() == []
    assert same(rows(store), rows(tc.Store(local / "store")))
    for country in (local, s3):
        good(country, "expire", AS_OF)
    assert same(rows(store), rows(tc.Store(local / "store")))
    assert listing(bucket, store) == nights.named(store)


def test_what_people_are_owed(bucket, countries, tmp_path):
    """A correction, somebody forgotten, another key, the end: as in a folder."""
    keys = {"TRAVELCARD_KEY": "5a" * 32, "TRAVELCARD_NEW_KEY": "c3" * 32}
    s3 = told(nights.copied(countries[1], tmp_path / "owed"), f'store = "{ROOT}/owed"')
    for day in DAYS:
        assert command(s3, "run", day, env=keys).returncode == 0
    one, other = tc.Store(f"{ROOT}/three").frame("cards", as_of=AS_OF)["subscriber"][3:5]
    words = ("correct", one, "330100", "--from", DAYS[0], "--to", LAST, "--reason", "a test")
    new = {"TRAVELCARD_KEY": keys["TRAVELCARD_NEW_KEY"]}
    for what in (words, ("forget", other), ("rekey",), ("expire", DAYS[0])):
        done = command(s3, *what, env=new if what[0] == "expire" else keys)
        assert done.returncode == 0, done.stderr
    store = tc.Store(f"{ROOT}/owed", key=tc.Pseudonyms(new["TRAVELCARD_KEY"]))
    assert store.card(one).as_of == AS_OF
    assert len(store.corrections()) == 1
    with pytest.raises(tc.NotFound, match="no card for"):
        store.card(other)
    assert listing(bucket, store) == nights.named(store)
    assert command(s3, "purge", "--yes", env=new).returncode == 0
    left = {object_.key for object_ in bucket.objects.filter(Prefix="owed/")}
    assert left == {"owed/purged.json", f"owed/{lease.OBJECT}"}
    with pytest.raises(tc.NotFound, match="was purged"):
        tc.Store(f"{ROOT}/owed").frame("cards")


def test_an_object_that_is_gone_is_named(bucket, countries):
    _, s3 = countries
    nights.copied(s3, s3.parent / "gone")
    gone = told(s3.parent / "gone", f'store = "{ROOT}/gone"')
    good(gone, "run", LAST)
    store = tc.Store(f"{ROOT}/gone")
    _, path = store.files("cards")[1]
    bucket.Object(f"gone/cards/{path}").delete()
    found, *_ = [one for one in check(store, as_of=AS_OF, days=1) if one.wrong]
    assert found.where == f"cards/{path}"
    assert found.says == "is gone"
    with pytest.raises(tc.InputError, match=f"cards/{path} is gone or damaged"):
        store.frame("cards")


@pytest.mark.parametrize(("where", "why"), [("s3://nobucket/a", "404"), ("nowhere://a/b", "nowhere")])
def test_a_store_that_cannot_be_reached_is_refused_in_one_line(bucket, countries, tmp_path, where, why):
    country = told(nights.copied(countries[0], tmp_path / "country"), f'store = "{where}"')
    for words in (("run", LAST), ("card", 1), ("check",)):
        done = command(country, *words)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("refused: ")
        assert why in done.stderr


def test_without_the_extra_nothing_is_written(bucket, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(tc.MissingExtra, match=r"travelcard\[s3\]"), tc.Store(f"{ROOT}/a").writing("a run"):
        pass


# ---------------------------------------------------------------------------------------------------- who writes

HOLDER = """
import sys, time, travelcard as tc
with tc.Store(sys.argv[1]).writing("the run of 2022-03-14"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(bucket, tmp_path):
    """A process in a folder of its own, as on another machine, that writes a store; its folder; that store."""
    root = f"{ROOT}/{tmp_path.name}"
    (tmp_path / "there").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, root], stdout=subprocess.PIPE, text=True, cwd=tmp_path / "there"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process, tmp_path / "there", tc.Store(root)
        process.kill()


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_another_machine_is_refused_at_once(holder, here):
    process, _, store = holder
    with (
        pytest.raises(tc.Busy, match=rf"the run of 2022-03-14 of {store.root}, since.*process {process.pid} .* s ago"),
        store.writing("the cards"),
    ):
        pass
    who, lives = store.writer()
    assert lives
    assert f"process {process.pid}" in who


def test_who_ends_leaves_nothing(bucket, here):
    store = tc.Store(f"{ROOT}/ends")
    assert store.writer() is None
    for _ in range(2):
        with store.writing("a run"):
            assert store.writer() is not None
        assert store.writer() is None
    with pytest.raises(tc.GateError), store.writing("a run that is refused"):
        raise tc.GateError
    assert store.writer() is None


def test_a_dead_process_of_this_machine_is_taken_over_at_once(holder, monkeypatch):
    process, there, store = holder
    process.kill()
    process.wait()
    monkeypatch.chdir(there)
    with store.writing("the next run"):
        assert str(process.pid) not in store.writer()[0]


def test_a_dead_machine_is_taken_over_when_its_lease_has_run_out(holder, here, monkeypatch):
    process, _, store = holder
    process.kill()
    process.wait()
    with pytest.raises(tc.Busy), store.writing("too soon"):
        pass
    monkeypatch.setattr(lease, "LEASE_S", 0.0)
    who, lives = store.writer()
    assert not lives
    assert str(process.pid) in who
    with store.writing("in time"):
        pass


def test_who_writes_says_so_again_and_again(bucket, here, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_S", 0.05)
    with tc.Store(f"{ROOT}/renewed").writing("a run"):
        object_ = bucket.Object(f"renewed/{lease.OBJECT}")
        first, text = object_.last_modified, object_.get()["Body"].read()
        for _ in range(100):
            object_.wait_until_exists()
            object_.reload()
            if object_.last_modified > first:
                break
            threading.Event().wait(0.1)
        assert object_.last_modified > first
        assert object_.get()["Body"].read() == text


def test_who_slept_through_its_lease_commits_nothing(bucket, tmp_path, monkeypatch):
    """Not while another one writes, not after it, and not when somebody removed the lock."""
    folders = [tmp_path / name for name in ("one", "other")]
    stores = [tc.Store(f"{ROOT}/slept", asked={"buckets": 1}) for _ in folders]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(lease, "LEASE_S", 0.0)
    monkeypatch.chdir(folders[0])
    with stores[0].writing("one"):
        stores[0].create("integer")
        file = stores[0].write(RUNS, RUNS.arrow().empty_table(), {})
        monkeypatch.chdir(folders[1])
        with stores[1].writing("the other"):
            with pytest.raises(tc.Busy, match="another process writes the store now"):
                stores[0].publish(RUNS, [file])
            stores[1].publish(RUNS, [file])
        bucket.Object(f"slept/{lease.OBJECT}").delete()
        with pytest.raises(tc.Busy, match="another process writes the store now"):
            stores[0].publish(RUNS, [file])
    assert len(stores[0].files("runs")) == 1


def test_of_many_that_want_it_one_has_it(bucket, tmp_path):
    """Each in a folder of its own: only the object is between them."""
    go, inside, had = threading.Barrier(8), threading.Lock(), []

    def one(number: int) -> None:
        lock = tmp_path / str(number) / "store.lock"
        lock.parent.mkdir()
        go.wait()
        for _ in range(5):
            try:
                with lease.leased(f"{ROOT}/wanted", f"the run of {number}", lock):
                    assert inside.acquire(blocking=False), "two at once"
                    had.append(number)
                    inside.release()
            except tc.Busy:
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert had


@pytest.mark.parametrize("remote", [False, True])
def test_two_commits_at_once_are_one_or_one_after_the_other(bucket, tmp_path, remote):
    """With no lock between them: a commit is there once, with its file, or it was refused."""
    root = f"{ROOT}/conflict" if remote else str(tmp_path / "store")
    tc.Store(root, asked={"buckets": 1}).create("integer")
    go = threading.Barrier(6)

    def one(_: int) -> tuple[list[str], list[str]]:
        store = tc.Store(root)
        done, refused = [], []
        for _ in range(3):
            file = store.write(RUNS, RUNS.arrow().empty_table(), {})
            go.wait()
            try:
                store.publish(RUNS, [file])
                done.append(file.path)
            except tc.InputError as error:
                assert "could not be published" in str(error)  # noqa: PT017  either is right
                refused.append(file.path)
        return done, refused

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(one, range(6)))
    done = sorted(path for paths, _ in found for path in paths)
    assert done == [path for _, path in tc.Store(root).files("runs")]
    assert len(done) + sum(len(refused) for _, refused in found) == 18
    assert tc.Store(root).table("runs").version() == len(done)


@pytest.mark.parametrize("remote", [False, True])
def test_a_commit_that_another_one_came_before_is_refused(bucket, tmp_path, monkeypatch, remote):
    """It is not tried again on top of the other: what it was to replace is not what is there now."""
    root = f"{ROOT}/before" if remote else str(tmp_path / "store")
    late, first = tc.Store(root, asked={"buckets": 1}), tc.Store(root)
    late.create("integer")
    file = late.write(RUNS, RUNS.arrow().empty_table(), {})
    known = late.table("runs")
    monkeypatch.setattr(late, "table", lambda _: known)
    first.publish(RUNS, [file])
    with pytest.raises(tc.InputError, match="runs could not be published"):
        late.publish(RUNS, [file])
    assert first.table("runs").version() == 1


# ---------------------------------------------------------------------------------------------------- kills

COMMITS = {("run", LAST): 5, ("cards", AS_OF): 2, ("expire", OLD): 12}
FILES = {"run": 9, "cards": 4}
PARTS = {"run": 1, "cards": 1, "expire": 4}  # each step's kills in so many tests


def points(words: tuple[str, object], dice: random.Random) -> list[str]:
    """Before, while and after each commit is made, and with half a file written."""
    numbers = range(1, COMMITS[words] + 1)
    commits = [[f"before {n}", f"during {n} {dice.randrange(15_000)}", f"after {n}"] for n in numbers]
    halves = [f"file {dice.randint(1, FILES[words[0]])}" for _ in range(3)] if words[0] in FILES else []
    return [*itertools.chain(*commits), *halves]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("words", "part"), [(words, part) for words in COMMITS for part in range(PARTS[words[0]])],
    ids=lambda of: of[0] if isinstance(of, tuple) else str(of),
)  # fmt: skip
def test_whatever_is_killed_leaves_whole_days_and_the_next_run_succeeds(bucket, countries, tmp_path, words, part):
    """The kills of tests/test_kills.py, where there are no folders, and every file is a request."""
    dice = random.Random(2022)
    old = copied(bucket, "three", f"old-{words[0]}{part}")
    good(told(nights.copied(countries[1], tmp_path / "old"), f'store = "{old.root}"'), "expire", OLD)
    after = rows(old if words[0] == "expire" else tc.Store(f"{ROOT}/three"))
    mine, killed = points(words, dice), 0
    dice.shuffle(mine)
    mine = mine[part :: PARTS[words[0]]]
    at_once = 1 if words[0] == "expire" else 6  # what an expiry has removed is no commit of the next
    for number, some in enumerate([mine[n : n + at_once] for n in range(0, len(mine), at_once)]):
        store = copied(bucket, "two" if words[0] == "run" and number % 2 else "three", f"{words[0]}{part}-{number}")
        folder = told(nights.copied(countries[1], tmp_path / str(number)), f'store = "{store.root}"')
        if words[0] == "cards":
            store.publish(CARDS, [], {"as_of": AS_OF})
        killed += trial(folder, store, words, some, after, partial(listing, bucket, store)).total()
    assert not unfinished(bucket)
    sys.stdout.write(f"{words[0]}: {killed} of {len(mine)} killed\n")
    assert killed > len(mine) / 2
