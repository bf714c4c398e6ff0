"""`travelcard report`: a page that needs nothing but itself, says what the ledger says, and names nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import polars as pl
import pytest

import travelcard as tc
from travelcard import synth
from travelcard.batch import run_cards, run_stays
from travelcard.gate import Gate, Limit
from travelcard.ledger import newest
from travelcard.report import report
from travelcard.sources import Reading

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

DAYS = [date(2022, 3, 12) + timedelta(days=n) for n in range(3)]
DAY = DAYS[-1]
POLICY = tc.Policy.preset("card-2022-07-08")
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Every section by its heading with the rows of its tables; raises when tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.heading = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2"):
            self.heading = ""
        elif tag == "tr" and "svg" not in self.open:
            self.tables.setdefault(self.heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.heading][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.heading += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.tables[self.heading][-1][-1] += data

    def numbers(self, heading: str) -> dict[str, str]:
        """The second column by the first, without the head."""
        return {row[0]: row[1].replace(",", "") for row in self.tables[heading][1:]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three days of a small country with their cards, and the page of the last."""
    folder = tmp_path_factory.mktemp("country") / "country"
    synth.write(folder, subscribers=400, days=DAYS, pings_per_subscriber=20, cells=1500, files=3, seed=5, faults=0.02)
    store = tc.Store(folder / "store", asked={"buckets": 4})
    cells = tc.CellMap.build(folder / "cells.parquet", places=tc.places.china())
    for day in DAYS:
        pings = str(folder / "pings" / str(day) / "*.parquet")
        reading = Reading(columns={"subscriber": "msisdn"})
        run_stays(store, day=day, pings=pings, cells=cells, places=tc.places.china(), reading=reading)
        run_cards(store, as_of=day + timedelta(days=1), policy=POLICY, places=tc.places.china())
    text = report(store, DAY, places=tc.places.china(), cells=cells)
    return store, cells, text


def test_it_parses_and_asks_nobody_for_anything(made):
    _, _, text = made
    page = Page(text)
    assert "script" not in {tag for tag, _, _ in page.attributes}
    assert "<script" not in text
    for _, name, value in page.attributes:
        if name.startswith("xmlns"):
            continue
        assert name not in ("src", "srcset", "data", "action", "poster", "ping")
        assert "//" not in value or name == "content", (name, value)
        if name in ("href", "xlink:href"):
            assert value.startswith("#")
    assert not re.search(r"@import|url\((?!['\"]?#)", text)
    assert len(text) < 2_000_000


def test_every_plot_is_drawn_and_what_it_refers_to_is_its_own(made):
    _, _, text = made
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 7
    for plot in plots:
        ET.fromstring(plot)
        assert set(re.findall(r"url\(#([^)]*)\)", plot)) <= set(re.findall(r'id="([^"]*)"', plot))
    ids = re.findall(r'id="([^"]*)"', text)
    assert len(set(ids)) == len(ids)
    assert text.count("<details>") == 7


def test_its_numbers_are_the_ledgers(made):
    store, _, text = made
    page = Page(text)
    (row,) = (row for row in newest(store, "stays") if row["day"] == DAY)
    lost = dict(row["rejected"])
    shown = page.numbers(f"The night of {DAY}")
    assert int(shown["pings read"]) == row["read"]
    assert int(shown["rejected"]) == sum(lost.values()) > 0
    assert list(map(int, page.numbers("Volumes by hour").values())) == row["hours"]
    assert {k: int(v) for k, v in page.numbers("Rejects by reason").items() if int(v)} == lost
    assert page.numbers("Silent cells by day")[str(DAY)] == str(row["silent"])
    (made_cards,) = (row for row in newest(store, "cards") if row["day"] == DAY + timedelta(days=1))
    colours = {
        r[1]: int(r[2].replace(",", "")) for r in page.tables["Cards by colour"] if r[0] == str(made_cards["day"])
    }
    assert {k: n for k, n in colours.items() if n} == dict(made_cards["cards"])
    assert {r[0]: r[1] for r in page.tables["The days"][1:]}[str(DAY)] == "complete"


def test_its_other_numbers_are_the_tables(made):
    store, _, text = made
    page = Page(text)
    sums = store.frame("stays", day=DAY).group_by("subscriber").agg(pl.col("pings").sum())["pings"].to_list()
    expected = Counter(n.bit_length() - 1 for n in sums)
    shown = page.numbers("Pings per subscriber")
    assert {int(k.split(" ")[0]).bit_length() - 1: int(v) for k, v in shown.items() if int(v)} == expected
    visits = store.frame("cards", as_of=DAY + timedelta(days=1)).explode("visits", empty_as_null=False)["visits"]
    listed = Counter(visit["place"] for visit in visits.to_list() if visit is not None)
    cities = page.numbers("Cards by city")
    assert sorted(map(int, cities.values())) == sorted(n for _, n in listed.most_common(20))
    top, n = listed.most_common(1)[0]
    assert int(cities[f"{tc.places.china().name(top, 'en')} {top}"]) == n


def test_nobody_is_on_it(made):
    store, _, text = made
    for number in store.frame("stays")["subscriber"].unique().to_list():
        assert str(number) not in text
    assert not re.search(r"(?<![\d.])1[3-9]\d{9}(?!\d)", text)


def test_what_is_accepted_by_hand_is_escaped_and_hides_numbers(made, tmp_path):
    store = tc.Store(tmp_path / "store", asked={"buckets": 1})
    start = pl.Series([1_647_187_200]).cast(pl.Int64)
    pings = pl.DataFrame(
        {"subscriber": [7], "time": (start * 1_000_000).cast(pl.Datetime("us", "UTC")), "plmn": "44010"}
    )
    gate = Gate({"pings": Limit(min=2)})
    run_stays(store, day=DAY, pings=pings, gate=gate, accept="<b>ask 13900000001</b>")
    text = report(store, DAY, places=tc.places.china())
    assert "&lt;b&gt;ask 139****0001&lt;/b&gt;" in text
    assert "no cell inventory was configured" in text
    assert f"there are no cards as of {DAY + timedelta(days=1)} yet" in text
    assert len(re.findall("<svg", text)) == 3
    Page(text)


def test_a_day_that_was_never_run_has_no_page(made):
    store, cells, _ = made
    with pytest.raises(tc.NotFound, match="has no run of 2022-04-01 on record"):
        report(store, date(2022, 4, 1), places=tc.places.china(), cells=cells)


def test_it_names_the_extra_that_it_needs(made, monkeypatch):
    store, cells, _ = made
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(tc.MissingExtra, match=r"travelcard\[report\]"):
        report(store, DAY, places=tc.places.china(), cells=cells)


def test_the_command_writes_it(made, tmp_path):
    store, _, text = made
    config = Path(store.root).parent / "travelcard.toml"
    out = tmp_path / "page.html"
    command = [sys.executable, "-m", "travelcard", "report", str(DAY), "--out", str(out), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert out.read_text(encoding="utf-8") == text
