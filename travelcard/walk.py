"""A bucket's days of stays side by side: some subscribers at a time, of each day the rows that it has of them.

Pages are decoded here where they are as `parquet.write` lays them, into memory that is used again; other ones, and all
that seem to be damaged, are left to Arrow, which knows all encodings and says what is wrong with a file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from isal.isal_zlib import crc32

from travelcard import parquet
from travelcard.compiled import compiled, copy_bytes, scratch, word_at
from travelcard.decode import indices_of
from travelcard.pages import DELTA, DICTIONARY, INDICES, PADDING, PAGE, UNSOUND, Desk, header_room, page_at, varint
from travelcard.schema import STAYS
from travelcard.snappy import unpacked
from travelcard.window import Runs, runs_of

__all__ = ["Day", "walked"]

_COLUMNS = STAYS.arrow().names  # as they lie in a row group
_SUBSCRIBER, _PLACE, _ARRIVE, _DEPART, _PINGS, _INNER = range(6)
_ROOMS = {"subscriber": np.int64, "place": np.int16, "arrive": np.int64, "depart": np.int64, "inner": np.int32}


@compiled
def _zigzag(data, at, end):
    """As `varint`, of a number that may be below zero."""
    value, at = varint(data, at, end)
    return np.int64(np.uint64(value) >> np.uint64(1)) ^ -(value & 1), at


@compiled
def _summed(data, at, end, out):
    """Numbers as differences of each to the one before (DELTA_BINARY_PACKED): whether they are what `out` is to hold.

    Differences come in blocks, each with its least one, and in these in parts of a width in bits, over that.
    """
    size, at = varint(data, at, end)
    parts, at = varint(data, at, end)
    n, at = varint(data, at, end)
    value, at = _zigzag(data, at, end)
    if at > end or n != len(out) or n == 0 or not 0 < parts <= size or size % (8 * parts) != 0 or size > 1 << 16:
        return False
    per = size // parts
    out[0] = value
    k = 1
    while k < n:
        least, at = _zigzag(data, at, end)
        widths, at = at, at + parts
        if at > end:
            return False
        for part in range(parts):
            if k == n:
                break
            width, some = np.int64(data[widths + part]), min(per, n - k)
            if width > 57 or at + per * width // 8 > end:  # a wider one does not lie in one word
                return False
            mask = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
            for i in range(some):
                bit = i * width
                value += least + np.int64(word_at(data, at + (bit >> 3)) >> np.uint64(bit & 7) & mask)
                out[np.uint64(k + i)] = value
            k += some
            at += per * width // 8
    return at == end


@compiled
def _paged(data, starts, rows, columns, fields, table):
    """Find the pages of the first columns in row groups that begin at these bytes: how many, below zero where it fails.

    A row of the table is as of `page_at`, and its column, which are in order. Only places are packed: see `_filled`.
    """
    n = 0
    for group in range(len(rows)):
        at = starts[group]
        for column in range(columns):
            left = rows[group]
            while left > 0:
                if n == len(table):
                    return UNSOUND
                at = page_at(data, at, starts[group + 1], False, column == _PLACE, fields, table[n])
                if at < 0:
                    return at
                table[n, PAGE] = column
                left -= table[n, 1] if table[n, 0] != DICTIONARY else 0
                n += 1
            if left < 0:
                return UNSOUND
    return n


@compiled
def _filled(data, table, meaning, room, packed, valid, index, ids, place, arrive, depart, inner):
    """Decode pages to their columns: whether all hold what their headers say, and no row could be without a value.

    `meaning` are the numbers of each dictionary's words, one dictionary behind the other. Which codec a column has is
    not looked up, since Arrow ends the process where that is damaged: places in another one cannot be decompressed,
    and numbers are as long as their page and end with it.
    """
    filled = scratch(6, np.int64)
    filled[:] = 0
    first = words = np.int64(0)  # of the dictionary that is in force
    for p in range(len(table)):
        kind, n, levels, begin, end = table[p, 0], table[p, 1], table[p, 2], table[p, 3], table[p, 4]
        size, plain, column = table[p, 5], table[p, 6], table[p, PAGE]
        if kind == DICTIONARY:
            first, words = first + words, n
            continue
        if column == _PINGS:
            continue
        k = filled[column]
        filled[column] += n
        if column == _PLACE:
            source = data
            if plain < size:
                copy_bytes(room, 0, data, begin, plain)
                packed[0, 0], packed[0, 1], packed[0, 2], packed[0, 3] = begin + plain, end, plain, size
                if not unpacked(data, packed, room):
                    return False
                source, begin, end = room, np.int64(0), size
            some = indices_of(source, (kind, n, levels, begin, end), words, valid[:n], index[:n])
            if kind != INDICES or some != n:
                return False
            for i in range(n):
                place[np.uint64(k + i)] = meaning[np.uint64(first + index[np.uint64(i)])]
            continue
        if column == _SUBSCRIBER:
            good = _summed(data, begin, end, ids[k : k + n])
        elif column == _ARRIVE:
            good = _summed(data, begin, end, arrive[k : k + n])
        elif column == _DEPART:
            good = _summed(data, begin, end, depart[k : k + n])
        else:
            good = _summed(data, begin, end, inner[k : k + n])
        if kind != DELTA or levels != 0 or size != end - begin or not good:
            return False
    return True


class _Numbers:
    """Places by number, in the order in which they are met."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._pages: dict[bytes, np.ndarray | None] = {}

    @property
    def codes(self) -> list[str]:
        return list(self._known)

    def of(self, codes: Iterable[str]) -> np.ndarray:
        """The number of each."""
        numbers = [self._known.setdefault(code, len(self._known)) for code in codes]
        return np.array(numbers, np.int16)

    def of_page(self, page: bytes, size: int, *, packed: bool) -> np.ndarray | None:
        """The number of each word of a dictionary's page, mostly that of another day as well; None for no such page."""
        if page not in self._pages:
            self._pages[page] = self._of_page(page, size, packed=packed)
        return self._pages[page]

    def _of_page(self, page: bytes, size: int, *, packed: bool) -> np.ndarray | None:
        try:
            data = pa.decompress(page, size, codec="snappy", asbytes=True) if packed else page
            codes, at = [], 0
            while at < size:
                end = at + 4 + int.from_bytes(data[at : at + 4], "little")
                codes.append(data[at + 4 : end].decode())
                at = end
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            return None
        return self.of(codes) if at == size else None


class Day:
    """A day's file of one bucket, open, and how far it was walked."""

    def __init__(self, path: str, footer: parquet.Footer, raw: pa.NativeFile) -> None:
        self.path = path
        self.footer = footer
        self._raw = raw
        self._group = 0  # the first that was not taken yet
        meta = footer.file.metadata
        groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
        self.rows = np.array([group.num_rows for group in groups], np.int64)
        self._starts = np.array([group.column(0).data_page_offset for group in groups] + [raw.size()])
        self._known = all(meta.schema.column(c).max_definition_level == 0 for c in range(len(_COLUMNS)))

    def until(self, end: Any) -> range:
        """The row groups that come next, for the subscribers before one; None for all that are left."""
        last = len(self.rows) if end is None else bisect_left(self.footer.lowest, end)
        groups = range(self._group, max(last, self._group))
        self._group = groups.stop
        return groups

    def read(self, groups: range, names: list[str]) -> pa.Table:
        """Columns of row groups, by Arrow."""
        rows = self.footer.file.read_row_groups([*groups], columns=names, use_threads=False)
        rows["place"].validate(full=True)  # of a dictionary Arrow does not look whether it has a number's word
        return rows

    def decode(self, groups: range, places: _Numbers, desk: Desk, out: Sequence[np.ndarray]) -> None:
        """Decode row groups to arrays that are as long."""
        if not groups:
            return
        if not (self._known and self._decoded(groups, places, desk, out)):
            self._left_to_arrow(groups, places, out)
        first = np.cumsum(self.rows[groups]) - self.rows[groups]
        with parquet.naming("stays", self.path):
            if (out[0][first] != self.footer.lowest[groups.start : groups.stop]).any():  # no checksum covers a footer
                raise pa.ArrowInvalid("its subscribers are not those that its footer tells of")

    def _decoded(self, groups: range, places: _Numbers, desk: Desk, out: Sequence[np.ndarray]) -> bool:
        starts = self._starts[groups.start : groups.stop + 1]
        rows, columns = self.rows[groups.start : groups.stop], len(_COLUMNS) if len(out[-1]) else _PINGS
        size = int(starts[-1] - starts[0])
        if size < 0 or (np.diff(starts) < 0).any():
            return False
        raw = desk.room("raw", size + PADDING)
        self._raw.seek(int(starts[0]))
        if self._raw.readinto(raw[:size]) != size:
            return False
        table = desk.room("table", 2 * (columns + 1) * len(groups) * (PAGE + 1), np.int64).reshape(-1, PAGE + 1)
        pages = _paged(raw, starts - starts[0], rows, columns, header_room(), table)
        table = table[: max(pages, 0)]
        source = raw.data
        meaning: list[np.ndarray] = []
        for kind, n, begin, end, unpacked_size, plain, crc, column in table[:, [0, 1, 3, 4, 5, 6, 7, 8]].tolist():
            if column != _PINGS and (crc < 0 or crc32(source[begin:end]) != crc):
                return False
            if kind == DICTIONARY:
                numbers = places.of_page(bytes(source[begin:end]), unpacked_size, packed=plain < unpacked_size)
                if column != _PLACE or numbers is None or len(numbers) != n:
                    return False
                meaning.append(numbers)
        longest = int(table[:, 1].max(initial=0))
        room = desk.room("page", int(table[:, 5].max(initial=0)) + PADDING)
        valid, index = desk.room("valid", longest, np.bool_), desk.room("index", longest, np.int32)
        every = np.concatenate(meaning) if meaning else np.empty(0, np.int16)
        return pages > 0 and _filled(raw, table, every, room, np.empty((1, 4), np.int64), valid, index, *out)

    def _left_to_arrow(self, groups: range, places: _Numbers, out: Sequence[np.ndarray]) -> None:
        names = [name for name, column in zip(_ROOMS, out, strict=True) if len(column)]
        with parquet.naming("stays", self.path):
            rows = self.read(groups, names)
            for name, column in zip(names, out, strict=False):
                if name == "place":
                    coded = rows[name].combine_chunks().dictionary_encode()
                    column[:] = places.of(coded.dictionary.to_pylist())[coded.indices.to_numpy()]
                else:
                    column[:] = rows[name].cast(pa.int32() if name == "inner" else pa.int64()).to_numpy()


def walked(days: Sequence[Day], rows: int, ids: pa.DataType, *, inner: bool) -> Iterator[tuple[Any, Any, Runs]]:
    """The stays of some days of a bucket, by ranges of subscribers that have about so many rows each.

    Of each range: its lowest subscriber and that of the next, None at the ends, and its stays; these lie in memory in
    which the range after the next is laid.
    """
    begun = sorted(low for day in days for low in day.footer.lowest)
    step = max(1, rows // parquet.GROUP["stays"])
    ends = [*sorted(set(begun[step::step])), None]
    runs = _numbers(days, ends, inner=inner) if pa.types.is_integer(ids) else _texts(days, ends, ids, inner=inner)
    yield from zip([None, *ends[:-1]], ends, runs, strict=True)


def _numbers(days: Sequence[Day], ends: Iterable[Any], *, inner: bool) -> Iterator[Runs]:
    """Runs of subscribers that are integers: each of the days decoded to the end of a row group, and what is beyond."""
    places, desk, desks = _Numbers(), Desk(), (Desk(), Desk())
    laid: list[np.ndarray] = [np.empty(0, kind) for kind in _ROOMS.values()]
    end = stop = np.zeros(len(days), np.int64)  # of each day: the rows before are done with, and are laid
    for end_at in ends:
        desks = desks[::-1]
        groups = [day.until(end_at) for day in days]
        more = [int(day.rows[some.start : some.stop].sum()) for day, some in zip(days, groups, strict=True)]
        total = int((stop - end).sum()) + sum(more)
        before, laid = laid, desks[0].rooms("laid", list(_ROOMS), list(_ROOMS.values()), total)
        if not inner:
            laid[-1] = laid[-1][:0]
        edges = np.zeros(len(days) + 1, np.int64)
        done = np.zeros(len(days), np.int64)
        for d, day in enumerate(days):
            at, left = int(edges[d]), int(stop[d] - end[d])
            for new, old in zip(laid, before, strict=True):
                new[at : at + left] = old[end[d] : stop[d]]
            at, begin = at + left, at
            day.decode(groups[d], places, desk, [column[at : at + more[d]] for column in laid])
            edges[d + 1] = at + more[d]
            mine = laid[0][begin : edges[d + 1]]
            done[d] = edges[d + 1] if end_at is None else begin + np.searchsorted(mine, end_at)
        end, stop = done, edges[1:]
        yield Runs(edges[:-1], end, laid[0], None, laid[1], places.codes, *laid[2:])


def _texts(days: Sequence[Day], ends: Sequence[Any], ids: pa.DataType, *, inner: bool) -> Iterator[Runs]:
    """Runs of subscribers that are texts, decoded by Arrow."""
    names = [name for name in _ROOMS if inner or name != "inner"]
    schema = pa.schema([STAYS.arrow(ids=ids).field(name) for name in names])
    schema = schema.set(1, pa.field("place", pa.dictionary(pa.int32(), pa.string())))
    walks = [_tables(day, ends, schema) for day in days] or [(schema.empty_table() for _ in ends)]
    for tables in zip(*walks, strict=True):
        yield runs_of(tables, inner=inner)


def _tables(day: Day, ends: Iterable[Any], schema: pa.Schema) -> Iterator[pa.Table]:
    """A day in parts: its subscribers before each of `ends`. No row group is decoded twice."""
    rest = schema.empty_table()
    for end in ends:
        if groups := day.until(end):
            with parquet.naming("stays", day.path):
                rest = pa.concat_tables([rest, day.read(groups, schema.names).cast(schema)])
        before = len(rest) if end is None else bisect_left(rest["subscriber"], end, key=lambda who: who.as_py())
        yield rest.slice(0, before)
        rest = rest.slice(before)
