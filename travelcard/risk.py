"""Lists of risk areas: read as published (FACTS 3.2), matched to places, and the one in force on a card's date.

The published lists hold names and no codes, and not every `city` in them is a prefecture. A row whose place cannot be
told is kept in `Risk.unmatched`, never dropped.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from travelcard.errors import InputError, one_line
from travelcard.late import polars as pl
from travelcard.places import Places
from travelcard.schema import RISK, read_parquet

__all__ = ["LEVELS", "Risk", "dated_lists", "join_risk", "read_risk", "risk_in_force"]

Day = date  # what a date is called inside Risk, which has a field of that name
LEVELS = ("high", "medium", "low")
_KEYS = {"highlist": "high", "middlelist": "medium", "lowlist": "low"}
_ROW = ("province", "city", "county", "area_name")
_UNMATCHED = ("level", *_ROW)

# What the lists name in `city` without its being a prefecture, and where it lies.
_PART_OF = {
    "平潭综合实验区": "350100",
    "杨凌示范区": "610400",
    "宁东能源化工基地": "640100",
    "雄县": "130600",
    "容城县": "130600",
    "安新县": "130600",
    "辛集市": "130100",
    "定州市": "130600",
    "梅河口市": "220500",
}
# The Changbai Mountain zone has three districts in two prefectures: without the district it names no place.
_CHANGBAI, _CHANGBAI_PARTS = "长白山保护开发区", {"池北区": "222400", "池西区": "220600", "池南区": "220600"}
_CORPS, _CORPS_IN = "新疆生产建设兵团", "新疆维吾尔自治区"
_COUNTIES_OF_PROVINCE = re.compile(r"(省|自治区)直辖县级行政(单位|区划)")
_PREFECTURE = ("地区", "自治州", "市", "盟", "州")


@dataclass(frozen=True, eq=False)  # itself alone is equal to it, so that what it answers can be kept
class Risk:
    """A list of risk areas, matched to places.

    Attributes
    ----------
    date : what the list is dated, and the card shows; None for a table that was given no day.
    areas : polars `place`, `level`, `from`, `to` (days, inclusive; null = open), `area` (its name, where the list gives
        one), `communities` (how many the row names). One row per row of the list.
    unmatched : polars `level`, `province`, `city`, `county`, `area_name`, `rows`: what names no place, and how often.
    since : the first day that the list speaks about; None = whatever day.
    """

    date: date | None
    areas: pl.DataFrame = field(repr=False)
    unmatched: pl.DataFrame = field(repr=False)
    since: Day | None = None

    @property
    def unmatched_names(self) -> list[str]:
        """What of the list names no place, in the list's own words: level, names, and how many rows."""
        rows = self.unmatched.select("level", *_ROW, "rows").iter_rows()
        return [f"{level}: {' '.join(n for n in names if n) or 'no names'} ({n})" for level, *names, n in rows]

    @lru_cache(maxsize=64)  # noqa: B019  asked of every bucket
    def levels_on(self, day: Day) -> dict[str, frozenset[str]]:
        """The places with an area on a day, and the levels of their areas."""
        begun = pl.col("from").fill_null(date.min) <= day
        held = self.areas.filter(begun & (pl.col("to").fill_null(date.max) >= day)).group_by("place")
        return {place: frozenset(levels) for place, levels in held.agg(pl.col("level").unique()).iter_rows()}

    def days_at(self, levels: Iterable[str], codes: Sequence[str], first: Day, days: int) -> np.ndarray:
        """Whether each place has an area at one of these levels on each day: bool, shape (len(codes), days)."""
        out = np.zeros((len(codes), days), np.bool_)
        row = {code: i for i, code in enumerate(codes)}
        hits = self.areas.filter(pl.col("level").is_in(list(levels)) & pl.col("place").is_in(list(codes)))
        for place, begin, end in hits.select("place", "from", "to").unique().iter_rows():
            low = 0 if begin is None else max((begin - first).days, 0)
            high = days if end is None else max((end - first).days + 1, 0)
            out[row[place], low:high] = True
        return out

    def areas_of(self, place: str, day: Day) -> list[tuple[str, str | None]]:
        """Level and name of the areas of a place on a day, in the list's order."""
        begun = pl.col("from").fill_null(date.min) <= day
        held = self.areas.filter((pl.col("place") == place) & begun & (pl.col("to").fill_null(date.max) >= day))
        return list(held.select("level", "area").unique(maintain_order=True).iter_rows())


def read_risk(source: Any, *, places: Places, day: date | None = None) -> Risk:
    """Read a list of risk areas and match it to places.

    Parameters
    ----------
    source
        A path: the State Council's JSON as published, or CSV (plain, .gz) or Parquet with the columns `place`, `level`
        ("high", "medium", "low"), `from`, `to` (days, inclusive; absent or null = open). Or such a table, or the JSON
        as a mapping.
    places
        What the names are matched to. In a table, `place` is a code or a name.
    day
        What the list is dated. By default the day of the JSON's `end_update_time`; a table then has none.

    Returns
    -------
    Risk
        The areas of a JSON list hold from its date on, those of a table as it says.

    Raises
    ------
    InputError
        One error, naming the file: not there, not JSON, cut short, of another schema, or without a list.

    Notes
    -----
    FACTS 3.2. A `city` that is no prefecture is the one it lies in (雄县 is 130600); 省直辖县级行政单位 and
    新疆生产建设兵团 are told by the county; a missing suffix (市, 地区, 自治州, 盟) is supplied when one place fits.
    """
    if isinstance(source, Mapping):
        return _published(source, places, day, "the risk list")
    if not isinstance(source, str | Path):
        return _tabled(source, places, day, "the risk list")
    path = Path(source)
    try:
        if path.name.endswith(".parquet"):
            return _tabled(read_parquet(path), places, day, str(path))
        if path.name.endswith((".csv", ".csv.gz")):
            text = dict.fromkeys(("place", "level"), pa.string())
            options = pyarrow.csv.ConvertOptions(column_types={**text, "from": pa.date32(), "to": pa.date32()})
            return _tabled(pyarrow.csv.read_csv(path, convert_options=options), places, day, str(path))
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # pyarrow's and JSON's errors are ValueErrors; so is InputError
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a risk list: {one_line(error)}") from error
    return _published(data, places, day, str(path))


def join_risk(lists: Iterable[Risk]) -> Risk:
    """Several dated lists as one: each holds from its date to the day before the next, the newest from then on.

    What a rule on the level "at the time of the visit" needs. Raises `InputError` for a list without a date, for two
    of one date, and for none at all.
    """
    given = list(lists)
    dated = {risk.date: risk for risk in given if risk.date is not None}
    if not given or len(dated) != len(given):
        raise InputError(f"{len(given)} risk lists with {len(dated)} different dates: give each one its date")
    days = sorted(dated)
    parts = []
    for day, following in zip(days, [*days[1:], None], strict=True):
        begin = pl.max_horizontal("from", pl.lit(day))
        end = pl.col("to") if following is None else pl.min_horizontal("to", pl.lit(following - timedelta(days=1)))
        parts.append(dated[day].areas.with_columns(begin.alias("from"), end.alias("to")))
    unmatched = pl.concat([dated[day].unmatched for day in days]).group_by(_UNMATCHED).agg(pl.col("rows").sum())
    return Risk(days[-1], pl.concat(parts), unmatched.sort(_UNMATCHED), since=days[0])


def dated_lists(pattern: str | Path) -> dict[date, Path]:
    """The files that a path with ``{day}`` (YYYY-MM-DD) in it stands for, by date."""
    text = str(pattern)
    if "{day}" not in text:
        raise InputError(f'the path of the risk lists, {text!r}, must hold {{day}}: "risk/{{day}}.json"')
    before, *after = text.split("{day}")
    wanted = re.compile(re.escape(before) + r"(\d{4}-\d\d-\d\d)" + "".join(f"{re.escape(a)}\\1" for a in after)[:-2])
    found = {}
    for path in glob.glob("????-??-??".join(glob.escape(part) for part in text.split("{day}"))):
        match = wanted.fullmatch(path)
        try:
            found[date.fromisoformat(match[1] if match else "")] = Path(path)
        except ValueError:  # looks like a date and is none: another file
            continue
    return dict(sorted(found.items()))


def risk_in_force(lists: str | Path | Mapping[date, Any], as_of: date) -> tuple[Any, date]:
    """Of dated lists, a path with ``{day}`` in it or `dated_lists`, the newest dated <= a card's date (DESIGN 3.6).

    Returns what it is (a path), and its date. Raises `InputError` when there is none.
    """
    found = lists if isinstance(lists, Mapping) else dated_lists(lists)
    day = max((day for day in found if day <= as_of), default=None)
    if day is None:
        where = "the risk lists given" if isinstance(lists, Mapping) else str(lists)
        held = f"the oldest is dated {min(found)}" if found else "there is none at all"
        raise InputError(f"no risk list is in force on {as_of} in {where}: {held}; add one, or a policy without marks")
    return found[day], day


# ------------------------------------------------------------------------------------------------ tables and JSON


def _made(rows: list[tuple[Any, ...]], unmatched: list[tuple[Any, ...]], day: date | None, since: date | None) -> Risk:
    areas = {"place": pl.String, "level": pl.String, "from": pl.Date, "to": pl.Date, "area": pl.String}
    lost = pl.DataFrame(unmatched, schema=dict.fromkeys(_UNMATCHED, pl.String), orient="row")
    lost = lost.group_by(_UNMATCHED).agg(pl.len().cast(pl.Int32).alias("rows")).sort(_UNMATCHED)
    return Risk(day, pl.DataFrame(rows, schema={**areas, "communities": pl.Int32}, orient="row"), lost, since)


def _tabled(data: Any, places: Places, day: date | None, where: str) -> Risk:
    table = RISK.read(data, where=where)
    bad = sorted({repr(level) for level in table["level"].unique().to_pylist()} - {repr(level) for level in LEVELS})
    if bad:
        raise InputError(f"{where}: level  expected one of {', '.join(LEVELS)}, got {', '.join(bad[:5])}")
    at = {text: _named(text, places) for text in table["place"].unique().to_pylist()}
    rows: list[tuple[Any, ...]] = []
    unmatched: list[tuple[Any, ...]] = []
    for place, level, begin, end in zip(*(table[name].to_pylist() for name in RISK.arrow().names), strict=True):
        if at[place] is None:
            unmatched.append((level, "", "", "", place))
        else:
            rows.append((at[place], level, begin, end, None, 0))
    return _made(rows, unmatched, day, None)


@lru_cache(maxsize=64)
def _names(places: Places) -> dict[str, str | None]:
    """Every name of a place, alone and with its province, and its code; None where several have it."""
    out: dict[str, str | None] = {}
    for code in places.codes:
        for text in {places.name(code), places.printed(code)}:
            out[text] = None if text in out else code
    return out


def _named(text: str, places: Places) -> str | None:
    """The place that a table calls by its code or its name."""
    text = text.strip()
    return text if text in places.codes else _names(places).get(text)


def _published(data: Any, places: Places, day: date | None, where: str) -> Risk:
    rows: list[tuple[Any, ...]] = []
    unmatched: list[tuple[Any, ...]] = []
    content = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(content, Mapping) or all(content.get(key) is None for key in ("highlist", "middlelist")):
        raise InputError(f"{where} is no risk list: expected data with highlist and middlelist")
    if day is None:
        day = _dated(content.get("end_update_time"), where)
    for key, level in _KEYS.items():
        listed = content.get(key)
        if listed is None:  # medium and low were not published at all times
            continue
        if not isinstance(listed, list):
            raise InputError(f"{where}: {key}  expected a list, got {type(listed).__name__}")
        for i, row in enumerate(listed):
            names, communities = _checked(row, f"{where}: {key} row {i}")
            place = match(*names, places=places)
            if place is None:
                unmatched.append((level, *names))
            else:
                rows.append((place, level, day, None, names[3] or " ".join(n for n in names[:3] if n), communities))
    return _made(rows, unmatched, day, day)


def _checked(row: Any, where: str) -> tuple[tuple[str, ...], int]:
    """Names and number of communities of a row; absent and null are empty, anything but text is another schema."""
    if not isinstance(row, Mapping) or not {"province", "city"} <= row.keys():
        raise InputError(f"{where}  expected province, city, county, area_name, communitys")
    names = tuple(row.get(name) or "" for name in _ROW)
    communities = row.get("communitys") or []
    if not all(isinstance(name, str) for name in names) or not isinstance(communities, list):
        raise InputError(f"{where}  expected texts and a list of communities")
    return tuple(name.strip() for name in names), len(communities)


def _dated(label: Any, where: str) -> date:
    """The day of a label such as "2022-05-10 21时": the hour has one digit, two, or a leading zero."""
    found = re.match(r"\s*(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)", label) if isinstance(label, str) else None
    try:
        return date(*(int(part) for part in found.groups())) if found else date.fromisoformat("")
    except ValueError:
        raise InputError(f"{where}: end_update_time  expected such as 2022-05-10 21时, got {label!r}") from None


# ------------------------------------------------------------------------------------------------ names to places


def match(province: str, city: str, county: str, area_name: str, *, places: Places) -> str | None:
    """The place that a row of a published list lies in, or None when its names do not tell.

    >>> from travelcard.places import china
    >>> match("北京市", "朝阳区", "双井街道", "", places=china()), match("河北省", "雄县", "", "", places=china())
    ('110000', '130600')
    """
    special = _special(city, county, area_name)
    if special is not None:
        return special if special in places.codes else None
    if _CORPS in (province, city):
        inside = _of_province(_CORPS_IN, places)
        names = [name for name in inside if name in city + county] or [name for name in inside if name in area_name]
        return inside[names[0]] if len(names) == 1 else None
    inside = _of_province(province, places)
    if not inside:
        return None
    if city in inside:
        return inside[city]
    if province in inside:  # a municipality: its districts stand where others have their cities
        return inside[province]
    if _COUNTIES_OF_PROVINCE.fullmatch(city):
        city = county
    return _completed(city, inside)


def _special(city: str, county: str, area_name: str) -> str | None:
    if city in _PART_OF:
        return _PART_OF[city]
    if city == _CHANGBAI:
        parts = {code for name, code in _CHANGBAI_PARTS.items() if name in (county or area_name)}
        return parts.pop() if len(parts) == 1 else ""
    return None


@lru_cache(maxsize=4096)
def _of_province(province: str, places: Places) -> dict[str, str]:
    """Name to code of a province's places; a place whose source gave no province may lie in any."""
    provinces = {places.province(code) for code in places.codes} - {""}
    if province not in provinces and len(province) >= 2:
        like = [name for name in provinces if name.startswith(province)]  # 新疆, 内蒙古
        province = like[0] if len(like) == 1 else province
    cities = [code for code in places.codes if code.isdigit()]
    return {places.name(code): code for code in cities if places.province(code) in ("", province)} if province else {}


def _completed(city: str, inside: Mapping[str, str]) -> str | None:
    """The one place of a province that `city` names in full, or without its suffix."""
    if city in inside:
        return inside[city]
    stems = {city, *(city.removesuffix(suffix) for suffix in _PREFECTURE)}
    found = {code for stem in stems if len(stem) >= 2 for name, code in inside.items() if name.startswith(stem)}
    return found.pop() if len(found) == 1 else None
