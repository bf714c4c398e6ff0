"""A synthetic country through the whole command line, against the oracle: every ping, reject, stay and card."""

from __future__ import annotations

from datetime import date, timedelta

import oracle
import polars as pl
import pytest
from strategies import rows

import travelcard as tc
from travelcard import synth
from travelcard.cli import main
from travelcard.places import country_of_mcc
from travelcard.store import Store

DAYS = [date(2022, 3, 12) + timedelta(days=n) for n in range(3)]
AS_OF = date(2022, 3, 15)
SEVERAL = [("integer", "cell", "parquet"), ("string", "cell", "csv"), ("integer", "position", "parquet")]


def plain(frame: pl.DataFrame) -> list[dict]:
    """Rows as the oracle reads them: an integer subscriber of a CSV file as one, empty text as null."""
    return [{k: None if v == "" else v for k, v in row.items()} for row in frame.to_dicts()]


@pytest.mark.heavy
@pytest.mark.parametrize(("ids", "kind", "form"), SEVERAL)
def test_a_night_of_a_country_is_the_oracles(ids, kind, form, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    synth.write(
        "c", subscribers=1500, days=DAYS, pings_per_subscriber=60, cells=4000, faults=0.02, files=5, flicker=0.3,
        ids=ids, kind=kind, format=form, seed=7,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path / "c")
    if ids == "string":
        text = (tmp_path / "c" / "travelcard.toml").read_text()
        (tmp_path / "c" / "travelcard.toml").write_text(text.replace("[cells]", 'subscriber_type = "string"\n[cells]'))
    places, countries = tc.places.china(), country_of_mcc()
    cells = tc.CellMap.build("cells.parquet", places=places)
    policy = tc.Policy.preset("card-2022-01")
    every = []
    for day in DAYS:
        main(["stays", str(day)])
        known = {cell: (place, inner) for cell, place, inner in cells.on(day).iter_rows()}
        pings, rejects = [], []
        for path in sorted((tmp_path / "c" / "pings" / str(day)).iterdir()):
            frame = pl.read_parquet(path) if form == "parquet" else pl.read_csv(path, infer_schema=False)
            frame = frame.rename({"msisdn": "subscriber"})
            if form == "csv":
                frame = frame.with_columns(pl.col("cell").cast(pl.Int64))
            located = {}
            if kind == "position":
                points = frame.select("lat", "lon", "accuracy").unique().drop_nulls()
                at = places.locate(points["lat"], points["lon"])
                near = places.inner(points["lat"], points["lon"], points["accuracy"].clip(0), at)
                for (lat, lon, metres), place, inner in zip(points.iter_rows(), at, near, strict=True):
                    located[lat, lon] = None if place < 0 else places.codes[place]
                    located[lat, lon, metres] = bool(inner)
            clean, lost = oracle.clean(
                plain(frame), day=day, cell=lambda cell, _, known=known: known.get(cell),
                locate=lambda lat, lon, located=located: located[lat, lon],
                inner=lambda lat, lon, metres, _, located=located: located[lat, lon, metres], country=countries.get,
            )  # fmt: skip
            pings += clean
            rejects += [(path.name, row, reason) for row, reason in lost]
        step = capsys.readouterr().out
        store = Store("store")
        kept = store.frame("rejects", day=day).with_columns(pl.col("file").str.split("/").list.last())
        assert sorted(kept.select("file", "row", "reason").rows()) == sorted(rejects)
        held = store.frame("stays", day=day).drop("day", "bucket").sort("subscriber", "arrive", "place")
        stays = oracle.stays(pings)
        assert rows(held) == stays
        assert f'"merged": {oracle.merge(pings)[1]},' in step
        every += stays
    main(["cards", str(AS_OF)])
    risk = pl.read_csv(f"risk/{AS_OF}.csv", schema_overrides={"place": pl.String})
    levels = {place: set(part["level"]) for (place,), part in risk.group_by("place")}
    rules = {
        "marks": policy.marks,
        "colours": [{"colour": "yellow", "if": "abroad"}, {"colour": "green", "if": "places", "places": ()}],
    }
    seen = oracle.by_subscriber(oracle.visits(every, AS_OF))
    cards = {row["subscriber"]: row for row in store.frame("cards", as_of=AS_OF).to_dicts()}
    assert cards.keys() == {mine[0][0] for mine in seen}
    for mine in seen:
        card = cards[mine[0][0]]
        listed = [(visit["place"], visit["marked"]) for visit in card["visits"]]
        assert (card["colour"], listed) == oracle.card(mine, rules, AS_OF, levels=levels)
    assert {row["colour"] for row in cards.values()} == {"green", "yellow"}
