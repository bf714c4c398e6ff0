"""What docs/privacy.md promises: under which name, for how long, and that what was removed is gone to the byte."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nights
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given
from hypothesis import strategies as st
from nights import AS_OF, DAYS, LAST, OLD, command, copied, good, named, rows, same, told

import travelcard as tc
from travelcard.check import check
from travelcard.engine import _hidden
from travelcard.errors import hidden
from travelcard.pseudonyms import ff1

KEY, OTHER = "5a" * 32, "c3" * 32
TABLES = ("stays", "rejects", "cards", "corrections", "runs")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Three days of a small country, run without a key."""
    return nights.country(tmp_path_factory.mktemp("plain") / "country", run=3, buckets=4)


@pytest.fixture(scope="module")
def keyed(plain, tmp_path_factory):
    """The same with a key, which stands in a file."""
    folder = copied(plain, tmp_path_factory.mktemp("keyed") / "country")
    subprocess.run(["rm", "-r", folder / "store"], check=True)
    (folder / "key").write_text(KEY + "\n")
    with (folder / "travelcard.toml").open("a") as file:
        file.write('\n[pseudonyms]\nfile = "key"\n')
    for day in DAYS:
        good(folder, "run", day)
    return folder


def numbers_of(folder: Path) -> list[int]:
    """Every subscriber of a country."""
    return pl.read_parquet(folder / "truth" / "people.parquet")["subscriber"].to_list()


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(folder: Path, number: int) -> list[str]:
    """Where a number stands in a store: in the raw bytes of any file, as text or as a word; and in every Parquet file,
    as two libraries decode it.
    """
    where = []
    text, words = str(number), [number.to_bytes(8, order) for order in ("little", "big")]
    for path, data in bytes_of(folder).items():
        if text.encode() in data or any(word in data for word in words):
            where.append(f"{path}: bytes")
        if path.suffix == ".parquet":
            for name, table in (("pyarrow", pq.read_table(path, partitioning=None)), ("polars", pl.read_parquet(path))):
                columns = table.to_pydict() if isinstance(table, pa.Table) else table.to_dict(as_series=False)
                if re.search(rf"(?<!\d){text}(?!\d)", repr(columns)):
                    where.append(f"{path}: {name}")
    return where


# ---------------------------------------------------------------------------------------------------- pseudonyms

NIST = [  # SP 800-38G, the samples of FF1 without a tweak: 1, 4 and 7
    ("2B7E151628AED2A6ABF7158809CF4F3C", 2433477484),
    ("2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F", 2830668132),
    ("2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94", 6657667009),
]


@pytest.mark.parametrize(("key", "made"), NIST)
def test_ff1_is_that_of_the_standard(key, made):
    assert ff1(bytes.fromhex(key), np.array([123456789], np.uint64), 10, 10).tolist() == [made]
    assert ff1(bytes.fromhex(key), np.array([made], np.uint64), 10, 10, back=True).tolist() == [123456789]


def test_siv_is_that_of_the_rfc():
    """RFC 5297, A.1: the library's, of which the texts' pseudonyms are made."""
    key = bytes.fromhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    head = bytes.fromhex("101112131415161718191a1b1c1d1e1f2021222324252627")
    text = bytes.fromhex("112233445566778899aabbccddee")
    made = "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"
    assert AESSIV(key).encrypt(text, [head]).hex() == made


@given(st.lists(st.integers(0, 2**63 - 1), unique=True) | st.lists(st.text(min_size=1), unique=True))
def test_no_two_share_a_pseudonym_and_the_key_leads_back(ids):
    ids = pa.array(ids, pa.string() if ids and isinstance(ids[0], str) else pa.int64())
    key = tc.Pseudonyms(KEY)
    made = key.of(ids)
    assert made.type == ids.type
    assert len(set(made.to_pylist())) == len(ids)
    assert key.back(made) == ids
    if pa.types.is_integer(ids.type):
        assert all(one >= 0 for one in made.to_pylist())
    assert not set(made.to_pylist()) & set(tc.Pseudonyms(OTHER).of(ids).to_pylist())


@given(st.lists(st.text(st.sampled_from("0123456789 +-x*")) | st.none()))
def test_many_values_are_hidden_as_one_is(values):
    made = _hidden(pa.chunked_array([pa.array(values, pa.string())])).to_pylist()
    assert made == [None if value is None else hidden(value) for value in values]


def test_another_key_does_not_lead_back():
    made = tc.Pseudonyms(KEY).of(pa.array(["somebody"]))
    with pytest.raises(tc.InputError, match="are not of the key"):
        tc.Pseudonyms(OTHER).back(made)


@pytest.mark.parametrize("key", ["", "5a", "zz" * 32, KEY + "0"])
def test_what_is_no_key_is_refused_and_not_repeated(key):
    with pytest.raises(tc.InputError) as refused:
        tc.Pseudonyms(key)
    assert len(key) < 5 or key not in str(refused.value)


@pytest.mark.parametrize("ids", ["integer", "string"])
def test_with_a_key_the_tables_are_those_without_it_under_other_names(tmp_path, ids):
    tc.synth.write(tmp_path, subscribers=200, days=DAYS[:1], pings_per_subscriber=20, cells=2000, ids=ids, seed=3)
    told(tmp_path, "buckets = 4")
    good(tmp_path, "run", DAYS[0])
    without = rows(tc.Store(tmp_path / "store"))
    os.rename(tmp_path / "store", tmp_path / "without")
    (tmp_path / "key").write_text(KEY)
    told(tmp_path, f'pseudonyms.command = "cat {tmp_path}/key"')
    good(tmp_path, "run", DAYS[0])
    key = tc.Pseudonyms(KEY)
    with_ = rows(tc.Store(tmp_path / "store"))
    for name in ("stays", "cards"):
        assert with_[name]["subscriber"].is_in(without[name]["subscriber"].to_list()).sum() == 0
        back = pl.from_arrow(key.back(with_[name]["subscriber"].to_arrow().cast(without_type(ids))))
        led = with_[name].with_columns(back.alias("subscriber"))
        by = [column for column in without[name].columns if column not in ("visits", "reasons")]
        assert led.sort(by).equals(without[name].sort(by))
    store = tc.Store(tmp_path / "store", key=key)
    plain = tc.Store(tmp_path / "without")
    for number in without["cards"]["subscriber"][:20]:
        assert store.card(number) == plain.card(number)
        said, other = (one.explain(number).as_dict() for one in (store, plain))
        assert said == other
    assert not [one for one in check(store, as_of=DAYS[0] + timedelta(days=1), days=1) if one.wrong]


def without_type(ids: str) -> pa.DataType:
    return pa.int64() if ids == "integer" else pa.string()


def test_a_status_list_names_numbers_and_a_correction_too(keyed, tmp_path):
    folder = copied(keyed, tmp_path / "country")
    store = tc.Store(folder / "store", key=tc.Pseudonyms(KEY))
    people = pl.read_parquet(folder / "truth" / "people.parquet")["subscriber"]
    number = next(n for n in people if store.card(n).visits)
    pl.DataFrame({"subscriber": [number], "status": ["confirmed"], "from": [DAYS[0]], "to": [AS_OF]}).write_csv(
        folder / "statuses.csv"
    )
    with (folder / "travelcard.toml").open("a") as file:
        file.write('\n[statuses]\npath = "statuses.csv"\n')
    good(folder, "cards", AS_OF, "--policy", "healthcode-hangzhou-2020")
    assert store.card(number).colour == "red"
    place = store.card(number).visits[0]
    good(folder, "correct", number, place.name, "--from", DAYS[0], "--to", LAST, "--reason", "not there", "--by", "me")
    good(folder, "cards", AS_OF, "--policy", "healthcode-hangzhou-2020")
    assert place.place not in [visit.place for visit in store.card(number).visits]
    assert not found(folder / "store", number)


# ---------------------------------------------------------------------------------------------------- nothing shows


def test_no_number_stands_in_anything_that_was_printed_or_stored(keyed, tmp_path):
    """Every command, in peace and refused, with its numbers and with the file that they came from turned about."""
    folder = copied(keyed, tmp_path / "country")
    numbers = numbers_of(folder)
    store = tc.Store(folder / "store", key=tc.Pseudonyms(KEY))
    number = store.key.back(store.frame("cards", as_of=AS_OF)["subscriber"][:1].to_arrow())[0].as_py()
    place = store.card(number).visits[0].place
    swapped = pl.read_parquet(sorted((folder / "pings" / str(LAST)).iterdir())[0])
    wrong = swapped.with_columns(pl.col("msisdn").reverse().alias("cell"))
    wrong.write_parquet(folder / "pings" / str(LAST) / "zz.parquet")
    days = ["--from", str(DAYS[0]), "--to", str(DAYS[1]), "--reason", f"said {numbers[3]}"]
    said = []
    for words in (
        ("stays", LAST), ("cards", "--stale"), ("card", number), ("card", number, "--json"), ("card", 13900000000),
        ("explain", number), ("explain", number, "--json"), ("history", number), ("history", number, "--json"),
        ("correct", number, place, *days), ("correct", number, str(numbers[5]), *days), ("cards", AS_OF),
        ("correct", number, place, *days, "--undo"), ("correct", number, place, *days, "--undo"), ("check",),
        ("report", LAST), ("flows", LAST), ("forget", numbers[1]), ("card", numbers[1]), ("run", numbers[0]),
        ("expire", AS_OF), (str(numbers[2]),), ("card", f"x{numbers[2]}"), ("cards", LAST, "--policy", numbers[4]),
    ):  # fmt: skip
        done = command(folder, *words)
        assert done.returncode in (0, 1, 2), done.stderr
        assert "Traceback" not in done.stderr
        said.append(done.stdout + done.stderr)
    said += [path.read_text() for path in folder.glob("*.html")] + [path.read_text() for path in folder.glob("flows/*")]
    assert len(folder.joinpath(f"report-{LAST}.html").read_text()) > 1000
    words = set(re.findall(r"\d{9,}", "\n".join(said)))
    assert not words & set(map(str, numbers))
    stored = bytes_of(folder / "store")
    text = b"\n".join(stored.values())
    assert [n for n in numbers if str(n).encode() in text] == []
    assert [n for n in numbers if n.to_bytes(8, "little") in text] == []
    for path in stored:
        if path.suffix == ".parquet":
            whole = repr(pq.read_table(path, partitioning=None).to_pydict()) + repr(pl.read_parquet(path).to_dicts())
            assert not set(re.findall(r"\d{9,}", whole)) & set(map(str, numbers)), path


def test_who_has_no_key_or_another_is_told_nothing_and_writes_nothing(keyed, plain, tmp_path):
    folder = copied(keyed, tmp_path / "country")
    number = numbers_of(folder)[0]
    before = bytes_of(folder / "store")
    (folder / "key").write_text(OTHER)
    for words in (("card", number), ("explain", number), ("run", LAST), ("cards", AS_OF), ("forget", number)):
        done = command(folder, *words)
        assert done.returncode == 1
        assert done.stderr.startswith("refused: ")
        assert "is not of the key" in done.stderr
        assert OTHER not in done.stderr
    config = (folder / "travelcard.toml").read_text()
    (folder / "travelcard.toml").write_text(re.sub(r"\[pseudonyms.*", "", config, flags=re.DOTALL))
    for words in (("card", number), ("run", LAST), ("forget", number)):
        done = command(folder, *words)
        assert done.returncode == 1
        assert "give its key" in done.stderr
    assert {path: bytes_of(folder / "store")[path] for path in before} == before
    with pytest.raises(tc.InputError, match="made without a key and holds numbers"):
        tc.Store(plain / "store", key=tc.Pseudonyms(KEY)).card(number)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('file = "nowhere"', "cannot be read"), ('command = "false"', "command failed"),
        ('command = "echo 12345"', "64 hexadecimal digits"), ("", "one of file and command"),
        (f'key = "{KEY}"', "is no key of travelcard.toml"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_to_be_had_is_one_line(keyed, tmp_path, lines, said):
    (tmp_path / "travelcard.toml").write_text(f'store = "{keyed}/store"\n[pseudonyms]\n{lines}\n')
    done = command(tmp_path, "card", 13800000000)
    assert done.returncode == 1
    assert said in done.stderr
    assert KEY not in done.stderr
    assert "12345" not in done.stderr


# ---------------------------------------------------------------------------------------------------- forgetting


@pytest.mark.parametrize("which", ["plain", "keyed"])
def test_who_is_forgotten_is_in_no_byte_and_nobody_else_is_touched(which, plain, keyed, tmp_path):
    folder = copied({"plain": plain, "keyed": keyed}[which], tmp_path / "country")
    key = tc.Pseudonyms(KEY) if which == "keyed" else None
    store = tc.Store(folder / "store", key=key)
    ids = store.frame("cards", as_of=AS_OF)["subscriber"]
    number = (key.back(ids.to_arrow()).to_pylist() if key else ids.to_list())[5]
    kept = ids[5]
    place = store.card(number).visits[0].place if store.card(number).visits else "330100"
    good(folder, "correct", number, place, "--from", DAYS[0], "--to", DAYS[0], "--reason", "test")
    before = rows(store)
    assert found(folder / "store", kept)
    step = json.loads(good(folder, "forget", number, "--by", "the office"))
    assert step["removed"]["cards"][str(AS_OF)] == 1
    assert step["removed"]["corrections"] == {"all": 1}
    assert not found(folder / "store", number)
    assert not found(folder / "store", kept)
    after = rows(tc.Store(store.root, key=key))
    for name in ("stays", "cards"):
        assert after[name].equals(before[name].filter(pl.col("subscriber") != kept))
    assert nights.listing(folder / "store") == named(store)
    assert "no card for" in command(folder, "card", number).stderr
    assert store.stale() == []
    wrong = [one for one in check(tc.Store(store.root, key=key), as_of=AS_OF, days=3) if one.wrong]
    assert wrong == []
    audit = store.runs("forget").to_dicts()[-1]
    assert json.loads(audit["settings"])["by"] == "the office"
    assert str(number) not in str(audit)
    assert json.loads(good(folder, "forget", number))["removed"] == {}
    good(folder, "cards", AS_OF)
    assert rows(tc.Store(store.root))["cards"].equals(after["cards"])


def test_who_was_the_only_one_may_be_forgotten_too(tmp_path):
    store, pings = tc.Store(tmp_path, asked={"buckets": 1}), {"subscriber": [13800000001], "plmn": ["44010"]}
    time = pl.Series("time", [datetime(2022, 3, 12, 4, tzinfo=UTC)])
    policy = tc.Policy.preset("card-2022-07-08")
    tc.run(store, day=DAYS[0], pings=pl.DataFrame(pings).with_columns(time), policy=policy)
    tc.forget(store, 13800000001)
    assert store.days("stays") == [DAYS[0]]
    assert store.frame("stays").is_empty()
    assert not [one for one in check(store, as_of=DAYS[1], days=1) if one.wrong]
    tc.run(store, day=DAYS[1], pings=pl.DataFrame(pings).with_columns(time.dt.offset_by("1d")), policy=policy)
    assert store.card(13800000001).days_seen == 1
    assert tc.flows(store, DAYS[0], DAYS[1]).cities.is_empty()


def test_a_reject_that_shows_the_number_goes_with_it(plain, tmp_path):
    folder = copied(plain, tmp_path / "country")
    others_for_cells = pl.read_parquet(sorted((folder / "pings" / str(LAST)).iterdir())[0]).head(50)
    others_for_cells.with_columns(pl.col("msisdn").reverse().alias("cell")).write_parquet(
        folder / "pings" / str(LAST) / "zz.parquet"
    )
    good(folder, "run", LAST)
    rejects = tc.Store(folder / "store").frame("rejects", day=LAST)["value"].drop_nulls()
    one, other = [number for number in numbers_of(folder) if str(number) in set(rejects)][:2]
    good(folder, "forget", one)
    left = tc.Store(folder / "store").frame("rejects", day=LAST)["value"].drop_nulls()
    assert left.equals(rejects.filter(rejects != str(one)))
    assert str(other) in set(left)
    assert not found(folder / "store", one)


def test_an_expiry_leaves_nothing_of_what_is_past_in_any_version(plain, tmp_path):
    folder = copied(plain, tmp_path / "country")
    store = tc.Store(folder / "store")
    gone = set(store.frame("stays", day=DAYS[0])["subscriber"]) - set(
        store.frame("stays").filter(pl.col("day") > DAYS[0])["subscriber"]
    )
    only = gone or {None}
    good(folder, "expire", OLD)
    for number in only - {None}:
        assert not found(folder / "store", number)
    logs = b"".join(data for path, data in bytes_of(folder / "store").items() if "_delta_log" in path.parts)
    assert str(DAYS[0]).encode() not in logs
    assert str(AS_OF).encode() not in logs.replace(f"{OLD}".encode(), b"")
    assert {path.name for path in (folder / "store").glob("*/_delta_log/*.json")}
    for name in TABLES:
        assert len(list((folder / "store" / name / "_delta_log").glob("*.json"))) <= 2


def test_a_reader_that_stays_open_sees_every_version_though_the_log_is_trimmed(plain, tmp_path):
    folder = copied(plain, tmp_path / "country")
    reader, writer = tc.Store(folder / "store"), tc.Store(folder / "store")
    number = reader.frame("cards", as_of=AS_OF)["subscriber"][0]
    for _ in range(3):
        card = reader.card(number)
        writer.trim()
        assert reader.card(number) == card
        good(folder, "run", LAST)
        good(folder, "expire", DAYS[0])
        assert reader.card(number) == card
        assert reader.frame("cards").height == writer.frame("cards").height
    good(folder, "forget", number)
    with pytest.raises(tc.NotFound):
        reader.card(number)


def test_who_reads_while_logs_are_trimmed_is_never_refused(plain, tmp_path):
    folder = copied(plain, tmp_path / "country")
    writer, number = tc.Store(folder / "store"), tc.Store(folder / "store").frame("cards")["subscriber"][0]
    ended = threading.Event()

    def reads() -> int:
        kept, n = tc.Store(folder / "store"), 0
        while not ended.is_set():
            for store in (kept, tc.Store(folder / "store")):
                store.card(number)
                store.runs()
                n += 1
        return n

    with ThreadPoolExecutor(2) as pool:
        read = [pool.submit(reads) for _ in range(2)]
        for _ in range(30):
            writer.trim()
        ended.set()
    assert sum(one.result() for one in read) > 30


# ---------------------------------------------------------------------------------------------------- the end


def test_a_purge_leaves_a_note_and_nothing_else(plain, tmp_path):
    folder = copied(plain, tmp_path / "country")
    reader = tc.Store(folder / "store")
    number = reader.frame("cards")["subscriber"][0]
    before = rows(reader)
    assert "--yes" in command(folder, "purge").stderr
    assert same(rows(reader), before)
    good(folder, "purge", "--yes", "--by", "the ministry")
    (left,) = bytes_of(folder / "store").values()
    assert json.loads(left)["by"] == "the ministry"
    assert not found(folder / "store", number)
    for words in (("card", number), ("run", LAST), ("cards", AS_OF), ("expire", AS_OF), ("check",), ("stays", LAST)):
        assert "was purged on" in command(folder, *words).stderr
    with pytest.raises(tc.NotFound, match="was purged"):
        reader.card(number)
    good(folder, "purge", "--yes")
    assert json.loads(next(iter(bytes_of(folder / "store").values())))["by"] == "the ministry"


# ---------------------------------------------------------------------------------------------------- corrections


def test_a_correction_holds_from_the_next_cards_on_and_is_taken_back_by_another(plain, tmp_path):
    folder = copied(plain, tmp_path / "country")
    store = tc.Store(folder / "store")
    number = next(n for n in store.frame("cards", as_of=AS_OF)["subscriber"] if len(store.card(n).visits) == 1)
    (visit,) = store.card(number).visits
    words = ("correct", number, visit.name, "--from", DAYS[0], "--to", LAST, "--reason", "a cell across the border")
    before = store.card(number)
    assert json.loads(good(folder, *words))["place"] == visit.place
    assert store.card(number) == before
    for again in (("cards", AS_OF), ("run", LAST)):
        good(folder, *again)
        assert store.card(number).visits == ()
        assert "a cell across the border" in json.dumps(store.explain(number).as_dict(), ensure_ascii=False)
        assert "更正：" in good(folder, "explain", number)
    good(folder, *words, "--undo")
    assert store.card(number).visits == ()
    good(folder, "cards", AS_OF)
    assert store.card(number) == before
    assert "no correction" in command(folder, *words, "--undo").stderr
    assert store.frame("corrections").sort("at")["undo"].to_list() == [False, True]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("330100", "--from", LAST, "--to", DAYS[0], "--reason", "x"), "the first day is after the last"),
        (("nowhere", "--from", LAST, "--to", LAST, "--reason", "x"), "no code or name of a place"),
        (("330100", "--from", LAST, "--to", LAST, "--reason", " "), "needs a reason"),
    ],
)
def test_a_correction_that_says_nothing_is_refused(plain, words, said):
    before = rows(tc.Store(plain / "store"))
    assert said in command(plain, "correct", 13800000000, *words).stderr
    assert same(rows(tc.Store(plain / "store")), before)
    assert tc.Store(plain / "store").frame("corrections").is_empty()


# ---------------------------------------------------------------------------------------------------- keys


def test_a_rekey_changes_every_name_and_nothing_else(keyed, tmp_path):
    folder = copied(keyed, tmp_path / "country")
    old, new = tc.Pseudonyms(KEY), tc.Pseudonyms(OTHER)
    store = tc.Store(folder / "store", key=old)
    numbers = old.back(store.frame("cards", as_of=AS_OF)["subscriber"].to_arrow()).to_pylist()
    good(folder, "correct", numbers[2], "330100", "--from", DAYS[0], "--to", LAST, "--reason", "x")
    cards = [store.card(number) for number in numbers[:20]]
    kept = set(store.frame("stays")["subscriber"]) | set(store.frame("cards")["subscriber"])
    done = command(folder, "rekey", env={"TRAVELCARD_NEW_KEY": OTHER})
    assert done.returncode == 0, done.stderr
    later = tc.Store(folder / "store", key=new)
    assert [later.card(number) for number in numbers[:20]] == cards
    assert later.stale() == []
    assert set(new.back(later.frame("corrections")["subscriber"].to_arrow()).to_pylist()) == {numbers[2]}
    assert not {n for n in kept if found_in_tables(folder / "store", n)}
    assert "is not of the key" in command(folder, "card", numbers[0]).stderr
    (folder / "key").write_text(OTHER)
    assert good(folder, "card", numbers[0])
    good(folder, "run", LAST)
    assert not [one for one in check(tc.Store(folder / "store", key=new), as_of=AS_OF, days=3) if one.wrong]
    for wrong in ({"TRAVELCARD_NEW_KEY": OTHER}, {}, {"TRAVELCARD_NEW_KEY": "1234"}):
        assert command(folder, "rekey", env=wrong).returncode == 1
    again = command(folder, "rekey", env={"TRAVELCARD_KEY": KEY, "TRAVELCARD_NEW_KEY": OTHER})
    assert json.loads(again.stdout)["rows"] == 0


def found_in_tables(folder: Path, number: int) -> bool:
    return any(number.to_bytes(8, "little") in data for data in bytes_of(folder).values())


# ---------------------------------------------------------------------------------------------------- history


def test_a_history_says_what_changed_and_why(tmp_path):
    """One subscriber: a city, then another, then the first one out of the window, a correction, another policy."""
    store = tc.Store(tmp_path, asked={"buckets": 1})
    policy = replace(tc.Policy.preset("card-2022-07-08"), id="seven")
    days = [DAYS[0] + timedelta(days=n) for n in range(10)]
    where = ["44010"] + ["31000"] * 9
    number = 13800000001
    for day, plmn in zip(days, where, strict=True):
        begin = pl.datetime_range(
            pl.datetime(day.year, day.month, day.day, 1), pl.datetime(day.year, day.month, day.day, 9), "1h", eager=True
        )
        pings = pl.DataFrame({"subscriber": [number] * 9, "time": begin, "plmn": [plmn] * 9})
        tc.run(store, day=day, pings=pings.with_columns(pl.col("time").dt.replace_time_zone("UTC")), policy=policy)
    told_ = tc.history(store, number)
    changes = {str(card.as_of): [(c.what, c.place, c.why) for c in cs] for card, _, cs in told_.cards if cs}
    assert changes == {
        str(days[2]): [("added", "USA", ("visited",))],
        str(days[8]): [("removed", "JPN", ("window",))],
    }
    tc.correct(store, number, "USA", first=days[0], last=days[5], reason="somebody else's")
    tc.run(store, day=days[9], pings=pings.with_columns(pl.col("time").dt.replace_time_zone("UTC")), policy=policy)
    assert tc.history(store, number).cards[-1][2] == ()
    tc.correct(store, number, "USA", first=days[0], last=days[9], reason="somebody else's")
    tc.run(store, day=days[9], pings=pings.with_columns(pl.col("time").dt.replace_time_zone("UTC")), policy=policy)
    *_, (card, _, (change, *_)) = tc.history(store, number).cards
    assert card.visits == ()
    assert (change.what, change.place, change.why) == ("removed", "USA", ("correction",))
    for language, words in (("zh", "－美国（更正）"), ("en", "- United States (a correction)")):
        assert words in tc.history(store, number, places=tc.places.china()).text(language)
    with pytest.raises(tc.NotFound, match=r"no card for 139\*\*\*\*0000"):
        tc.history(store, 13900000000)


# ---------------------------------------------------------------------------------------------------- counts


def in_cities(tmp_path: Path, rows_: list[tuple[int, int, str]]) -> tc.Store:
    """A store of stays: (day's number, subscriber, place), of an hour each in the order given."""
    store = tc.Store(tmp_path, asked={"buckets": 2})
    for n in range(3):
        mine = [(who, place) for day, who, place in rows_ if day == n]
        plmn = {"JPN": "44010", "USA": "31000", "HKG": "45400"}
        begin = pl.datetime(DAYS[n].year, DAYS[n].month, DAYS[n].day)
        pings = pl.DataFrame({"subscriber": [w for w, _ in mine], "plmn": [plmn[p] for _, p in mine]}).with_columns(
            (begin + pl.duration(seconds=pl.int_range(pl.len()) * 60)).dt.replace_time_zone("UTC").alias("time"),
        )
        if mine:
            tc.run(store, day=DAYS[n], pings=pings, policy=tc.Policy.preset("card-2022-07-08"))
    return store


def test_fourteen_are_not_told_of_and_fifteen_are(tmp_path):
    rows_ = [(0, who, "JPN") for who in range(1, 16)] + [(0, who, "USA") for who in range(20, 34)]
    rows_ += [(1, who, "HKG") for who in range(1, 16)] + [(1, who, "HKG") for who in range(20, 34)]
    store = in_cities(tmp_path, rows_)
    found_ = tc.flows(store, DAYS[0], DAYS[1])
    assert found_.cities.rows() == [(DAYS[0], "JPN", 15), (DAYS[1], "HKG", 15)]
    assert found_.trips.rows() == [(DAYS[1], "JPN", "HKG", 15)]
    assert tc.flows(store, DAYS[0], DAYS[1], k=14).cities.rows()[1] == (DAYS[0], "USA", 14)
    assert tc.flows(store, DAYS[1], DAYS[1]).trips.equals(found_.trips)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.sampled_from(("JPN", "USA", "HKG"))), min_size=1))
def test_no_sum_or_difference_of_what_is_told_is_a_small_count(tmp_path_factory, rows_):
    """An attacker adds and subtracts what is shown: of two cells, of tables, of days, of queries, of totals."""
    store = in_cities(tmp_path_factory.mktemp("flows"), rows_)
    held = store.days("stays")
    asked = [(a, b) for a, b in itertools.combinations_with_replacement(DAYS, 2) if any(a <= day <= b for day in held)]
    k = 3
    truth = {}
    for day, who, place in rows_:
        truth.setdefault((DAYS[day], place), set()).add(who)
    shown: dict[tuple, int] = {}
    for first, last in asked:
        for table in tc.flows(store, first, last, k=k):
            for *cell, n in table.iter_rows():
                assert shown.setdefault(tuple(cell), n) == n, "two queries differ"
    for cell, n in shown.items():
        if len(cell) == 2:
            assert 0 <= len(truth[cell]) - n < k
    assert {cell for cell, who in truth.items() if len(who) >= k} == {cell for cell in shown if len(cell) == 2}
    totals = [
        sum(n for cell, n in shown.items() if len(cell) == size and cell[0] == day) for day in DAYS for size in (2, 3)
    ]
    numbers = [*shown.values(), *totals]
    for signs in itertools.product((-1, 0, 1), repeat=min(len(numbers), 6)):
        assert sum(s * n for s, n in zip(signs, numbers, strict=False)) % k == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((LAST, DAYS[0]), "is after the last"),
        ((DAYS[0] - timedelta(days=30),), "has no day"),
        ((LAST, "--k", 1), "usage"),
    ],
)
def test_flows_that_cannot_be_told_are_refused(plain, words, said):
    assert said in command(plain, "flows", *words).stderr


def test_the_command_writes_both_tables(plain, tmp_path):
    good(plain, "flows", DAYS[0], LAST, "--out", tmp_path / "flows", "--k", 10)
    cities = pl.read_csv(tmp_path / "flows" / "cities.csv", try_parse_dates=True, schema_overrides={"place": pl.String})
    stays = tc.Store(plain / "store").frame("stays")
    counts = stays.group_by("day", "place").agg(pl.col("subscriber").n_unique() // 10 * 10)
    assert cities.sort("day", "place").rows() == counts.filter(pl.col("subscriber") > 0).sort("day", "place").rows()
    assert sys.getsizeof(cities) > 0
