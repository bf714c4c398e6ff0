"""Every hypothesis strategy of the tests, and how rows become tables and tables rows again.

Times crowd on the edges of DESIGN section 3 (midnights, equal seconds, gaps of exactly `max_silence`, `min_stay` and
`flicker`, and one second more or less), places are few, so that runs, ping-pong and ties within a second happen often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import oracle
import polars as pl
from hypothesis import strategies as st

__all__ = [
    "AS_OF",
    "FIRST_DAY",
    "PLACES",
    "Rules",
    "alternations",
    "correction_frame",
    "corrections",
    "crowd",
    "cuts",
    "day_by_day",
    "durations",
    "histories",
    "ping_frame",
    "rows",
    "rules",
    "stay_frame",
    "subscribers",
    "zones",
]

FIRST_DAY = date(2022, 3, 1)
AS_OF = date(2022, 3, 15)
PLACES = ("110000", "310000", "330100", "HKG", "JPN", "USA")
HOUR = 3600

# Days of 23 and 25 hours, and a midnight that does not exist (Havana springs from 00:00 to 01:00): each with the first
# of some days; the clock changes on the sixth or seventh of them.
ZONES = {
    "Asia/Shanghai": FIRST_DAY,
    "America/New_York": date(2022, 3, 8),
    "Europe/Berlin": date(2022, 10, 24),
    "America/Havana": date(2022, 3, 8),
}
GAPS = (0, 1, 59, 599, 600, 601, HOUR, 4 * HOUR - 1, 4 * HOUR, 4 * HOUR + 1, 12 * HOUR - 1, 12 * HOUR, 12 * HOUR + 1)
LONG_GAPS = (24 * HOUR, 36 * HOUR, 5 * 24 * HOUR)
NUMBERS = (0, 7, 8, 13800001234, 2**32, 2**63 - 1)
# Upper case before lower case before what is not ASCII, a prefix before what it begins; U+FF5E sorts before U+1F600 as
# bytes and as code points, after it in UTF-16; "é" is written in its two forms.
NAMES = ("B", "a", "a1", "a10", "a2", "é", "e\u0301", "\uff5e", "\U0001f600", "x" * 40, "a\x00", "13800001234")


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a policy `tc.visits` reads: a stand-in for `Policy`, whose presets are other tests' matter."""

    days: int = 14
    rule: str = "day_span"
    min_stay: timedelta = timedelta(hours=4)
    flicker: timedelta = timedelta(minutes=10)
    border: str = "any"
    abroad_from: date | None = None

    def plain(self) -> dict:
        """The same as the oracle takes it: durations in seconds."""
        return {
            "days": self.days,
            "rule": self.rule,
            "min_stay": int(self.min_stay.total_seconds()),
            "flicker": int(self.flicker.total_seconds()),
            "border": self.border,
            "abroad_from": self.abroad_from,
        }


# -------------------------------------------------------------------------------------------------- strategies


def durations(*seconds: int) -> st.SearchStrategy[timedelta]:
    return st.sampled_from([timedelta(seconds=s) for s in seconds])


silences = durations(12 * HOUR, 12 * HOUR, 4 * HOUR, 600, 0, 24 * HOUR)
flickers = durations(0, 600, 600, 1, HOUR, 4 * HOUR, 24 * HOUR)
zones = st.sampled_from(sorted(ZONES))


@st.composite
def subscribers(draw, most: int = 3) -> list:
    """A few subscribers, all integers or all strings."""
    pool = draw(st.sampled_from([NUMBERS, NAMES]))
    return draw(st.lists(st.sampled_from(pool), min_size=1, max_size=most, unique=True))


@st.composite
def histories(draw, tz: str = "Asia/Shanghai", days: int = 16, most: int = 40, who: list | None = None) -> list:
    """Pings of a few subscribers over up to `days` days from the day before the window of `AS_OF`, in no order.

    Each subscriber walks from edge to edge: a start near a midnight or an hour, then gaps that sit on the thresholds.
    """
    first = ZONES[tz]
    start = oracle.midnight(first - timedelta(days=1), tz)
    end = oracle.midnight(first + timedelta(days=days - 1), tz)
    pings = []
    for subscriber in draw(subscribers()) if who is None else who:
        pool = draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=4, unique=True))
        gaps = st.one_of(
            st.sampled_from(GAPS[:6]), st.sampled_from(GAPS), st.sampled_from(LONG_GAPS), st.integers(0, 20 * HOUR)
        )
        for _ in range(draw(st.integers(1, 3))):  # walks of one subscriber may overlap
            day = first + timedelta(days=draw(st.one_of(st.sampled_from((4, 5, 6)), st.integers(-1, days - 2))))
            hours = draw(st.sampled_from((0, 0, 0, 4, 12, 12, 20, 24)))
            second = oracle.midnight(day, tz) + hours * HOUR + draw(st.sampled_from((-1, 0, 0, 1, 599)))
            steps = draw(
                st.lists(st.tuples(gaps, st.sampled_from(pool), st.booleans()), min_size=1, max_size=max(1, most // 3))
            )
            for gap, place, inner in steps:
                second += gap
                if start <= second < end:
                    pings.append((subscriber, second, place, inner))
    return (
        draw(st.permutations(pings))
        if len(pings) <= 12
        else draw(st.randoms(use_true_random=False)).sample(pings, len(pings))
    )


@st.composite
def alternations(draw) -> list:
    """Stays of one subscriber on one day, close together, in two or three places: flicker in long runs."""
    pool = draw(st.sampled_from((PLACES[:2], PLACES[2:5])))
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from(pool), st.sampled_from((1, 1, 30, 61, 300)), st.sampled_from((0, 0, 30, 300))),
            min_size=1,
            max_size=30,
        )
    )
    second, found = oracle.midnight(FIRST_DAY, "Asia/Shanghai"), []
    for place, gap, length in steps:
        found.append((7, place, second + gap, second + gap + length, 2, 1))
        second += gap + length
    return found


@st.composite
def rules(draw, **fixed) -> Rules:
    """Every rule, border, flicker and `min_stay`, 0 included."""
    drawn = {
        "days": draw(st.sampled_from((14, 14, 14, 7, 1))),
        "rule": draw(st.sampled_from(("day_span", "continuous", "cumulative"))),
        "min_stay": draw(durations(4 * HOUR, 4 * HOUR, 4 * HOUR - 1, 0, 1, 600, 12 * HOUR, 24 * HOUR)),
        "flicker": draw(flickers),
        "border": draw(st.sampled_from(("any", "inner"))),
        "abroad_from": draw(st.sampled_from((None, AS_OF, AS_OF + timedelta(days=1), date.max))),
    }
    return Rules(**{**drawn, **fixed})


@st.composite
def corrections(draw, pings: list, first: date = FIRST_DAY) -> list:
    """A few records for subscribers and places among the pings, some for nobody's days."""
    if not pings:
        return []
    found = []
    for subscriber, _, place, _ in draw(st.lists(st.sampled_from(pings), max_size=3)):
        since = first + timedelta(days=draw(st.integers(-2, 15)))
        until = since + timedelta(days=draw(st.sampled_from((0, 0, 1, 3, 20))))
        found.append((subscriber, draw(st.sampled_from((place, place, "330100"))), since, until))
    return found


@st.composite
def cuts(draw, pings: list) -> list:
    """The pings in pieces cut along time, every second in one piece only; pieces may be empty."""
    seconds = sorted({ping[1] for ping in pings})
    edges = sorted(draw(st.lists(st.sampled_from(seconds), max_size=4))) if seconds else []
    bounds = [-(2**62), *edges, 2**62]
    return [[ping for ping in pings if low <= ping[1] < high] for low, high in pairwise(bounds)]


def day_by_day(pings: list, tz: str) -> list:
    """The pings of each day with any, in order of days."""
    days = sorted({oracle.day_of(ping[1], tz) for ping in pings})
    return [[ping for ping in pings if oracle.day_of(ping[1], tz) == day] for day in days]


def crowd(seed: int, people: int, mean: int, tz: str = "Asia/Shanghai", strings: bool = False) -> list:
    """Many subscribers' pings, shuffled: what small examples cannot reach (growing hash tables, long histories)."""
    dice = random.Random(seed)
    start = oracle.midnight(ZONES[tz] - timedelta(days=1), tz)
    pings = []
    for _ in range(people):
        subscriber = dice.choice((dice.randrange(2**63), 13800000000 + dice.randrange(10**9), dice.randrange(1000)))
        pool = dice.sample(PLACES, dice.randint(1, 4))
        second = start + dice.randrange(3 * 24 * HOUR)
        for _ in range(dice.randrange(2 * mean)):
            second += dice.choice(GAPS) if dice.random() < 0.5 else dice.randrange(3 * HOUR)
            pings.append((str(subscriber) if strings else subscriber, second, dice.choice(pool), dice.random() < 0.5))
    end = oracle.midnight(ZONES[tz] + timedelta(days=15), tz)
    pings = [ping for ping in pings if ping[1] < end]
    dice.shuffle(pings)
    return pings


# -------------------------------------------------------------------------------------- rows to tables and back


MOMENT = pl.Datetime("us", "UTC")


def _frame(rows: list, columns: dict, ids: pl.DataType | None) -> pl.DataFrame:
    """Rows as a frame; times are whole UTC seconds; `ids` where there may be no row to see it by."""
    strings = bool(rows) and isinstance(rows[0][0], str)
    kinds = {"subscriber": ids or (pl.String() if strings else pl.Int64()), **columns}
    values = zip(*rows, strict=True) if rows else [[]] * len(kinds)
    return pl.DataFrame(
        [
            pl.Series(name, [second * 1_000_000 for second in column], pl.Int64()).cast(MOMENT)
            if kind == MOMENT
            else pl.Series(name, column, kind)
            for (name, kind), column in zip(kinds.items(), values, strict=True)
        ]
    )


def ping_frame(pings: list, ids: pl.DataType | None = None) -> pl.DataFrame:
    """`subscriber`, `time`, `place`, `inner` as `tc.stays` takes them."""
    return _frame(pings, {"time": MOMENT, "place": pl.String(), "inner": pl.Boolean()}, ids)


def stay_frame(stays: list, ids: pl.DataType | None = None) -> pl.DataFrame:
    """The oracle's stays as `tc.stitch` and `tc.visits` take them."""
    columns = {"place": pl.String(), "arrive": MOMENT, "depart": MOMENT, "pings": pl.Int32(), "inner": pl.Int32()}
    return _frame(stays, columns, ids)


def correction_frame(records: list, ids: pl.DataType | None = None) -> pl.DataFrame:
    return _frame(records, {"place": pl.String(), "from": pl.Date(), "to": pl.Date()}, ids)


def rows(frame: pl.DataFrame) -> list:
    """A frame as the oracle writes it: tuples, times as whole UTC seconds (a fraction would be an error)."""

    times = [name for name, kind in frame.schema.items() if kind == MOMENT]
    micros = frame.with_columns(pl.col(times).cast(pl.Int64()))
    assert not times or micros.select((pl.col(times) % 1_000_000 == 0).all()).row(0) == (True,) * len(times)
    return micros.with_columns(pl.col(times) // 1_000_000).rows()
