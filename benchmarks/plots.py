"""The plots and tables of docs/performance.md, from what was measured: ``python -m benchmarks.plots``.

Of each thing, case, size and machine all rows of its newest commit count, and medians are shown. Two measurements are
compared only within one sitting and round: never two commits, nor two hours of one machine.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from math import log2
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.profile import PROFILE
from travelcard.bench.data import PINGS_PER_SUBSCRIBER
from travelcard.bench.measure import RESULTS

PAGE, PLOTS = Path("docs/performance.md"), Path("docs/plots")
NUMBERS, PINGS, DAYS = 1.6e9, 1e11, 14  # of a country: its numbers, a day's pings, a window
HOURS = 8  # from midnight to 08:00
PING = 8  # bytes that a ping takes while it waits for its bucket
KEYS = ["machine", "what", "case", "rows"]
ROUND = ["machine", "commit", "date", "run"]
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTHING = "Not measured yet.\n"

col = pl.col
Columns = dict[str, tuple[pl.Expr, str]]  # heading: value and how it is written


def read(path: Path, what: str = "what") -> pl.DataFrame:
    """The rows of a CSV file that count; `what` is the column that says what a row is of."""
    rows = pl.read_csv(path, infer_schema_length=None, schema_overrides={"checksum": pl.String, "commit": pl.String})
    rows = rows.with_columns(machine=pl.format("{}, {} cores", "cpu", "cores")).rename({what: "what"})
    one = KEYS if what == "what" else [key for key in KEYS if key != "what"]  # stages are parts of one measurement
    return rows.filter(col("commit") == col("commit").sort_by("date").last().over(one))


def medians(rows: pl.DataFrame) -> pl.DataFrame:
    """One row for each thing, case, size and machine."""
    numbers = col("seconds", "cpu_s", "peak_mib", "floor_s", "ratio").median()
    last = col("found", "checksum", "mib", "commit").sort_by("date").last()
    return rows.group_by(KEYS).agg(numbers, last, rounds=pl.len()).sort("machine", "rows", "case", "what")


def compared(left: pl.DataFrame, right: pl.DataFrame, *on: str) -> pl.DataFrame:
    """How many times the time a row (`wall`) and the processor time a row (`cpu`) of `left` are those of `right`.

    Medians over the rounds that have both, for each size of either; `rows_other` is that of `right`.
    """
    pairs = left.join(right, on=[*ROUND, *on], suffix="_other", coalesce=False)
    more = col("rows") / col("rows_other")
    wall, cpu = (col(time) / col(f"{time}_other") / more for time in ("seconds", "cpu_s"))
    return pairs.group_by(*KEYS, "rows_other").agg(wall=wall.median(), cpu=cpu.median())


def of_stays(rows: pl.DataFrame) -> pl.DataFrame:
    """What `travelcard.bench.stays` measured."""
    return rows.filter(~col("case").str.contains(" "), col("case") != "window")


def growth_of(rows: pl.DataFrame) -> pl.DataFrame:
    """The base case by size, with the factor by which a ping's time grows with each doubling since the size before."""
    mine = rows.filter(what="travelcard", case="base")
    doublings = (col("rows") / col("rows_other")).log(2)
    steps = compared(mine, mine).filter(doublings > 0.5).with_columns(col("wall", "cpu") ** (1 / doublings))
    before = steps.sort("rows_other").unique(KEYS, keep="last")
    return medians(mine).join(before, on=KEYS, how="left").sort("machine", "rows")


# ---------------------------------------------------------------------------------------------------- tables


def table(rows: pl.DataFrame, columns: Columns) -> str:
    """Markdown: a table of these columns for each machine, under its name."""
    parts = []
    for (machine,), mine in rows.group_by("machine", maintain_order=True):
        commits = ", ".join(f"`{commit}`" for commit in mine["commit"].unique().sort())
        lines = [f"{machine}; commit {commits}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        values = mine.select(value.alias(name) for name, (value, _) in columns.items())
        for row in values.iter_rows():
            cells = ("" if v is None else format(v, form) for v, (_, form) in zip(row, columns.values(), strict=True))
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts) or NOTHING


SIZE: Columns = {"pings": (col("rows"), ",")}
TIMES: Columns = {
    "wall s": (col("seconds"), ".3g"),
    "CPU s": (col("cpu_s"), ".3g"),
    "peak MiB": (col("peak_mib"), ",.0f"),
    "x floor": (col("ratio"), ".2f"),
}
FLOOR: Columns = {"floor s": (col("floor_s"), ".3g")}
CASE: Columns = {"case": (col("case"), "")}
ROUNDS: Columns = {"rounds": (col("rounds"), "")}


def times(what: str, wall: str = "wall", cpu: str = "cpu") -> Columns:
    """Two columns of factors."""
    return {f"{what}, wall": (col(wall), ".2f"), f"{what}, CPU": (col(cpu), ".2f")}


def base(rows: pl.DataFrame) -> str:
    sizes = medians(rows.filter(what="travelcard", case="base"))
    answer: Columns = {"stays": (col("found"), ","), "checksum": (col("checksum"), "")}
    return table(sizes, SIZE | ROUNDS | FLOOR | TIMES | answer)


def cases(rows: pl.DataFrame) -> str:
    """Every other case beside the base case of its own rounds and nearly its size."""
    mine = of_stays(rows).filter(what="travelcard")
    beside = compared(mine, mine.filter(case="base")).filter((col("rows") / col("rows_other")).is_between(0.8, 1.25))
    others = medians(mine.filter(col("case") != "base")).join(beside, on=KEYS, how="left")
    return table(others.sort("machine", "case", "rows"), CASE | SIZE | ROUNDS | FLOOR | TIMES | times("x base a ping"))


def peers(rows: pl.DataFrame) -> str:
    mine = rows.filter(what="travelcard")
    others = of_stays(rows).filter(~col("what").str.starts_with("floor"), col("what") != "travelcard")
    beside = compared(others, mine, "case", "rows")
    who: Columns = {"engine": (col("what"), "")}
    both = medians(others).join(beside, on=KEYS, how="left")
    return table(
        both.sort("machine", "case", "rows", "what"), CASE | SIZE | who | ROUNDS | TIMES | times("x travelcard")
    )


def growth(rows: pl.DataFrame) -> str:
    a_ping: Columns = {
        "ns a ping": (1e9 * col("seconds") / col("rows"), ".1f"),
        "CPU ns a ping": (1e9 * col("cpu_s") / col("rows"), ".1f"),
        "x floor": TIMES["x floor"],
        "since": (col("rows_other"), ","),
    }
    return table(growth_of(rows), SIZE | ROUNDS | a_ping | times("a doubling"))


def window(rows: pl.DataFrame) -> str:
    made: Columns = {"cards": (col("found"), ","), "CPU µs a card": (1e6 * col("cpu_s") / col("found"), ".3g")}
    return table(
        medians(rows.filter(what="travelcard cards")), {"stays": SIZE["pings"]} | ROUNDS | FLOOR | TIMES | made
    )


def card(rows: pl.DataFrame) -> str:
    """One look-up in an open store, at the median and beyond; and the command, from cold."""
    mine = rows.filter(col("case") == "one card", col("what").str.contains(r" p\d+$|^travelcard"))
    ms: Columns = {"ms": (1e3 * col("seconds"), ".3g"), "CPU ms": (1e3 * col("cpu_s"), ".3g")}
    return table(medians(mine), {"cards": SIZE["pings"], "what": (col("what"), "")} | ROUNDS | ms)


def places(rows: pl.DataFrame) -> str:
    mine = rows.filter(col("what").str.ends_with(", search"), col("what") != "floor, search")
    beside = compared(mine, mine.filter(what="travelcard, search"), "case", "rows")
    who: Columns = {
        "points": SIZE["pings"],
        "where": (col("case").str.strip_prefix("places "), ""),
        "what": (col("what").str.strip_suffix(", search"), ""),
    }
    rate: Columns = {"million points a second": (col("rows") / col("seconds") / 1e6, ".3g")}
    return table(medians(mine).join(beside, on=KEYS, how="left"), who | ROUNDS | rate | times("x travelcard"))


def projection(rows: pl.DataFrame) -> str:
    """What a country would take, from the largest size of each machine, every step of the reckoning beside it."""
    cards = medians(rows.filter(col("what") == "travelcard cards", col("found").is_not_null()))
    lines: list[tuple[str, str, str, str, str]] = []
    for (machine,), sizes in growth_of(rows).group_by("machine", maintain_order=True):
        one = sizes.row(-1, named=True)
        n, a_ping = one["rows"], one["cpu_s"] / one["rows"]
        hours = a_ping * PINGS / 3600
        said = [
            ("stays of a day, core-hours", f"{hours:.2g}", f"{1e9 * a_ping:.0f} CPU ns a ping, as at {n:,} pings"),
            ("cores to be done by 08:00", f"{hours / HOURS:.2g}", f"those core-hours in {HOURS} hours"),
            ("pings waiting on disk, TB", f"{PING * PINGS / 1e12:.1f}", f"{PING} bytes each, less what memory holds"),
        ]
        if one["cpu"] is not None:
            more = log2(PINGS / n)
            factor = max(one["cpu"], 1)  # what falls, the share of the start, does not fall for ever
            grown = f"{hours * factor**more:.2g}"
            how = f"a ping's time x {factor:.2f} with each of {more:.1f} doublings, as since {one['rows_other']:,}"
            said.insert(2, ("the same if it grows on, core-hours", grown, how))
        if one["found"] is not None and one["mib"] is not None:
            stays, size = one["found"] * PINGS_PER_SUBSCRIBER / n, one["mib"] * 2**20 / one["found"]
            how = f"{stays:.2f} stays a number and day, {size:.1f} bytes each, {DAYS} days"
            said.append(("stays kept, TB", f"{NUMBERS * stays * size * DAYS / 1e12:.2f}", how))
        for made in cards.filter(machine=machine).tail(1).iter_rows(named=True):
            each, size = made["cpu_s"] / made["found"], made["mib"] * 2**20 / made["found"]
            how = f"{1e6 * each:.1f} CPU µs a card, as at {made['found']:,} cards"
            said.append(("cards of a day, core-hours", f"{NUMBERS * each / 3600:.2g}", how))
            said.append(("cards of a day, TB", f"{NUMBERS * size / 1e12:.2f}", f"{size:.0f} bytes a card"))
        lines += [(machine, one["commit"], *words) for words in said]
    named = pl.DataFrame(lines, ["machine", "commit", "what", "a country", "reckoned from"], orient="row")
    return table(named, {name: (col(name), "") for name in named.columns[2:]})


def profile(stages: pl.DataFrame) -> str:
    """Stages down, cases and sizes across."""
    mine = stages.group_by(KEYS, maintain_order=True).agg(col("ns").median(), col("commit").last())
    sums = mine.group_by("machine", "case", "rows", maintain_order=True).agg(
        col("ns").sum(), col("commit").last(), what=pl.lit("together")
    )
    both = pl.concat([mine, sums.select(mine.columns)]).sort("case", "rows", maintain_order=True)
    sized = both.with_columns(size=pl.format("{}, {} million", "case", (col("rows") / 1e6).round(1)))
    across = sized.pivot("size", index=["machine", "commit", "what"], values="ns")
    sizes: Columns = {size: (col(size), ".1f") for size in across.columns[3:]}
    return table(across, {"CPU ns a ping": (col("what"), "")} | sizes)


TABLES: dict[str, Callable[[pl.DataFrame], str]] = {
    made.__name__: made for made in (base, cases, peers, growth, window, card, places, projection)
}


def page(text: str, rows: pl.DataFrame, stages: pl.DataFrame) -> str:
    """The page with every marked table made anew; what stands around them is left."""

    def made(found: re.Match[str]) -> str:
        name = found[2]
        return f"{found[1]}{profile(stages) if name == 'profile' else TABLES[name](rows)}{found[3]}"

    return MARKED.sub(made, text)


# ---------------------------------------------------------------------------------------------------- plots


def charts(rows: pl.DataFrame, stages: pl.DataFrame) -> dict[str, Any]:
    """The plots by name, one row of each for a machine."""
    import altair as alt

    stays = medians(of_stays(rows))
    sizes = stays.filter(case="base")
    rest = sorted(set(stays["what"]) - {"travelcard"})
    who = alt.Color("what:N", title=None, sort=["travelcard", *rest])
    by_machine = alt.Row("machine:N", title=None)
    pings = alt.X("rows:Q", title="pings").scale(type="log").axis(format="~s")

    def against_size(column: str, title: str) -> alt.Chart:
        y = alt.Y(f"{column}:Q", title=title).scale(type="log")
        line = alt.Chart(sizes).mark_line(point=True)
        return line.encode(x=pings, y=y, color=who, row=by_machine).properties(width=460, height=280)

    decades = stays.with_columns(decade=col("rows").log10().round().cast(pl.Int32))
    most = decades.group_by("decade").agg(col("case").n_unique()).sort("case", "decade")["decade"].last()
    ratios = alt.Chart(decades.filter(decade=most)).mark_bar().encode(
        x=alt.X("case:N", title=None).axis(labelAngle=0), xOffset=alt.XOffset("what:N", sort=["travelcard", *rest]),
        y=alt.Y("ratio:Q", title=f"times the floor, about 10^{most} pings").scale(type="log"), y2=alt.datum(1),
        color=who, row=by_machine,
    )  # fmt: skip
    ns = stages.filter(case="base").group_by("machine", "rows", "what", maintain_order=True).agg(col("ns").median())
    ns = ns.with_columns(pings=pl.format("{} million", (col("rows") / 1e6).round(1)))
    order = ns["what"].unique(maintain_order=True).to_list()
    ns = ns.with_columns(
        at=col("what").replace_strict(dict(zip(order, range(len(order)), strict=True)), return_dtype=pl.Int32)
    )
    sums = alt.Chart(ns).mark_bar().encode(
        y=alt.Y("pings:O", title="pings").sort(alt.SortField("rows")), x=alt.X("ns:Q", title="CPU ns a ping"),
        color=alt.Color("what:N", title=None, sort=order), order="at:O", row=by_machine,
    )  # fmt: skip
    return {
        "time": against_size("seconds", "seconds"),
        "memory": against_size("peak_mib", "peak MiB"),
        "ratio": ratios.properties(width=560, height=280),
        "profile": sums.properties(width=460, height={"step": 28}),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--profile", type=Path, default=PROFILE)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--plots", type=Path, default=PLOTS)
    options = parser.parse_args(arguments)
    rows, stages = read(options.csv), read(options.profile, "stage")
    options.page.write_text(page(options.page.read_text(encoding="utf-8"), rows, stages), encoding="utf-8")
    options.plots.mkdir(parents=True, exist_ok=True)
    for name, chart in charts(rows, stages).items():
        chart.save(options.plots / f"{name}.svg")


if __name__ == "__main__":
    main()
