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
_NEAR = 8  # bytes: how near a copy of the fast way may begin, so that it reads only what is written
_WORD = 8  # bytes that a step of it reads and writes, at most


def _copies() -> np.ndarray:
    """Of a first byte: how many bits a copy has, a mask of the bytes behind it that say how far back, the top of that.

    One behind the other, 256 of each. What is no such copy has too many bits, and so has a short one behind whose
    literal the word could end before it does.
    """
    found = np.zeros((3, 256), np.uint64)
    found[0] = 255
    for tag in range(256):
        if tag & 3 == 1:
            found[:, tag] = 8 * ((tag >> 2 & 7) + 4), 0xFF, tag >> 5 << 8
        elif tag & 3 == 2 and tag >> 2 in range(3, 8):
            found[:, tag] = 8 * ((tag >> 2) + 1), 0xFFFF, 0
    return found.reshape(-1)


_COPIES = _copies()
_MASKS, _TOPS = np.uint64(256), np.uint64(512)


class _Page(NamedTuple):
    """A page in the middle of its work: where it is read next, and ends; where it writes next, began, and ends."""

    at: int
    end: int
    to: int
    begin: int
    last: int


@compiled(inline="always")
def _step(data, out, at, to, floor, copies):
    """A literal, if any, and a copy, together of up to eight bytes: (where they end, in `out` too, whether that is so).

    Nothing depends on a branch, and one word is written: what is copied from a place where a word was written as a
    whole need not wait for that to reach the cache. Its end is written over.
    """
    word = word_at(data, at)
    tag = word & _BYTE
    is_literal = tag & np.uint64(3) == 0
    shift = np.uint64(16) + (tag << _ONE) if is_literal else _NONE  # bits of the literal, its first byte included
    rest = word >> (shift & np.uint64(63))
    copy = rest & _BYTE
    back = (rest >> _EIGHT & copies[copy + _MASKS]) + copies[copy + _TOPS]
    size = (np.uint64(8) + (tag << _ONE) if is_literal else _NONE) + copies[copy]
    # wraps round for what begins nearer than a word, which would copy what it has not written yet
    if size > np.uint64(64) or back - np.uint64(_NEAR) > np.uint64(to - floor):
        return at, to, False
    old = np.uint64(np.int64(~_NONE << (shift & np.uint64(63))) >> 8)  # the bytes that are no literal
    put_word(out, to, word_at(out, to - np.int64(back)) & old | word >> _EIGHT & ~old)
    return (
        at + np.int64((shift >> np.uint64(3)) + (rest & np.uint64(3)) + _ONE),
        to + np.int64(size >> np.uint64(3)),
        True,
    )


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
    return min(page.end - page.at, page.last - page.to) // _WORD


@compiled
def _finished(data, out, page, copies):
    """A page by itself, to its end: whether it was sound."""
    while page.at < page.end:
        at, to, floor = page.at, page.to, page.begin + _NEAR
        for _ in range(_steps(page)):
            at, to, done = _step(data, out, at, to, floor, copies)
            if not done:
                break
        page = _Page(at, page.end, to, page.begin, page.last)
        if at < page.end:
            page = _element(data, out, page)
            if page.at < 0:
                return False
    return page.to == page.last


@compiled
def _both(data, out, one, other, copies):
    """Two pages, until one of them is near its end: as far as both are."""
    while True:
        steps = min(_steps(one), _steps(other))
        if steps == 0:
            return one, other
        a, to, b, too = one.at, one.to, other.at, other.to
        floor, bottom = one.begin + _NEAR, other.begin + _NEAR
        done = also = True
        for _ in range(steps):
            a, to, done = _step(data, out, a, to, floor, copies)
            b, too, also = _step(data, out, b, too, bottom, copies)
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
    copies = _COPIES
    for k in range(0, len(pages), 2):
        one = _begun(data, out, pages[k])
        if k + 1 < len(pages):
            other = _begun(data, out, pages[k + 1])
            if one.at >= 0 and other.at >= 0:
                one, other = _both(data, out, one, other, copies)
            if other.at < 0 or not _finished(data, out, other, copies):
                return False
        if one.at < 0 or not _finished(data, out, one, copies):
            return False
    return True
