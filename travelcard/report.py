"""A day on one page: what came in, what was rejected, which cells were silent, what the cards say, beside 14 days."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import shapely

from travelcard.errors import MissingExtra, NotFound, hidden
from travelcard.late import compute as pc
from travelcard.ledger import days, newest
from travelcard.places import Places
from travelcard.policy import COLOURS
from travelcard.schema import REASONS
from travelcard.store import Store

if TYPE_CHECKING:
    from travelcard.cells import CellMap

__all__ = ["report"]

BEFORE = 14  # days that a day is shown beside
CITIES = 20
DRAWN = 2_000  # silent cells: a page stays well below 2 MB
COARSE = 0.1  # degrees by which outlines may be off
INK = {"green": "#2e8b57", "yellow": "#e0a800", "orange": "#e8710a", "red": "#c62828", "unknown": "#777777"}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem } figure { margin: 1rem 0 } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .1rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead { border-bottom: 1px solid #888 } .absent { color: #8a4b00 }
"""


@dataclass(frozen=True, slots=True)
class _Part:
    """A plot: what it shows, what to look for, its numbers, and the plot itself or why there is none."""

    title: str
    look_for: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    chart: Any = None
    absent: str | None = None

    def html(self, number: int) -> str:
        head = f"<section><h2>{escape(self.title)}</h2>\n<p>{escape(self.look_for)}</p>"
        if self.absent is not None:
            return f'{head}\n<p class="absent">Not shown: {escape(self.absent)}</p></section>'
        plot = f'<figure role="img" aria-label="{escape(self.title)}">{_svg(self.chart, number)}</figure>\n'
        table = _table(self.columns, self.rows)
        shown = plot if self.chart is not None else ""
        return f"{head}\n{shown}<details><summary>The numbers</summary>{table}</details></section>"


def report(store: Store, day: date, *, places: Places, cells: CellMap | None = None) -> str:
    """A page of HTML about a day and its cards, beside the 14 days before it; it needs nothing but itself.

    `cells` are where the silent ones lie. No subscriber is named. Raises `NotFound` for a day that was never run.
    """
    alt = _altair()
    ran = newest(store, "stays") if store.exists else []
    rows = {row["day"]: row for row in ran if day - timedelta(days=BEFORE) <= row["day"] <= day}
    if day not in rows:
        raise NotFound(f"{store.root} has no run of {day} on record: run `travelcard run {day}` first")
    now, past = rows[day], [row for on, row in rows.items() if on < day]
    parts = [
        _hours(alt, now, past),
        _rejects(alt, now, past),
        _pings(alt, store, day),
        _silent_days(alt, now, past),
        _silent_map(alt, now, places, cells),
        _colours(alt, store, day + timedelta(days=1)),
        _cities(alt, store, day + timedelta(days=1), places),
    ]
    lost = sum(dict(now["rejected"]).values())
    summary = _table(
        ("", "number"),
        [("pings read", now["read"]), ("clean", now["clean"]), ("merged", now["merged"]), ("rejected", lost),
         ("subscribers", now["subscribers"]), ("seconds", round(now["seconds"], 1))],
    )  # fmt: skip
    states = days(store, day - timedelta(days=BEFORE), day)
    known = [(one.day, one.state, hidden(one.accepted or "")) for one in states]
    body = "\n".join(part.html(number) for number, part in enumerate(parts))
    versions = ", ".join(f"{name} {version}" for name, version in json.loads(now["versions"]).items())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>travelcard: {day}</title>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body><main>\n'
        f"<h1>The night of {day}</h1>\n<p>Beside it: the {len(past)} days on record of the {BEFORE} before it.</p>\n"
        f"{summary}\n{body}\n<section><h2>The days</h2>\n<p>Anything but complete wants a look: "
        f"<code>travelcard check</code> says what to do.</p>{_table(('day', 'state', 'accepted by hand'), known)}"
        f"</section>\n<footer><p>Made with {escape(versions)}.</p></footer></main></body></html>\n"
    )


def _altair() -> Any:
    try:
        import altair  # noqa: PLC0415  an extra
        import vl_convert  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingExtra("the report needs altair and vl-convert: pip install 'travelcard[report]'") from error
    return altair


def _svg(chart: Any, number: int) -> str:
    """A plot as SVG; what it refers to inside itself is called otherwise than in the other plots of the page."""
    import vl_convert  # noqa: PLC0415  an extra

    text = vl_convert.vegalite_to_svg(chart.configure_view(stroke=None).to_dict())
    return re.sub(r'(id="|url\(#)(\w*clip|gradient)', rf"\1plot{number}-\2", text)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = ("".join(f"<td>{escape(_words(value))}</td>" for value in row) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _words(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _data(alt: Any, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Any:
    plain = [[str(v) if isinstance(v, date) else v for v in row] for row in rows]
    return alt.Data(values=[dict(zip(columns, row, strict=True)) for row in plain])


def _mean(rows: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> float | None:
    return fmean(of(row) for row in rows) if rows else None


# ---------------------------------------------------------------------------------------------------- the pings


def _hours(alt: Any, now: dict[str, Any], past: Sequence[dict[str, Any]]) -> _Part:
    alike = [row["hours"] for row in past if len(row["hours"]) == len(now["hours"])]
    means = [fmean(hours) for hours in zip(*alike, strict=True)] if alike else [None] * len(now["hours"])
    columns = ("hour", "pings", "mean before")
    rows = list(zip(range(len(means)), now["hours"], means, strict=True))
    base = alt.Chart(_data(alt, columns, rows), width=640, height=220).encode(x=alt.X("hour:O").axis(labelAngle=0))
    chart = base.mark_bar(color="#8fb3d9").encode(y=alt.Y("pings:Q", title="pings"))
    if alike:
        chart += base.mark_line(color="#b03a2e", point=True).encode(y=alt.Y("mean before:Q", title="pings"))
    look = "Bars that fall short of the line (the mean of the days before): an hour's files are late or lost."
    return _Part("Volumes by hour", look, columns, rows, chart)


def _rejects(alt: Any, now: dict[str, Any], past: Sequence[dict[str, Any]]) -> _Part:
    def share(row: dict[str, Any], reason: str) -> float:
        return float(100 * dict(row["rejected"]).get(reason, 0) / max(row["read"], 1))

    columns = ("reason", "rejects", "% of pings", "mean % before")
    lost = dict(now["rejected"])
    rows = [
        (reason, lost.get(reason, 0), share(now, reason), _mean(past, lambda row, r=reason: share(row, r)))  # type: ignore[misc]
        for reason in REASONS
    ]
    base = alt.Chart(_data(alt, columns, rows), width=560, height=200).encode(
        y=alt.Y("reason:N", sort=None, title=None)
    )
    chart = base.mark_bar(color="#8fb3d9").encode(x=alt.X("% of pings:Q"))
    if past:
        chart += base.mark_tick(color="#b03a2e", thickness=3).encode(x=alt.X("mean % before:Q", title="% of pings"))
    look = (
        "A bar far beyond its tick (the mean of the days before): unknown_cell wants a newer inventory, null_* and "
        "bad_* mean that the source writes otherwise, outside_day that files are in the wrong day or time zone."
    )
    return _Part("Rejects by reason", look, columns, rows, chart)


def _pings(alt: Any, store: Store, day: date) -> _Part:
    title, look = "Pings per subscriber", "Two humps or a long tail: machines among the people, or a source read twice."
    bins: Counter[int] = Counter()
    for _, path in store.files("stays", day=day):  # a subscriber is in one file
        stays: pl.DataFrame = pl.from_arrow(store.read("stays", [path], ["subscriber", "pings"]))  # type: ignore[assignment]
        sums = stays.group_by("subscriber").agg(pl.col("pings").sum())["pings"]
        bins.update(np.floor(np.log2(np.maximum(sums.to_numpy(), 1))).astype(int).tolist())
    if not bins:
        return _Part(title, look, (), (), absent="the stays of the day have expired, or were never published")
    columns = ("pings", "subscribers")
    rows = [(f"{1 << n}" if n == 0 else f"{1 << n} to {(2 << n) - 1}", bins[n]) for n in range(max(bins) + 1)]
    chart = alt.Chart(_data(alt, columns, rows), width=640, height=200).mark_bar(color="#8fb3d9")
    return _Part(title, look, columns, rows, chart.encode(
        x=alt.X("pings:O", sort=None, title="pings in the stays of a subscriber").axis(labelAngle=0),
        y=alt.Y("subscribers:Q"),
    ))  # fmt: skip


# ---------------------------------------------------------------------------------------------------- silent cells

NO_INVENTORY = "no cell inventory was configured when the day was run"


def _silent_days(alt: Any, now: dict[str, Any], past: Sequence[dict[str, Any]]) -> _Part:
    title, look = "Silent cells by day", "A jump: a vendor, a region or a file of the network is missing."
    if now["silent"] is None:
        return _Part(title, look, (), (), absent=NO_INVENTORY)
    columns = ("day", "silent cells")
    rows = [(row["day"], row["silent"]) for row in (*past, now) if row["silent"] is not None]
    chart = alt.Chart(_data(alt, columns, rows), width=640, height=180).mark_bar(color="#8fb3d9")
    return _Part(title, look, columns, rows, chart.encode(
        x=alt.X("day:O", title=None).axis(labelAngle=-45), y=alt.Y("silent cells:Q")
    ))  # fmt: skip


def _silent_map(alt: Any, now: dict[str, Any], places: Places, cells: CellMap | None) -> _Part:
    title = "Silent cells on the map"
    look = "Dots that lie close together: cells of the inventory that no ping of the day named, out in one region."
    if now["silent"] is None:
        return _Part(title, look, (), (), absent=NO_INVENTORY)
    if cells is None:
        return _Part(
            title, look, (), (), absent="no cell inventory is configured now, so it is not known where they are"
        )
    start, end = pl.col("valid_date_start"), pl.col("valid_date_end")
    valid = (start.is_null() | (start <= now["day"])) & (end.is_null() | (end >= now["day"]))
    named = pl.col("cell").cast(pl.String).is_in(now["silent_cells"])
    where = cells.frame.filter(valid & named).sort("cell").select("lat", "lon", pl.col("place").cast(pl.String))
    drawn = where.gather_every(max(1, -(-len(where) // DRAWN)))
    counted = Counter(where["place"].to_list())
    rows = [
        ("outside every place" if code is None else _city(places, code), n) for code, n in counted.most_common(CITIES)
    ]
    look += f" {len(drawn):,} of {now['silent']:,} are drawn, {now['silent'] - len(drawn):,} are not."
    look += (
        f" The numbers are those of the {CITIES} cities that have most, of {len(where):,} that are on record by name."
    )
    middle = shapely.total_bounds(places.polygons)[[1, 3]].mean()
    narrow = float(np.cos(np.radians(middle)))  # a degree of longitude beside one of latitude, halfway up
    outlines = shapely.transform(shapely.simplify(places.polygons, COARSE), lambda xy: (xy * [narrow, 1]).round(3))
    shapes = [{"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(s))} for s in outlines]
    land = alt.Chart(alt.Data(values=shapes)).mark_geoshape(
        fill="#f3f1ec", stroke="#b9b4a8", strokeWidth=0.4, aria=False
    )
    points = [(round(lon * narrow, 3), lat) for lat, lon in drawn.select("lat", "lon").iter_rows()]
    dots = alt.Chart(_data(alt, ("x", "y"), points)).mark_circle(size=9, color="#c62828", opacity=0.7, aria=False)
    chart = land + dots.encode(longitude="x:Q", latitude="y:Q")
    chart = chart.project(type="identity", reflectY=True).properties(width=640, height=480)
    return _Part(title, look, ("city", "silent cells"), rows, chart)


# ---------------------------------------------------------------------------------------------------- the cards


def _colours(alt: Any, store: Store, as_of: date) -> _Part:
    title = "Cards by colour"
    look = f"A colour that jumps without a new policy or list of risk areas; the cards as of {as_of} are the last."
    known = {row["day"]: row for row in newest(store, "cards")}
    if as_of not in known:
        return _Part(
            title, look, (), (), absent=f"there are no cards as of {as_of} yet: run `travelcard cards {as_of}`"
        )
    dates = [on for on in known if as_of - timedelta(days=BEFORE) <= on <= as_of]
    seen = [colour for colour in COLOURS if any(dict(known[on]["cards"]).get(colour) for on in dates)]
    shares = [
        (on, colour, n, 100 * n / max(known[on]["subscribers"], 1))
        for on in dates
        for colour in seen
        for n in [dict(known[on]["cards"]).get(colour, 0)]
    ]
    columns = ("as of", "colour", "cards", "% of cards")
    ink = alt.Scale(domain=seen, range=[INK.get(colour, "#777777") for colour in seen])
    chart = alt.Chart(_data(alt, columns, shares), width=560, height=90).mark_bar()
    return _Part(title, look, columns, shares, chart.encode(
        x=alt.X("as of:O", title=None).axis(labelAngle=-45), y=alt.Y("% of cards:Q", title="%"),
        color=alt.Color("colour:N", scale=ink, legend=None), row=alt.Row("colour:N", sort=seen, title=None),
    ).resolve_scale(y="independent"))  # fmt: skip


def _cities(alt: Any, store: Store, as_of: date, places: Places) -> _Part:
    title = "Cards by city"
    held = [on for on in store.days("cards") if as_of - timedelta(days=BEFORE) <= on <= as_of]
    look = f"A city far from its tick, the mean of the {max(len(held) - 1, 0)} dates before it whose cards are kept."
    if as_of not in held:
        return _Part(title, look, (), (), absent=f"there are no cards as of {as_of} now: not made yet, or expired")
    listed = {on: _listed(store, on) for on in held}
    before = [listed[on] for on in held if on != as_of]
    columns = ("city", "cards", "mean before")
    rows = [
        (_city(places, code), n, fmean(one[code] for one in before) if before else None)
        for code, n in listed[as_of].most_common(CITIES)
    ]
    base = alt.Chart(_data(alt, columns, rows), width=560).encode(y=alt.Y("city:N", sort=None, title=None))
    chart = base.mark_bar(color="#8fb3d9").encode(x=alt.X("cards:Q", title="cards that list it"))
    if before:
        ticks = base.mark_tick(color="#b03a2e", thickness=3)
        chart += ticks.encode(x=alt.X("mean before:Q", title="cards that list it"))
    return _Part(title, look, columns, rows, chart)


def _city(places: Places, code: str) -> str:
    """A name that no other place has: there are two of Suzhou, Taizhou and Yulin."""
    return f"{places.name(code, 'en')} {code}"


def _listed(store: Store, as_of: date) -> Counter[str]:
    """How many cards of a date list each place."""
    found: Counter[str] = Counter()
    for _, path in store.files("cards", as_of=as_of):
        visits = pc.list_flatten(store.read("cards", [path], ["visits"])["visits"])
        for one in pc.value_counts(pc.struct_field(visits, "place")).to_pylist():
            found[one["values"]] += one["counts"]
    return found
