"""A thread's clean pings, written to buckets: out of pages, or row by row as they were decided elsewhere.

A row is looked at once: its page is decoded, its cell found, its second and its bucket worked out, and it is written
while all of that is still in the nearest cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from travelcard.compiled import compiled, prefetch, scratch, shift_of, word_at
from travelcard.decode import NONE, indices_of, numbers_of, spread
from travelcard.inventory import MISSING, UNSEEN, expect, location_of
from travelcard.names import GOLDEN
from travelcard.pages import DICTIONARY, INDICES, opened
from travelcard.schema import REJECTED, SECOND_SHIFT

__all__ = [
    "DONE",
    "FULL",
    "LANES",
    "REST",
    "UNSOUND",
    "Chunks",
    "Day",
    "put_block",
    "put_numbers",
    "put_rows",
]

_STRIDE = 256  # rows worked out before they are written: they stay in the nearest cache
_LINES = np.uint64(16)  # words in two lines of the cache, which are fetched before a bucket's next pings fill them
LANES = 4  # places in which a quarter of an hour is counted, row by row in turn: no count waits for the last one
DONE, FULL, REST, UNSOUND = range(4)  # why a block is put no further: its end, no chunk free, too many left over


@compiled(inline="always")
def _bucket(word: np.uint64, shift: np.uint64) -> np.uint64:
    """`schema.bucket_of` for the word of one subscriber; `shift` is 64 less the bits of a bucket number."""
    return ((word ^ word >> np.uint64(32)) * GOLDEN) >> shift


class Chunks(NamedTuple):
    """An arena as the kernels fill it: chunk c is pings c * size to (c + 1) * size, `size` being a power of two."""

    pings: np.ndarray  # uint64, `width` a ping: 1, see Packing, or where ids may be too large for that 2, id and event
    tail: np.ndarray  # of each bucket, where its next ping goes, unless that is the start of a chunk
    free: np.ndarray  # the first chunk that is nobody's, and how many there are in all
    owner: np.ndarray  # the bucket of each chunk
    order: np.ndarray  # the piece of the input that a chunk was begun in
    size: int
    shift: np.uint64
    whole: np.uint64  # 0 where there is one bucket: a shift by 64 is undefined, so it is the first half of two
    width: int
    base: np.int64
    bits: np.uint64
    ids: np.uint64  # all bits where the id shares a word with the event, none where it has its own


class Day(NamedTuple):
    """What a time is compared to: units a second, the second at which a day begins, its length, the bit of a second."""

    unit: int
    start: int
    length: int
    shift: np.uint64


@compiled(inline="always")
def _number(column, i):
    """The i-th number of 64 bits, of bytes and where they begin."""
    return word_at(column[0], column[1] + 8 * i)


@compiled
def _packed(chunks, most, ids, words, times, locations, day, out, bucket):
    """Pack rows of numbers and find their buckets, -1 of what is not plainly clean.

    No row waits for a branch, so that several are worked out at once: one by one it takes three times as long.
    """
    begin, span, per = day.start * day.unit, np.uint64(day.length * day.unit), np.float64(day.unit)
    for i in range(len(out)):
        # wraps round for what lies before the day, as ids do below; a quotient of so few bits is exact to the second
        since = min(_number(times, i) - np.uint64(begin), span)
        second = np.int32(np.float64(since) / per)  # AVX2 turns neither a signed word into a float nor that into a word
        who = _number(ids, i) - np.uint64(chunks.base)
        clean = (who < most) & (second < day.length) & (locations[i] >= 0)
        out[i] = who << chunks.bits & chunks.ids | np.uint64(second) << day.shift | np.uint64(locations[i])
        where = np.int32(_bucket(_number(words, i), chunks.shift) * chunks.whole)
        bucket[i] = where if clean else np.int32(-1)


@compiled
def _scatter(chunks, ids, packed, bucket, piece, row, rest, left):
    """Write packed rows to their buckets' chunks: (how many, until one wants a chunk and none is free; rows left over).

    Rows without a bucket are listed in `rest`, after its first `left`, the first of these being `row`.
    """
    pings, tail, free, owner, order = chunks.pings, chunks.tail, chunks.free, chunks.owner, chunks.order
    size, width = chunks.size, chunks.width
    for i in range(len(packed)):
        b = bucket[i]
        if b < 0:
            rest[left] = row + i
            left += 1
            continue
        at = np.uint64(b)
        k = tail[at]
        if k & (size - 1) == 0:
            c = free[0]
            if c == free[1]:
                return i, left
            free[0], owner[c], order[c] = c + 1, b, piece
            k = c * size
        if width == 1:
            pings[np.uint64(k)] = packed[i]
        else:
            pings[2 * k], pings[2 * k + 1] = _number(ids, i), packed[i]
        prefetch(pings, np.uint64(k * width) + _LINES)
        tail[at] = k + 1
    return len(packed), left


@compiled
def put_rows(chunks, words, ids, events, shift, piece, row):
    """Write the rows that are not rejected, from a row on: the row reached, all or where the chunks ended."""
    packed, bucket, rest = scratch(_STRIDE, np.uint64), scratch(_STRIDE, np.int32), scratch(_STRIDE, np.int32)
    low = np.uint64((1 << SECOND_SHIFT) - 1)
    while row < len(events):
        n = min(_STRIDE, len(events) - row)
        for i in range(n):
            event, who = np.uint64(events[row + i]), np.uint64(ids[row + i] - chunks.base)
            where = np.int32(_bucket(np.uint64(words[row + i]), chunks.shift) * chunks.whole)
            bucket[i] = where if event < REJECTED else np.int32(-1)
            event = event >> np.uint64(SECOND_SHIFT) << shift | event & low
            packed[i] = who << chunks.bits & chunks.ids | event
        put, _ = _scatter(chunks, (ids.view(np.uint8), 8 * row), packed[:n], bucket, piece, row, rest, 0)
        row += put
        if put < n:
            break
    return row


@compiled
def put_numbers(chunks, most, ids, words, times, locations, day, piece, quarters, rest, left):
    """Decide rows of numbers and write the clean pings: (rows until one wants a chunk and none is free, left over).

    Clean in this one pass is what is plainly so; the other rows are listed in `rest`, after its first `left`. `most` is
    how many ids there may be from the chunks' base on. The pings of each quarter of an hour are counted in `quarters`,
    a row for each of LANES. Numbers are bytes and where they begin.
    """
    packed, bucket = scratch(_STRIDE, np.uint64), scratch(_STRIDE, np.int32)
    row = 0
    while row < len(locations):
        n = min(_STRIDE, len(locations) - row)
        here = locations[row : row + n]
        mine = (ids[0], ids[1] + 8 * row)
        _packed(
            chunks, most, mine, (words[0], words[1] + 8 * row), (times[0], times[1] + 8 * row), here, day, packed[:n],
            bucket,
        )  # fmt: skip
        put, left = _scatter(chunks, mine, packed[:n], bucket, piece, row, rest, left)
        for i in range(put):
            if bucket[i] >= 0:
                quarter = (packed[i] >> day.shift & np.uint64(0x1FFFF)) // np.uint64(900)
                quarters[np.uint64(i) % np.uint64(LANES), quarter] += 1
        row += put
        if put < n:
            break
    return row, left


class _Cursor(NamedTuple):
    """Where a column is read: a page, the rows in which it begins and ends, its numbers and where they begin."""

    page: int
    begin: int
    end: int
    data: np.ndarray
    at: int


@compiled
def _page_of(pages, cursor, row):
    """The page in which a row is, from the one of a cursor on: (it, where it begins, and ends)."""
    at, begin = cursor.page, cursor.begin
    end = begin + pages[at, 1] if pages[at, 0] != DICTIONARY else begin
    while end <= row:
        at, begin = at + 1, end
        end += pages[at, 1] if pages[at, 0] != DICTIONARY else 0
    return at, begin, end


@compiled
def _turned(column, cursor, row, space, out):
    """Go on to the page of numbers in which a row is: (whether it is sound, the cursor there)."""
    page, begin, end = _page_of(column.pages, cursor, row)
    sound, data, at = numbers_of(column, page, space, out)
    return sound, _Cursor(page, begin, end, data, at)


@compiled
def _read_off(index, meaning, locations):
    """The location of every row by the index of its word: the lowest one."""
    lowest = np.int32(0)
    for i in range(len(index)):
        location = meaning[np.uint64(np.int64(index[i]) + 1)]
        locations[i] = location
        lowest = min(lowest, location)
    return lowest


@compiled
def _located(column, page, space, meaning, base, table):
    """The location of every row of a page of cells, MISSING of those without one: whether the page is sound.

    A word of the dictionary is looked up when a ping first names it: that is what marks its cell, and there are far
    fewer words than pings; writers lay them in this order. `meaning` is of each word, after that of no word.
    """
    n, shift = column.pages[page, 1], shift_of(table)
    locations, known = space.locations[:n], space.known[:n]
    if column.pages[page, 0] == INDICES:
        index = space.cell_index[:n]
        sound, data, begin, end = opened(column, page)
        where = column.pages[page, 0], n, column.pages[page, 2], begin, end
        some = indices_of(data, where, len(column.words), known, index) if sound else np.int64(-1)
        if some < 0:
            return False
        if some < n:
            spread(known, some, index)
        if _read_off(index, meaning, locations) == UNSEEN:
            named, new = space.indices, np.uint64(0)
            for i in range(n):  # a branch would be foreseen wrongly for one row in three of a short row group
                k = np.uint64(np.int64(index[i]) + 1)
                named[new] = k
                new += np.uint64(meaning[k] == UNSEEN)
                meaning[k] = max(meaning[k], UNSEEN + 1)
            for j in range(new):
                word = np.int64(named[j]) - 1
                expect(column.words, word, base, table, shift)
                meaning[word + 1] = location_of(column.words[word], base, table, shift)
            _read_off(index, meaning, locations)
        return True
    sound, data, at = numbers_of(column, page, space, space.cells)
    cells = space.cells[:n]
    for i in range(n if sound else 0):
        known[i], cells[i] = space.valid[i], np.int64(word_at(data, at + 8 * i))
    for i in range(n if sound else 0):
        expect(cells, i, base, table, shift)
        locations[i] = location_of(cells[i], base, table, shift) if known[i] else MISSING
    return sound


@compiled
def put_block(
    chunks, most, ids, mixed, times, cells, plmn, meaning, base, table, countries, space, day, piece, row, rows,
    quarters, rest, left,
):  # fmt: skip
    """`put_numbers` for the pages of a block, from a row on: (why it ends, row reached, rows left over).

    `mixed` are the words of subscribers that are texts. `countries` are the locations of the words of plmn, which
    counts where no cell is. Rows left over are put aside with their values.
    """
    who = when = where = country = _Cursor(0, 0, row, times.raw, 0)
    if not len(plmn.pages):
        country = _Cursor(0, 0, rows, times.raw, 0)
    while row < rows:
        sound = True
        if who.end == row:
            good, who = _turned(ids, who, row, space, space.ids)
            sound = sound and good
        if when.end == row:
            good, when = _turned(times, when, row, space, space.times)
            sound = sound and good
        if country.end == row:
            good, country = _turned(plmn, country, row, space, space.plmn)
            sound = sound and good
        if where.end == row:
            page, begin, end = _page_of(cells.pages, where, row)
            where = _Cursor(page, begin, end, where.data, where.at)
            sound = _located(cells, page, space, meaning, base, table) and sound
        if not sound:
            return UNSOUND, row, left
        room = len(rest.rows) - left
        if room < _STRIDE:
            return REST, row, left
        end = min(who.end, when.end, where.end, country.end, row + room)
        here = space.locations[row - where.begin : end - where.begin]
        if len(plmn.pages):
            for i in range(len(here)):
                if here[i] == MISSING:
                    number = np.int64(_number((country.data, country.at), row - country.begin + i))
                    here[i] = countries[number] if number != NONE else MISSING
        mine = (who.data, who.at + 8 * (row - who.begin))
        before = left
        put, left = put_numbers(
            chunks, most, mine, (mixed, 8 * row) if len(mixed) else mine,
            (when.data, when.at + 8 * (row - when.begin)), here, day, piece, quarters, rest.rows, left,
        )  # fmt: skip
        for k in range(before, left):
            i = row + np.int64(rest.rows[k])
            rest.rows[k], rest.ids[k] = i, np.int64(_number((who.data, who.at), i - who.begin))
            rest.times[k] = np.int64(_number((when.data, when.at), i - when.begin))
            rest.plmn[k] = NONE
            if len(plmn.pages):
                rest.plmn[k] = np.int64(_number((country.data, country.at), i - country.begin))
            j = i - where.begin
            rest.known[k] = space.known[j]
            if cells.pages[where.page, 0] != INDICES:
                rest.cells[k] = space.cells[j]
            elif space.known[j]:
                rest.cells[k] = cells.words[space.cell_index[j]]
        row += put
        if row < end:
            return FULL, row, left
    return DONE, row, left
