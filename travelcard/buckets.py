"""A day's clean pings, scattered into buckets as they are read, in memory as long as there is room, then on disk.

Every thread that reads has an `Arena` of its own: chunks of rows, each of one bucket. When it is full the oldest go to
a file that has no name, so that nothing of them outlives the process. A bucket is gathered from all arenas in the order
of the input, which is nearly the order of time, and that is why the kernel's sort is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from travelcard.compiled import compiled, copy_bytes, words_at
from travelcard.decode import Block, Rest, Space
from travelcard.errors import InputError, broken
from travelcard.ingest import Numbers, Sifted
from travelcard.inventory import MISSING, UNSEEN
from travelcard.kernel import Packing, Pieces, Room, renumber
from travelcard.locations import Sieve, countries_of
from travelcard.memory import given_back, words
from travelcard.names import Names
from travelcard.pages import NO_COLUMN, Desk, plain
from travelcard.scatter import DONE, FULL, REST, UNSOUND, Chunks, Day, put_block, put_numbers, put_rows
from travelcard.schema import REJECTED
from travelcard.sources import Batch
from travelcard.spill import BLOCK, Spill
from travelcard.stays import codes

__all__ = ["Arena", "Sent", "gather", "ranked", "received", "together"]

OPEN_CHUNKS = 1 << 18  # pings that one chunk of each bucket holds together, about a quarter of a row group
LEAST = BLOCK // 8  # or so many each, which are written as they lie
NEAR_ORDER = 512  # or one in so many of a day, if that is more: among so few, what order they are in costs nothing
FILES = 4  # for what waits on disk, so that some can be given up while other buckets are reduced
REGIONS = 4  # of an arena: the oldest one goes to the disk, so that most of the memory is in use at the end, too
IN_REGION = 8  # chunks of every bucket, at least: short pieces cost more than their bytes
PUT_ASIDE = 1 << 16  # rows of a block put aside before they are looked at


class _Part(NamedTuple):
    """Rows of one bucket in chunks, in memory or one behind the other in a file, each as long as it is in memory."""

    at: int  # where they begin in the file, -1 in memory
    chunks: np.ndarray  # which they are in memory, or in the file from there on
    words: np.ndarray  # of each that mean something
    order: np.ndarray  # the piece of the input that each was begun in


@compiled
def _copied(at, words, out):
    """Copy pieces of memory behind each other."""
    written, k = out.view(np.uint8), 0
    for piece in range(len(words)):
        copy_bytes(written, 8 * k, words_at(at[piece], words[piece]).view(np.uint8), 0, 8 * words[piece])
        k += words[piece]


class Sent(NamedTuple):
    """Rows of one bucket that one thread has read: the piece they begin in, their words, the names of text ids."""

    order: int
    words: np.ndarray
    names: pa.Array | None


class Arena:
    """What one thread has read: pings in chunks by bucket, and text subscribers under numbers of its own.

    `memory` bytes are held at most, or what `rows` take; `folder` is where the file for the others is made. Without a
    `packing` ids may be any, and a ping takes twice the room. Of the first region only a `share` is used at first:
    where arenas have different ones, they do not all wait for the disk at once. `room` gives the memory.
    """

    def __init__(
        self,
        buckets: int,
        memory: int,
        rows: int,
        packing: Packing | None,
        places: int,
        folder: Path,
        share: float = 1,
        room: Callable[[int], np.ndarray] = words,
    ) -> None:
        self.names: Names | None = None
        self.packing = Packing.of(places) if packing is None else packing
        self.wide = packing is None
        self._most = np.uint64(1 << 63 if packing is None else self.packing.ids)
        self._folder = folder
        width = 1 + self.wide
        bits = buckets.bit_length() - 1
        together = OPEN_CHUNKS
        while together < rows // NEAR_ORDER:
            together *= 2
        size = min(max(together // buckets, LEAST), 4096)
        count = min(memory // (8 * width), rows) // size + 2 * buckets
        regions = min(max(count // (IN_REGION * buckets), 1), REGIONS)
        self._regions = [count * i // regions for i in range(regions + 1)]
        self._chunks = Chunks(
            room(width * count * size),
            np.zeros(buckets, np.int64),
            np.array([int((1 - share) * self._regions[1]), self._regions[1]]),
            np.full(count, -1, np.int16),
            np.empty(count, np.int32),
            size,
            np.uint64(64 - max(bits, 1)),
            np.uint64(bits > 0),
            width,
            np.int64(self.packing.base),
            np.uint64(self.packing.bits),
            np.uint64(0 if self.wide else (1 << 64) - 1),
        )
        self.buckets = buckets
        self._files: list[Spill] = []  # each of some neighbouring buckets
        self._left = [buckets // min(FILES, buckets)] * min(FILES, buckets)  # of each file, not gathered yet
        self._lock = Lock()
        self._spilled: list[list[_Part]] = [[] for _ in range(buckets)]

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the memory and the file; the counts stay."""
        given_back(self._chunks.pings)
        self._chunks = self._chunks._replace(pings=np.empty(0, np.uint64))
        for file in self._files:
            file.close()

    def _numbered(self, ids: np.ndarray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """(ids as integers, the words from which their buckets are taken)."""
        if not isinstance(ids, pa.Array):
            return ids, ids
        self.names = self.names or Names()
        return self.names.number(ids)

    def put(self, sifted: Sifted, piece: int) -> None:
        """Add the clean rows of a sifted batch."""
        ids, words = self._numbered(sifted.ids)
        beyond = ((ids - self.packing.base).view(np.uint64) >= self._most) & (sifted.events < REJECTED)
        if beyond.any():
            file = sifted.file if isinstance(sifted.file, str) else sifted.file[int(beyond.argmax())]
            raise InputError(f"{file}: its statistics of its subscribers are not those of its rows: write it again")
        shift, row = np.uint64(self.packing.shift), 0
        while (row := put_rows(self._chunks, words, ids, sifted.events, shift, piece, row)) < len(sifted.events):
            self._spill()

    def put_numbers(self, numbers: Numbers, sieve: Sieve, piece: int, quarters: np.ndarray) -> np.ndarray:
        """Add what is plainly clean of a batch, counted by the quarter of an hour: the rows left over."""
        ids, words = self._numbered(numbers.ids)
        rest = np.empty(len(ids), np.int32)
        columns = [column.view(np.uint8) for column in (ids, words, numbers.times)]
        row = left = 0
        while True:
            put, more = put_numbers(
                self._chunks, self._most, *((column, 8 * row) for column in columns), numbers.locations[row:],
                self._day(numbers.unit, sieve), piece, quarters, rest[left:], 0,
            )  # fmt: skip
            rest[left : left + more] += row
            row, left = row + put, left + more
            if row == len(ids):
                return rest[:left].copy()
            self._spill()

    def put_block(
        self, block: Block, unit: int, sieve: Sieve, piece: int, quarters: np.ndarray, desk: Desk
    ) -> Iterator[Batch]:
        """`put_numbers` for a block: the rows left over, some at a time."""
        ids, times, cells, plmn = (
            block.columns.get(name, NO_COLUMN) for name in ("subscriber", "time", "cell", "plmn")
        )
        mixed, countries = np.empty(0, np.int64), countries_of(block.countries, sieve)
        if block.texts is not None:
            numbers, mixed = self._numbered(block.texts)
            ids = plain(numbers)
        meaning = np.full(len(cells.words) + 1, UNSEEN, np.int32)
        meaning[0] = MISSING
        space, rest = Space.on(desk, block.longest), Rest.on(desk, PUT_ASIDE)
        base, table = sieve.cells.base, sieve.cells.table  # type: ignore[union-attr]  # or it would be no block
        day, row, left, why = self._day(unit, sieve), 0, 0, FULL
        while why != DONE:
            why, row, left = put_block(
                self._chunks, self._most, ids, mixed.view(np.uint8), times, cells, plmn, meaning, base, table,
                countries, space, day, piece, row, block.rows, quarters, rest, left,
            )  # fmt: skip
            if why == UNSOUND:
                raise broken(block.file, pa.ArrowInvalid("a page does not hold what its header says"))
            if why == FULL:
                self._spill()
            if why == REST or (left and row == block.rows):
                aside = Rest(*(values[:left].copy() for values in rest))
                yield Batch(block.file, block.taken(aside), block.numeric, block.row, aside.rows)
                left = 0

    def _day(self, unit: int, sieve: Sieve) -> Day:
        return Day(unit, sieve.start, sieve.length, np.uint64(self.packing.shift))

    def _held(self, bucket: int, first: int = 0, last: int | None = None) -> _Part:
        """The rows of a bucket in memory, or in some of its chunks; all are full but that in which it goes on."""
        chunks = self._chunks
        mine = np.flatnonzero(chunks.owner[first:last] == bucket) + first
        current, some = divmod(int(chunks.tail[bucket]), chunks.size)
        rows = np.where((mine == current) & (some > 0), some, chunks.size)
        return _Part(-1, mine, rows * chunks.width, chunks.order[mine])

    def _spill(self) -> None:
        """Go on to the next region, of which what is in use is written to the files, by bucket."""
        chunks = self._chunks
        ended = self._regions.index(chunks.free[1]) % (len(self._regions) - 1)
        first, last = self._regions[ended : ended + 2]
        chunks.free[:] = first, last
        if (chunks.owner[first:last] < 0).all():
            return
        try:
            while len(self._files) < len(self._left):
                self._files.append(Spill(self._folder))
            for bucket, parts in enumerate(self._spilled):
                held, file = self._held(bucket, first, last), self._files[self._at(bucket)]
                if len(held.chunks):
                    parts.append(held._replace(at=file.size, chunks=np.arange(len(held.chunks))))
                    file.write(chunks.pings, held.chunks, chunks.size * chunks.width)
        except OSError as error:
            raise InputError(f"{self._folder} cannot hold the pings for which memory has no room: {error}") from error
        chunks.owner[first:last] = -1
        chunks.tail[(chunks.tail >= first * chunks.size) & (chunks.tail < last * chunks.size)] = 0

    @property
    def spilled(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self._files)

    def _at(self, bucket: int) -> int:
        """Which of the files a bucket is in."""
        return bucket * len(self._left) // self.buckets

    def gathered(self, bucket: int) -> None:
        """Nobody wants a bucket again. The last one of a file gives that up: for a gigabyte it takes 0.13 s."""
        with self._lock:
            self._left[self._at(bucket)] -= 1
            last = self._left[self._at(bucket)] == 0
        if last and self._files:
            self._files[self._at(bucket)].close()

    def parts(self, bucket: int) -> list[_Part]:
        """All rows of a bucket."""
        return [*self._spilled[bucket], self._held(bucket)]

    @property
    def length(self) -> int:
        """Words of a chunk."""
        return self._chunks.size * self._chunks.width

    def read(self, bucket: int, part: _Part, words: np.ndarray) -> np.ndarray:
        """The chunks that those of a part are counted among; what is in a file is read again, to some words."""
        if part.at < 0:
            return self._chunks.pings
        try:
            self._files[self._at(bucket)].read(part.at, words)
        except OSError as error:
            raise InputError(f"{self._folder}: the pings that wait there cannot be read again: {error}") from error
        return words

    def sent(self, bucket: int) -> Sent | None:
        """The rows of a bucket, to be reduced elsewhere; None where there are none."""
        room = Room()
        pieces, first = _pieces([self], [], bucket, room)
        if not pieces.size:
            return None
        words = together(pieces, room)
        if self.names is None:
            return Sent(first, words, None)
        bits = np.uint64(self.packing.bits)
        numbers, own = np.unique((words >> bits).astype(np.int64), return_inverse=True)
        words = own.astype(np.uint64) << bits | words & ((np.uint64(1) << bits) - np.uint64(1))
        return Sent(first, words, self.names.texts().take(pa.array(numbers)))


def _pieces(arenas: Sequence[Arena], ranks: Sequence[np.ndarray], bucket: int, room: Room) -> tuple[Pieces, int]:
    """(the words of a bucket where they are, in the order of the input's pieces; the first of these).

    What is in files is read into the room. Where there are `ranks`, numbers have given way to them.
    """
    parts = [(i, part) for i, arena in enumerate(arenas) for part in arena.parts(bucket)]
    length, done = arenas[0].length, 0
    block = room.block(sum(length * len(part.chunks) for _, part in parts if part.at >= 0))
    at: list[np.ndarray] = []
    held: list[np.ndarray] = []
    for i, part in parts:
        end = done + length * len(part.chunks) if part.at >= 0 else done
        held.append(arenas[i].read(bucket, part, block[done:end]))
        at.append(held[-1].ctypes.data + 8 * length * part.chunks)
        done = end
        if ranks:
            renumber(at[-1], part.words, ranks[i], np.uint64(arenas[i].packing.bits))
    words = np.concatenate([part.words for _, part in parts])
    order = np.concatenate([part.order for _, part in parts])
    by = np.argsort(order, kind="stable")
    return Pieces(np.concatenate(at)[by], words[by], held), int(order.min(initial=np.iinfo(np.int32).max))


def together(pieces: Pieces, room: Room) -> np.ndarray:
    """The words of pieces as one array."""
    words = room.pings(pieces.size)
    _copied(pieces.at, pieces.rows, words)
    return words


def received(parts: Sequence[Sent], packing: Packing, *, wide: bool) -> tuple[Pieces, pa.Array | None]:
    """What `gather` returns, of one bucket's rows that were sent."""
    parts = sorted(parts, key=lambda part: part.order)
    pieces = Pieces.of(*(part.words for part in parts))
    if parts[0].names is None:
        return _coded(pieces, packing, Room()) if wide else (pieces, None)
    every = Names()
    numbers = [every.number(part.names)[0] for part in parts]
    names, rank = every.ranked()
    for i, number in enumerate(numbers):
        renumber(pieces.at[i : i + 1], pieces.rows[i : i + 1], rank[number], np.uint64(packing.bits))
    return pieces, names


def _coded(pieces: Pieces, packing: Packing, room: Room) -> tuple[Pieces, pa.Array]:
    """Pings of two words each as of one: numbers in the place of ids, and what they stand for."""
    pings = together(pieces, room)
    index, names = codes(pa.chunked_array([pa.array(pings[::2].view(np.int64))]))
    return Pieces.of(index.view(np.uint64) << np.uint64(packing.bits) | pings[1::2]), names


def ranked(arenas: Sequence[Arena]) -> tuple[pa.Array | None, list[np.ndarray]]:
    """(the text subscribers of all arenas, bytewise in order; for each arena, the rank of its numbers among them).

    None and no ranks where subscribers are integers.
    """
    named = [arena.names for arena in arenas if arena.names is not None]
    if not named:
        return None, []
    every = named[0]
    none = np.empty(0, np.int64)
    numbers = [none if arena.names is None else every.number(arena.names.texts())[0] for arena in arenas]
    order, rank = every.ranked()
    return order, [rank[n] for n in numbers]


def gather(
    arenas: Sequence[Arena], names: pa.Array | None, ranks: Sequence[np.ndarray], bucket: int, room: Room
) -> tuple[Pieces, pa.Array | None]:
    """The pings of one bucket, packed, in the order of the input's pieces; and what their ids stand for, unless ids.

    Each bucket is gathered once. `names` and `ranks` as `ranked` returns them.
    """
    pieces, _ = _pieces(arenas, ranks, bucket, room)
    for arena in arenas:
        arena.gathered(bucket)
    return _coded(pieces, arenas[0].packing, room) if arenas[0].wide else (pieces, names)
