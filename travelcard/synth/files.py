"""A country as files: what `travelcard synth` writes, with the truth beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from travelcard import places as boundaries
from travelcard.errors import InputError
from travelcard.places import Places
from travelcard.schema import REASONS, SECONDS

from .cells import Country, country
from .persons import KINDS, PLAN, kinds_and_homes, midnight, named, people, true_stays
from .pings import Feed, parts_of, rows_of
from .words import GOLDEN, base_of, words

__all__ = ["demo", "write"]

_CROWD = 1 << 20  # subscribers whose truth is held at once


def _write_file(country: Country, feed: Feed, day: date, file: int, path: Path) -> tuple[int, np.ndarray, np.ndarray]:
    """One file of pings; returns its rows, and the numbers and reasons of the faulty ones. No row, no file."""
    writer: Any = None
    rows, where, why = 0, [np.empty(0, np.int64)], [np.empty(0, np.uint8)]
    for part in parts_of(country, feed, day, file):
        table = rows_of(country, feed, day, part)
        if writer is None and feed.format == "csv":
            writer = pcsv.CSVWriter(path, table.schema)
        elif writer is None:
            writer = _parquet(path, table.schema)
        writer.write_table(table)
        faulty = np.flatnonzero(part[3])
        where.append(rows + faulty)
        why.append(((part[3][faulty] & 15) - 1).astype(np.uint8))
        rows += len(table)
    if writer is not None:
        writer.close()
    return rows, np.concatenate(where), np.concatenate(why)


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    repeated = [name for name in ("cell", "plmn", "place", "reason", "file", "kind", "home") if name in schema.names]
    return pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=repeated, write_page_checksum=True)


_TRUTH = (("place", pa.string()), ("arrive", SECONDS), ("depart", SECONDS))
_FAULTS = pa.schema([("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())])


def _write_stays(country: Country, day: date, path: Path) -> None:
    schema = pa.schema([("subscriber", named(country, np.empty(0, np.int64)).type), *_TRUTH])
    abroad = len(country.places.codes)
    with closing(_parquet(path, schema)) as writer:
        for a in range(0, country.subscribers, _CROWD):
            b = min(a + _CROWD, country.subscribers)
            number = (day - date(1970, 1, 1)).days
            size, rows, plan = 8 * (b - a) + 1024, -1, np.empty(PLAN, np.int64)
            while rows < 0:
                out = [np.empty(size, kind) for kind in (np.int64, np.int32, np.int64, np.int64)]
                rows = true_stays(country.net, base_of(country.seed), a, b, number, abroad, plan, *out)
                size *= 2
            who, place, arrive, depart = (column[:rows] for column in out)
            times = [pa.array(midnight(day) + t * 1_000_000).view(SECONDS) for t in (arrive, depart)]
            place = pa.array(country.codes).take(pa.array(place))
            writer.write_table(pa.Table.from_arrays([named(country, who), place, *times], schema=schema))


def _write_risk(country: Country, days: Sequence[date], folder: Path) -> None:
    """A list for every day and the one after the last: six outbreaks, two at high level, three without an end."""
    folder.mkdir()
    areas = []
    for n in range(6):
        w = int(words(base_of(country.seed) ^ GOLDEN, np.array([n]))[0])
        start = days[0] + timedelta(days=w % (len(days) + 3) - 3)
        end = None if n % 2 == 0 else start + timedelta(days=3 + (w >> 16) % 8)
        place = country.codes[country.net.place[(w >> 24) % len(country.net.place)]]
        areas.append((place, "high" if n % 3 == 0 else "medium", start, end))
    for day in [*days, days[-1] + timedelta(days=1)]:
        lines = [
            f"{place},{level},{start},{end or ''}"
            for place, level, start, end in sorted(areas, key=lambda area: area[:3])
            if start <= day and (end is None or day <= end)
        ]
        (folder / f"{day}.csv").write_text("\n".join(["place,level,from,to", *lines]) + "\n")


def _config(feed: Feed) -> str:
    names = ["cell"] if feed.kind == "cell" else ["lat", "lon", "accuracy"]
    columns = ", ".join(f'{n} = "{n}"' for n in [*names, *(["plmn"] if feed.plmn else [])])
    return f"""# Written by travelcard synth: an invented country, and how to run it. No number in it is anybody's.
store = "store"
[pings]
path = "pings/{{day}}/*.{feed.format}"
columns = {{ subscriber = "msisdn", time = "time", {columns} }}
[cells]
path = "cells.parquet"
[policy]
preset = "dated"
[risk]
path = "risk/{{day}}.csv"
"""


def write(
    folder: str | Path,
    *,
    subscribers: int,
    days: Sequence[date],
    pings_per_subscriber: float = 100,
    cells: int = 20_000,
    seed: int = 0,
    files: int = 24,
    ids: str = "integer",
    order: str = "time",
    kind: str = "cell",
    format: str = "parquet",
    faults: float = 0.001,
    flicker: float = 0.1,
    places: Places | None = None,
    threads: int | None = None,
) -> dict[date, int]:
    """Write a synthetic country, and the truth beside it, into a new folder.

    ::

        cells.parquet  travelcard.toml  risk/{day}.csv
        pings/{day}/part-00.parquet ...  msisdn, time, cell (or lat, lon, accuracy), plmn where anybody roams
        truth/people.parquet             subscriber, kind, home
        truth/{day}/stays.parquet        subscriber, place, arrive, depart (first and last second): where people were
        truth/{day}/faults.parquet       file, row (from 0), reason: exactly the rows that a run must reject

    Parameters
    ----------
    subscribers, days, pings_per_subscriber
        How many people, which days of Asia/Shanghai, and about how many pings a day each makes on average.
    cells, ids, flicker, seed, places
        As in `country`; `places` None is `places.china()`.
    files, order
        ``"time"``: a file is a slice of the day, its rows within a minute of time order, one in a hundred phones late
        by a file or two. ``"shuffled"``: rows are dealt to files, and lie in them, at random. A file that would have
        no row is not written.
    kind
        ``"cell"`` or ``"position"``.
    format
        ``"parquet"`` (timestamps in UTC), or ``"csv"`` (times as text, with their offset), which adds `bad_time`.
    faults
        The share of rows made faulty, each with one reason of `schema.REASONS`.
    threads
        Files written at a time, default one for every core. Not a byte of data depends on it; a thread holds about
        0.4 GB, however long the day.

    Returns
    -------
    Rows written, by day.

    Raises
    ------
    InputError
        The folder is not empty, no day, or a setting that does not exist.
    """
    root, days = Path(folder), sorted(set(days))
    for name, value, allowed in (
        ("order", order, ("time", "shuffled")),
        ("kind", kind, ("cell", "position")),
        ("format", format, ("parquet", "csv")),
    ):
        if value not in allowed:
            raise InputError(f"{name}={value!r}: one of {', '.join(allowed)}")
    if not days:
        raise InputError("days is empty: name at least one day to write")
    if not (1 <= files <= 8640 and pings_per_subscriber > 0 and 0 <= faults <= 1 and 0 <= flicker <= 1):
        raise InputError("files must be 1 to 8640, pings_per_subscriber above 0, faults and flicker between 0 and 1")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is not an empty folder: name a new one, or remove it first")
    made = country(
        boundaries.china() if places is None else places,
        subscribers=subscribers,
        cells=cells,
        seed=seed,
        ids=ids,
        flicker=flicker,
        changed=days[len(days) // 2],
    )
    inner = None
    if kind == "position":  # where a step within half the range cannot lead into another place, nor off the map
        where, n = made.places.locate(made.lat, made.lon, snap=0.0), made.outside
        inner = np.zeros(len(made.lat), np.bool_)
        inner[:n] = made.places.inner(made.lat[:n], made.lon[:n], made.range[:n], made.net.place) & (where[:n] >= 0)
    crowds = [(a, min(a + _CROWD, subscribers)) for a in range(0, subscribers, _CROWD)]
    roams = any((kinds_and_homes(made, a, b)[0] == KINDS.index("roamer")).any() for a, b in crowds)
    feed = Feed(float(pings_per_subscriber), files, order, kind, format, faults, roams, inner)

    for day in days:
        (root / "pings" / str(day)).mkdir(parents=True)
        (root / "truth" / str(day)).mkdir(parents=True)
    pq.write_table(made.inventory, root / "cells.parquet", compression="zstd")
    (root / "travelcard.toml").write_text(_config(feed))
    _write_risk(made, days, root / "risk")
    with closing(_parquet(root / "truth" / "people.parquet", people(made, 0, 0).schema)) as writer:
        for a, b in crowds:
            writer.write_table(people(made, a, b))
    width, counts = max(2, len(str(files - 1))), dict.fromkeys(days, 0)
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        stays = [pool.submit(_write_stays, made, day, root / "truth" / str(day) / "stays.parquet") for day in days]
        paths = [
            (day, f, root / "pings" / str(day) / f"part-{f:0{width}d}.{format}") for day in days for f in range(files)
        ]
        written = pool.map(lambda task: _write_file(made, feed, *task), paths)
        for day in days:
            with closing(_parquet(root / "truth" / str(day) / "faults.parquet", _FAULTS)) as writer:
                for _, _, path in paths[days.index(day) * files :][:files]:
                    rows, where, why = next(written)
                    counts[day] += rows
                    reasons = pa.array(REASONS).take(pa.array(why))
                    names = pa.array([path.name]).take(pa.array(np.zeros(len(where), np.int8)))
                    writer.write_table(pa.Table.from_arrays([names, pa.array(where), reasons], schema=_FAULTS))
        for task in stays:
            task.result()
    return counts


def demo(folder: str | Path, *, last: date = date(2022, 3, 14), seed: int = 0) -> dict[date, int]:
    """The small country of ``travelcard demo``: 2,000 people, 14 days up to `last`, real boundaries, a few seconds."""
    days = [last - timedelta(days=n) for n in range(13, -1, -1)]
    return write(folder, subscribers=2000, days=days, cells=20_000, files=4, seed=seed)
