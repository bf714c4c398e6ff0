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

_BYTE, _WIDE, _EIGHT = np.uint64(0xFF), np.uint64(0xFFFF), np.uint64(8)
_SHORT, _NEAR = 8, 8  # bytes: the longest copy of the fast way, and how near it may begin
_READ, _WRITTEN = 8, 12  # bytes that a step of it reads and writes, at most


def _literals() -> np.ndarray:
    """Of a first byte: the bits that it takes with the bytes behind it, and how many these are, 8 bits up.

    Only of the literals whose bytes are read in one word with what comes next; nothing of a copy; too many of others.
    """
    found = np.zeros(256, np.uint64)
    found[0::4] = 255 << 8
    for n in range(1, 5):
        found[(n - 1) << 2] = n << 8 | 8 * (1 + n)
    return found


def _copies() -> np.ndarray:
    """Of a first byte of a copy: its length, the bytes it takes, from bit 32 on the top of how far back, and a mask.

    The mask, from bit 48 on, is of the bytes behind it that hold the rest. What is no such copy is too long.
    """
    found = np.full(256, 255, np.uint64)
    for tag in range(256):
        if tag & 3 == 1:
            found[tag] = (tag >> 2 & 7) + 4 | 2 << 8 | (tag >> 5) << 40 | 0xFF << 48
        elif tag & 3 == 2:
            found[tag] = (tag >> 2) + 1 | 3 << 8 | 0xFFFF << 48
    return found


_LITERALS, _COPIES = _literals(), _copies()


class _Page(NamedTuple):
    """A page in the middle of its work: where it is read next, and ends; where it writes next, began, and ends."""

    at: int
    end: int
    to: int
    begin: int
    last: int


@compiled(inline="always")
def _step(data, out, at, to, floor, literals, copies):
    """A literal of up to four bytes, if there is one, and a short copy: (where they end, in `out` too, whether so).

    Nothing depends on a branch: the words that are written are longer than what they mean, which is written over.
    """
    word = word_at(data, at)
    literal = literals[word & _BYTE]
    rest = word >> (literal & _BYTE)
    copy = copies[rest & _BYTE]
    back = (rest >> _EIGHT & copy >> np.uint64(48)) + (copy >> np.uint64(32) & _WIDE)
    new, length = literal >> _EIGHT, copy & _BYTE
    here = to + np.int64(new)
    # wraps round for what begins nearer than a word, which would copy what it has not written yet
    if (new | length) > np.uint64(_SHORT) or back - np.uint64(_NEAR) > np.uint64(here - floor):
        return at, to, False
    put_word(out, to, word >> _EIGHT)
    put_word(out, here, word_at(out, here - np.int64(back)))
    return at + np.int64(((literal & _BYTE) >> np.uint64(3)) + (copy >> _EIGHT & _BYTE)), here + np.int64(length), True


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
        copy_bytes(out, to, data, at, n)
        return _Page(at + n, end, to + n, begin, last)
    if kind == 1:
        n, number = (tag >> 2 & 7) + 4, number | tag >> 5 << 8
    if not 0 < number <= to - begin or n > last - to:
        return _Page(-1, end, to, begin, last)
    whole = n >> 3 if number >= 8 else 0
    for j in range(whole):
        put_word(out, to + 8 * j, word_at(out, to + 8 * j - number))
    for j in range(8 * whole, n):
        out[to + j] = out[to + j - number]
    return _Page(at, end, to + n, begin, last)


@compiled(inline="always")
def _steps(page):
    """How many steps a page has room for, at least."""
    if page.to - page.begin < _NEAR:
        return np.int64(0)
    return min((page.end - page.at) // _READ, (page.last - page.to) // _WRITTEN)


@compiled
def _finished(data, out, page, literals, copies):
    """A page by itself, to its end: whether it was sound."""
    while page.at < page.end:
        at, to, floor = page.at, page.to, page.begin + _NEAR
        for _ in range(_steps(page)):
            at, to, done = _step(data, out, at, to, floor, literals, copies)
            if not done:
                break
        page = _Page(at, page.end, to, page.begin, page.last)
        if at < page.end:
            page = _element(data, out, page)
            if page.at < 0:
                return False
    return page.to == page.last


@compiled
def _both(data, out, one, other, literals, copies):
    """Two pages, until one of them is near its end: as far as both are."""
    while True:
        steps = min(_steps(one), _steps(other))
        if steps == 0:
            return one, other
        a, to, b, too = one.at, one.to, other.at, other.to
        floor, bottom = one.begin + _NEAR, other.begin + _NEAR
        done = also = True
        for _ in range(steps):
            a, to, done = _step(data, out, a, to, floor, literals, copies)
            b, too, also = _step(data, out, b, too, bottom, literals, copies)
            if not (done and also):
                break
        one = _Page(a, one.end, to, one.begin, one.last)
        other = _Page(b, other.end, too, other.begin, other.last)
        if not done and one.at < one.end:
            one = _element(data, out, one)
        if not also and other.at < other.end:
            other = _element(data, out, other)
        if one.at < 0 or other.at < 0:
            return one, other


@compiled
def _begun(data, out, where):
    """A page of which its length is read, which must be that of its room, and so much that copies may begin."""
    page = _Page(where[0], where[1], where[2], where[2], where[3])
    at, n, shift, more = page.at, np.int64(0), 0, True
    while more and at < page.end and shift <= 28:
        n |= np.int64(data[at] & 127) << shift
        more = data[at] > 127
        at, shift = at + 1, shift + 7
    page = _Page(-1 if more or n != page.last - page.to else at, page.end, page.to, page.begin, page.last)
    while 0 <= page.at < page.end and page.to - page.begin < _NEAR:
        page = _element(data, out, page)
    return page


@compiled
def unpacked(data, pages, out):
    """Decompress pages: whether all are sound and as long as their room.

    `data` and `out` are bytes; of each page `pages` has where it begins and ends in the one and in the other.
    """
    literals, copies = _LITERALS, _COPIES
    for k in range(0, len(pages), 2):
        one = _begun(data, out, pages[k])
        if k + 1 < len(pages):
            other = _begun(data, out, pages[k + 1])
            if one.at >= 0 and other.at >= 0:
                one, other = _both(data, out, one, other, literals, copies)
            if other.at < 0 or not _finished(data, out, other, literals, copies):
                return False
        if one.at < 0 or not _finished(data, out, one, literals, copies):
            return False
    return True
