"""The cell inventory laid over the boundaries: the place of each radio cell, and whether it is inner (DESIGN 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from travelcard.errors import InputError, one_line, refuse
from travelcard.late import polars as pl
from travelcard.places import SNAP, Places
from travelcard.schema import INVENTORY
from travelcard.sources import read_table

__all__ = ["DEFAULT_RANGE", "H3_RESOLUTION", "CellMap"]

DEFAULT_RANGE = 1000.0  # metres, where the inventory gives none
H3_RESOLUTION = 9
SHOWN = 5  # how many offending rows or ids an error names before it counts the rest
VERSION = "2"  # of what `save` writes


@dataclass(frozen=True, eq=False)
class CellMap:
    """Every row of a cell inventory with its H3 cell, its place and its inner flag.

    `rows` has the columns cell (int64 or string, as the inventory has it), lat, lon (degrees), range (metres),
    valid_date_start, valid_date_end (inclusive, null = open), h3 (uint64, resolution 9), place (categorical, null =
    outside every place) and inner, sorted by cell and start. `places` is the digest of the boundaries.
    """

    rows: pa.Table | Path  # of a saved map the file: only the columns that are asked for are read
    places: str
    snap: float

    @classmethod
    def build(
        cls, inventory: Any, places: Places, *, snap: float = SNAP, columns: Mapping[str, str] | None = None
    ) -> CellMap:
        """Find the place of every cell; exact by the polygons, 1 million cells in about 2 s on one core.

        Parameters
        ----------
        inventory : any Arrow table, or the path of a Parquet or CSV file, with the columns cell, lat, lon and, where
            there are any, range (metres, null = 1,000), valid_date_start, valid_date_end.
        snap : metres; a cell outside every place but this near to one is in the nearest. 0 = off.
        columns : our name -> the inventory's, where they differ.

        Raises
        ------
        InputError
            The table does not fit `INVENTORY`; rows without a usable location, with a negative range or without an id;
            an id with overlapping validity; an inventory that fits only with latitude and longitude swapped.
        """
        where = str(inventory) if isinstance(inventory, str | Path) else "the cells table"
        if isinstance(inventory, str | Path):
            inventory = read_table(inventory, (columns or {}).get("cell", "cell"))
        table = INVENTORY.read(inventory, where=where, columns=columns or {})
        frame = pl.DataFrame(table)
        lat, lon, radius = (frame[c].fill_null(np.nan).to_numpy() for c in ("lat", "lon", "range"))
        radius = np.where(frame["range"].is_null().to_numpy(), DEFAULT_RANGE, radius)
        usable = (np.abs(lat) <= 90) & (np.abs(lon) <= 180)
        place = places.locate(lat, lon, snap=snap)
        if (place >= 0).sum() * 2 < len(frame):
            swapped = places.locate(lon, lat, snap=snap)
            if (swapped >= 0).sum() > (place >= 0).sum():
                raise InputError(
                    f"{where}: latitude and longitude are swapped: {(place >= 0).sum():,} of {len(frame):,} cells lie "
                    f"in a place as they are, {(swapped >= 0).sum():,} when swapped. "
                    'Pass columns={"lat": ..., "lon": ...} the other way round'
                )
        refuse(f"{where} cannot be used", _unusable(frame, usable, radius) + _overlapping(frame))
        import h3.api.basic_int as h3  # noqa: PLC0415  a saved map is read without it

        cells = map(h3.latlng_to_cell, lat.tolist(), lon.tolist(), repeat(H3_RESOLUTION))
        index = np.fromiter(cells, np.uint64, len(frame))
        codes = pl.Series("place", places.codes, pl.Categorical)
        frame = frame.with_columns(
            pl.Series("range", radius),
            pl.Series("h3", index),
            codes.gather(pl.Series(np.maximum(place, 0))).set(pl.Series(place < 0), None)
            if len(codes)
            else pl.lit(None, pl.Categorical).alias("place"),
            pl.Series("inner", places.inner(lat, lon, radius, place)),
        ).sort("cell", "valid_date_start", nulls_last=False)
        return cls(frame.to_arrow(), places.digest, float(snap))

    @cached_property
    def frame(self) -> pl.DataFrame:
        """All rows with all their columns."""
        return pl.DataFrame(pa.concat_tables(self._parts()))

    @property
    def outside(self) -> pl.DataFrame:
        """The rows of the cells that are outside every place, snapping included."""
        return self.frame.filter(pl.col("place").is_null())

    def on(self, day: date) -> pl.DataFrame:
        """The cells valid on a day, one row each: cell, place (categorical, null = outside every place), inner."""
        cells, valid = self.dated(day)
        return pl.DataFrame(cells.filter(pa.array(valid)))

    def dated(self, day: date) -> tuple[pa.Table, NDArray[np.bool_]]:
        """All cells, and which of them are valid on a day: `on` without Polars and without Arrow's functions."""
        columns, dates, on = ["cell", "place", "inner"], ["valid_date_start", "valid_date_end"], np.datetime64(day)
        cells, valid = [], []
        for rows in self._parts([*columns, *dates]):
            begin, end = (rows[name].to_numpy() for name in dates)
            valid.append(~(begin > on) & ~(end < on))  # no date is neither before a day nor behind it
            cells.append(rows.select(columns))
        return pa.concat_tables(cells), np.concatenate(valid)

    def _parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, of a saved map a row group at a time, of which it has one at least: a country's cells are many."""
        if isinstance(self.rows, pa.Table):
            yield self.rows
            return
        try:
            with pq.ParquetFile(self.rows, page_checksum_verification=True) as file:
                left = file.metadata.num_rows
                for group in range(file.num_row_groups):
                    part = file.read_row_group(group, columns)
                    left -= len(part)
                    yield part
                if left:
                    raise pa.ArrowInvalid("its footer does not agree with itself")
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"the cell map cannot be read to its end: {one_line(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write the map to one Parquet file, for `CellMap.load`."""
        metadata = {"travelcard": "cells", "version": VERSION, "places": self.places, "snap": repr(self.snap)}
        # ids in order differ by little: as differences they are smaller, and read in a quarter of the time
        near = {"cell": "DELTA_BINARY_PACKED"} if self.frame["cell"].dtype.is_integer() else None
        pq.write_table(
            self.frame.to_arrow().replace_schema_metadata(metadata),
            path,
            compression="zstd",
            use_dictionary=["place"],
            column_encoding=near,
            write_page_checksum=True,
        )

    @classmethod
    def load(cls, path: str | Path) -> CellMap:
        """Read what `save` wrote. Raises `InputError` for any other file."""
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} cannot be read as a cell map: {one_line(error)}") from error
        if metadata.get(b"travelcard") != b"cells" or metadata.get(b"version") != VERSION.encode():
            raise InputError(f"{path} is no cell map (version {VERSION}): build one with CellMap.build")
        return cls(Path(path), metadata[b"places"].decode(), float(metadata[b"snap"]))


def _some(items: Sequence[str]) -> str:
    rest = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + rest


def _unusable(frame: pl.DataFrame, usable: NDArray[np.bool_], radius: NDArray[np.float64]) -> list[str]:
    """The rows that no location can be had from, one line for each kind."""
    cell, lat, lon = frame["cell"], frame["lat"], frame["lon"]
    start, end = frame["valid_date_start"], frame["valid_date_end"]
    no_id = (cell == "").to_numpy() if cell.dtype == pl.String else np.zeros(len(frame), np.bool_)
    turned = (start > end).fill_null(False).to_numpy()
    kinds: tuple[tuple[NDArray[np.bool_], str, Callable[[int], str]], ...] = (
        (no_id, "cell is empty", lambda _: ""),
        (~usable, "no usable location", lambda i: f" (lat {lat[i]}, lon {lon[i]})"),
        (~(np.isfinite(radius) & (radius >= 0)), "range is not 0 or more metres", lambda i: f" ({frame['range'][i]})"),
        (turned, "validity ends before it starts", lambda i: f" ({start[i]} to {end[i]})"),
    )
    lines = []
    for bad, what, detail in kinds:
        at = np.flatnonzero(bad).tolist()
        if at:
            named = [f"{cell[i]} in row {i}{detail(i)}" for i in at[:SHOWN]] + [""] * (len(at) - SHOWN)
            lines.append(f"{what}: {_some(named)}")
    return lines


def _overlapping(frame: pl.DataFrame) -> list[str]:
    """The ids with two rows valid on one day: the same id twice, unless the dates keep them apart."""
    both = (
        frame.lazy()
        .select(
            "cell",
            pl.col("valid_date_start").fill_null(date.min).alias("start"),
            pl.col("valid_date_end").fill_null(date.max).alias("end"),
        )
        .sort("cell", "start")
        .with_columns(pl.col("end").shift(1).alias("before"), pl.col("cell").shift(1).alias("previous"))
        .filter((pl.col("cell") == pl.col("previous")) & (pl.col("start") <= pl.col("before")))
        # the neighbour alone is enough: if rows a <= b <= c by start overlap as a and c, then a and b do too
        .select(pl.col("cell").unique(maintain_order=True).cast(pl.String))
        .collect()["cell"]
        .to_list()
    )
    return [f"{len(both):,} ids are valid twice on one day: {_some(both)}"] if both else []
