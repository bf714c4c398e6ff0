"""The evidence behind one card: stays, transit, the day or stay that decided, risk areas, corrections (DESIGN 5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa

from travelcard.card import COLOUR_WORDS, Card, duration, place_name, utc_text
from travelcard.late import polars as pl
from travelcard.places import Places, china, is_abroad
from travelcard.risk import Risk
from travelcard.schema import CORRECTIONS, STAYS, VISITS

__all__ = ["Explanation", "Seen", "explain"]

LINES = {
    "zh": {
        "card": "{number}，{as_of}的卡：{colour}；规则{policy}（{hash}）",
        "window": "窗口：{first}至{last}，有记录的天数：{seen}",
        "missing": "缺少数据的日期：{days}",
        "stale": "注意：制卡之后这些日期的数据有变动，以下依据与卡不一致；请运行 travelcard cards {as_of} 重新制卡",
        "list": "风险地区名单日期：{day}",
        "why": "原因：",
        "listed": "列出：{name}，{evidence}",
        "transit": "途经，未列出：{name}，{evidence}",
        "abroad": "境外，有记录即列出（{begin}至{end}）",
        "abroad_off": "本规则自{since}起才列出境外，当日的卡不列",
        "abroad_never": "本规则不列境外",
        "day_span": "{day}最早与最晚记录相隔{lasts}（{begin}至{end}），{sign}{stay}",
        "continuous": "连续停留{lasts}（{begin}至{end}），{sign}{stay}",
        "cumulative": "{day}累计停留{lasts}，{sign}{stay}",
        "none": "没有可计的停留",
        "border": "{n}天的记录视为邻市信号，未计入",
        "area": "  风险地区（{level}）：{name}",
        "area_unnamed": "未给出名称",
        "corrected": "更正：{name}，{begin}至{end}，去掉{n}段停留",
        "stays": "停留记录：",
        "stay": "  {begin} 至 {end}  {name}  {pings}次",
        "removed": "（已更正）",
        "high": "高", "medium": "中", "low": "低",
    },
    "en": {
        "card": "{number}, card as of {as_of}: {colour}; policy {policy} ({hash})",
        "window": "Window: {first} to {last}, days with a record: {seen}",
        "missing": "Days without data: {days}",
        "stale": "Note: days were run again since this card was made, and what follows differs from it; "
        "run `travelcard cards {as_of}` to make it anew",
        "list": "List of risk areas dated: {day}",
        "why": "Reasons:",
        "listed": "Listed: {name}, {evidence}",
        "transit": "Transit, not listed: {name}, {evidence}",
        "abroad": "abroad, where any record counts ({begin} to {end})",
        "abroad_off": "abroad, which this policy lists on cards from {since} on",
        "abroad_never": "abroad, which this policy does not list",
        "day_span": "first to last record on {day}: {lasts} ({begin} to {end}), {sign} {stay}",
        "continuous": "unbroken stay of {lasts} ({begin} to {end}), {sign} {stay}",
        "cumulative": "stays on {day} of {lasts} together, {sign} {stay}",
        "none": "no stay that counts",
        "border": "records of {n} day(s) taken for a neighbour's signal",
        "area": "  risk area ({level}): {name}",
        "area_unnamed": "no name given",
        "corrected": "Corrected: {name}, {begin} to {end}, {n} stays taken off",
        "stays": "Stays:",
        "stay": "  {begin} to {end}  {name}  {pings} pings",
        "removed": "  (corrected)",
        "high": "high", "medium": "medium", "low": "low",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """A place with pings in the window, listed or transit, and what decided.

    `begin`, `end`, `lasts_s`: the longest span on one day, unbroken stay, or sum of one day's stays, as the policy's
    rule measures; None where nothing is left to measure. `neighbour` are the days on which `border` left it out.
    """

    place: str
    name: str
    listed: bool
    rule: str
    begin: datetime | None
    end: datetime | None
    lasts_s: int | None
    neighbour: tuple[date, ...]
    areas: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Explanation:
    """What `explain` returns: `as_dict()` is JSON-able, `text(language)` is for people. The number is masked.

    `stale` says that the stays are no longer those that the card was made from.
    """

    card: Card
    seen: tuple[Seen, ...]
    stays: pl.DataFrame
    corrections: pl.DataFrame
    names: dict[str, str]
    stale: bool
    places: Places | None = None

    def as_dict(self) -> dict[str, Any]:
        """The card, every place seen, the stays (with `corrected`), and the corrections that took some off."""

        def plain(row: dict[str, Any]) -> dict[str, Any]:
            told = {k: utc_text(v) if isinstance(v, datetime) else v for k, v in row.items() if k != "subscriber"}
            return {k: v.isoformat() if isinstance(v, date) else v for k, v in told.items()}

        seen = [
            {
                "place": s.place,
                "name": {lang: place_name(s.place, s.name, lang, self.places) for lang in ("zh", "en")},
                "listed": s.listed,
                "rule": s.rule,
                "from": utc_text(s.begin),
                "to": utc_text(s.end),
                "lasts_s": s.lasts_s,
                "neighbour_days": [day.isoformat() for day in s.neighbour],
                "risk_areas": [{"level": level, "name": name} for level, name in s.areas],
            }
            for s in self.seen
        ]
        return {
            "card": self.card.as_dict(places=self.places),
            "stale": self.stale,
            "seen": seen,
            "stays": [plain(row) for row in self.stays.to_dicts()],
            "corrections": [plain(row) for row in self.corrections.to_dicts()],
        }

    def text(self, language: str = "zh") -> str:
        """The evidence in words, lines joined by newlines."""
        card, policy = self.card, self.card.policy
        why = card.why(language, places=self.places)
        say = LINES[language]
        (first, last), colour = card.window, COLOUR_WORDS[language][card.colour if policy.colours else "unknown"]

        def name(place: str) -> str:
            return place_name(place, self.names.get(place, place), language, self.places)

        lines = [
            say["card"].format(
                number=card.masked, as_of=card.as_of, colour=colour, policy=policy.id, hash=policy.hash[:12]
            ),
            say["window"].format(first=first, last=last, seen=card.days_seen),
        ]
        if card.missing:
            lines.append(say["missing"].format(days=", ".join(str(day) for day in card.missing)))
        if self.stale:
            lines.append(say["stale"].format(as_of=card.as_of))
        if card.risk_date is not None:
            lines.append(say["list"].format(day=card.risk_date))
        lines += [say["why"], *(f"  {reason}" for reason in why)]
        for seen in self.seen:
            told = say["listed" if seen.listed else "transit"]
            lines.append(told.format(name=name(seen.place), evidence=self._evidence(seen, language)))
            lines += [
                say["area"].format(level=say[level], name=area or say["area_unnamed"]) for level, area in seen.areas
            ]
        for row in self.corrections.iter_rows(named=True):
            lines.append(
                say["corrected"].format(name=name(row["place"]), begin=row["from"], end=row["to"], n=row["stays"])
            )
        lines.append(say["stays"])
        for row in self.stays.iter_rows(named=True):
            begin, end = card.when(row["arrive"]), card.when(row["depart"])
            stay = say["stay"].format(begin=begin, end=end, name=name(row["place"]), pings=row["pings"])
            lines.append(stay + (say["removed"] if row["corrected"] else ""))
        return "\n".join(lines)

    def _evidence(self, seen: Seen, language: str) -> str:
        say, card = LINES[language], self.card
        begin, end = card.when(seen.begin), card.when(seen.end)
        if is_abroad(seen.place):
            if seen.listed:
                return say["abroad"].format(begin=begin, end=end)
            since = card.policy.abroad_from
            return say["abroad_never"] if since == date.max else say["abroad_off"].format(since=since)
        stay = duration(card.policy.min_stay, language)
        if seen.lasts_s is None:
            told = say["none"]
        else:
            lasts = duration(timedelta(seconds=seen.lasts_s), language)
            sign = "≥" if seen.lasts_s >= card.policy.min_stay.total_seconds() else "<"
            told = say[seen.rule].format(day=begin[:10], begin=begin, end=end, lasts=lasts, stay=stay, sign=sign)
        if seen.neighbour:
            told += ("；" if language == "zh" else "; ") + say["border"].format(n=len(seen.neighbour))
        return told


def explain(
    card: Card,
    stays: Any,
    visits: Any,
    *,
    corrections: Any = None,
    risk: Risk | None = None,
    places: Places | None = None,
    max_silence: timedelta = timedelta(hours=12),
) -> Explanation:
    """Lay out what one card was made from.

    Parameters
    ----------
    card
        The card; its policy and time zone are used.
    stays
        The subscriber's day-stays of the window as stored, corrected ones included; others' are left aside.
    visits
        What `tc.visits` made of them, after corrections: listed places and transit.
    corrections
        As `tc.visits` takes it; those of other subscribers are left aside.
    risk
        The list in force: names the areas behind marks.
    places
        Names the places, China's by default.
    max_silence
        The store's.

    Raises
    ------
    InputError
        A table that does not fit.
    """
    first, last = card.window
    mine = pl.col("subscriber") == card.subscriber
    day = pl.col("arrive").dt.convert_time_zone(card.tz).dt.date().alias("day")
    raw = _frame(STAYS.read(stays, where="the stays")).filter(mine).with_columns(day).sort("arrive", "place")
    raw = raw.filter(pl.col("day").is_between(first, last))
    rows = _frame(VISITS.read(visits, where="the visits")).filter(mine).sort("first", "place")
    listed = rows.filter(~pl.col("transit")).select("place", "first", "last", "longest_s", "days").rows()
    stale = listed != [(v.place, v.first, v.last, v.longest_s, v.days) for v in card.visits]
    wrong = _frame(CORRECTIONS.read(_nothing(corrections), where="the corrections"))
    wrong = wrong.filter(mine & (pl.col("from") <= last) & (pl.col("to") >= first)).sort("from", "to", "place")
    hits = [(pl.col("place") == c["place"]) & pl.col("day").is_between(c["from"], c["to"]) for c in wrong.to_dicts()]
    raw = raw.with_columns(pl.any_horizontal(pl.lit(value=False), *hits).alias("corrected"))
    counts = [raw.filter(hit).height for hit in hits]
    neighbour = _neighbour(raw.filter(~pl.col("corrected")), card.policy.border)
    left = raw.filter(~pl.col("corrected")).join(neighbour, on=["day", "place"], how="anti", maintain_order="left")
    spans = _spans(left, card, max_silence)

    named = places or china()
    names = {place: named.printed(place) for place in {*raw["place"], *rows["place"], *wrong["place"]}}
    marked = {visit.place for visit in card.visits if visit.marked}
    seen = []
    for row in rows.iter_rows(named=True):
        place = row["place"]
        begin, end, lasts = spans.get(place, (None, None, None))
        if is_abroad(place):
            begin, end, lasts = row["first"], row["last"], None
        days = neighbour.filter(pl.col("place") == place)["day"].to_list()
        areas = risk.areas_of(place, card.as_of) if risk is not None and place in marked else []
        rule = "abroad_any" if is_abroad(place) else card.policy.rule
        areas = [area for area in areas if area[0] in card.policy.marks]
        seen.append(Seen(place, names[place], not row["transit"], rule, begin, end, lasts, tuple(days), tuple(areas)))
    corrected = wrong.with_columns(pl.Series("stays", counts, pl.Int64))
    return Explanation(card, tuple(seen), raw.drop("day"), corrected, names, stale, places)


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.from_arrow(table)  # type: ignore[return-value]


def _nothing(corrections: Any) -> Any:
    return CORRECTIONS.arrow().empty_table() if corrections is None else corrections


def _neighbour(stays: pl.DataFrame, border: str) -> pl.DataFrame:
    """Day and place of the day-stays that `border = inner` leaves out (DESIGN 3.5): sorted, none for `any`."""
    domestic = [place for place in stays["place"].unique() if not is_abroad(place)]
    on_day = stays.filter(pl.col("place").is_in(domestic)).group_by("day", "place").agg(pl.col("inner").sum())
    some = pl.col("inner").max().over("day") > 0
    out = on_day.filter((pl.col("inner") == 0) & some & pl.lit(border == "inner"))
    return out.select("day", "place").sort("day", "place")


def _spans(left: pl.DataFrame, card: Card, max_silence: timedelta) -> dict[str, tuple[datetime, datetime, int]]:
    """For each place what the policy's rule measures, at its longest (the earliest of equals): begin, end, seconds."""
    if card.policy.rule == "day_span":
        pieces = left.group_by("place", "day").agg(pl.col("arrive").min(), pl.col("depart").max())
        pieces = pieces.with_columns((pl.col("depart") - pl.col("arrive")).dt.total_seconds().alias("s"))
    else:
        from travelcard.stays import stitch  # noqa: PLC0415  loads compiled loops, which a plain card needs not

        pieces = stitch(left.drop("day", "corrected"), max_silence=max_silence, flicker=card.policy.flicker)
        if card.policy.rule == "cumulative":
            pieces = _cut(pieces, card.tz).group_by("place", "day").agg(
                pl.col("arrive").min(), pl.col("depart").max(), (pl.col("depart") - pl.col("arrive")).sum().alias("s")
            )  # fmt: skip
            pieces = pieces.with_columns(pl.col("s").dt.total_seconds())
        else:
            pieces = pieces.with_columns((pl.col("depart") - pl.col("arrive")).dt.total_seconds().alias("s"))
    longest = pieces.sort("s", "arrive", descending=[True, False]).unique("place", keep="first", maintain_order=True)
    return {row[0]: row[1:] for row in longest.select("place", "arrive", "depart", "s").iter_rows()}


def _cut(stays: pl.DataFrame, tz: str) -> pl.DataFrame:
    """Stays cut at every midnight of `tz`, with the `day` of each piece."""
    first, last = (pl.col(name).dt.convert_time_zone(tz).dt.date() for name in ("arrive", "depart"))
    cut = stays.with_columns(pl.date_ranges(first, last).alias("day")).explode("day")
    begin = pl.col("day").cast(pl.Datetime("us")).dt.replace_time_zone(tz).dt.convert_time_zone("UTC")
    end = pl.col("day").dt.offset_by("1d").cast(pl.Datetime("us")).dt.replace_time_zone(tz).dt.convert_time_zone("UTC")
    return cut.with_columns(pl.max_horizontal("arrive", begin), pl.min_horizontal("depart", end))
