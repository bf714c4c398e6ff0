"""Snappy: what any writer packs comes back; what is damaged is refused, nothing outside a page's room is written."""

from __future__ import annotations

from collections.abc import Sequence

import cramjam
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from travelcard.snappy import unpacked

AROUND = 0xA5


def packed(content: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(content))


def opened(pages: Sequence[bytes], sizes: Sequence[int]) -> bytes | None:
    """The pages' contents, decompressed among bytes that must stay as they are."""
    data = np.frombuffer(b"".join(pages), np.uint8)
    out = np.full(sum(sizes) + 16 * (len(sizes) + 1), AROUND, np.uint8)
    lengths, room = np.array([len(page) for page in pages], np.int64), np.array(sizes, np.int64)
    ends, lasts = np.cumsum(lengths), np.cumsum(room + 16)
    table = np.stack([ends - lengths, ends, lasts - room, lasts], 1)
    sound = unpacked(data, table, out)
    inside = [out[to:last].tobytes() for _, _, to, last in table.tolist()]
    for _, _, to, last in table.tolist():
        out[to:last] = AROUND
    assert (out == AROUND).all()
    return b"".join(inside) if sound else None


def meaning(page: bytes, size: int) -> bytes | None:
    """What a page says, byte by byte, as the format is described; None where it says nothing."""
    at = n = shift = 0
    while True:
        if at == len(page) or shift > 28:
            return None
        n, at, shift = n | (page[at] & 127) << shift, at + 1, shift + 7
        if page[at - 1] < 128:
            break
    out = bytearray()
    while at < len(page):
        tag, at = page[at], at + 1
        more = (max((tag >> 2) - 59, 0), 1, 2, 4)[tag & 3]
        if at + more > len(page):
            return None
        number, at = int.from_bytes(page[at : at + more], "little"), at + more
        length = (tag >> 2 & 7) + 4 if tag & 3 == 1 else (tag >> 2) + 1
        if tag & 3 == 0:
            length = number + 1 if more else length
            if at + length > len(page):
                return None
            out += page[at : at + length]
            at += length
            continue
        back = tag >> 5 << 8 | number if tag & 3 == 1 else number
        if not 0 < back <= len(out):
            return None
        for _ in range(length):
            out.append(out[-back])
        if len(out) > size:
            return None
    return bytes(out) if len(out) == n == size else None


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Numbers that are alike, texts that repeat, noise: all that makes elements of every kind and length."""
    seed, kind = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from(["ids", "times", "noise", "repeats", "mixed"]))
    n, dice = draw(st.integers(0, 3000)), np.random.default_rng(seed)
    if kind == "ids":
        return (13_800_000_000 + dice.integers(0, 1 << draw(st.integers(1, 33)), n)).tobytes()
    if kind == "times":
        return (1_647_000_000_000_000 + np.cumsum(dice.integers(0, 1 << draw(st.integers(1, 40)), n))).tobytes()
    if kind == "noise":
        return dice.bytes(40 * n)
    if kind == "repeats":
        return dice.bytes(draw(st.integers(0, 70))) * n
    parts = [dice.bytes(int(k)) if k % 3 else b"460-00" * int(k) for k in dice.integers(0, 90, n // 30)]
    return b"".join(parts + parts[::-1])


@given(st.lists(contents(), max_size=5))
def test_what_was_packed_comes_back(given_: list[bytes]) -> None:
    assert opened([packed(one) for one in given_], [len(one) for one in given_]) == b"".join(given_)


@given(contents(), contents(), st.data())
def test_a_damaged_page_says_what_is_left_or_is_refused(one: bytes, other: bytes, data: st.DataObject) -> None:
    """Whichever of two pages it is."""
    page = bytearray(packed(one))
    for _ in range(data.draw(st.integers(1, 4))):
        page[data.draw(st.integers(0, len(page) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(page[: data.draw(st.integers(0, len(page)))] if data.draw(st.booleans()) else page)
    expected = meaning(damaged, len(one))
    sound = packed(other)
    for pages, sizes, whole in (
        ([damaged], [len(one)], expected),
        ([damaged, sound], [len(one), len(other)], None if expected is None else expected + other),
        ([sound, damaged], [len(other), len(one)], None if expected is None else other + expected),
    ):
        assert opened(pages, sizes) == whole


def element(kind: int, n: int, back: int = 0) -> bytes:
    """A copy of `n` bytes from so far back."""
    if kind == 1:
        return bytes([1 | n - 4 << 2 | back >> 8 << 5, back & 255])
    return bytes([kind | n - 1 << 2]) + back.to_bytes(2 if kind == 2 else 4, "little")


@given(st.data())
def test_every_sequence_of_elements_is_what_it_says(data: st.DataObject) -> None:
    """Also those that no writer makes: a literal behind a literal, a copy of what it is itself writing."""
    whole, page = bytearray(), bytearray()
    for _ in range(data.draw(st.integers(1, 60))):
        kind = data.draw(st.integers(0, 3)) if whole else 0
        if kind == 0:
            n, more = data.draw(st.integers(1, 300)), data.draw(st.integers(0, 4))
            more = more if (n <= 256**more if more else n <= 60) else 2
            new = data.draw(st.binary(min_size=n, max_size=n))
            page += bytes([59 + more << 2]) + (n - 1).to_bytes(more, "little") if more else bytes([n - 1 << 2])
            page += new
            whole += new
            continue
        n = data.draw(st.integers(4, 11) if kind == 1 else st.integers(1, 64))
        back = data.draw(st.integers(1, min(len(whole), 2047 if kind == 1 else 65535)))
        page += element(kind, n, back)
        for _ in range(n):
            whole.append(whole[-back])
    size, head = len(whole), b""
    while size > 127:
        head, size = head + bytes([size & 127 | 128]), size >> 7
    done = head + bytes([size]) + bytes(page)
    assert meaning(done, len(whole)) == bytes(whole)
    assert opened([done, done], [len(whole)] * 2) == bytes(whole) * 2
