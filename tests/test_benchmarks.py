"""The benchmarks run, at their smallest, and say the same as each other; how long they take is no test's business."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from travelcard.bench import check, measure
from travelcard.store import Store

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package
plots = pytest.importorskip("benchmarks.plots", reason="this copy comes without the benchmarks")
profile = pytest.importorskip("benchmarks.profile")


def rows_of(tmp_path: Path, name: str, *arguments: str) -> list[dict[str, str]]:
    """Run a benchmark in an empty folder; the rows that it put on record, which have all columns and sane numbers."""
    result = subprocess.run(
        [sys.executable, "-m", name, *arguments, "--runs", "1", "--csv", "results.csv"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("Read this first"), "the caveats come before any number"
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == measure.COLUMNS
    for row in rows:
        assert None not in row
        assert None not in row.values()
        assert min(float(row[name]) for name in ("seconds", "peak_mib", "floor_s", "ratio")) > 0
        assert row["versions"].startswith("python ")
    return rows


@pytest.mark.parametrize("cases", ["base,shuffled", pytest.param("strings", marks=pytest.mark.heavy)])
def test_every_peer_writes_the_stays_of_the_library(tmp_path, cases):
    peers = [peer for peer in ("duckdb", "polars") if find_spec(peer)]
    rows = rows_of(tmp_path, "travelcard.bench.stays", "--pings", "1e5", "--case", cases, "--peers", ",".join(peers))
    assert [row["case"] for row in rows if row["what"] == "travelcard"] == cases.split(",")
    assert list(dict.fromkeys(row["what"] for row in rows)) == ["floor polars", "floor pyarrow", "travelcard", *peers]
    checksums = {row["checksum"] for row in rows if not row["what"].startswith("floor")}
    assert len(checksums) == 1, "whoever computes them, in whatever order the pings come"
    assert len({row["date"] for row in rows}) == 1, "one sitting"
    assert not list((tmp_path / "build" / "benchmarks").glob("work-*")), "what a run writes is removed"


def test_places_are_those_of_shapely(tmp_path):
    rows = rows_of(tmp_path, "benchmarks.places", "--points", "2e4")
    for case in ("places uniform", "places cities"):
        mine = {row["what"]: row["checksum"] for row in rows if row["case"] == case}
        assert mine["travelcard"] == mine["shapely"] != ""


def test_the_window_and_one_card(tmp_path):
    cards = rows_of(tmp_path, "benchmarks.cards", "--subscribers", "500")
    assert [row["what"] for row in cards] == ["floor polars", "floor pyarrow", "travelcard cards"]
    one = rows_of(tmp_path, "benchmarks.card", "--cards", "500", "--days", "1", "--lookups", "50")
    assert {"store.card", "store.explain", "travelcard card"} <= {row["what"] for row in one}


def test_the_cluster_says_the_same_as_the_threads(tmp_path):
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java 17")
    rows = rows_of(tmp_path, "benchmarks.cluster", "--pings", "1e5")
    assert [row["what"] for row in rows] == ["travelcard", "spark, one run", "spark, two runs"]
    assert len({row["checksum"] for row in rows}) == 1


def test_the_service_under_load(tmp_path):
    pytest.importorskip("fastapi")
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    command = [sys.executable, "-m", "benchmarks.service", "--cards", "500", "--seconds", "1", "--processes", "1"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = re.findall(r"(\d+) other answers, \d+ later than 2 s, (\d+) failed", done.stdout)
    assert told == [("0", "0")] * 5, done.stdout


def test_a_day_laid_from_another_is_that_day_shifted(tmp_path):
    settings = {"subscribers": 300, "pings_per_subscriber": 24, "days": 4, "files": 1, "cards": True}
    command = measure.python("travelcard.bench.data", "store", tmp_path / "country", json.dumps(settings))
    measure.measured(command, {"PYTHONPATH": str(ROOT)})
    store = Store(tmp_path / "country" / "store")
    days = [date(2022, 3, 11) + timedelta(days=n) for n in range(4)]
    assert store.days("stays") == days
    for laid, source in ((days[0], days[2]), (days[1], days[3])):
        shifted = store.frame("stays", day=source).with_columns(pl.col("day", "arrive", "depart") - (source - laid))
        assert store.frame("stays", day=laid).sort("subscriber", "arrive").equals(shifted.sort("subscriber", "arrive"))
    assert not store.frame("cards").is_empty()


def test_a_profile_accounts_for_the_whole_process(tmp_path):
    command = [sys.executable, "-m", "benchmarks.profile", "--pings", "1e5", "--runs", "1", "--csv", "profile.csv"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    rows = pl.read_csv(tmp_path / "profile.csv")
    assert tuple(rows.columns) == profile.COLUMNS
    assert {stage for stage, _, _ in profile.STAGES} - {"number texts"} <= set(rows["stage"])
    assert rows["ns"].min() >= 0


# ---------------------------------------------------------------------------------------------------- the page


def test_the_page_is_what_was_measured(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = plots.PAGE.read_text(encoding="utf-8")
    rows, stages = plots.read(plots.RESULTS), plots.read(plots.PROFILE, "stage")
    assert plots.page(text, rows, stages) == text, "run python -m benchmarks.plots"
    assert {name for _, name, _ in plots.MARKED.findall(text)} == {*plots.TABLES, "profile"}
    shown = re.findall(r"\]\((plots/\w+\.svg)\)", text)
    assert {path.name for path in plots.PLOTS.iterdir()} == {Path(name).name for name in shown}


def some_rows(path: Path, *batches: tuple[str, str, list[measure.Row]]) -> pl.DataFrame:
    for commit, at, rows in batches:
        measure.record(path, rows, measure.Sitting(commit, "python 3.11", "a CPU", 2, at))
    return plots.read(path)


def row(what: str, size: int, run: int, seconds: float, case: str = "base") -> measure.Row:
    return measure.Row(
        what, case, size, run, measure.Time(seconds, 2 * seconds, 100.0, ""), 1.0, measure.Found(9, "aa", 1.0)
    )


def test_only_one_round_of_one_commit_is_compared(tmp_path):
    old = [row("travelcard", 100, 1, 50.0), row("polars", 100, 1, 1.0), row("duckdb", 100, 1, 100.0)]
    new = [
        row("travelcard", 100, 1, 1.0),
        row("polars", 100, 1, 3.0),
        row("travelcard", 100, 2, 2.0),
        row("polars", 100, 2, 8.0),
    ]
    rows = some_rows(tmp_path / "r.csv", ("a", "2026-01-02", old), ("b", "2026-01-03", new))
    mine = rows.filter(what="travelcard")
    assert mine["commit"].unique().to_list() == ["b"]
    beside = plots.compared(rows, mine, "case", "rows")
    assert dict(beside.select("what", "wall").rows()) == {"travelcard": 1.0, "polars": 3.5}, "duckdb met commit a alone"


def test_growth_is_the_factor_of_one_doubling(tmp_path):
    sizes = [row("travelcard", 100, 1, 1.0), row("travelcard", 400, 1, 16.0), row("travelcard", 100, 1, 3.0, "few")]
    rows = some_rows(tmp_path / "r.csv", ("a", "2026-01-02", sizes))
    assert plots.growth_of(rows).select("rows", "wall").rows() == [(100, None), (400, 2.0)]
    assert "| few | 100 | 1 | 1 | 3 | 6 | 100 | 3.00 | 3.00 | 3.00 |" in plots.cases(rows)


def test_plots_are_drawn(tmp_path):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    some_rows(
        tmp_path / "r.csv",
        ("a", "2026-01-02", [row(w, n, 1, n / 9) for w in ("travelcard", "polars") for n in (10, 90)]),
    )
    measure.appended(
        tmp_path / "p.csv", profile.COLUMNS, [("decode", "base", 10, 1, 5, "a", "", "a CPU", 2, "2026-01-02")]
    )
    (tmp_path / "page.md").write_text("Kept.\n<!-- table: base -->\nold\n<!-- end -->\n")
    names = {"--csv": "r.csv", "--profile": "p.csv", "--page": "page.md", "--plots": "plots"}
    plots.main([word for name, file in names.items() for word in (name, str(tmp_path / file))])
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("Kept.\n<!-- table: base -->\na CPU, 2 cores; commit `a`\n")
    assert "old" not in page
    for path in (tmp_path / "plots").iterdir():
        assert path.read_text().startswith("<svg")


# ---------------------------------------------------------------------------------------------------- checksums


def test_a_wrong_checksum_has_no_time(capsys):
    time, true = measure.Time(1.25, 1.0, 100.0, ""), measure.Found(3, "aa")
    rows = [measure.Row(got.checksum, "base", 9, 1, time, 1.0, got) for got in (true, measure.Found(3, "bb"))]
    assert not measure.report(rows, noun="stays", true=true)
    assert [measure.right(row, true) for row in rows] == [True, False]
    right, wrong = capsys.readouterr().out.splitlines()[-2:]
    assert "1.25" in right
    assert "1.25" not in wrong
    assert "bb, instead of 3, aa" in wrong


def test_a_checksum_is_of_the_rows_and_not_of_their_order():
    table = pa.table({"subscriber": [1, 2, 3], "place": ["330100", "310000", None], "seen": [[1, 2], [], [2, 1]]})
    same = table.take([2, 0, 1]).select(["seen", "place", "subscriber"])
    swapped = table.set_column(0, "subscriber", pa.array([2, 1, 3]))
    turned = table.set_column(2, "seen", pa.array([[2, 1], [], [2, 1]]))
    assert check.checksum(same) == check.checksum(table)
    assert len({check.checksum(t) for t in (table, swapped, turned)}) == 3
