"""One card as a person sees it: printed, in words, as JSON, and why everything is on it (FACTS 1.3)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from travelcard.errors import InputError, NotFound, mask
from travelcard.places import Places, china
from travelcard.policy import Policy, Rule
from travelcard.schema import zone

__all__ = ["Card", "Reason", "Visit"]

LANGUAGES = ("zh", "en")
COLOUR_WORDS = {
    "zh": {"red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "unknown": "没有颜色"},
    "en": {"red": "red", "orange": "orange", "yellow": "yellow", "green": "green", "unknown": "no colour"},
}
# How a mark stands in plain text. The star is the original; of the note in brackets no copy was found, so it is the
# star's own explanation; red type needs a sign that text can hold (FACTS 1.1, 1.7).
MARKED = {"none": "{name}", "star": "{name}*", "red_name": "【{name}】"}
BRACKET = {"zh": "{name}（当前存在中风险或高风险地区）", "en": "{name} (has a medium- or high-risk area now)"}
NOTES = {
    "zh": {
        "star": "（注：*表示当前该城市存在中风险或高风险地区，并不表示用户实际到访过这些中高风险地区。）",
        "red_name": "（注：【】内的城市名以红色显示，表示当前该城市存在中风险或高风险地区。）",
    },
    "en": {
        "star": "(Note: * means that the city has a medium- or high-risk area now, not that the user was in one.)",
        "red_name": "(Note: names in 【】 are shown in red: the city has a medium- or high-risk area now.)",
    },
}
NOT_FOUND = {"zh": "抱歉，没有找到您的行程数据", "en": "Sorry, no travel data was found for you"}
UNDATED = {"zh": "未注明日期", "en": "no date"}
FACES = {
    "zh": {
        "title": "通信行程卡\n通信大数据行程卡\n疫情防控，人人有责",
        "take": "请收下{colour}行程卡",
        "whose": "{number}的动态行程卡",
        "updated": "更新于：{now:%Y.%m.%d %H:%M:%S}",
        "places": "您于前{days}天内到达或途经：{places}",
        "nothing": "无（有通信记录，但没有达到到访条件的地方）",
        "rule": "结果包含您在前{days}天内到访的国家（地区）与停留{stay}以上的国内城市",
        "domestic": "结果包含您在前{days}天内停留{stay}以上的国内城市",
        "colour": "色卡仅对到访地作提醒，不关联健康状况",
        "by": "本服务联合提供 [CAICT 中国信通院] [中国电信] [中国移动] [中国联通]",
        "line": "客服热线：10000/10086/10010",
        "missing": "（注：缺少以下日期的数据：{missing}）",
        "sms_whose": "{number}的行程查询结果",
        "code": "{hue}码",
        "code_title": "健康码",
        "code_whose": "{number}的健康码",
        "code_rule": "依据：{policy}",
    },
    "en": {
        "title": "Communications Travel Card\nBig-data travel card\nEpidemic control is everybody's duty",
        "take": "Please accept your {colour} travel card",
        "whose": "Travel card of {number}",
        "updated": "Updated: {now:%Y.%m.%d %H:%M:%S}",
        "places": "Reached or passed through in the last {days} days: {places}",
        "nothing": "nothing (there are records, but no place that counts as visited)",
        "rule": "Countries (regions) visited in the last {days} days, and domestic cities stayed in for {stay} or more",
        "domestic": "Cities stayed in for {stay} or more in the last {days} days",
        "colour": "The colour reminds of places visited; it says nothing about health",
        "by": "Provided by [CAICT] [China Telecom] [China Mobile] [China Unicom]",
        "line": "Hotline: 10000/10086/10010",
        "missing": "(Note: there is no data of these days: {missing})",
        "sms_whose": "Travel look-up of {number}",
        "code": "{hue} code",
        "code_title": "Health code",
        "code_whose": "Health code of {number}",
        "code_rule": "By: {policy}",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Visit:
    """A listed place: its first and last ping in the window (UTC), longest stay in seconds, days with a ping, mark."""

    place: str
    name: str
    first: datetime
    last: datetime
    longest_s: int
    days: int
    marked: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is on a card: the rule's id and its evidence; None where it has no place or time."""

    rule: str
    place: str | None
    begin: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Card:
    """One subscriber's card as of a date, with the policy that made it. Printing it shows the number masked.

    `missing` are the days of the window that were never run; `risk_date` is the date of the list of risk areas in
    force; `tz` is the zone of its days and of the times on it.
    """

    subscriber: int | str = field(repr=False)
    as_of: date
    colour: str
    visits: tuple[Visit, ...]
    reasons: tuple[Reason, ...]
    days_seen: int
    policy: Policy = field(repr=False)
    risk_date: date | None = None
    missing: tuple[date, ...] = ()
    tz: str = "Asia/Shanghai"

    @classmethod
    def of(
        cls,
        row: Mapping[str, Any],
        *,
        as_of: date,
        policy: Policy,
        risk_date: date | None = None,
        missing: tuple[date, ...] = (),
        tz: str = "Asia/Shanghai",
    ) -> Card:
        """The card in a row of a `cards` table (a dict), with how it was made.

        >>> row = dict(subscriber=13800001234, colour="unknown", visits=[], reasons=[], days_seen=0)
        >>> Card.of(row, as_of=date(2022, 5, 10), policy=Policy.in_force(date(2022, 5, 10))).masked
        '138****1234'
        """
        return cls(
            row["subscriber"],
            as_of,
            row["colour"],
            tuple(Visit(*(visit[name] for name in Visit.__slots__)) for visit in row["visits"]),
            tuple(Reason(r["rule"], r["place"], r["from"], r["to"]) for r in row["reasons"]),
            row["days_seen"],
            policy,
            risk_date,
            missing,
            tz,
        )

    @property
    def masked(self) -> str:
        """The number as it may be shown."""
        return mask(self.subscriber)

    @property
    def window(self) -> tuple[date, date]:
        """First and last day of the window."""
        return self.policy.window(self.as_of)

    def text(self, language: str = "zh", *, now: datetime | None = None, places: Places | None = None) -> str:
        """The card as it is printed, lines joined by newlines, in Chinese or English (whose words are ours).

        `now` is the moment of the query (with an offset; the clock's by default), shown in `tz`. `places` gives the
        English names, China's by default; names that it does not know stay Chinese.
        """
        face = FACES[_known(language)]
        moment = (now or datetime.now(UTC)).astimezone(zone(self.tz))
        words = {
            "colour": COLOUR_WORDS[language][self.colour],
            "hue": COLOUR_WORDS[language][self.colour].removesuffix("色"),
            "number": self.masked,
            "now": moment,
            "days": self.policy.days,
            "places": self._list(language, places),
            "stay": duration(self.policy.min_stay, language),
            "policy": self.policy.id,
            "missing": ("、" if language == "zh" else ", ").join(str(day) for day in self.missing),
        }
        show = [face["places"]] if self.days_seen else [NOT_FOUND[language]]
        if self.days_seen and any(visit.marked for visit in self.visits):
            show += [NOTES[language][self.policy.mark_form]] if self.policy.mark_form in NOTES[language] else []
        rule = face["rule"] if self.policy.abroad_counts(self.as_of) else face["domestic"]
        known = self.colour != "unknown"
        if self.policy.form == "sms":
            lines = [face["sms_whose"], face["updated"], *show, rule, face["line"]]
        elif self.policy.form == "healthcode":
            code = [face["code"]] if known else []
            lines = [face["code_title"], *code, face["code_whose"], face["updated"], *show, rule, face["code_rule"]]
        else:
            take = [face["take"]] if known else []
            foot = [rule, face["colour"], face["by"], face["line"]]
            lines = [face["title"], *take, face["whose"], face["updated"], *show, *foot]
        lines += [face["missing"]] if self.missing else []
        return "\n".join(line.format(**words) for line in lines)

    def _list(self, language: str, places: Places | None) -> str:
        form = self.policy.mark_form
        mark = BRACKET[language] if form == "bracket" else MARKED[form]
        named = [(place_name(v.place, v.name, language, places), v.marked) for v in self.visits]
        texts = [mark.format(name=name) if marked else name for name, marked in named]
        return ("，" if language == "zh" else "; ").join(texts) or FACES[language]["nothing"]

    def why(self, language: str = "zh", *, places: Places | None = None) -> tuple[str, ...]:
        """Every reason on the card in words, with the advice; in the order of `reasons`."""
        return tuple(
            f"{reason}{'' if language == 'zh' else ' '}{advice}"
            for reason, advice in (self._words(r, _known(language), places) for r in self.reasons)
        )

    def _words(self, reason: Reason, language: str, places: Places | None) -> tuple[str, str]:
        """What a reason says and advises."""
        rule = next((rule for rule in self.policy.colours if rule.id == reason.rule), None)
        entry = _entry(reason.rule, rule, self.policy)
        printed = next((visit.name for visit in self.visits if visit.place == reason.place), "")
        words = {
            "place": place_name(reason.place, printed, language, places) if reason.place else "",
            "begin": self.when(reason.begin),
            "end": self.when(reason.end),
            "period": self._period(reason, language),
            "days": self.policy.days,
            "stay": duration(self.policy.min_stay, language),
            "id": reason.rule,
            "list": self.when(reason.begin)[:10] or UNDATED[language],
            "colour": COLOUR_WORDS[language][self.colour if self.policy.colours else "unknown"],
        }
        return entry[language].format(**words), entry[f"advice_{language}"]

    def _period(self, reason: Reason, language: str) -> str:
        begin, end = self.when(reason.begin)[:10], self.when(reason.end)[:10]
        if language == "zh":
            return f"{begin}至{end}" if end else f"{begin}起"
        return f"{begin} to {end}" if end else f"since {begin}"

    def when(self, moment: datetime | None) -> str:
        """A time of the card in its zone, to the minute; empty for None."""
        return "" if moment is None else f"{moment.astimezone(zone(self.tz)):%Y-%m-%d %H:%M}"

    def as_dict(self, *, places: Places | None = None) -> dict[str, Any]:
        """The card as JSON-able data: number masked, times in UTC (ISO 8601), reasons with their words."""
        reasons = []
        for reason in self.reasons:
            words = {language: self._words(reason, language, places) for language in LANGUAGES}
            reasons.append(
                {
                    "rule": reason.rule,
                    "place": reason.place,
                    "from": utc_text(reason.begin),
                    "to": utc_text(reason.end),
                    "text": {language: text for language, (text, _) in words.items()},
                    "advice": {language: advice for language, (_, advice) in words.items()},
                }
            )
        first, last = self.window
        return {
            "subscriber": self.masked,
            "form": self.policy.form,
            "as_of": self.as_of.isoformat(),
            "colour": self.colour,
            "visits": [
                {
                    "place": v.place,
                    "name": {language: place_name(v.place, v.name, language, places) for language in LANGUAGES},
                    "first": utc_text(v.first),
                    "last": utc_text(v.last),
                    "longest_s": v.longest_s,
                    "days": v.days,
                    "marked": v.marked,
                }
                for v in self.visits
            ],
            "reasons": reasons,
            "days_seen": self.days_seen,
            "policy": self.policy.id,
            "policy_hash": self.policy.hash,
            "risk_date": None if self.risk_date is None else self.risk_date.isoformat(),
            "window": {"from": first.isoformat(), "to": last.isoformat()},
            "missing": [day.isoformat() for day in self.missing],
        }


def _entry(reason: str, rule: Rule | None, policy: Policy) -> dict[str, str]:
    """The words of a reason: its own, or those of its condition, for a rule that only a carrier's policy has."""
    texts = _texts()
    green = "green" if policy.form == "card" else "green_code" if policy.colours else "uncoloured"
    if reason == policy.green:
        return texts["reason"][green]
    entry = texts["reason"].get(reason)
    if rule is None:
        return entry or texts["reason"][green]
    if entry is not None and ("{period}" in entry["zh"]) == bool(rule.statuses):
        return entry
    return texts["kind"]["levels_visit" if rule.at == "visit" else rule.condition]


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise InputError(f"language {language!r}: expected zh or en")
    return language


def utc_text(moment: datetime | None) -> str | None:
    """A time as JSON holds it: ISO 8601, UTC, whole seconds."""
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def duration(span: timedelta, language: str) -> str:
    """A length of time in words, its zero parts left out.

    >>> duration(timedelta(hours=4), "zh"), duration(timedelta(minutes=90), "en")
    ('4小时', '1 h 30 min')
    """
    seconds = int(span.total_seconds())
    parts = ((seconds // 3600, "小时", " h"), (seconds // 60 % 60, "分钟", " min"), (seconds % 60, "秒", " s"))
    told = [f"{n}{zh if language == 'zh' else en}" for n, zh, en in parts if n]
    return ("" if language == "zh" else " ").join(told) or ("0秒" if language == "zh" else "0 s")


def place_name(code: str, printed: str, language: str, places: Places | None) -> str:
    """A place in a language: as printed in Chinese; by its English name where `places` knows one.

    Of cities that share an English name (Suzhou, Taizhou, ...) the printed one tells which.
    """
    if language == "zh":
        return printed
    known = places or china()
    try:
        name = known.name(code, language)
    except NotFound:  # a place of another country's boundaries: its printed name is all there is
        return printed
    return f"{name} ({printed})" if known.names_en.count(name) > 1 else name


@lru_cache(maxsize=1)
def _texts() -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads((Path(__file__).parent / "data" / "texts.toml").read_text(encoding="utf-8"))
