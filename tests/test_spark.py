"""A night on a real cluster of processes: row for row what this machine's threads make of it, whatever fails."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import nights
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nights import AS_OF, DAYS, LAST, command, copied, good, named, rows, same, told

import travelcard as tc
from travelcard import schema
from travelcard.batch import run_cards, run_stays
from travelcard.config import Config
from travelcard.sources import Reading

pyspark = pytest.importorskip("pyspark")
if shutil.which("java") is None:
    pytest.skip("Spark needs Java 17", allow_module_level=True)

from pyspark import cloudpickle  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

from travelcard import spark  # noqa: E402

MASTER = "local-cluster[2,1,1024]"
KEY = "5a" * 32
COUNTED = [
    "day",
    "what",
    "read",
    "clean",
    "merged",
    "rejected",
    "subscribers",
    "cards",
    "hours",
    "silent",
    "silent_cells",
]
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # executors do not have the tests


@pytest.fixture(scope="module")
def session(bucket):
    """Two executors in processes of their own, which begin a task again that takes longer than others."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    made = (
        SparkSession.builder.master(MASTER)
        .config(map=spark.SETTINGS)
        .config("spark.ui.enabled", "false")
        .config("spark.speculation", "true")
        .config("spark.speculation.interval", "50ms")
        .config("spark.speculation.multiplier", "1.1")
        .config("spark.speculation.quantile", "0.3")
        .config("spark.speculation.minTaskRuntime", "200ms")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    made.sparkContext.setLogLevel("OFF")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def country(tmp_path_factory):
    """Three days of a small country, none run."""
    return nights.country(tmp_path_factory.mktemp("country") / "country", run=0)


@pytest.fixture(scope="module")
def truth(country, tmp_path_factory):
    """What this machine makes of them."""
    folder = copied(country, tmp_path_factory.mktemp("truth") / "country")
    for day in DAYS:
        good(folder, "run", day)
    return tc.Store(folder / "store")


def run(folder: Path, engine, *, days=DAYS, key: str | None = None) -> tc.Store:
    """Days of a country with an engine: what `travelcard run` does."""
    config = Config.read(folder / "travelcard.toml")
    store = tc.Store(
        folder / "store", asked={"buckets": config.buckets or 64}, key=None if key is None else tc.Pseudonyms(key)
    )
    for day in days:
        as_of = day + timedelta(days=1)
        policy = config.rules(as_of)
        risk = config.risk_on(as_of, policy)
        run_stays(
            store, day=day, pings=config.pings_path, cells=config.cell_map(store),
            places=config.boundaries, reading=config.reading(), engine=engine,
        )  # fmt: skip
        run_cards(store, as_of=as_of, policy=policy, places=config.boundaries, risk=risk, engine=engine)
    return store


def alike(one: tc.Store, other: tc.Store) -> bool:
    return same(rows(one), rows(other)) and one.runs().select(COUNTED).equals(other.runs().select(COUNTED))


# ---------------------------------------------------------------------------------------------------- the same rows


def test_the_command_makes_the_same_tables_and_the_same_ledger(country, truth, tmp_path):
    folder = copied(country, tmp_path / "country")
    for day in DAYS:
        done = command(folder, "run", day, "--engine", "spark", "--master", MASTER)
        assert done.returncode == 0, done.stderr
    assert alike(tc.Store(folder / "store"), truth)
    good(folder, "expire", DAYS[0])
    assert nights.listing(folder / "store") == named(tc.Store(folder / "store"))


@pytest.mark.parametrize("how", ["string", "keyed", "csv", "one bucket", "position"])
def test_whatever_the_pings_are_the_rows_are_the_same(session, tmp_path, how):
    kind = {"position": "position"}.get(how, "cell")
    tc.synth.write(
        tmp_path / "one", subscribers=150, days=DAYS[:1], pings_per_subscriber=30, cells=2000, files=3, seed=9,
        ids="string" if how == "string" else "integer", format="csv" if how == "csv" else "parquet", kind=kind,
    )  # fmt: skip
    told(tmp_path / "one", f"buckets = {1 if how == 'one bucket' else 8}")
    copied(tmp_path / "one", tmp_path / "other")
    key = KEY if how == "keyed" else None
    stores = [
        run(tmp_path / name, engine, days=DAYS[:1], key=key)
        for name, engine in (("one", None), ("other", spark.Cluster(session)))
    ]
    assert stores[0].frame("stays").height > 100
    assert alike(*stores)


def skewed(folder: Path, subscribers: int, buckets: int = 8) -> None:
    """Pings of which one bucket has 20 times as many as any other."""
    ids = np.arange(13_800_000_000, 13_800_000_000 + 40 * subscribers)
    of = np.array([schema.bucket_of(int(n), buckets) for n in ids])
    most = np.concatenate([ids[of == b][: subscribers // buckets * (20 if b == 3 else 1)] for b in range(buckets)])
    picks = random.Random(8)
    for n in range(3):
        some = pl.Series("subscriber", most).sample(fraction=1, shuffle=True, seed=n)
        table = pl.DataFrame(some).with_columns(
            pl.Series("time", [1_647_187_200 + picks.randrange(86_400) for _ in some]),
            pl.Series("plmn", picks.choices(("44010", "31000", "45400", "9"), k=len(some))),
        )
        table.write_parquet(folder / f"{n}.parquet", row_group_size=5000)


def test_a_bucket_twenty_times_as_large_as_the_others(session, tmp_path):
    skewed(tmp_path, 800)
    stores = []
    for name, engine in (("one", None), ("other", spark.Cluster(session))):
        store = tc.Store(tmp_path / name, asked={"buckets": 8})
        run_stays(
            store, day=LAST, pings=str(tmp_path / "*.parquet"), reading=Reading({}, "s", None, None),
            max_rejected=1, engine=engine,
        )  # fmt: skip
        stores.append(store)
    sizes = stores[0].frame("stays").group_by("bucket").len()["len"]
    assert sizes.max() > 15 * sizes.median()
    assert alike(*stores)


def test_pings_and_tables_in_an_object_store_on_a_cluster_of_its_own(bucket, country, truth, tmp_path):
    """A master and two workers, as an operator starts them; the command line, which gets nothing but their address."""
    folder = copied(country, tmp_path / "country")
    for path in (folder / "pings").rglob("*.parquet"):
        bucket.upload_file(str(path), str(path.relative_to(folder)))
    shutil.rmtree(folder / "pings")
    file = folder / "travelcard.toml"
    file.write_text(file.read_text().replace('"pings/', '"s3://travel/pings/'))
    told(folder, 'store = "s3://travel/cluster"')
    with cluster(tmp_path) as master:
        for day in DAYS:
            done = command(folder, "run", day, "--engine", "spark", "--master", master)
            assert done.returncode == 0, done.stderr
    workers = {path.parents[2].name for path in tmp_path.glob("worker-*/app-*/*/stdout")}
    assert workers == {"worker-0", "worker-1"}
    assert alike(tc.Store("s3://travel/cluster"), truth)


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A standalone master and two workers on loopback: the master's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(Path(pyspark.__file__).parent)}
    script = [f"{here['SPARK_HOME']}/bin/spark-class"]
    master, common = f"spark://127.0.0.1:{port}", ["--host", "127.0.0.1", "--webui-port", "0"]
    commands = [[*script, "org.apache.spark.deploy.master.Master", *common, "--port", str(port)]]
    for n in range(2):
        room = ["--cores", "1", "--memory", "1g", "--work-dir", str(folder / f"worker-{n}")]
        commands.append([*script, "org.apache.spark.deploy.worker.Worker", *common, *room, master])
    with ExitStack() as stack:
        for words in commands:
            log = stack.enter_context((folder / f"{len(words)}.log").open("ab"))
            process = stack.enter_context(subprocess.Popen(words, env=here, stdout=log, stderr=log))
            stack.callback(process.terminate)
        yield master


ids = st.sampled_from((1, 2, 7, 13800001234, 2**40, 2**63 - 1, None))
pings_ = st.lists(
    st.tuples(ids, st.integers(-100, 86_500), st.sampled_from(("44010", "31000", "45400", "46000", "9", None))),
    min_size=1,
)


@settings(max_examples=8)
@given(files=st.lists(pings_, min_size=1, max_size=3))
def test_made_up_days_are_the_same(session, tmp_path_factory, files):
    """Ids too wide to be packed, faults of every kind, files of any size."""
    folder = tmp_path_factory.mktemp("days")
    for n, rows_ in enumerate(files):
        table = pl.DataFrame(
            {"subscriber": [r[0] for r in rows_], "time": [r[1] for r in rows_], "plmn": [r[2] for r in rows_]},
            schema={"subscriber": pl.Int64, "time": pl.Int64, "plmn": pl.String},
        )
        begin = 1_647_014_400
        table.with_columns(pl.col("time") + begin).write_parquet(folder / f"{n}.parquet")
    stores = []
    for name, engine in (("one", None), ("other", spark.Cluster(session))):
        store = tc.Store(folder / name, asked={"buckets": 4})
        run_stays(
            store, day=DAYS[0], pings=str(folder / "*.parquet"), places=tc.places.china(),
            reading=Reading({}, "s", None, None), max_rejected=1, engine=engine,
        )  # fmt: skip
        stores.append(store)
    assert alike(*stores)


@pytest.mark.heavy
def test_ten_million_pings_are_the_same(session, tmp_path):
    tc.synth.write(tmp_path / "one", subscribers=80_000, days=DAYS[:1], pings_per_subscriber=125, cells=20_000, seed=4)
    copied(tmp_path / "one", tmp_path / "other")
    stores = [
        run(tmp_path / name, engine, days=DAYS[:1])
        for name, engine in (("one", None), ("other", spark.Cluster(session)))
    ]
    assert stores[0].runs("stays")["read"][0] > 9_000_000
    assert alike(*stores)


# ---------------------------------------------------------------------------------------------------- data frames


@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas")
@pytest.mark.filterwarnings("ignore:distutils Version classes:DeprecationWarning")  # Spark 3.5
def test_frames_in_a_job_of_ones_own(session, tmp_path):
    pings = pl.DataFrame(
        {
            "subscriber": [n % 50 for n in range(5000)],
            "time": [1_647_014_400 + 17 * n for n in range(5000)],
            "place": [("330100", "310000", "JPN")[n // 100 % 3] for n in range(5000)],
        }
    ).with_columns(pl.from_epoch("time", time_unit="s").cast(pl.Datetime("us", "UTC")))
    pings.write_parquet(tmp_path / "pings.parquet")
    frame = session.read.parquet(str(tmp_path / "pings.parquet"))
    made = spark.stays(frame)
    want = tc.stays(pings)
    made.write.parquet(str(tmp_path / "stays"))
    have = pl.read_parquet(tmp_path / "stays" / "*.parquet").sort("subscriber", "arrive", "place")
    assert have.with_columns(pl.col("arrive", "depart").dt.replace_time_zone("UTC")).rows() == want.rows()
    policy = tc.Policy.preset("card-2022-07-08")
    spark.cards(made, as_of=DAYS[1], policy=policy).write.parquet(str(tmp_path / "cards"))
    wanted = tc.cards(tc.visits(want, as_of=DAYS[1], policy=policy), as_of=DAYS[1], policy=policy)
    cards = pl.read_parquet(tmp_path / "cards" / "*.parquet").sort("subscriber")
    whole = ["subscriber", "colour", "days_seen"]
    assert cards.select(whole).rows() == wanted.select(whole).rows()
    places = [[visit["place"] for visit in visits] for visits in cards["visits"]]
    assert places == [[visit["place"] for visit in visits] for visits in wanted["visits"]]


# ---------------------------------------------------------------------------------------------------- what goes wrong


def test_a_damaged_file_is_named_in_one_line_and_nothing_is_left(session, country, tmp_path):
    folder = copied(country, tmp_path / "country")
    store = run(folder, spark.Cluster(session), days=DAYS[:1])
    before = rows(store)
    path = sorted((folder / "pings" / str(LAST)).iterdir())[1]
    sound = path.read_bytes()
    path.write_bytes(sound[:200] + bytes([sound[200] ^ 255]) + sound[201:])
    with pytest.raises(tc.InputError, match=path.name) as refused:
        run(folder, spark.Cluster(session), days=[LAST])
    assert "\n" not in str(refused.value)
    assert same(rows(store), before)
    assert nights.listing(folder / "store") == named(store)


def test_a_day_that_is_refused_leaves_nothing(session, tmp_path):
    pl.DataFrame({"subscriber": [1, 2], "time": [5, 6], "plmn": ["44010", "44010"]}).write_parquet(
        tmp_path / "a.parquet"
    )
    store = tc.Store(tmp_path / "store", asked={"buckets": 2})
    with pytest.raises(tc.GateError, match="nothing published"):
        run_stays(
            store, day=DAYS[0], pings=str(tmp_path / "a.parquet"), reading=Reading({}, "s", None, None),
            engine=spark.Cluster(session),
        )  # fmt: skip
    assert nights.listing(tmp_path / "store") == named(store) == set()


def failing(real, folder, how, shared, *arguments):
    """The first attempts of every task, where this is, fail; or wait, so that others are begun beside them."""
    for n in range(2):
        try:
            (Path(folder) / f"{hash(str(arguments[0]))}-{n}").touch(exist_ok=False)
        except FileExistsError:
            continue
        if how == "fail":
            raise RuntimeError("a test")
        if n == 0:
            time.sleep(random.random())
        break
    yield from real(shared, *arguments)


@pytest.mark.parametrize("how", ["fail", "wait"])
@pytest.mark.parametrize("where", ["_scattered", "_reduced"])
def test_tasks_that_fail_twice_or_are_run_twice_change_nothing(
    session, country, truth, tmp_path, monkeypatch, where, how
):
    folder = copied(country, tmp_path / "country")
    (tmp_path / "attempts").mkdir()
    monkeypatch.setattr(spark, where, partial(failing, getattr(spark, where), str(tmp_path / "attempts"), how))
    store = run(folder, spark.Cluster(session), days=DAYS[:1])
    assert len(list((tmp_path / "attempts").iterdir())) >= 3
    monkeypatch.undo()
    run(folder, spark.Cluster(session), days=DAYS[1:])
    assert alike(store, truth)
    good(folder, "expire", DAYS[0])
    assert nights.listing(folder / "store") == named(store)


def test_an_executor_that_is_killed_changes_nothing(session, country, truth, tmp_path, monkeypatch):
    folder = copied(country, tmp_path / "country")
    (tmp_path / "attempts").mkdir()
    slow = partial(failing, spark._reduced, str(tmp_path / "attempts"), "wait")
    monkeypatch.setattr(spark, "_reduced", slow)

    def kill() -> None:
        while not list((tmp_path / "attempts").iterdir()):
            time.sleep(0.02)
        out = subprocess.run(
            ["pgrep", "-f", "CoarseGrainedExecutorBackend"], capture_output=True, text=True, check=True
        )
        os.kill(int(out.stdout.split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    store = run(folder, spark.Cluster(session), days=DAYS[:1])
    killer.join()
    monkeypatch.undo()
    run(folder, spark.Cluster(session), days=DAYS[1:])
    assert alike(store, truth)


@pytest.mark.parametrize("point", ["before 1", "before 2", "after 2"])
def test_a_driver_that_is_killed_publishes_nothing_half(country, truth, tmp_path, point):
    folder = copied(country, tmp_path / "country")
    for day in DAYS[:2]:
        good(folder, "run", day)
    store = tc.Store(folder / "store")
    before = rows(store)
    done = command(folder, "run", LAST, "--engine", "spark", "--master", "local[2]", point=point)
    assert done.returncode == -signal.SIGKILL, done.stderr
    nights.whole(tc.Store(store.root), before, rows(truth))
    nights.healed(folder, store, ("run", LAST), rows(truth), lambda: nights.listing(folder / "store"))
    assert AS_OF in store.days("cards")
