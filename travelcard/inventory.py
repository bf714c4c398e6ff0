"""The cells of one day out of an inventory of any size: where each of them is, and which ones no ping has named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled, prefetch, shift_of, slot_of
from travelcard.errors import InputError
from travelcard.late import compute as pc
from travelcard.memory import pages
from travelcard.names import Known, integers
from travelcard.schema import MAX_PLACES, REASONS
from travelcard.sources import text_bytes

__all__ = [
    "MISSING",
    "NOWHERE",
    "UNSEEN",
    "Cells",
    "Inventory",
    "Silent",
    "coded",
    "expect",
    "location_of",
    "mark",
    "reason",
    "seen",
    "silent",
]


class Inventory(Protocol):
    """What of a `CellMap` is needed here: a table `cell`, `place`, `inner` sorted by cell, and the rows a day has."""

    def dated(self, day: date) -> tuple[pa.Table, np.ndarray]: ...


def reason(index: int) -> int:
    """How a location stands for a reason: below zero, so that it is never a place."""
    return -1 - index


MISSING, _UNKNOWN, NOWHERE = (reason(REASONS.index(name)) for name in ("null_cell", "unknown_cell", "no_place"))
UNSEEN = np.iinfo(np.int32).min  # of a word of a dictionary that no ping has named so far
_LOW = np.uint64(17)  # bits of a slot behind the id: whether a ping has named the cell, and its location
_SEEN = 1 << 16
_AHEAD = 16  # rows
_NAMED = 10_000  # silent cells that are on record by name; how many there were is on record always
_KEYS = np.uint64(1 << 46)  # ids counted from the smallest one; an inventory that spans more is looked up as text is


@compiled
def _located(places: np.ndarray, inner: np.ndarray, meaning: np.ndarray, out: np.ndarray) -> None:
    """Write the location of each cell; `meaning` has that of each place where the cell is not inner."""
    for row in range(len(places)):
        location = meaning[places[row]]
        out[row] = location + inner[row] if location >= 0 else location


@compiled
def expect(cells: np.ndarray, row: int, base: int, table: np.ndarray, shift: np.uint64) -> None:
    """Have the slots fetched in which the search for the cell some rows further on begins.

    A table of 5 million cells fits no cache: a loop that waits for each slot spends 60 ns a row, with this 27.
    """
    prefetch(table, slot_of(np.uint64(cells[min(row + _AHEAD, len(cells) - 1)] - base), shift))


@compiled
def _enter(cells: np.ndarray, base: int, locations: np.ndarray, table: np.ndarray) -> None:
    """Enter cells into a table whose slots are all free."""
    mask, shift = np.uint64(len(table) - 1), shift_of(table)
    for row in range(len(cells)):
        expect(cells, row, base, table, shift)
        key = cells[row] - base
        h = slot_of(np.uint64(key), shift)
        while table[h] != -1:
            h = (h + np.uint64(1)) & mask
        table[h] = key << 17 | (locations[row] & 0xFFFF)


def _free(cells: int) -> np.ndarray:
    """An open-addressing table for so many cells, at most half full; nothing is in it yet.

    A slot is one word, the id in front of a bit for whether a ping has named it and 16 bits of location, so that the
    cells of a country fit a cache; -1 is a free slot, its location that of no cell.

    A fuller table is smaller and yet slower, since more probes are mispredicted: 21 instead of 15 ns a look-up among
    5 million cells.
    """
    table = pages(max(16, 1 << (2 * cells - 1).bit_length()), np.int64)
    table[:] = -1
    return table


@compiled
def _slot(table, h, key):
    """The slot of a key, from one on, or the free one that says it has none."""
    mask = np.uint64(len(table) - 1)
    while table[h] != -1 and np.uint64(table[h]) >> _LOW != key:
        h = (h + np.uint64(1)) & mask
    return h


@compiled
def _search(table, h, key):
    """The location of a key, and 1, from a slot on; from now on its cell has been named."""
    h = _slot(table, h, key)
    table[h] |= _SEEN  # by whichever thread: they all write the same
    return (table[h] & 0xFFFF) + 1


@compiled
def _entry(cell, base, table, shift):
    """As `_search`, from the first slot on. Four are compared without a branch, which is foreseen wrongly for one cell
    in five, at 5 ns.
    """
    key = np.uint64(cell - base)
    h = slot_of(key, shift)
    a, b = table[h], table[h + np.uint64(1)]
    c, d = table[h + np.uint64(2)], table[h + np.uint64(3)]
    found = (a & 0x1FFFF) if np.uint64(a) >> _LOW == key else 0
    found |= (b & 0x1FFFF) if np.uint64(b) >> _LOW == key else 0
    found |= (c & 0x1FFFF) if np.uint64(c) >> _LOW == key else 0
    found |= (d & 0x1FFFF) if np.uint64(d) >> _LOW == key else 0
    return found - _SEEN + 1 if found >= _SEEN else _search(table, h, key)


@compiled
def location_of(cell: int, base: int, table: np.ndarray, shift: np.uint64) -> int:
    """The location of a cell's id; below zero the reason why it has none."""
    found = _entry(cell, base, table, shift)
    return found - 1 if found <= 0x8000 else NOWHERE if found <= 0xFFFF else _UNKNOWN


@compiled
def _find(cells: np.ndarray, base: int, table: np.ndarray, out: np.ndarray) -> None:
    """`location_of` for an array."""
    shift = shift_of(table)
    for i in range(len(cells)):
        expect(cells, i, base, table, shift)
        out[i] = location_of(cells[i], base, table, shift)


class _Part(NamedTuple):
    """Some of an inventory's cells: all ids, and of those valid on a day the place, as a number, and the inner flag."""

    ids: pa.Array
    valid: np.ndarray | slice
    place: np.ndarray
    inner: np.ndarray
    codes: list[str | None]  # of each number; None of one that no valid cell has, and at last of no place

    def keys(self) -> np.ndarray:
        """The ids that are valid, of an inventory of integers."""
        return np.asarray(self.ids.to_numpy()[self.valid].astype(np.int64, copy=False))

    def locations(self, index: Mapping[str, int]) -> np.ndarray:
        """Where the valid ones are, as in `Cells`."""
        out = np.empty(len(self.place), np.int16)
        meaning = [NOWHERE if code is None else 2 * index[code] for code in self.codes]
        _located(self.place, self.inner, np.array(meaning, np.int16), out)
        return out


def _parts_of(rows: pa.Table, valid: np.ndarray) -> Iterator[_Part]:
    """An inventory as it lies in memory, by NumPy: a night needs Arrow's functions for nothing else before it reads."""
    if not pa.types.is_dictionary(rows["place"].type):
        rows = rows.set_column(rows.schema.get_field_index("place"), "place", rows["place"].dictionary_encode())
    end = 0
    for batch in rows.to_batches():
        begin, end = end, end + len(batch)
        some = slice(None) if valid[begin:end].all() else valid[begin:end]  # a copy of millions is for nothing
        texts = batch["place"].dictionary.to_pylist()
        place = _indices(batch["place"].indices, len(texts))[some]
        used = np.zeros(len(texts) + 1, np.bool_)
        used[place] = True
        inner = batch["inner"]
        inner = (pc.fill_null(inner, False) if inner.null_count else inner).to_numpy(zero_copy_only=False)[some]
        codes = [text if used[i] else None for i, text in enumerate(texts)]
        yield _Part(batch["cell"], some, place, inner, [*codes, None])


def _indices(array: pa.Array, none: int) -> np.ndarray:
    """Whole numbers as int32, `none` where there is no value."""
    known, data = array.buffers()
    rows = slice(array.offset, array.offset + len(array))
    values = np.frombuffer(data, array.type.to_pandas_dtype())[rows].astype(np.int32)
    if array.null_count:
        values[np.unpackbits(np.frombuffer(known, np.uint8), bitorder="little")[rows] == 0] = none
    return values


def _entered(parts: list[_Part], located: list[np.ndarray], table: np.ndarray) -> tuple[int, np.ndarray]:
    """(what ids are counted from, the table with the cells in it); an empty one where ids lie too far apart for it."""
    keys = [part.keys() for part in parts]
    usable = [some >= 0 for some in keys]  # no ping's cell is below zero
    top = np.iinfo(np.int64).max
    base = min((int(some.min(where=use, initial=top)) for some, use in zip(keys, usable, strict=True)), default=top)
    if max((int(some.max(initial=0)) for some in keys), default=0) - base >= _KEYS:
        return base, np.empty(0, np.int64)
    for some, use, locations in zip(keys, usable, located, strict=True):
        good = slice(None) if use.all() else use
        _enter(some[good], base, locations[good], table)
    return base, table


@dataclass(frozen=True, slots=True)
class Cells:
    """What finds the location of a day's cells: place index * 2 + inner, or below zero a reason (`reason`)."""

    ids: pa.ChunkedArray  # ascending: of other days, too, if there is a table; else distinct
    base: int
    table: np.ndarray  # of integer ids, counted from the base: see `_free`; empty where there is none
    known: Known | None  # where there is none, the ids
    locations: np.ndarray  # of these, and at last of one that is not known
    named: np.ndarray  # of these, and at last of any other, whether a ping has named it; a table has it in its slots

    @classmethod
    def of(cls, inventory: Inventory, day: date, others: set[str]) -> tuple[Cells, tuple[str, ...]]:
        """(the cells of a day, the codes of their places and of others in bytewise order)."""
        rows, valid = inventory.dated(day)
        ids = rows["cell"]
        integer = pa.types.is_integer(ids.type)
        with ThreadPoolExecutor(1) as beside:  # to make and fill a country's table takes as long as to go over it
            free = beside.submit(_free, int(valid.sum()) if integer else 0)
            parts = list(_parts_of(rows, valid))
        codes = coded(others.union(code for part in parts for code in part.codes if code is not None))
        index = {code: i for i, code in enumerate(codes)}
        located = [part.locations(index) for part in parts]
        if integer:
            base, table = _entered(parts, located, free.result())
            if len(table):
                return cls(ids, base, table, None, np.empty(0, np.int16), np.empty(0, np.bool_)), codes
        kind = pa.int64() if integer else pa.string()
        ids = ids if valid.all() else ids.filter(pa.array(valid))
        ids = ids if ids.type == kind else ids.cast(kind)
        locations = np.concatenate([*located, [_UNKNOWN]], dtype=np.int32)
        return cls(ids, 0, np.empty(0, np.int64), Known.of(ids), locations, np.zeros(len(locations), np.bool_)), codes

    def find(self, ids: pa.Array) -> np.ndarray:
        """The locations of cells by ids of any kind; a null is missing, and so is an empty text."""
        if not pa.types.is_integer(self.ids.type):
            return self._find_texts(ids)
        values, whole = integers(ids)
        if self.known is None:
            out = np.empty(len(ids), np.int32)
            _find(values, self.base, self.table, out)
        else:
            out = self._named(self.known.rows(pa.array(values)))
        if not whole.all():
            out[~whole] = _UNKNOWN
        if ids.null_count:
            out[pc.is_null(ids).to_numpy(zero_copy_only=False)] = MISSING
        return out

    def _find_texts(self, ids: pa.Array) -> np.ndarray:
        """Of a dictionary each text is looked up once, and has been named only where a row has it."""
        if pa.types.is_dictionary(ids.type):
            index, used = _indices(ids.indices, len(ids.dictionary)), np.zeros(len(ids.dictionary) + 1, np.bool_)
            used[index] = True
            words = pc.if_else(pa.array(used[:-1]), ids.dictionary, None)
            return np.append(self._find_texts(words), np.int32(MISSING))[index]
        ids = ids.cast(pa.string())
        ids = pc.fill_null(ids, "") if ids.null_count else ids  # behind a null may stand any text
        _, ends = text_bytes(ids)
        return np.where(ends[1:] == ends[:-1], MISSING, self._named(self.known.rows(ids)))  # type: ignore[union-attr]

    def _named(self, rows: np.ndarray) -> np.ndarray:
        """The locations of rows of the ids, which a ping has named."""
        self.named[rows] = True
        return self.locations[rows]


def coded(places: set[str]) -> tuple[str, ...]:
    """The codes of a day's places in bytewise order: what a place index counts."""
    if len(places) > MAX_PLACES:
        raise InputError(f"{len(places)} distinct places: the kernel holds at most {MAX_PLACES}")
    return tuple(sorted(places))


class Silent(NamedTuple):
    """The cells of a day that no ping has named: how many, and the first of them, ascending."""

    total: int
    first: pa.ChunkedArray


def silent(cells: Cells | None) -> Silent | None:
    """The cells of the day that no ping has named so far; None where there is no inventory."""
    if cells is None:
        return None
    if cells.known is not None:
        end, room, some = 0, _NAMED, []
        for chunk in cells.ids.chunks:
            begin, end = end, end + len(chunk)
            rows = np.flatnonzero(~cells.named[begin:end])[:room]
            some.append(chunk.take(pa.array(rows)))
            room -= len(rows)
        return Silent(end - int(cells.named[:end].sum()), pa.chunked_array(some, cells.ids.type))
    first, n = np.empty(_NAMED, np.int64), 0
    for chunk in cells.ids.chunks:  # in their order: to sort what the table holds takes longer than its pings
        n = _first_silent(chunk.to_numpy().astype(np.int64, copy=False), cells.base, cells.table, first, n)
    return Silent(_silent(cells.table), pa.chunked_array([first[:n]]))


@compiled
def _first_silent(cells: np.ndarray, base: int, table: np.ndarray, out: np.ndarray, n: int) -> int:
    """Write which of these cells, ascending, no ping has named, behind the first n, while there is room."""
    shift = shift_of(table)
    for row in range(len(cells)):
        if n == len(out):
            break
        cell = cells[row]
        if cell < base or (n > 0 and out[n - 1] == cell):  # of no ping, or of another day; a second row of the same id
            continue
        key = np.uint64(cell - base)
        h = _slot(table, slot_of(key, shift), key)
        if table[h] != -1 and table[h] & _SEEN == 0:
            out[n] = cell
            n += 1
    return n


@compiled
def _silent(table: np.ndarray) -> int:
    n = 0
    for slot in table:
        n += (slot != -1) & (slot & _SEEN == 0)
    return n


def seen(cells: Cells | None) -> np.ndarray:
    """Which cells a ping has named so far, in their own order."""
    if cells is None:
        return np.empty(0, np.bool_)
    return (cells.table != -1) & (cells.table & _SEEN != 0) if cells.known is None else cells.named.copy()


def mark(cells: Cells | None, named: np.ndarray) -> None:
    """Take cells for named that another copy of them has `seen`."""
    if cells is None:
        return
    if cells.known is None:
        cells.table[named] |= _SEEN
    else:
        cells.named[named] = True
