"""Cards: the printed ones of FACTS 1.3, marks, colours and reasons against plain Python, and what explains a card."""

import json
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import travelcard as tc
from travelcard.card import Card, _texts
from travelcard.cards import cards, explain
from travelcard.errors import InputError, NotFound
from travelcard.places import china, is_abroad
from travelcard.policy import COLOURS, Policy, Rule, join_risk, read_risk
from travelcard.schema import CARDS, VISITS

AS_OF = date(2022, 5, 10)
CARD = Policy.preset("card-2022-01")
NINTH = Policy.preset("healthcode-9th")
NUMBER = 18412346428
SEVERITY = dict(zip(COLOURS, range(5), strict=True))


def at(day, hour=0, minute=0):
    """A time in China on a day of May 2022 (0 = the last of April, and so on), in UTC."""
    return datetime(2022, 5, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour - 8, minutes=minute)


def visit(subscriber, place, day=9, hour=8, *, hours=5, transit=False, days_seen=3):
    first = at(day, hour)
    return {
        "subscriber": subscriber, "place": place, "first": first, "last": first + timedelta(hours=hours), "days": 1,
        "longest_s": hours * 3600, "transit": transit, "days_seen": days_seen,
    }  # fmt: skip


def frame(*rows):
    schema = pl.from_arrow(VISITS.arrow().empty_table()).schema
    if rows and isinstance(rows[0]["subscriber"], str):
        schema = {**schema, "subscriber": pl.String}
    return pl.DataFrame(list(rows), schema=schema)


def risk_of(areas, day=AS_OF):
    table = pl.DataFrame(areas, schema={"place": pl.String, "level": pl.String}, orient="row")
    return read_risk(table, places=china(), day=day)


NOTHING = risk_of([])


def held(*rows):
    """Status rows: subscriber, word, from and to as days of May."""
    names = {"subscriber": pl.Int64, "status": pl.String, "from": pl.Date, "to": pl.Date}
    days = [(s, w, AS_OF.replace(day=1) + timedelta(days=b - 1), e) for s, w, b, e in rows]
    ends = [(s, w, b, None if e is None else AS_OF.replace(day=1) + timedelta(days=e - 1)) for s, w, b, e in days]
    return pl.DataFrame(ends, schema=names, orient="row")


def one(*rows, policy=CARD, risk=NOTHING, as_of=AS_OF, made=None, **more):
    """The single card of some visits of one subscriber."""
    made_cards = cards(frame(*rows), as_of=as_of, policy=policy, risk=risk, **more)
    return Card.of(made_cards.row(0, named=True), as_of=as_of, policy=policy, **(made or {}))


def rules(card):
    return [r.rule for r in card.reasons]


NOW = datetime(2022, 5, 10, 13, 0, 46, tzinfo=UTC)
HANGZHOU_HUZHOU = (visit(NUMBER, "330100", 8), visit(NUMBER, "330500", 9))


# ---------------------------------------------------------------------------------------------- printed


def test_the_card_of_facts_letter_for_letter():
    assert one(*HANGZHOU_HUZHOU).text(now=NOW) == (  # FACTS 1.3, K1
        "通信行程卡\n"
        "通信大数据行程卡\n"
        "疫情防控，人人有责\n"
        "请收下绿色行程卡\n"
        "184****6428的动态行程卡\n"
        "更新于：2022.05.10 21:00:46\n"
        "您于前14天内到达或途经：浙江省杭州市，浙江省湖州市\n"
        "结果包含您在前14天内到访的国家（地区）与停留4小时以上的国内城市\n"
        "色卡仅对到访地作提醒，不关联健康状况\n"
        "本服务联合提供 [CAICT 中国信通院] [中国电信] [中国移动] [中国联通]\n"
        "客服热线：10000/10086/10010"
    )


def test_a_star_stands_after_the_name_and_its_note_follows_the_list():
    rows = (visit(NUMBER, "530100", 7), visit(NUMBER, "110000", 8), visit(NUMBER, "500000", 9))
    text = one(*rows, risk=risk_of([("110000", "medium"), ("500000", "high")])).text(now=NOW)
    assert (  # FACTS 1.3, K3 and K4
        "您于前14天内到达或途经：云南省昆明市，北京市*，重庆市*\n"
        "（注：*表示当前该城市存在中风险或高风险地区，并不表示用户实际到访过这些中高风险地区。）\n"
        "结果包含您在前14天内到访的国家（地区）与停留4小时以上的国内城市\n"
    ) in text


@pytest.mark.parametrize(
    ("preset", "line", "note"),
    [
        (
            "card-2020-11",
            "【上海市】，浙江省杭州市",
            "（注：【】内的城市名以红色显示，表示当前该城市存在中风险或高风险地区。）",
        ),
        ("card-2021-01", "上海市（当前存在中风险或高风险地区），浙江省杭州市", None),
        ("card-2022-01", "上海市*，浙江省杭州市", "（注：*表示当前该城市存在中风险或高风险地区，"),
        ("card-2022-06-29", "上海市，浙江省杭州市", None),
    ],
)
def test_each_form_of_the_mark(preset, line, note):
    rows = (visit(NUMBER, "310000", 8), visit(NUMBER, "330100", 9))
    text = one(*rows, policy=Policy.preset(preset), risk=risk_of([("310000", "high")])).text(now=NOW)
    assert f"您于前14天内到达或途经：{line}\n" in text
    assert ("（注：" in text) == (note is not None)
    assert note is None or note in text


def test_seven_days_in_both_lines():
    text = one(*HANGZHOU_HUZHOU, policy=Policy.preset("card-2022-07-08")).text(now=NOW)
    assert "您于前7天内到达或途经：" in text  # FACTS 1.3, K6
    assert "结果包含您在前7天内到访的国家（地区）与停留4小时以上的国内城市" in text


def test_places_abroad_and_regions_are_printed_by_name():
    rows = [visit(NUMBER, place, 2 + i) for i, place in enumerate(("JPN", "HKG", "MAC", "TWN", "469028"))]
    text = one(*rows).text(now=NOW)
    assert "请收下黄色行程卡" in text
    assert "：日本，中国香港，中国澳门，中国台湾，海南省陵水黎族自治县\n" in text


def test_nothing_found_has_no_colour_to_accept():
    card = one(subscribers=[NUMBER])
    text = card.text(now=NOW)
    assert card.colour == "unknown"
    assert "抱歉，没有找到您的行程数据" in text  # FACTS 1.3, K5
    assert "请收下" not in text
    assert "到达或途经" not in text


def test_nothing_visited_is_green_and_says_so():
    card = one(visit(NUMBER, "330100", transit=True))
    assert (card.colour, card.visits, rules(card)) == ("green", (), ["nothing_visited"])
    assert "您于前14天内到达或途经：无（有通信记录" in card.text(now=NOW)


def test_the_text_message_has_no_colour_and_no_country():
    sms = Policy.preset("sms-2020-02")
    rows = (visit(NUMBER, "330100"), visit(NUMBER, "JPN", 8, transit=True))
    text = one(*rows, policy=sms).text(now=NOW)
    assert "浙江省杭州市" in text
    assert not any(word in text for word in ("色", "国家", "日本", "行程卡"))
    assert "不带颜色" in one(*rows, policy=sms).why()[0]


def test_a_health_code_shows_its_colour():
    card = one(*HANGZHOU_HUZHOU, policy=NINTH, statuses=held((NUMBER, "fever", 9, None)))
    text = card.text(now=NOW)
    assert text.startswith("健康码\n黄码\n184****6428的健康码\n")
    assert "依据：healthcode-9th" in text
    assert one(policy=NINTH, subscribers=[NUMBER]).text(now=NOW).count("码") == 2


def test_missing_days_are_on_the_card():
    card = one(*HANGZHOU_HUZHOU, made={"risk_date": AS_OF, "missing": [date(2022, 5, 3), date(2022, 5, 4)]})
    assert card.text(now=NOW).endswith("（注：缺少以下日期的数据：2022-05-03、2022-05-04）")
    assert card.as_dict()["missing"] == ["2022-05-03", "2022-05-04"]
    assert card.as_dict()["risk_date"] == "2022-05-10"


def test_english_says_the_same_with_english_names():
    rows = (visit(NUMBER, "310000", 7), visit(NUMBER, "JPN", 8))
    text = one(*rows, risk=risk_of([("310000", "high")])).text("en", now=NOW)
    assert "Please accept your yellow travel card\nTravel card of 184****6428\nUpdated: 2022.05.10 21:00:46\n" in text
    assert "in the last 14 days: Shanghai*; Japan\n(Note: * means" in text
    with pytest.raises(InputError, match="language 'fr': expected zh or en"):
        one(*rows).text("fr")


@pytest.mark.parametrize("colour", ["red", "orange", "yellow", "green"])
def test_the_label_is_in_the_cards_colour(colour):
    rule = Rule(colour, "mine", statuses=("x",))
    card = one(*HANGZHOU_HUZHOU, policy=CARD.replace(colours=(rule,)), statuses=held((NUMBER, "x", 1, None)))
    word = {"red": "红", "orange": "橙", "yellow": "黄", "green": "绿"}[colour]
    assert f"\n请收下{word}色行程卡\n" in card.text(now=NOW)


# ---------------------------------------------------------------------------------------------- colours


STATUS_CASES = [
    # policy, status, day of May it begins, its end, colour as of 10 May
    (NINTH, "close_contact", 1, None, "red"),  # day 10 of 10
    (NINTH, "close_contact", 0, None, "green"),  # day 11
    (NINTH, "close_contact", 1, 9, "green"),  # the list's end is the earlier
    (NINTH, "close_contact", 1, 10, "red"),
    (NINTH, "close_contact", 10, 10, "red"),
    (NINTH, "close_contact", 11, None, "green"),  # not yet
    (NINTH, "secondary_contact", 4, None, "red"),
    (NINTH, "secondary_contact", 3, None, "green"),
    (NINTH, "inbound", 4, None, "red"),  # day 7
    (NINTH, "inbound", 3, None, "yellow"),  # day 8
    (NINTH, "inbound", 1, None, "yellow"),  # day 10
    (NINTH, "inbound", 0, None, "green"),
    (NINTH, "inbound", 3, 9, "green"),
    (NINTH, "from_high_risk", 4, None, "red"),
    (NINTH, "from_medium_risk", 4, None, "yellow"),
    (NINTH, "from_medium_risk", 3, None, "green"),
    (NINTH, "discharged", 4, None, "yellow"),
    (NINTH, "confirmed", -400, None, "red"),
    (NINTH, "from_low_risk", 1, None, "green"),
    (NINTH, "no such word", 1, None, "green"),
    (Policy.preset("healthcode-hubei-2022"), "inbound_home", 1, None, "yellow"),
    (Policy.preset("healthcode-hubei-2022"), "inbound_central", 1, None, "red"),
    (Policy.preset("healthcode-hangzhou-2020"), "symptoms", 4, None, "yellow"),
    (Policy.preset("healthcode-hangzhou-2020"), "symptoms", 3, None, "green"),
    (Policy.preset("healthcode-hangzhou-2020"), "confirmed", -4 + 1, None, "red"),  # day 14
    (Policy.preset("healthcode-hangzhou-2020"), "confirmed", -4, None, "green"),
    (Policy.preset("card-2020-spring"), "suspected", 1, None, "red"),
    (Policy.preset("card-2020-spring"), "close_contact", 1, None, "orange"),
    (Policy.preset("card-2020-11"), "close_contact", 1, None, "orange"),
    (Policy.preset("card-2020-11"), "confirmed", 1, None, "green"),
    (CARD, "confirmed", 1, None, "green"),
]


@pytest.mark.parametrize(("policy", "status", "begin", "end", "colour"), STATUS_CASES)
def test_a_status_colours_on_its_days(policy, status, begin, end, colour):
    assert one(visit(NUMBER, "330100"), policy=policy, statuses=held((NUMBER, status, begin, end))).colour == colour


@pytest.mark.parametrize(
    ("preset", "place", "colour"),
    [
        ("card-2020-spring", "ITA", "yellow"),
        ("card-2020-spring", "VNM", "green"),  # not one of the 41
        ("card-2020-11", "VNM", "yellow"),
        ("card-2022-01", "ITA", "yellow"),
        ("healthcode-hangzhou-2020", "420100", "red"),
        ("healthcode-hangzhou-2020", "429004", "red"),
        ("healthcode-hangzhou-2020", "330100", "green"),
        ("healthcode-9th", "ITA", "green"),
        ("sms-2020-02", "330100", "green"),
        *((name, place, "green") for name in Policy.presets() for place in ("HKG", "MAC", "TWN")),
    ],
)
def test_a_visit_colours_by_the_presets_rule(preset, place, colour):
    assert one(visit(NUMBER, place), policy=Policy.preset(preset)).colour == colour


def test_transit_colours_nothing():
    assert one(visit(NUMBER, "JPN", transit=True)).colour == "green"


def test_a_status_colours_a_card_without_a_ping_but_never_green():
    red = one(policy=NINTH, statuses=held((NUMBER, "confirmed", 1, None)))
    assert (red.colour, rules(red), red.days_seen) == ("red", ["confirmed"], 0)
    green = one(policy=NINTH, statuses=held((NUMBER, "from_low_risk", 1, None)))
    assert (green.colour, rules(green)) == ("unknown", ["no_ping"])


def test_a_green_rule_gives_its_advice():
    card = one(visit(NUMBER, "330100"), policy=NINTH, statuses=held((NUMBER, "from_low_risk", 1, None)))
    assert rules(card) == ["from_low_risk", "continuous"]
    assert "3天内完成2次" in card.why()[0]


LEVELS = Policy.preset("card-2022-07-08").replace(colours=(Rule("yellow", "risky", levels=("high",)),))


def test_a_rule_on_the_level_now_says_that_it_is_an_over_approximation():
    card = one(visit(NUMBER, "330100"), policy=LEVELS, risk=risk_of([("330100", "high"), ("330200", "high")]))
    assert (card.colour, rules(card)) == ("yellow", ["risky", "continuous"])
    assert "从宽的推定" in card.why()[0]
    assert "over-approximation" in card.why("en")[0]


@pytest.mark.parametrize(
    ("begin", "end", "colour"),
    [(6, 6, "yellow"), (5, 5, "green"), (7, 7, "yellow"), (8, 8, "green"), (1, 30, "yellow"), (None, 5, "green"),
     (None, 6, "yellow"), (8, None, "green"), (7, None, "yellow"), (None, None, "yellow")],
)  # fmt: skip
def test_the_level_at_the_visit_is_that_of_some_day_from_its_first_to_its_last(begin, end, colour):
    policy = LEVELS.replace(colours=(Rule("yellow", "risky", levels=("high",), at="visit"),))
    days = {k: [None if d is None else date(2022, 5, d)] for k, d in (("from", begin), ("to", end))}
    areas = pl.DataFrame(
        {"place": ["330100"], "level": ["high"], **days}, schema_overrides=dict.fromkeys(days, pl.Date)
    )
    risk = read_risk(areas, places=china())
    row = visit(NUMBER, "330100", 6, 20, hours=5)  # 6 May 20:00 to 7 May 01:00 in China
    assert one(row, policy=policy, risk=risk).colour == colour


def test_one_days_list_cannot_say_what_was_at_the_visit():
    policy = LEVELS.replace(colours=(Rule("yellow", "risky", levels=("high",), at="visit"),))
    source = {"data": {"highlist": [{"province": "浙江省", "city": "杭州市"}]}}
    lists = [read_risk(source, places=china(), day=date(2022, 5, d)) for d in (3, 10)]
    with pytest.raises(InputError, match="speaks of 2022-05-10 and later, not of the window from 2022-05-03"):
        one(visit(NUMBER, "330100"), policy=policy, risk=lists[1])
    assert one(visit(NUMBER, "330100"), policy=policy, risk=join_risk(lists)).colour == "yellow"


# ---------------------------------------------------------------------------------------------- marks, order, reasons


def test_marks_are_for_visited_cities_with_a_level_that_marks():
    places = ("330100", "310000", "HKG", "JPN", "110000")
    rows = [visit(NUMBER, place, 3 + i) for i, place in enumerate(places)] + [visit(NUMBER, "500000", 9, transit=True)]
    risk = risk_of(
        [(p, "high") for p in ("330100", "500000", "HKG", "JPN")] + [("110000", "low"), ("330100", "medium")]
    )
    card = one(*rows, risk=risk)
    assert [(v.place, v.marked) for v in card.visits] == [(p, p == "330100") for p in places]
    marks = [(r.rule, r.place, r.begin, r.end) for r in card.reasons if r.rule.startswith("mark")]
    midnight = datetime(2022, 5, 9, 16, tzinfo=UTC)
    assert marks == [("mark_high", "330100", midnight, None), ("mark_medium", "330100", midnight, None)]


def test_the_list_in_force_counts_not_the_one_at_the_visit():
    areas = pl.DataFrame({"place": ["330100"], "level": ["high"], "to": [date(2022, 5, 9)]})
    assert not one(visit(NUMBER, "330100"), risk=read_risk(areas, places=china())).visits[0].marked


def test_places_are_in_order_of_their_first_ping_then_of_their_code():
    rows = [visit(NUMBER, p, 8) for p in ("JPN", "HKG", "330100", "110000")] + [visit(NUMBER, "500000", 7)]
    assert [v.place for v in one(*rows).visits] == ["500000", "110000", "330100", "HKG", "JPN"]


def test_a_card_holds_what_the_visits_say():
    row = visit(NUMBER, "330100", 8)
    (listed,) = one(row).visits
    assert (listed.name, listed.first, listed.last) == ("浙江省杭州市", row["first"], row["last"])
    assert (listed.longest_s, listed.days, listed.marked) == (18000, 1, False)


def test_reasons_are_colour_then_places_then_marks():
    rows = (visit(NUMBER, "330100", 7), visit(NUMBER, "JPN", 8), visit(NUMBER, "KOR", 9))
    card = one(*rows, risk=risk_of([("330100", "medium")]))
    assert [(r.rule, r.place) for r in card.reasons] == [
        ("abroad", "JPN"), ("abroad", "KOR"), ("day_span", "330100"), ("abroad_any", "JPN"), ("abroad_any", "KOR"),
        ("mark_medium", "330100"),
    ]  # fmt: skip
    assert (card.reasons[0].begin, card.reasons[0].end) == (rows[1]["first"], rows[1]["last"])


def test_every_status_at_the_winning_colour_is_evidence_once_with_its_dates():
    rows = [(NUMBER, "confirmed", 1, None), (NUMBER, "close_contact", 5, None), (NUMBER, "fever", 1, None),
            (NUMBER, "confirmed", 1, None), (NUMBER, "close_contact", 6, 12)]  # fmt: skip
    card = one(visit(NUMBER, "330100"), policy=NINTH, statuses=held(*rows))
    told = [(r.rule, r.place, r.begin, r.end) for r in card.reasons if r.rule != "continuous"]
    assert told == [
        ("confirmed", None, at(1), None),
        ("close_contact", None, at(5), at(14)), ("close_contact", None, at(6), at(12)),
    ]  # fmt: skip


@pytest.mark.parametrize("policy", [Policy.preset(name) for name in Policy.presets()], ids=lambda p: p.id)
def test_every_rule_of_a_preset_has_words_and_advice_in_both_languages(policy):
    texts = _texts()
    for rule in policy.colours:
        assert rule.id in texts["reason"]
    for entry in [*texts["reason"].values(), *texts["kind"].values()]:
        assert set(entry) == {"zh", "en", "advice_zh", "advice_en"}
        assert all(entry.values())
    for rule in policy.colours:
        if rule.statuses:
            card = one(policy=policy, statuses=held((NUMBER, rule.statuses[0], 11 - rule.day_from, None)),
                       subscribers=[NUMBER])  # fmt: skip
            if card.colour != "unknown":
                for language in ("zh", "en"):
                    assert all("{" not in text and "2022-" in text for text in card.why(language))


def test_a_carriers_own_rule_is_explained_by_its_condition():
    for rule in (Rule("orange", "mine", abroad=True), Rule("orange", "confirmed", places=("JPN",))):
        card = one(visit(NUMBER, "JPN"), policy=CARD.replace(colours=(rule,)))
        assert rule.id in card.why()[0]
        assert "日本" in card.why()[0]
        assert "Japan" in card.why("en")[0]


def test_the_full_number_is_nowhere():
    card = one(*HANGZHOU_HUZHOU)
    shown = [card.text(), card.text("en"), *card.why(), *card.why("en"), str(card.as_dict()), repr(card)]
    assert not any(str(NUMBER) in text for text in shown)
    assert card.as_dict()["subscriber"] == "184****6428"


def test_the_dict_is_json_able_and_says_why_in_both_languages():
    data = json.loads(json.dumps(one(*HANGZHOU_HUZHOU).as_dict()))
    assert tc.Card is Card
    assert data["window"] == {"from": "2022-04-26", "to": "2022-05-09"}
    assert data["visits"][0]["name"] == {"zh": "浙江省杭州市", "en": "Hangzhou"}
    assert data["visits"][0]["first"] == "2022-05-08T00:00:00Z"
    assert data["policy_hash"] == CARD.hash
    assert {frozenset(r["text"]) for r in data["reasons"]} == {frozenset({"zh", "en"})}


# ---------------------------------------------------------------------------------------------- in bulk


def test_everybody_known_gets_a_card_sorted():
    visits = frame(visit(5, "330100"), visit(3, "310000"), visit(3, "110000", 8))
    made = cards(
        visits, as_of=AS_OF, policy=CARD, risk=NOTHING, statuses=held((9, "fever", -90, -80)), subscribers=[1, 5, 1]
    )
    assert made["subscriber"].to_list() == [1, 3, 5, 9]
    assert made["colour"].to_list() == ["unknown", "green", "green", "unknown"]
    assert made["days_seen"].to_list() == [0, 3, 3, 0]
    assert [v["place"] for v in made["visits"][1]] == ["110000", "310000"]


def test_the_table_has_the_declared_schema():
    made = cards(frame(visit(5, "330100")), as_of=AS_OF, policy=CARD, risk=NOTHING)
    assert CARDS.read(made).schema == CARDS.arrow()
    empty = cards(frame(), as_of=AS_OF, policy=CARD, risk=NOTHING)
    assert CARDS.read(empty).schema == CARDS.arrow()
    assert empty.height == 0
    assert empty.schema == made.schema


@pytest.mark.parametrize(
    "further", [["b", "a"], pl.Series(["b", "a"]), pa.array(["b", "a"]), pl.DataFrame({"subscriber": ["b", "a"]})]
)
def test_pseudonyms_are_subscribers_too(further):
    status = pl.DataFrame({"subscriber": ["é"], "status": ["confirmed"], "from": [AS_OF]})
    made = cards(frame(visit("z", "JPN")), as_of=AS_OF, policy=NINTH, statuses=status, subscribers=further)
    assert made.select("subscriber", "colour").rows() == [
        ("a", "unknown"), ("b", "unknown"), ("z", "green"), ("é", "red"),
    ]  # fmt: skip


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="card-2022-01 needs the list of risk areas in force on 2022-05-10"):
        one(visit(1, "330100"), risk=None)
    with pytest.raises(InputError, match="dated 2022-05-11, after the card's date"):
        one(visit(1, "330100"), risk=risk_of([], date(2022, 5, 11)))
    with pytest.raises(InputError, match="differ in their subscribers' type"):
        one(visit(1, "330100"), subscribers=["a"])
    with pytest.raises(InputError, match="the visits does not fit"):
        cards(frame().drop("transit"), as_of=AS_OF, policy=CARD, risk=NOTHING)
    with pytest.raises(InputError, match="is no time zone"):
        one(visit(1, "330100"), tz="Mars")
    with pytest.raises(NotFound, match="no place '999999'"):
        one(visit(1, "999999"))


PLACES = ("330100", "420100", "110000", "HKG", "JPN", "ITA")
POLICIES = [Policy.preset(name) for name in Policy.presets()] + [
    LEVELS,
    CARD.replace(
        marks=("low", "high"), colours=(Rule("green", "calm", places=("11",)), Rule("red", "far", abroad=True))
    ),
]
WORDS = sorted({word for policy in POLICIES for rule in policy.colours for word in rule.statuses})
seen = st.dictionaries(
    st.integers(1, 4),
    st.dictionaries(st.sampled_from(PLACES), st.tuples(st.integers(-3, 9), st.booleans()), min_size=1),
)
statuses = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(WORDS), st.integers(-5, 12), st.none() | st.integers(-5, 15)),
    max_size=6,
)
areas = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["high", "medium", "low"])), max_size=4)


def reference(who, places, status, levels, policy):
    """Colour, listed places with marks, and rules with their place, of one subscriber: DESIGN 3.6 in its order."""
    visited = sorted((day, p) for p, (day, transit) in places.items() if not transit)
    visited = [p for _, p in visited]
    found = []
    for rule in policy.colours:
        if rule.statuses:
            spans = set()
            for s, word, begin, end in status:
                last = min(99 if end is None else end, 99 if rule.day_to is None else begin + rule.day_to - 1)
                if s == who and word in rule.statuses and begin + rule.day_from - 1 <= 10 <= last:
                    spans.add((begin, last))
            found += [(rule.colour, rule.id, None)] * len(spans)
        elif rule.condition:
            for p in visited:
                holds = {
                    "abroad": is_abroad(p),
                    "places": p in rule.places or (p.isdigit() and p[:2] in rule.places),
                    "levels": any((p, level) in levels for level in rule.levels),
                }[rule.condition]
                if holds:
                    found.append((rule.colour, rule.id, p))
    colour = max((c for c, _, _ in found if c != "green"), key=COLOURS.index, default="")
    colour = colour or ("green" if places else "unknown")
    why = [(rule, p) for c, rule, p in found if c == colour]
    if colour == "unknown":
        why = [("no_ping", None)]
    elif colour == "green" and not visited:
        why.append(("nothing_visited", None))
    elif colour == "green" and not why:
        why = [("green", None)]
    why += [("abroad_any" if is_abroad(p) else policy.rule, p) for p in visited]
    marks = [(f"mark_{level}", p) for level in policy.marks for p in visited if p.isdigit() and (p, level) in levels]
    return colour, [(p, p in {q for _, q in marks}) for p in visited], why + marks


def rows_of(people):
    return [
        visit(who, p, day, transit=transit) for who, places in people.items() for p, (day, transit) in places.items()
    ]


@settings(deadline=None, max_examples=150)
@given(people=seen, status=statuses, levels=areas, policy=st.sampled_from(POLICIES), data=st.data())
def test_cards_are_those_of_the_reference(people, status, levels, policy, data):
    visits = frame(*data.draw(st.permutations(rows_of(people))))
    made = cards(visits, as_of=AS_OF, policy=policy, risk=risk_of(levels), statuses=held(*status), subscribers=[5])
    everyone = sorted({*people, *(s for s, *_ in status), 5})
    assert made["subscriber"].to_list() == everyone
    for row in made.iter_rows(named=True):
        who = row["subscriber"]
        colour, listed, why = reference(who, people.get(who, {}), status, set(levels), policy)
        assert row["colour"] == colour
        assert [(v["place"], v["marked"]) for v in row["visits"]] == listed
        assert [(r["rule"], r["place"]) for r in row["reasons"]] == why
        assert row["days_seen"] == (3 if who in people else 0)


@settings(deadline=None, max_examples=60)
@given(people=seen, status=statuses, more=statuses, policy=st.sampled_from(POLICIES))
def test_a_status_more_never_makes_a_card_less_severe(people, status, more, policy):
    def colours(rows):
        made = cards(
            frame(*rows_of(people)),
            as_of=AS_OF,
            policy=policy,
            risk=NOTHING,
            statuses=held(*rows),
            subscribers=range_of,
        )
        return [SEVERITY[c] for c in made["colour"]]

    range_of = [1, 2, 3, 4, 5]
    assert all(a <= b for a, b in zip(colours(status), colours(status + more), strict=True))


@settings(deadline=None, max_examples=40)
@given(people=seen, status=statuses, policy=st.sampled_from(POLICIES), levels=areas)
def test_subscribers_never_meet(people, status, policy, levels):
    def made(numbers):
        rows = [row for row in rows_of(people) if row["subscriber"] in numbers]
        mine = held(*(s for s in status if s[0] in numbers))
        return cards(frame(*rows), as_of=AS_OF, policy=policy, risk=risk_of(levels), statuses=mine)

    apart = pl.concat([made({1, 2}), made({3, 4, 5})])
    assert apart.rows() == made({1, 2, 3, 4, 5}).rows()


# ---------------------------------------------------------------------------------------------- explained


def stays_of(*rows, subscriber=NUMBER):
    names = ("place", "arrive", "depart", "pings", "inner")
    data = [{"subscriber": subscriber, **dict(zip(names, row, strict=True))} for row in rows]
    return pl.DataFrame(data).cast({"pings": pl.Int32, "inner": pl.Int32})


DAYS = stays_of(
    ("330100", at(7, 8), at(7, 14), 9, 9),
    ("330500", at(8, 8), at(8, 9), 2, 0),
    ("330100", at(8, 10), at(8, 12), 5, 5),
    ("310000", at(9, 8), at(9, 23), 8, 8),
    ("JPN", at(9, 23, 30), at(9, 23, 30), 1, 1),
)
WRONG = pl.DataFrame(
    {"subscriber": [NUMBER, 7], "place": ["310000"] * 2, "from": [date(2022, 5, 9)] * 2, "to": [date(2022, 5, 12)] * 2}
)


def explained(policy, corrections=None, risk=NOTHING, made=None, stays=DAYS):
    visits = tc.visits(stays, as_of=AS_OF, policy=policy, corrections=corrections)
    card = one(*visits.iter_rows(named=True), policy=policy, risk=risk, made=made)
    return explain(card, stays, visits, corrections=corrections, risk=risk)


@pytest.mark.parametrize("rule", ["day_span", "continuous", "cumulative"])
@pytest.mark.parametrize("border", ["any", "inner"])
def test_the_decisive_span_holds_exactly_where_the_place_is_listed(rule, border):
    told = explained(CARD.replace(rule=rule, border=border))
    for s in told.seen:
        if is_abroad(s.place):
            assert (s.rule, s.listed) == ("abroad_any", True)
        else:
            assert s.listed == (s.lasts_s is not None and s.lasts_s >= 4 * 3600)
    assert [s.place for s in told.seen] == ["330100", "330500", "310000", "JPN"]
    by = {s.place: s for s in told.seen}
    assert (by["330100"].begin, by["330100"].end, by["330100"].lasts_s) == (at(7, 8), at(7, 14), 6 * 3600)
    assert by["330500"].neighbour == ((date(2022, 5, 8),) if border == "inner" else ())
    assert by["330500"].lasts_s == (None if border == "inner" else 3600)


def test_a_stay_over_midnight_is_the_longest_or_cut():
    stays = stays_of(("330100", at(7, 21), at(7, 23), 3, 3), ("330100", at(8, 1), at(8, 3, 30), 3, 3))
    spans = {}
    for rule in ("day_span", "continuous", "cumulative"):
        (s,) = explained(CARD.replace(rule=rule), stays=stays).seen
        spans[rule] = (s.begin, s.end, s.lasts_s, s.listed)
    assert spans["day_span"] == (at(8, 1), at(8, 3, 30), 9000, False)
    assert spans["continuous"] == (at(7, 21), at(8, 3, 30), 23400, True)
    assert spans["cumulative"] == (at(8, 0), at(8, 3, 30), 12600, False)


def test_corrections_are_shown_with_what_they_took_off():
    told = explained(CARD, corrections=WRONG)
    assert [s.place for s in told.seen] == ["330100", "330500", "JPN"]
    assert told.stays.filter("corrected")["place"].to_list() == ["310000"]
    assert "更正：上海市，2022-05-09至2022-05-12，去掉1段停留" in told.text()
    assert told.as_dict()["corrections"][0]["stays"] == 1
    assert len(told.as_dict()["corrections"]) == 1


def test_an_explanation_in_words():
    source = {"data": {"highlist": [], "middlelist": [{"province": "浙江省", "city": "杭州市", "area_name": "某街道"}]}}
    risk = read_risk(source, places=china(), day=AS_OF)
    made = {"risk_date": AS_OF, "missing": [date(2022, 5, 1)]}
    told = explained(CARD, risk=risk, made=made)
    text, english = told.text(), told.text("en")
    assert json.loads(json.dumps(told.as_dict())) == told.as_dict()
    for line in (
        "184****6428，2022-05-10的卡：黄色；规则card-2022-01",
        "窗口：2022-04-26至2022-05-09，有记录的天数：3",
        "缺少数据的日期：2022-05-01",
        "列出：浙江省杭州市，2022-05-07最早与最晚记录相隔6小时（2022-05-07 08:00至2022-05-07 14:00），≥4小时",
        "  风险地区（中）：某街道",
        "途经，未列出：浙江省湖州市，2022-05-08最早与最晚记录相隔1小时",
        "<4小时",
        "列出：日本，境外，有记录即列出",
        "  2022-05-08 08:00 至 2022-05-08 09:00  浙江省湖州市  2次",
    ):
        assert line in text
    assert "Transit, not listed: Huzhou, first to last record on 2022-05-08: 1 h" in english
    assert "risk area (medium): 某街道" in english
    assert str(NUMBER) not in text + english + str(told.as_dict()) + repr(told.card)
    assert told.as_dict()["seen"][0]["risk_areas"] == [{"level": "medium", "name": "某街道"}]


def test_places_abroad_are_transit_before_the_policy_lists_them():
    for preset, words in (("sms-2020-02", "本规则不列境外"), ("card-2020-spring", "本规则自2020-03-06起才列出境外")):
        policy = Policy.preset(preset)
        stays = stays_of(("JPN", datetime(2020, 2, 28, 1, tzinfo=UTC), datetime(2020, 2, 28, 9, tzinfo=UTC), 3, 3))
        as_of = date(2020, 3, 5)
        visits = tc.visits(stays, as_of=as_of, policy=policy)
        card = one(*visits.iter_rows(named=True), policy=policy, as_of=as_of)
        assert card.colour == "green"
        assert words in explain(card, stays, visits).text()


def test_stays_that_are_no_longer_those_of_the_card_make_it_stale():
    told = explained(CARD)
    assert not told.stale
    changed = explain(told.card, DAYS, frame(visit(NUMBER, "500000")))
    assert changed.stale
    assert changed.as_dict()["stale"]
    assert "travelcard cards" in changed.text("en")
