"""The benchmarks run, at their smallest, and say the same as each other; how long they take is no test's business."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest

from travelcard.bench import check, measure

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package
pytest.importorskip("benchmarks", reason="this copy comes without the benchmarks")


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
