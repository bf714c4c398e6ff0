"""Tracks of real people, shifted into 2022 and run night by night beside that year's risk lists (docs/geolife.md).

What is expected comes from the README of the data, from the rows and from the lists, read here in a few lines of their
own. Of the library only the boundary file is used, and GEOS looks into it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import polars as pl
import pytest
import shapely

import travelcard as tc
from travelcard.cli import main
from travelcard.store import Store

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "geolife.md"
SHARED = Path(os.environ.get("TRAVELCARD_SHARED") or ROOT.parent / "shared" / "data").resolve()
TRACKS, LISTS = SHARED / "geolife" / "geolife.parquet", SHARED / "risk"
pytestmark = pytest.mark.skipif(
    not (TRACKS.is_file() and LISTS.is_dir()),
    reason="the tracks and risk lists are not in shared/data beside this repository; TRAVELCARD_SHARED may say where",
)

# The README of the data: rows in each place, and who was where outside Beijing, in local time.
ROWS = {
    "110000": 150_031, "120000": 6_679, "231000": 2_523, "230100": 2_039, "131000": 1_670, "220100": 650,
    "220700": 358, "211200": 344, "210100": 237,
}  # fmt: skip
AWAY = (
    (6, "120000", "2008-10-31 14:32", "2008-10-31 15:28"),
    (10, "210100", "2007-08-04 23:53", "2007-08-05 00:00"),
    (10, "211200", "2007-08-05 00:00", "2007-08-05 00:12"),
    (10, "231000", "2007-08-05 15:05", "2007-08-05 16:33"),
    (10, "230100", "2007-08-05 16:37", "2007-08-06 00:20"),
    (10, "220700", "2007-08-06 00:21", "2007-08-06 00:40"),
    (10, "220100", "2007-08-06 00:40", "2007-08-06 01:13"),
    (10, "131000", "2007-08-29 01:40", "2007-08-29 01:52"),
    (10, "120000", "2007-08-29 01:49", "2007-08-29 02:21"),
    (10, "120000", "2007-08-31 04:39", "2007-08-31 04:56"),
    (10, "131000", "2007-09-06 01:40", "2007-09-06 01:52"),
    (10, "120000", "2007-09-06 01:49", "2007-09-06 02:20"),
    (10, "131000", "2007-09-07 05:12", "2007-09-07 16:26"),
    (10, "120000", "2007-09-07 05:22", "2007-09-07 16:16"),
)
BEGAN = {6: date(2008, 10, 23), 10: date(2007, 8, 4)}  # the first days of those two
PEOPLE, SECONDS_REPEATED, ROWS_REPEATED = range(11), 213, 8
NAMES = {
    "110000": "北京市", "120000": "天津市", "231000": "黑龙江省牡丹江市", "230100": "黑龙江省哈尔滨市",
    "131000": "河北省廊坊市", "220100": "吉林省长春市", "220700": "吉林省松原市", "211200": "辽宁省铁岭市",
    "210100": "辽宁省沈阳市",
}  # fmt: skip
CODES = {re.sub(".*省", "", name): code for code, name in NAMES.items()}

START, END = date(2022, 5, 5), date(2022, 6, 8)
NIGHTS = [START + timedelta(days=i) for i in range((END - START).days + 1)]
AS_OF = [night + timedelta(days=1) for night in NIGHTS]
FOUR_HOURS, DAY, EIGHT_HOURS = 4 * 3600, 86_400, 8 * 3600  # Asia/Shanghai is eight hours ahead, without summer time
UPDATED = re.compile(r"更新于：.*")


def local_day(second: int) -> date:
    return date(1970, 1, 1) + timedelta(days=(second + EIGHT_HOURS) // DAY)


def local(text: str, shift: timedelta = timedelta(0)) -> int:
    """A local minute of the README, shifted, as a UTC second."""
    return int((datetime.fromisoformat(text + "+08:00") + shift).timestamp())


# ------------------------------------------------------------------------------------------------- what is expected


@pytest.fixture(scope="module")
def fixes() -> list[tuple[int, int, str]]:
    """The rows, shifted: (subscriber, second, the place whose polygon covers it)."""
    rows = pl.read_parquet(TRACKS)
    places = pl.read_parquet(Path(tc.__file__).parent / "data" / "china.parquet", columns=["code", "geometry"])
    tree = shapely.STRtree(shapely.from_wkb(places["geometry"].to_numpy()))
    at, polygon = tree.query(shapely.points(rows["lon"].to_numpy(), rows["lat"].to_numpy()), predicate="covered_by")
    order = np.argsort(at)
    assert np.array_equal(at[order], np.arange(len(rows)))  # "Every row lies in one place"
    who, second = rows["subscriber"].to_list(), rows["time"].dt.epoch("s").to_list()
    first = {}
    for subscriber, then in zip(who, second, strict=True):
        first[subscriber] = min(then, first.get(subscriber, then))
    shift = {subscriber: (START - local_day(then)).days * DAY for subscriber, then in first.items()}
    codes = places["code"].to_list()
    return [(s, t + shift[s], codes[p]) for s, t, p in zip(who, second, polygon[order].tolist(), strict=True)]


@pytest.fixture(scope="module")
def spans(fixes) -> dict[tuple[int, date], dict[str, tuple[int, int]]]:
    """First and last second in each place, by subscriber and day."""
    found: dict = defaultdict(dict)
    for subscriber, second, place in fixes:
        here = found[subscriber, local_day(second)]
        first, last = here.get(place, (second, second))
        here[place] = min(first, second), max(last, second)
    return dict(found)


def expected(spans, subscriber: int, as_of: date) -> list[tuple[str, int, int, int, bool]]:
    """Every place of a window, by its first fix: (place, first, last, days, whether one day spans four hours)."""
    days = [spans.get((subscriber, as_of - timedelta(days=i)), {}) for i in range(14, 0, -1)]
    found = []
    for place in {place for day in days for place in day}:
        here = [day[place] for day in days if place in day]
        listed = any(last - first >= FOUR_HOURS for first, last in here)
        found.append((place, here[0][0], here[-1][1], len(here), listed))
    return sorted(found, key=lambda row: (row[1], row[0]))


@pytest.fixture(scope="module")
def stays(fixes) -> list[tuple]:
    """The day-stays of the rows, by the sentences of the design; a position without an accuracy is inner."""
    return oracle.stays([(*fix, True) for fix in fixes])


def levels(day: date) -> dict[str, set[str]]:
    """The README's places on the list of a day, and their levels. Of Beijing the district stands in `city`."""
    data = json.loads((LISTS / f"{day}.json").read_text(encoding="utf-8"))["data"]
    found: dict = defaultdict(set)
    for level, key in (("high", "highlist"), ("medium", "middlelist")):
        for row in data[key]:
            code = CODES.get(row["province"]) or CODES.get(row["city"])
            if code:
                found[code].add(level)
    return dict(found)


# ------------------------------------------------------------------------------------------------- the run


def call(*arguments: str) -> tuple[int, str, str]:
    """Run a command line in this process: (exit code, standard output, standard error)."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def steps(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines()]


def blocks(language: str) -> list[str]:
    """The page's blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> SimpleNamespace:
    """The page's folder after every night: what was printed, what was refused, and the tables.

    The first night is the page's shell loop, a process, in a folder that has that day alone. Nights without a fix are
    refused; their cards are then made by themselves.
    """
    root = tmp_path_factory.mktemp("geolife")
    folder, first = root / "run", root / "first"
    (root / "shared").mkdir()
    (root / "shared" / "data").symlink_to(SHARED)
    [lay], [settings], [loop] = blocks("python"), blocks("toml"), blocks("sh")
    for made in (folder, first):
        made.mkdir()
        (made / "travelcard.toml").write_text(settings)
    refused = {}
    with contextlib.chdir(folder):
        exec(compile(lay, str(PAGE), "exec"), {})
        (first / "pings").mkdir()
        (first / "pings" / str(START)).symlink_to(folder / "pings" / str(START))
        done = subprocess.run(
            ["bash", "-euc", f'travelcard() {{ "$PYTHON" -m travelcard "$@"; }}\n{loop}'],
            cwd=first, env={**os.environ, "PYTHON": sys.executable, "TRAVELCARD_STORE": str(folder / "store")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        stays, cards = ([step] for step in steps(done.stdout))
        for night in NIGHTS[1:]:
            code, out, err = call("run", str(night))
            if code:
                refused[night] = err
                code, more, err = call("cards", str(night + timedelta(days=1)))
                out += more
            assert (code, err) == (0, "")
            *night_stays, night_cards = steps(out)
            stays += night_stays
            cards.append(night_cards)
    store = Store(folder / "store")
    tables = {f"{name}_table": store.frame(name) for name in ("stays", "rejects", "cards")}
    return SimpleNamespace(folder=folder, stays=stays, cards=cards, refused=refused, **tables)


@pytest.fixture
def again(ran, tmp_path, monkeypatch) -> Store:
    """A store of one's own, as the run left it, for commands that write; the page's folder is the working directory."""
    shutil.copytree(ran.folder / "store", tmp_path / "store")
    monkeypatch.chdir(ran.folder)
    monkeypatch.setenv("TRAVELCARD_STORE", str(tmp_path / "store"))
    return Store(tmp_path / "store")


# ------------------------------------------------------------------------------------------------- the tests


def test_the_readme_tells_where_the_rows_are(fixes):
    assert Counter(place for _, _, place in fixes) == ROWS
    assert {subscriber for subscriber, _, _ in fixes} == set(PEOPLE)
    told = 0
    for subscriber, place, begin, end in AWAY:
        shift = START - BEGAN[subscriber]
        first, last = local(begin, shift), local(end, shift)
        inside = [t for s, t, p in fixes if (s, p) == (subscriber, place) and first <= t < last + 60]
        assert (min(inside) // 60 * 60, max(inside) // 60 * 60) == (first, last)
        told += len(inside)
    assert told == len(fixes) - ROWS["110000"]


def test_no_fix_is_lost(ran, fixes):
    days = sorted({local_day(second) for _, second, _ in fixes})
    assert (days[0], days[-1]) == (START, END)
    assert [date.fromisoformat(step["day"]) for step in ran.stays] == days
    assert sorted(ran.refused) == sorted(set(NIGHTS) - set(days))
    assert all(error.startswith(f"refused: no file for {night}: ") for night, error in ran.refused.items())
    every, distinct = (Counter(local_day(second) for _, second, _ in rows) for rows in (fixes, set(fixes)))
    for step, day in zip(ran.stays, days, strict=True):
        counted = {name: step[name] for name in ("read", "clean", "merged", "rejected")}
        merged = every[day] - distinct[day]
        assert counted == {"read": every[day], "clean": every[day], "merged": merged, "rejected": {}}
    assert sum(step["merged"] for step in ran.stays) == SECONDS_REPEATED
    assert sum(step["clean"] for step in ran.stays) == sum(ROWS.values())
    raw = pl.read_parquet(TRACKS)
    assert len(raw) - raw.n_unique() == ROWS_REPEATED  # some of those that repeat a second
    assert ran.rejects_table.is_empty()
    held = ran.stays_table.group_by("place").agg(pl.col("pings").sum())
    assert dict(held.iter_rows()) == Counter(place for _, _, place in set(fixes))


def test_the_stays_are_those_of_the_design(ran, stays):
    seconds = pl.col("arrive", "depart").dt.epoch("s")
    made = ran.stays_table.select("subscriber", "place", seconds, "pings", "inner")
    assert sorted(made.rows()) == sorted(stays)


def test_every_card_of_every_date(ran, spans):
    cards = {(row["as_of"], row["subscriber"]): row for row in ran.cards_table.to_dicts()}
    policy = tc.Policy.preset("card-2022-01")
    wanted, marked = set(), 0
    for step, as_of in zip(ran.cards, AS_OF, strict=True):
        window = [as_of - timedelta(days=i) for i in range(14, 0, -1)]
        people = [who for who in PEOPLE if any((who, day) in spans for day in window)]
        missing = [str(day) for day in window if not any((who, day) in spans for who in PEOPLE)]
        assert (step["policy"], step["risk_date"]) == ("card-2022-01", str(as_of))
        assert (step["missing"], step["cards"]) == (missing, {"green": len(people)})
        seen = tc.visits(ran.stays_table.drop("day", "bucket"), as_of=as_of, policy=policy)
        transit = {(row["subscriber"], row["place"]) for row in seen.to_dicts() if row["transit"]}
        risky = levels(as_of)
        for who in people:
            places = expected(spans, who, as_of)
            listed = [place[:4] for place in places if place[4]]
            card = cards[as_of, who]
            visits = card["visits"]
            assert [
                (v["place"], int(v["first"].timestamp()), int(v["last"].timestamp()), v["days"]) for v in visits
            ] == listed  # fmt: skip
            assert [v["name"] for v in visits] == [NAMES[place] for place, *_ in listed]
            assert {place for number, place in transit if number == who} == {
                p for p, *_, visited in places if not visited
            }
            assert {v["place"] for v in visits if v["marked"]} == {place for place, *_ in listed} & set(risky)
            stars = {(r["place"], r["rule"]) for r in card["reasons"] if r["rule"].startswith("mark_")}
            assert stars == {(place, f"mark_{level}") for place, *_ in listed for level in risky.get(place, ())}
            wanted.add((as_of, who))
            marked += len({place for place, _ in stars})
    assert set(cards) == wanted
    assert len(wanted) > 200
    assert marked > 100


def test_the_cities_outside_beijing_are_those_that_the_readme_names(ran):
    """By the minutes of the README alone: whom a day held four hours in one place, from first to last."""
    held: dict = defaultdict(list)
    for who, place, begin, end in AWAY:
        shift, day = START - BEGAN[who], datetime.fromisoformat(begin).date()
        midnight = f"{day + timedelta(days=1)} 00:00"
        pieces = [(begin, end)] if end < midnight else [(begin, midnight), (midnight, end)]
        for first, last in pieces:
            held[who, place, local_day(local(first, shift))] += [local(first, shift), local(last, shift)]
    for (as_of, who), card in {(row["as_of"], row["subscriber"]): row for row in ran.cards_table.to_dicts()}.items():
        named = {
            place
            for (number, place, day), times in held.items()
            if number == who and 1 <= (as_of - day).days <= 14 and max(times) - min(times) >= FOUR_HOURS
        }
        assert {visit["place"] for visit in card["visits"]} - {"110000"} == named
    assert {place for (_, place, _), times in held.items() if max(times) - min(times) >= FOUR_HOURS} == {
        "120000", "131000", "230100",
    }  # fmt: skip


STAR = "\n（注：*表示当前该城市存在中风险或高风险地区，并不表示用户实际到访过这些中高风险地区。）"
SHOWN = {
    (7, "2022-05-19"): ("北京市*" + STAR, "2022-05-14、2022-05-15、2022-05-17"),
    (10, "2022-05-19"): ("黑龙江省哈尔滨市*" + STAR, "2022-05-14、2022-05-15、2022-05-17"),
    (10, "2022-05-21"): (
        "无（有通信记录，但没有达到到访条件的地方）",
        "2022-05-14、2022-05-15、2022-05-17、2022-05-20",
    ),
    (10, "2022-06-09"): (
        "北京市*，河北省廊坊市*，天津市" + STAR,
        "2022-05-27、2022-05-28、2022-05-29、2022-05-31、2022-06-03、2022-06-05、2022-06-06",
    ),
}


@pytest.mark.parametrize(("who", "as_of"), SHOWN)
def test_the_card_as_it_is_printed(ran, monkeypatch, who, as_of):
    monkeypatch.chdir(ran.folder)
    code, out, err = call("card", str(who), "--as-of", as_of)
    assert (code, err) == (0, "")
    places, missing = SHOWN[who, as_of]
    assert (
        UPDATED.sub("更新于：", out)
        == f"""\
通信行程卡
通信大数据行程卡
疫情防控，人人有责
请收下绿色行程卡
****的动态行程卡
更新于：
您于前14天内到达或途经：{places}
结果包含您在前14天内到访的国家（地区）与停留4小时以上的国内城市
色卡仅对到访地作提醒，不关联健康状况
本服务联合提供 [CAICT 中国信通院] [中国电信] [中国移动] [中国联通]
客服热线：10000/10086/10010
（注：缺少以下日期的数据：{missing}）
"""
    )


def test_who_was_not_there_has_no_card(ran, monkeypatch):
    monkeypatch.chdir(ran.folder)
    code, out, err = call("card", "0", "--as-of", str(AS_OF[-1]))
    assert (code, out) == (1, "")
    assert err == "refused: no card for **** as of 2022-06-09: the number was in no ping of the window\n"


@pytest.mark.parametrize(("who", "as_of"), [(6, date(2022, 5, 19)), (10, date(2022, 5, 19)), (10, AS_OF[-1])])
def test_explain_shows_what_was_only_passed(ran, spans, monkeypatch, who, as_of):
    monkeypatch.chdir(ran.folder)
    code, out, _ = call("explain", str(who), "--as-of", str(as_of), "--json")
    assert code == 0
    seen = json.loads(out)["seen"]
    assert [(s["place"], s["listed"]) for s in seen] == [(p, listed) for p, *_, listed in expected(spans, who, as_of)]
    text = call("explain", str(who), "--as-of", str(as_of))[1].splitlines()
    for place, *_, listed in expected(spans, who, as_of):
        assert any(line.startswith(f"{'列出' if listed else '途经，未列出'}：{NAMES[place]}，") for line in text)


def test_a_city_that_was_only_crossed(again, stays, spans):
    """Langfang, twice on one day: listed from first to last record, not for an unbroken stay; back as it was."""
    before = again.frame("cards", as_of=AS_OF[-1])
    [crossed] = [visit for visit in again.card(10, as_of=AS_OF[-1]).visits if visit.place == "131000"]
    first, last = spans[10, END]["131000"]
    assert (last - first) // 360 / 10 == 11.2  # hours, as the README says
    assert crossed.longest_s < FOUR_HOURS
    # As of 06-07 Tianjin lies on both sides of 50 hours without a row: no stay joins them.
    for as_of in (date(2022, 5, 20), date(2022, 6, 7), AS_OF[-1]):
        code, out, err = call("cards", str(as_of), "--policy", "card-2022-06-29")
        assert (code, err) == (0, "")
        assert steps(out)[0]["risk_date"] is None
        seen = oracle.visits(stays, as_of, {"rule": "continuous"})
        made = again.frame("cards", as_of=as_of)
        listed = {(row["subscriber"], v["place"]) for row in made.to_dicts() for v in row["visits"]}
        assert listed == {(who, place) for who, place, *_, transit, _ in seen if not transit}
        assert made["subscriber"].to_list() == sorted({row[0] for row in seen})
        assert not any(v["marked"] for row in made.to_dicts() for v in row["visits"])
        assert {place for who, place in listed if who == 10} == {
            date(2022, 5, 20): {"230100"}, date(2022, 6, 7): set(), AS_OF[-1]: {"120000"},
        }[as_of]  # fmt: skip
    seen = json.loads(call("explain", "10", "--as-of", str(AS_OF[-1]), "--json")[1])["seen"]
    assert {s["place"]: (s["listed"], s["rule"]) for s in seen} == {
        "110000": (False, "continuous"), "131000": (False, "continuous"), "120000": (True, "continuous"),
    }  # fmt: skip
    assert call("cards", str(AS_OF[-1]))[0] == 0
    assert again.frame("cards", as_of=AS_OF[-1]).equals(before)


# ------------------------------------------------------------------------------------------------- the page


def printed(command: str) -> str:
    """What a line of the page prints: travelcard in this process, the rest of the pipe in a shell."""
    own, _, rest = command.partition(" | ")
    name, *arguments = shlex.split(own)
    assert name == "travelcard"
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    if not rest:
        return out
    return subprocess.run(["bash", "-euc", rest], input=out, capture_output=True, text=True, check=True).stdout


def test_the_page_prints_what_the_run_prints(again):
    commands = 0
    for block in blocks("console"):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
            assert UPDATED.sub("", printed(command)) == UPDATED.sub("", shown), command
            commands += 1
    assert commands == sum(line.startswith("$ ") for line in PAGE.read_text(encoding="utf-8").splitlines()) > 10


def test_what_the_page_says(ran):
    page = PAGE.read_text(encoding="utf-8")
    for code, rows in ROWS.items():
        assert re.search(rf"{re.sub('.*省', '', NAMES[code])}\s{rows:,}", page)
    assert f"{sum(ROWS.values()):,} GPS" in page
    assert f"merges {SECONDS_REPEATED} that repeat a second" in page
    assert f"These are {len(ran.stays)} nights, the last that of {END}. On {len(ran.refused)} days between" in page
    # "Subscribers 0 to 9 are listed in Beijing and nowhere else"
    listed = {(row["subscriber"], v["place"]) for row in ran.cards_table.to_dicts() for v in row["visits"]}
    assert {place for who, place in listed if who < 10} == {"110000"}
    assert {who for who, place in listed if place == "110000"} == set(PEOPLE)
    # "Beijing was on every list of these weeks", Tianjin on none, Langfang on some
    lists = {day: set(levels(day)) for day in (*AS_OF, *(AS_OF[-1] + timedelta(days=i) for i in range(1, 5)))}
    assert all("110000" in places and "120000" not in places for places in lists.values())
    langfang = [day for day, places in lists.items() if "131000" in places]
    assert (langfang[0], langfang[-1], len(langfang)) == (date(2022, 5, 28), date(2022, 6, 12), 16)


def test_the_page_holds_no_position_and_no_second():
    page = PAGE.read_text(encoding="utf-8")
    told = {time[-5:] for _, _, begin, end in AWAY for time in (begin, end)}
    assert not re.search(r"\d\.\d{3,}", page)
    assert set(re.findall(r"(?<![\d:])\d\d:\d\d(?!:)", page)) <= told
    assert not re.search(r"\d+ s[ ),]", "".join(blocks("console")))
