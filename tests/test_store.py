"""The tables and the nightly run: what is written, that a rerun gives the same, and that a refusal leaves nothing."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from nights import short_chunks
from polars.testing import assert_frame_equal

import travelcard as tc
from travelcard import synth
from travelcard.batch import run_cards, run_stays
from travelcard.errors import GateError, InputError, NotFound
from travelcard.ledger import Step, append, newest, row_of
from travelcard.parquet import GROUP
from travelcard.schema import CARDS, CORRECTIONS, bucket_of
from travelcard.sources import Reading
from travelcard.store import Store
from travelcard.walk import Day, walked

DAYS = [date(2022, 3, 13), date(2022, 3, 14)]
AS_OF = date(2022, 3, 15)
POLICY = tc.Policy.preset("card-2022-07-08")  # marks nothing
READING = Reading(columns={"subscriber": "msisdn"})


def country(folder: Path, **options) -> Path:
    synth.write(
        folder, subscribers=400, days=DAYS, pings_per_subscriber=60, cells=3000, files=3, faults=0.02, **options
    )
    return folder


@pytest.fixture(scope="module", params=["integer", "string"])
def made(request, tmp_path_factory):
    """A country, its cell map and a store in which both of its days were run."""
    root = country(tmp_path_factory.mktemp("country") / request.param, ids=request.param)
    cells = tc.CellMap.build(root / "cells.parquet", places=tc.places.china())
    store = Store(root / "store", asked={"buckets": 8})
    steps = [run_stays(store, day=d, pings=pattern(root), cells=cells, reading=READING) for d in DAYS]
    steps.append(run_cards(store, as_of=AS_OF, policy=POLICY, places=tc.places.china()))
    return root, cells, store, steps


def pattern(root: Path) -> str:
    return str(root / "pings" / "{day}" / "*.parquet")


def test_stays_in_the_store_are_the_stays_of_the_clean_pings(made):
    root, cells, store, steps = made
    for day, step in zip(DAYS, steps, strict=False):
        pings, rejects = tc.read_pings(pattern(root), cells=cells, day=day, columns={"subscriber": "msisdn"})
        expected = tc.stays(pings)
        held = store.frame("stays", day=day)
        assert_frame_equal(held.drop("day", "bucket").sort("subscriber", "arrive", "place"), expected)
        assert step.counts["read"] == len(pings) + len(rejects)
        assert step.counts["clean"] == len(pings) == expected["pings"].sum() + step.counts["merged"]
        assert sum(step.counts["rejected"].values()) == len(rejects)
        kept = store.frame("rejects", day=day).drop("day")
        assert_frame_equal(kept, rejects.sort("file", "row"))


def test_rejects_are_exactly_the_faults_that_were_made(made):
    root, _, store, _ = made
    for day in DAYS:
        faults = pl.read_parquet(root / "truth" / str(day) / "faults.parquet").sort("file", "row")
        rejects = (
            store.frame("rejects", day=day).with_columns(pl.col("file").str.split("/").list.last()).sort("file", "row")
        )
        assert rejects.select("file", "row", "reason").rows() == faults.select("file", "row", "reason").rows()


def test_no_reject_holds_a_subscriber(made):
    root, _, store, _ = made
    numbers = set(pq.read_table(root / "truth" / "people.parquet")["subscriber"].cast("string").to_pylist())
    assert not numbers & set(store.frame("rejects")["value"].drop_nulls())


def test_cards_are_those_of_the_frames(made):
    _, _, store, _ = made
    stays = store.frame("stays").select("subscriber", "place", "arrive", "depart", "pings", "inner")
    visits = tc.visits(stays, as_of=AS_OF, policy=POLICY)
    expected = tc.cards(visits, as_of=AS_OF, policy=POLICY)
    held = store.frame("cards", as_of=AS_OF).drop("as_of", "bucket").sort("subscriber")
    assert_frame_equal(held, expected)


def test_a_file_is_one_bucket_sorted(made):
    _, _, store, _ = made
    for name in ("stays", "cards"):
        for values, path in store.files(name):
            ids = store.read(name, [path])["subscriber"].to_pylist()
            assert ids == sorted(ids)
            assert {bucket_of(i, 8) for i in ids} == {int(values["bucket"])}


def test_the_log_holds_no_subscriber(made):
    root, _, store, _ = made
    log = "".join(path.read_text() for path in (root / "store").rglob("_delta_log/*.json"))
    numbers = pq.read_table(root / "truth" / "people.parquet")["subscriber"].cast("string").to_pylist()
    assert not [n for n in numbers if n in log]
    assert DeltaTable(store.uri("stays")).to_pyarrow_table().num_rows == len(store.frame("stays"))


def test_rerun_gives_the_same_rows_in_one_transaction_each(made):
    root, cells, store, _ = made
    before = {name: store.frame(name) for name in ("stays", "rejects", "cards")}
    versions = {name: DeltaTable(store.uri(name)).version() for name in before}
    run_stays(store, day=DAYS[0], pings=pattern(root), cells=cells, reading=READING)
    run_cards(store, as_of=AS_OF, policy=POLICY, places=tc.places.china())
    for name, frame in before.items():
        keys = [c for c in frame.columns if c not in ("visits", "reasons")]
        assert_frame_equal(store.frame(name).sort(keys), frame.sort(keys))
        assert DeltaTable(store.uri(name)).version() == versions[name] + 1


def test_one_card_out_of_the_store(made):
    _, _, store, _ = made
    cards = store.frame("cards", as_of=AS_OF)
    for row in cards.sample(20, seed=0).to_dicts():
        card = store.card(row["subscriber"])
        assert (card.subscriber, card.colour, len(card.visits)) == (
            row["subscriber"],
            row["colour"],
            len(row["visits"]),
        )
        assert card.policy == POLICY
        assert card.missing == tuple(AS_OF - timedelta(days=n) for n in range(7, 2, -1))
        assert str(row["subscriber"]) not in card.text() + json.dumps(card.as_dict())
        evidence = store.explain(row["subscriber"])
        assert {s.place for s in evidence.seen if s.listed} == {v.place for v in card.visits}


def test_a_number_that_is_not_there_is_not_found_and_not_shown(made):
    _, _, store, _ = made
    missing = 19912345678 if store.layout.subscribers == "integer" else "0123456789abcdef0123456789abcdef"
    with pytest.raises(NotFound) as error:
        store.card(missing)
    assert str(missing) not in str(error.value)
    with pytest.raises(NotFound, match="2022-03-15 to 2022-03-15"):
        store.card(missing, as_of=date(2022, 3, 20))


def test_the_ledger_records_every_run(made):
    _, _, store, steps = made
    runs = store.runs("stays", DAYS[0])
    assert runs["read"][0] == steps[0].counts["read"]
    assert dict(runs.to_dicts()[0]["rejected"]) == steps[0].counts["rejected"]
    cards = store.runs("cards", AS_OF).to_dicts()[0]
    assert cards["policy_hash"] == POLICY.hash
    assert "travelcard" in json.loads(cards["versions"])


def test_the_newest_row_is_the_one_that_was_added_last_whatever_the_clock_says(tmp_path):
    store = Store(tmp_path, asked={"buckets": 1})
    store.create("integer")
    noon = datetime(2022, 3, 14, 12, tzinfo=UTC)
    begun = [noon, noon, noon, noon - timedelta(hours=1)]  # ties, and a clock that was set back
    for read, started in enumerate(begun, 1):
        append(store, row_of(store, Step("stays", DAYS[1], 0.0, {"read": read}), started, {}))
        assert [row["read"] for row in newest(Store(tmp_path), "stays")] == [read]
        assert Store(tmp_path).runs()["read"].to_list() == list(range(1, read + 1))


def test_a_file_of_cards_that_travelcard_did_not_write_is_named(tmp_path):
    store = Store(tmp_path, asked={"buckets": 1})
    store.create("integer")
    card = {"subscriber": 7, "colour": "green", "visits": [], "reasons": [], "days_seen": 1}
    file = store.write(CARDS, pa.Table.from_pylist([card], schema=CARDS.arrow()), {"as_of": AS_OF, "bucket": 0})
    store.publish(CARDS, [file], {"as_of": AS_OF})
    for asked in (store.stale, store.changed, lambda: store.card(7)):
        with pytest.raises(InputError, match=f"^cards/{file.path} was not written by travelcard"):
            asked()


def test_status_list_and_corrections_reach_the_cards(made, tmp_path):
    _, _, store, _ = made
    who = store.frame("cards", as_of=AS_OF)["subscriber"][0]
    stranger = 19999999999 if isinstance(who, int) else "zz-nobody"
    statuses = pl.DataFrame({"subscriber": [who, stranger], "status": ["confirmed", "fever"], "from": [AS_OF, AS_OF]})
    rules = tc.Policy.preset("healthcode-9th")
    run_cards(store, as_of=AS_OF, policy=rules, places=tc.places.china(), statuses=statuses)
    assert (store.card(who).colour, store.card(stranger).colour) == ("red", "yellow")
    run_cards(store, as_of=AS_OF, policy=POLICY, places=tc.places.china())


def test_cards_are_the_same_in_however_many_parts_a_bucket_is_made(made, tmp_path, monkeypatch):
    """Row groups of five stays and no memory: a part is a few subscribers, some with a status or a correction."""
    root, cells, old, _ = made
    monkeypatch.setitem(GROUP, "stays", 5)
    store = Store(tmp_path, asked={"buckets": 2})
    for day in DAYS:
        run_stays(store, day=day, pings=pattern(root), cells=cells, reading=READING)
    assert_frame_equal(store.frame("stays").drop("bucket"), old.frame("stays").drop("bucket"), check_row_order=False)
    seen = store.frame("stays")
    some = seen["subscriber"].unique().sort().gather_every(7)
    strangers = pl.Series("subscriber", [1, 2**63 - 1] if some.dtype == pl.Int64 else [" ", "~"])
    statuses = pl.DataFrame({"subscriber": some.append(strangers)}).with_columns(
        status=pl.lit("fever"), **{"from": AS_OF}
    )
    wrong = seen.gather_every(11).select("subscriber", "place", **{"from": "day", "to": "day"})
    none = pl.lit(None, pl.String)
    wrong = wrong.with_columns(reason=none, by=none, at=pl.lit(None, pl.Datetime("us", "UTC"))).to_arrow()
    store.publish(CORRECTIONS, [store.write(CORRECTIONS, CORRECTIONS.read(wrong), {})])
    policy, places = tc.Policy.preset("healthcode-9th"), tc.places.china()
    rules = {"as_of": AS_OF, "policy": policy, "places": places, "statuses": statuses}
    whole = run_cards(store, **rules), store.frame("cards")
    parts = run_cards(store, **rules, memory=1), store.frame("cards")
    visits = tc.visits(seen.drop("day", "bucket"), as_of=AS_OF, policy=policy, corrections=wrong)
    expected = tc.cards(visits, subscribers=seen["subscriber"], **rules)
    assert_frame_equal(whole[1].drop("as_of", "bucket").sort("subscriber"), expected)
    assert parts[0].counts == whole[0].counts
    assert_frame_equal(parts[1], whole[1])
    paths = [path for _, path in store.files("stays", bucket=1)]
    with store.opened_stays(paths) as files:
        assert len(list(walked([Day(*file) for file in files], 0, store.layout.ids, inner=False))) > 30


# -------------------------------------------------------------------------------------------------------- refusals


def rows(n: int = 4, **columns) -> pl.DataFrame:
    noon = datetime(2022, 3, 14, 4, tzinfo=UTC)
    return pl.DataFrame({"subscriber": range(n), "time": noon, "plmn": "44010"}).with_columns(**columns)


def test_a_day_of_which_most_is_rejected_is_refused_and_nothing_is_there(tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(GateError, match=r"9 of 10 pings are rejected \(90 % no_place; limit 80 %\)"):
        run_stays(store, day=DAYS[1], pings=rows(10, plmn=pl.Series(["44010"] + ["46000", "99999", "90112"] * 3)))
    assert not store.exists
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        tmp_path / "store" / ".travelcard" / "store.lock"
    ]


def test_a_store_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        run_stays(Store(tmp_path / "store"), day=DAYS[1], pings=rows())


def test_a_store_keeps_its_layout(tmp_path):
    run_stays(Store(tmp_path, asked={"buckets": 4}), day=DAYS[1], pings=rows())
    assert Store(tmp_path).layout.buckets == 4
    with pytest.raises(InputError, match="cannot be changed"):
        _ = Store(tmp_path, asked={"buckets": 8}).layout
    with pytest.raises(InputError, match="integer subscribers"):
        run_stays(Store(tmp_path), day=DAYS[1], pings=rows(subscriber=pl.Series(["a", "b", "c", "d"])))
    assert len(Store(tmp_path).frame("stays")) == 4
    for asked in ({"buckets": 3}, {"tz": "Mars"}, {"max_silence_s": -1}):
        with pytest.raises(InputError):
            _ = Store(tmp_path / "new", asked=asked).layout


def test_cards_want_stays(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(InputError, match="no stays yet"):
        run_cards(store, as_of=AS_OF, policy=POLICY, places=tc.places.china())
    run_stays(store, day=DAYS[1], pings=rows())
    with pytest.raises(InputError, match="no day of the window"):
        run_cards(store, as_of=date(2023, 1, 1), policy=POLICY, places=tc.places.china())
    with pytest.raises(NotFound, match="no cards yet"):
        store.card(1)


def test_a_wrong_risk_list_publishes_no_cards(tmp_path):
    store = Store(tmp_path)
    run_stays(store, day=DAYS[1], pings=rows())
    with pytest.raises(InputError, match="risk"):
        run_cards(store, as_of=AS_OF, policy=tc.Policy.preset("card-2022-01"), places=tc.places.china())
    assert store.days("cards") == []


def test_run_is_a_whole_night(tmp_path):
    store = Store(tmp_path)
    stays, cards = tc.run(store, day=DAYS[1], pings=rows(), policy=POLICY)
    assert stays.counts["subscribers"] == cards.counts["subscribers"] == 4
    assert store.card(2).colour == "yellow"
    assert [visit.name for visit in store.card("2").visits] == ["日本"]


def test_pings_for_which_memory_has_no_room_go_to_disk_and_come_back(made, tmp_path, monkeypatch):
    short_chunks(monkeypatch)  # 16 of them a thread
    root, cells, store, _ = made
    small = Store(tmp_path / "store", asked={"buckets": 8})
    step = run_stays(small, day=DAYS[0], pings=pattern(root), cells=cells, reading=READING, memory=1)
    assert step.counts["spilled"] > 12 * step.counts["clean"] / 2
    assert_frame_equal(small.frame("stays"), store.frame("stays", day=DAYS[0]))
    assert_frame_equal(small.frame("rejects"), store.frame("rejects", day=DAYS[0]))
    assert [path.name for path in small.scratch.rglob("*") if path.is_file()] == ["store.lock"]


def test_a_stream_with_an_empty_batch(tmp_path):
    moment = datetime(2022, 3, 14, 4, tzinfo=UTC)
    table = pl.DataFrame({"subscriber": [7], "time": [moment], "cell": [1]}).to_arrow()
    inventory = pl.DataFrame({"cell": [1], "lat": [30.25], "lon": [120.17]})
    cells = tc.CellMap.build(inventory, places=tc.places.china())
    stream = pa.RecordBatchReader.from_batches(
        table.schema, [pa.RecordBatch.from_pylist([], table.schema), *table.to_batches()]
    )
    tc.run(Store(tmp_path), day=DAYS[1], pings=stream, cells=cells, policy=POLICY)
    assert Store(tmp_path).frame("stays")["place"].to_list() == ["330100"]


def test_explain_is_about_what_the_card_was_made_from(tmp_path):
    def pings(day, lat, lon):
        times = [datetime(2022, 3, day, hour, tzinfo=UTC) for hour in (1, 7)]
        return pl.DataFrame({"subscriber": [13800001234] * 2, "time": times, "lat": [lat] * 2, "lon": [lon] * 2})

    store = Store(tmp_path)
    tc.run(store, day=DAYS[1], pings=pings(14, 30.25, 120.17), policy=POLICY)
    made = store.explain(13800001234).as_dict()
    tc.run(store, day=DAYS[0], pings=pings(13, 31.23, 121.47), policy=POLICY)  # a day that came late
    assert store.explain(13800001234, as_of=AS_OF).as_dict() == made
    run_stays(store, day=DAYS[1], pings=pings(14, 31.23, 121.47), places=tc.places.china())  # and one that was changed
    assert store.explain(13800001234, as_of=AS_OF).stale
    assert not store.explain(13800001234, as_of=DAYS[1]).stale
