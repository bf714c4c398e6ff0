"""travelcard.toml: what a file and the environment say, and all that is wrong with it at once."""

from __future__ import annotations

import os
from datetime import date, timedelta

import pytest

from travelcard.config import Config, GateSection, LimitOf, Pings, PlacesFile, ServiceSection
from travelcard.errors import InputError


@pytest.fixture
def read(tmp_path):
    def of(text: str) -> Config:
        (tmp_path / "travelcard.toml").write_text(text, encoding="utf-8")
        return Config.read(tmp_path / "travelcard.toml")

    return of


def test_an_empty_file_is_all_defaults(read, tmp_path):
    assert read("") == Config(folder=tmp_path)


def test_every_kind_of_value(read):
    made = read("""
        memory = "4GiB"
        max_silence = "1:30:00"
        pings = { path = "{day}.csv", columns = { time = "ts" }, time_unit = "ms" }
        places = { path = "own.geojson", crs = "GCJ-02" }
        [gate]
        max_rejected = 1
        limits = { pings = { fall = 0.3 }, "rejected.bad_time" = { max = 0.5 } }
        [service]
        today = 2022-03-15
        secure = false
    """)
    assert (made.memory, made.max_silence) == (4 << 30, timedelta(minutes=90))
    assert made.pings == Pings(path="{day}.csv", columns={"time": "ts"}, time_unit="ms")
    assert made.places == PlacesFile(path="own.geojson", crs="GCJ-02")
    limits = {"pings": LimitOf(fall=0.3), "rejected.bad_time": LimitOf(max=0.5)}
    assert made.gate == GateSection(max_rejected=1.0, limits=limits)
    assert made.service == ServiceSection(today=date(2022, 3, 15), secure=False)
    assert made.at("x") == str(made.folder / "x")
    assert made.at("s3://bucket/x") == "s3://bucket/x"


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("1000", 1000),
        ('"1000"', 1000),
        ('"1KiB"', 1024),
        ('"1 kb"', 1000),
        ('"1.5g"', 1_500_000_000),
        ('"2TiB"', 2 << 40),
    ],
)
def test_sizes(read, said, size):
    assert read(f"memory = {said}").memory == size


@pytest.mark.parametrize(
    ("said", "seconds"), [("0", 0), ("1.5", 1.5), ('"90"', 90), ('"00:01:30"', 90), ('"36:00:00"', 129_600)]
)
def test_spans(read, said, seconds):
    assert read(f"max_silence = {said}").max_silence == timedelta(seconds=seconds)


def test_the_environment_is_over_the_file(read, monkeypatch):
    said = {
        "TRAVELCARD_STORE": "s3://bucket/store", "TRAVELCARD_BUCKETS": "128", "TRAVELCARD_MEMORY": "1GiB",
        "TRAVELCARD_PINGS__PATH": "{day}.csv", "TRAVELCARD_PINGS__COLUMNS__CELL": "cgi",
        "travelcard_retention__margin": "3", "TRAVELCARD_SERVICE__SECURE": "false",
        "TRAVELCARD_KEY": "not of the file", "TRAVELCARD_": "", "TRAVELCARDS_TZ": "UTC", "PINGS__PATH": "x",
    }  # fmt: skip
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    made = read('store = "here"\n[pings]\npath = "x"\ncolumns = { time = "ts" }')
    assert (made.store, made.buckets, made.memory, made.tz) == ("s3://bucket/store", 128, 1 << 30, None)
    assert made.pings == Pings(path="{day}.csv", columns={"time": "ts", "cell": "cgi"})
    assert (made.retention.margin, made.service.secure) == (3, False)


WRONG = """
    tz = 8
    buckets = "many"
    memory = "lots"
    max_silence = -1
    pings = "x.csv"
    statuses = {}
    folder = "/"
    [cells]
    path = "x"
    radius = 3
    [gate]
    max_rejected = 2
    limits = { pings = { sigmas = 0, most = 1 }, risk = 3 }
    [service]
    numbers = "mine"
    today = "soon"
    token_minutes = 1441
"""
PROBLEMS = """
    tz  expected str, got 8
    buckets  expected int, got 'many'
    memory  expected bytes, as 4GiB, got 'lots'
    max_silence  expected seconds, or a time as 12:00:00, got -1
    pings  expected a table, got 'x.csv'
    statuses.path  is missing
    folder  is no key of travelcard.toml
    cells.radius  is no key of travelcard.toml
    gate.max_rejected  expected float <= 1.0, got 2
    gate.limits.pings.sigmas  expected float > 0.0, got 0
    gate.limits.pings.most  is no key of travelcard.toml
    gate.limits.risk  expected a table, got 3
    service.numbers  expected one of national, e164, got 'mine'
    service.today  expected date, got 'soon'
    service.token_minutes  expected int <= 1440, got 1441
"""


def test_everything_wrong_is_told_at_once(read, monkeypatch):
    monkeypatch.setenv("TRAVELCARD_PINGS__PATH", "y.csv")  # a variable mends no table that is none
    monkeypatch.setenv("TRAVELCARD_CELLS__SHAPE", "round")
    with pytest.raises(InputError) as refused:
        read(WRONG)
    head, *lines = str(refused.value).split("\n  ")
    assert head.endswith("travelcard.toml: 16 problems")
    assert sorted(lines) == sorted([*PROBLEMS.strip().split("\n    "), "cells.shape  is no key of travelcard.toml"])


@pytest.mark.parametrize("text", ["store =", 'store = "a"\nstore = "b"'])
def test_no_toml(read, text):
    with pytest.raises(InputError, match=r"travelcard\.toml is no TOML: "):
        read(text)


def test_neither_text_nor_a_file(tmp_path):
    path = tmp_path / "travelcard.toml"
    with pytest.raises(InputError, match="is not there"):
        Config.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"travelcard\.toml is no TOML: "):
        Config.read(path)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file here that is there and cannot be read")
def test_files_that_cannot_be_read(tmp_path, read):
    """Not as if it were the output that fails; root may read what nobody else may, but not this."""
    path, cells = tmp_path / "travelcard.toml", tmp_path / "cells.parquet"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match=r"travelcard\.toml cannot be read: "):
        Config.read(path)
    path.unlink()
    cells.symlink_to("/proc/self/mem")
    config = read('store = "store"\n[pings]\npath = "pings/*.parquet"\n[cells]\npath = "cells.parquet"\n')
    with pytest.raises(InputError, match=r"cells\.parquet cannot be read: "):
        config.cell_map(config.open_store())
