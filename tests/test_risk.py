"""Risk lists: the published ones, every quirk that later ones hold, tables, and the list in force."""

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from travelcard.errors import InputError
from travelcard.places import china, from_polygons
from travelcard.policy import dated_lists, join_risk, read_risk, risk_in_force

D = date.fromisoformat
PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "risk"
CORPS = "新疆生产建设兵团"


def row(province="", city="", county="", area=None, communities=("小区",)):
    area = " ".join((province, city, county)).strip() if area is None else area
    return {
        "type": "2", "province": province, "city": city, "county": county, "area_name": area,
        "communitys": list(communities),
    }  # fmt: skip


def listed(high=(), medium=(), label="2022-09-10 9时", **more):
    data = {"end_update_time": label, "highlist": list(high), "middlelist": list(medium), **more}
    return {"data": data, "code": 0, "msg": "查询成功"}


def read(*high, **more):
    return read_risk(listed(high, **more), places=china())


# ---------------------------------------------------------------------------------------------- as published


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published lists are not beside this repository")
def test_every_row_of_the_published_lists_is_matched_and_every_community_counted():
    files = sorted(PUBLISHED.glob("*.json"))
    cities, rows = set(), [0, 0]
    for path in files:
        risk = read_risk(path, places=china())
        data = json.loads(path.read_text(encoding="utf-8"))["data"]
        assert risk.unmatched.is_empty()
        assert risk.date == risk.since == D(path.stem)
        for i, (level, count, key) in enumerate([("high", "hcount", "highlist"), ("medium", "mcount", "middlelist")]):
            areas = risk.areas.filter(pl.col("level") == level)
            assert areas["communities"].sum() == data[count]
            assert areas.height == len(data[key])
            rows[i] += areas.height
        cities |= set(risk.areas["place"])
        assert len(set(risk.areas["place"])) >= 2
    assert (len(files), rows, len(cities)) == (77, [447, 2063], 43)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published lists are not beside this repository")
def test_the_list_in_force_is_the_newest_dated_on_or_before_the_cards_date():
    pattern = f"{PUBLISHED}/{{day}}.json"
    for asked, dated in [("2022-05-10", "2022-05-10"), ("2022-12-01", "2022-06-30"), ("2022-04-15", "2022-04-15")]:
        path, day = risk_in_force(pattern, D(asked))
        assert (path.name, day) == (f"{dated}.json", D(dated))
    with pytest.raises(InputError, match=r"no risk list is in force on 2022-04-14.*the oldest is dated 2022-04-15"):
        risk_in_force(pattern, D("2022-04-14"))
    assert len(dated_lists(pattern)) == 77
    risk = read_risk(PUBLISHED / "2022-05-10.json", places=china(), day=D("2022-05-10"))
    assert risk.levels_on(D("2022-06-01"))["110000"] == {"high", "medium"}


# ---------------------------------------------------------------------------------------------- names to places


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("浙江省", "杭州市", "上城区"), "330100"),
        (("北京市", "朝阳区", "双井街道"), "110000"),
        (("北京市", "北京市", "朝阳区"), "110000"),
        (("上海市", "上海市", "黄浦区"), "310000"),
        (("天津市", "天津市", "河西区"), "120000"),
        (("重庆市", "重庆市", "渝中区"), "500000"),
        (("重庆市", "县", "云阳县"), "500000"),
        (("辽宁省", "朝阳市", "双塔区"), "211300"),
        (("海南省", "省直辖县级行政单位", "琼海市"), "469002"),
        (("海南省", "省直辖县级行政单位", "陵水黎族自治县"), "469028"),
        (("海南省", "省直辖县级行政区划", "白沙"), "469025"),
        (("湖北省", "省直辖县级行政单位", "仙桃市"), "429004"),
        (("湖北省", "省直辖县级行政单位", "神农架林区"), "429021"),
        (("河南省", "省直辖县级行政单位", "济源市"), "419001"),
        (("新疆维吾尔自治区", "自治区直辖县级行政区划", "石河子市"), "659001"),
        ((CORPS, CORPS, "石河子市"), "659001"),
        ((CORPS, CORPS, "第八师石河子市"), "659001"),
        ((CORPS, CORPS, CORPS), None),
        ((CORPS, CORPS, "第九师"), None),
        (("福建省", "平潭综合实验区", "平潭综合实验区"), "350100"),
        (("陕西省", "杨凌示范区", "杨陵区"), "610400"),
        (("宁夏回族自治区", "宁东能源化工基地", ""), "640100"),
        (("河北省", "雄县", ""), "130600"),
        (("河北省", "容城县", "容城镇"), "130600"),
        (("河北省", "安新县", ""), "130600"),
        (("河北省", "辛集市", ""), "130100"),
        (("河北省", "定州市", ""), "130600"),
        (("吉林省", "梅河口市", ""), "220500"),
        (("吉林省", "长白山保护开发区", "池北区"), "222400"),
        (("吉林省", "长白山保护开发区", "池西区"), "220600"),
        (("吉林省", "长白山保护开发区", "池南区"), "220600"),
        (("吉林省", "长白山保护开发区", ""), None),
        (("吉林省", "吉林市", "船营区"), "220200"),
        (("吉林省", "吉林", ""), "220200"),
        (("吉林省", "延边州", "延吉市"), "222400"),
        (("湖北省", "恩施州", ""), "422800"),
        (("贵州省", "黔", ""), None),
        (("贵州省", "黔南", ""), "522700"),
        (("内蒙古自治区", "锡林郭勒", ""), "152500"),
        (("内蒙古", "呼和浩特市", ""), "150100"),
        (("新疆", "喀什", ""), "653100"),
        (("西藏自治区", "阿里", ""), "542500"),
        (("浙江省", "上海市", ""), None),
        (("浙江省", "某市", ""), None),
        (("", "杭州市", ""), None),
        (("", "", ""), None),
    ],
)
def test_a_rows_names_are_matched_or_kept_as_unmatched(names, code):
    risk = read(row(*names))
    assert risk.areas["place"].to_list() == ([code] if code else [])
    if code is None:
        assert risk.unmatched.rows() == [("high", *names, " ".join(names).strip(), 1)]


def test_the_corps_is_told_by_the_area_name_where_the_county_does_not():
    assert read(row(CORPS, CORPS, CORPS, area=f"{CORPS} 五家渠市 人民路")).areas["place"].item() == "659004"
    assert read(row(CORPS, CORPS, CORPS, area="五家渠市 北屯市")).areas.is_empty()


def test_changbai_is_told_by_the_area_name_where_there_is_no_county():
    assert read(row("吉林省", "长白山保护开发区", area="长白山池北区")).areas["place"].item() == "222400"


@given(st.permutations(range(5)))
def test_unmatched_rows_are_counted_and_nothing_is_lost(order):
    rows = [row(), row(), row("浙江省", "某市"), row("浙江省", "杭州市"), row("浙江省", "杭州市", communities=())]
    risk = read(*(rows[i] for i in order))
    assert risk.unmatched.rows() == [("high", "", "", "", "", 2), ("high", "浙江省", "某市", "", "浙江省 某市", 1)]
    assert risk.areas.height + risk.unmatched["rows"].sum() == 5
    assert risk.areas["communities"].sum() == 1


def test_every_place_is_found_by_its_own_name():
    named = [code for code in china().codes if code.isdigit()]
    risk = read(*(row(china().province(code), china().name(code)) for code in named))
    assert risk.areas["place"].to_list() == named


def test_places_without_a_province_are_matched_by_name():
    from shapely.geometry import box  # noqa: PLC0415

    own = from_polygons(["100001", "100002"], ["甲市", "乙市"], [None, None], [box(0, 0, 1, 1), box(1, 0, 2, 1)])
    assert read_risk(listed([row("某省", "乙市")]), places=own).areas["place"].to_list() == ["100002"]
    assert read_risk(listed([row("河北省", "雄县")]), places=own).unmatched.height == 1


# ---------------------------------------------------------------------------------------------- form of the lists


def test_a_community_in_high_and_medium_gives_both_levels():
    r = row("浙江省", "杭州市")
    assert read(r, medium=[r]).levels_on(D("2022-09-10")) == {"330100": {"high", "medium"}}


@pytest.mark.parametrize("keys", [{"highlist"}, {"middlelist"}, {"highlist", "lowlist"}, {"middlelist", "lowlist"}])
def test_lists_that_were_not_published_may_be_absent(keys):
    source = listed([row("浙江省", "杭州市")], [row("浙江省", "宁波市")], lowlist=[row("浙江省", "温州市")])
    source["data"] = {k: v for k, v in source["data"].items() if k in {*keys, "end_update_time"}}
    at = {"highlist": "330100", "middlelist": "330200", "lowlist": "330300"}
    assert set(read_risk(source, places=china()).areas["place"]) == {at[k] for k in keys}


def test_low_areas_are_read_and_null_lists_are_empty():
    risk = read_risk(listed([row("浙江省", "杭州市")], lowlist=[row("浙江省", "宁波市")]), places=china())
    assert risk.areas.select("place", "level").rows() == [("330100", "high"), ("330200", "low")]
    source = listed()
    source["data"]["middlelist"] = None
    assert read_risk(source, places=china()).areas.is_empty()


@pytest.mark.parametrize("change", [{"communitys": None}, {"communitys": []}, {"county": None}, {"type": None}])
def test_a_row_may_lack_what_says_nothing(change):
    assert read({**row("浙江省", "杭州市"), **change}).areas["place"].to_list() == ["330100"]


@pytest.mark.parametrize(
    "label", ["2022-09-10 9时", "2022-09-10 09时", "2022-09-10 21时", "2022-09-10 0时", "2022-9-10"]
)
def test_the_date_is_the_labels_day_however_the_hour_is_written(label):
    risk = read(row("浙江省", "杭州市"), label=label)
    assert risk.date == D("2022-09-10")
    assert risk.levels_on(D("2022-09-09")) == {}
    assert risk.levels_on(D("2022-11-01")) == {"330100": {"high"}}


def test_a_given_day_goes_before_the_label():
    assert read_risk(listed(label="x"), places=china(), day=D("2022-09-11")).date == D("2022-09-11")
    with pytest.raises(InputError, match="end_update_time  expected such as 2022-05-10 21时, got 'x'"):
        read_risk(listed(label="x"), places=china())


WHOLE = json.dumps(listed([row("浙江省", "杭州市")]), ensure_ascii=False)
BROKEN = {
    "cut short": WHOLE[:-20],
    "no JSON": "<html></html>",
    "empty": "",
    "an array": "[]",
    "no data": '{"code": 0}',
    "data is null": '{"data": null, "code": 1}',
    "no list": '{"data": {"end_update_time": "2022-09-10 9时", "lowlist": []}}',
    "list is text": '{"data": {"end_update_time": "2022-09-10 9时", "highlist": "x"}}',
    "row is text": '{"data": {"end_update_time": "2022-09-10 9时", "highlist": ["x"]}}',
    "row without city": '{"data": {"end_update_time": "2022-09-10 9时", "highlist": [{"province": "x"}]}}',
    "city is a number": '{"data": {"end_update_time": "2022-09-10 9时", "highlist": [{"province": "x", "city": 3}]}}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_error_that_names_it(tmp_path, name):
    path = tmp_path / "2022-09-10.json"
    path.write_text(BROKEN[name], encoding="utf-8")
    with pytest.raises(InputError, match=r"2022-09-10\.json"):
        read_risk(path, places=china())


@pytest.mark.parametrize("name", ["no.json", "no.csv", "no.parquet"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} cannot be read as a risk list"):
        read_risk(tmp_path / name, places=china())


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"x\.json cannot be read"):
        read_risk(path, places=china())
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"x\.parquet cannot be read"):
        read_risk(tmp_path / "x.parquet", places=china())


# ---------------------------------------------------------------------------------------------- tables


TABLE = pl.DataFrame(
    {
        "place": ["330100", "浙江省宁波市", "温州市", "某市", "330100"],
        "level": ["high", "medium", "low", "high", "medium"],
        "from": [D("2022-05-01"), None, None, None, D("2022-06-01")],
        "to": [D("2022-05-31"), D("2022-05-10"), None, None, None],
    }
)


@pytest.mark.parametrize("form", ["frame", "csv", "parquet", "arrow"])
def test_a_table_has_codes_or_names_levels_and_days(tmp_path, form):
    path = tmp_path / f"risk.{form}"
    source = {"frame": lambda: TABLE, "arrow": TABLE.to_arrow}.get(form, lambda: path)()
    if form == "csv":
        TABLE.write_csv(path)
    elif form == "parquet":
        TABLE.write_parquet(path)
    risk = read_risk(source, places=china(), day=D("2022-05-02"))
    assert (risk.date, risk.since) == (D("2022-05-02"), None)
    assert risk.unmatched.rows() == [("high", "", "", "", "某市", 1)]
    assert risk.levels_on(D("2022-05-05")) == {"330100": {"high"}, "330200": {"medium"}, "330300": {"low"}}
    assert risk.levels_on(D("2022-06-01")) == {"330100": {"medium"}, "330300": {"low"}}


def test_a_table_without_days_holds_always():
    risk = read_risk(TABLE.select("place", "level"), places=china())
    assert risk.date is None
    assert risk.levels_on(D("1999-01-01"))["330100"] == {"high", "medium"}


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="level  expected one of high, medium, low, got '高'"):
        read_risk(pl.DataFrame({"place": ["330100"], "level": ["高"]}), places=china())
    path = tmp_path / "x.csv"
    path.write_text("place,risk\n330100,high\n")
    with pytest.raises(InputError, match=r"x\.csv does not fit `risk`"):
        read_risk(path, places=china())
    path.write_text("place,level,from\n330100,high,soon\n")
    with pytest.raises(InputError, match=r"x\.csv cannot be read"):
        read_risk(path, places=china())


def test_days_at_a_level_are_both_ends_included():
    risk = read_risk(TABLE, places=china())
    at = risk.days_at(("high", "medium"), ("330100", "330200", "JPN"), D("2022-05-30"), 4)
    assert at.tolist() == [[True, True, True, True], [False] * 4, [False] * 4]
    assert risk.days_at(("medium",), ("330100", "330200"), D("2022-05-09"), 3).tolist() == [
        [False] * 3,
        [True, True, False],
    ]


# ---------------------------------------------------------------------------------------------- several lists


def test_joined_lists_hold_until_the_next():
    one = read_risk(listed([row("浙江省", "杭州市")]), places=china(), day=D("2022-05-01"))
    two = read_risk(listed([row("浙江省", "宁波市"), row()]), places=china(), day=D("2022-05-04"))
    both = join_risk([two, one])
    assert (both.date, both.since) == (D("2022-05-04"), D("2022-05-01"))
    got = [set(both.levels_on(D(f"2022-05-0{d}"))) for d in (1, 3, 4, 9)]
    assert got == [{"330100"}, {"330100"}, {"330200"}, {"330200"}]
    assert both.levels_on(D("2022-04-30")) == {}
    assert both.unmatched["rows"].sum() == 1


@pytest.mark.parametrize("n", [0, 2])
def test_lists_without_their_own_date_are_not_joined(n):
    with pytest.raises(InputError, match=f"{n} risk lists"):
        join_risk([read_risk(listed(), places=china(), day=D("2022-05-01"))] * n)


def test_the_date_is_read_from_the_path(tmp_path):
    for name in ("2022-05-01.json", "2022-05-03.json", "2022-13-01.json", "latest.json", "x2022-05-02.json"):
        (tmp_path / name).write_text(WHOLE, encoding="utf-8")
    pattern = tmp_path / "{day}.json"
    assert list(dated_lists(pattern)) == [D("2022-05-01"), D("2022-05-03")]
    assert risk_in_force(pattern, D("2022-05-02"))[1] == D("2022-05-01")
    assert risk_in_force({D("2022-05-01"): "a", D("2022-05-02"): "b"}, D("2022-05-09")) == ("b", D("2022-05-02"))


def test_no_list_and_no_day_in_the_path_are_told(tmp_path):
    with pytest.raises(InputError, match="there is none at all"):
        risk_in_force(tmp_path / "{day}.json", D("2022-05-02"))
    with pytest.raises(InputError, match=r"must hold \{day\}"):
        risk_in_force(tmp_path / "risk.json", D("2022-05-02"))
    with pytest.raises(InputError, match="the risk lists given"):
        risk_in_force({}, D("2022-05-02"))


def test_a_folder_may_be_dated_too(tmp_path):
    (tmp_path / "2022-05-01").mkdir()
    (tmp_path / "2022-05-01" / "2022-05-01.json").write_text(WHOLE, encoding="utf-8")
    (tmp_path / "2022-05-01" / "2022-05-02.json").write_text(WHOLE, encoding="utf-8")
    assert list(dated_lists(tmp_path / "{day}" / "{day}.json")) == [D("2022-05-01")]
