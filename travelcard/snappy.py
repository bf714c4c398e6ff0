"""Pages in the Snappy format, decompressed two at a time.

In numbers that are alike, each value is a few bytes that are new and a copy of a few others, all of lengths that nobody
can predict: where the next element stands is known when this one has been read, and a processor that decompresses one
page waits for that most of the time. With two pages, each waits while the other works.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from travelcard.compiled import compiled, copy_bytes, put_word, word_at

__all__ = ["unpacked"]

_BYTE, _EIGHT, _ONE, _NONE = np.uint64(0xFF), np.uint64(8), np.uint64(1), np.uint64(0)
_WORD = 8  # bytes that a step reads, at most, and writes


def _elements() -> np.ndarray:
    """What the first byte of an element says, 256 of each one behind the other.

    Of a literal: its bytes, a mask of those of a word that are not its own. Of a copy: its bytes, a mask of the bytes
    behind it that say how far back, the top of that. What a step does not take has too many bytes, and so has a short
    copy behind whose literal the word could end before it does.
    """
    found = np.zeros((5, 256), np.uint64)
    found[:2], found[4] = 64, (1 << 64) - 1
    for tag in range(256):
        if tag & 3:
            found[0, tag] = 0  # no literal
        elif tag >> 2 < 4:  # behind a longer one no copy fits
            found[0, tag], found[4, tag] = (tag >> 2) + 1, (1 << 64) - (1 << 8 * ((tag >> 2) + 1))
        if tag & 3 == 1:
            found[1:4, tag] = (tag >> 2 & 7) + 4, 0xFF, tag >> 5 << 8
        elif tag & 3 == 2 and tag >> 2 in range(3, 8):
            found[1:3, tag] = (tag >> 2) + 1, 0xFFFF
    return found.reshape(-1)


_ELEMENTS = _elements()
_SIZES, _MASKS, _TOPS, _REST = (np.uint64(256 * i) for i in range(1, 5))


class _Page(NamedTuple):
    """A page in the middle of its work: where it is read next, and ends; where it writes next, began, and ends."""

    at: int
    end: int
    to: int
    begin: int
    last: int


@compiled(inline="always")
def _step(data, out, at, to, begin, elements):
    """A literal, if any, and a copy, together of up to eight bytes: (where they end, in `out` too, whether that is so).

    Nothing depends on a branch, and one word is written: what is copied from a place where a word was written as a
    whole need not wait for that to reach the cache. Its end is written over.
    """
    word = word_at(data, at)
    tag = word & _BYTE
    shift = np.uint64(16) + (tag << _ONE) if tag & np.uint64(3) == 0 else _NONE  # bits of a literal, its tag included
    rest = word >> (shift & np.uint64(63))
    copy = rest & _BYTE
    size = elements[tag] + elements[copy + _SIZES]
    back = np.int64((rest >> _EIGHT & elements[copy + _MASKS]) + elements[copy + _TOPS])
    if size > _EIGHT or back < _WORD or to - back < begin:
        return at, to, False
    old = elements[tag + _REST]
    put_word(out, to, word_at(out, to - back) & old | word >> _EIGHT & ~old)
    return at + np.int64((shift >> np.uint64(3)) + (rest & np.uint64(3)) + _ONE), to + np.int64(size), True


@compiled
def _element(data, out, page):
    """One element, whatever it is: the page behind it, at -1 where it is unsound."""
    at, end, to, begin, last = page
    tag = np.int64(data[at])
    kind, n, at = tag & 3, (tag >> 2) + 1, at + 1
    more = (n - 60 if n > 60 else 0) if kind == 0 else 4 if kind == 3 else kind
    if more > end - at:
        return _Page(-1, end, to, begin, last)
    number = np.int64(0)
    for j in range(more):
        number |= np.int64(data[at + j]) << 8 * j
    at += more
    if kind == 0:
        n = number + 1 if more else n
        if n > min(end - at, last - to):
            return _Page(-1, end, to, begin, last)
        if n <= 2 * _WORD <= min(end - at, last - to):  # their ends are written over
            put_word(out, to, word_at(data, at))
            put_word(out, to + _WORD, word_at(data, at + _WORD))
        else:
            copy_bytes(out, to, data, at, n)
        return _Page(at + n, end, to + n, begin, last)
    if kind == 1:
        n, number = (tag >> 2 & 7) + 4, number | tag >> 5 << 8
    if not 0 < number <= to - begin or n > last - to:
        return _Page(-1, end, to, begin, last)
    words = (n + 7) >> 3 if number >= 8 and last - to >= n + 7 else 0
    for j in range(words):
        put_word(out, to + 8 * j, word_at(out, to + 8 * j - number))
    for j in range(8 * words, n):
        out[to + j] = out[to + j - number]
    return _Page(at, end, to + n, begin, last)


@compiled(inline="always")
def _steps(page):
    """How many steps a page has room for, at least."""
    return min(page.end - page.at, page.last - page.to) // _WORD


@compiled
def _finished(data, out, page, elements):
    """A page by itself, to its end: whether it was sound."""
    while page.at < page.end:
        at, to = page.at, page.to
        for _ in range(_steps(page)):
            at, to, done = _step(data, out, at, to, page.begin, elements)
            if not done:
                break
        page = _Page(at, page.end, to, page.begin, page.last)
        if at < page.end:
            page = _element(data, out, page)
            if page.at < 0:
                return False
    return page.to == page.last


@compiled
def _both(data, out, one, other, elements):
    """Two pages, until one of them is near its end: as far as both are."""
    while True:
        steps = min(_steps(one), _steps(other))
        if steps == 0:
            return one, other
        a, to, b, too = one.at, one.to, other.at, other.to
        done = also = True
        for _ in range(steps):
            a, to, done = _step(data, out, a, to, one.begin, elements)
            if not done:
                break
            b, too, also = _step(data, out, b, too, other.begin, elements)
            if not also:
                break
        one = _Page(a, one.end, to, one.begin, one.last)
        other = _Page(b, other.end, too, other.begin, other.last)
        if not done:
            one = _element(data, out, one)
        if not also:
            other = _element(data, out, other)
        if one.at < 0 or other.at < 0:
            return one, other


@compiled
def _begun(data, where):
    """A page of which its length is read, which must be that of its room: at -1 where it is not."""
    begin, end, to, last = where[0], where[1], where[2], where[3]
    at, n, shift, more = begin, np.int64(0), 0, True
    while more and at < end and shift <= 28:
        n |= np.int64(data[at] & 127) << shift
        more = data[at] > 127
        at, shift = at + 1, shift + 7
    return _Page(-1 if more or n != last - to else at, end, to, to, last)


@compiled
def unpacked(data, pages, out):
    """Decompress pages: whether all are sound and as long as their room.

    `data` and `out` are bytes; of each page `pages` has where it begins and ends in the one and in the other.
    """
    elements = _ELEMENTS
    for k in range(0, len(pages), 2):
        one = _begun(data, pages[k])
        if k + 1 < len(pages):
            other = _begun(data, pages[k + 1])
            if one.at >= 0 and other.at >= 0:
                one, other = _both(data, out, one, other, elements)
            if other.at < 0 or not _finished(data, out, other, elements):
                return False
        if one.at < 0 or not _finished(data, out, one, elements):
            return False
    return True
