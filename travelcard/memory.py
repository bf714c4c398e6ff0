"""How much memory a run may take and how it is shared out; and memory on pages of its own, which can be made ahead."""

from __future__ import annotations

import mmap
import os
from threading import Event, Lock, Thread
from typing import Any

import numpy as np

__all__ = ["MEMORY", "Ahead", "arena_share", "pages", "threads_here", "words", "workers"]

MEMORY = 4 << 30  # bytes that a run may take, as far as it can tell
FIXED = 768 << 20  # of them are Python, its libraries, row groups being decoded; more of it helps nobody
ARENA_SHARE = 0.8  # of the others are for pings by bucket, the rest for the kernel's scratch
_PAGE = 512  # words
_STEP = 1 << 22  # words touched at a time: between two, the thread waits for the interpreter's lock
_SLACK = 1 << 26  # bytes: an arena has a chunk or two of every bucket more than its pings need


def threads_here() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """A thread per processor and one more, for when one waits: for the disk, or for the interpreter's lock."""
    return threads_here() + 1


def arena_share(memory: int) -> int:
    """Bytes of pings that each worker may hold, of what a run may take."""
    return max(memory // 8, int((memory - FIXED) * ARENA_SHARE)) // workers()


def pages(n: int, dtype: Any) -> np.ndarray:
    """An array of `n` on pages of its own, none of which costs memory before it is written.

    Not np.empty, which asks the kernel for huge pages: where these must first be made by moving others together, the
    first touch took up to 1.6 ns a byte, four times as long as with small pages.
    """
    size = max(n, 1) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype)[:n]


def words(n: int) -> np.ndarray:
    """`pages` for so many words of 64 bits."""
    return pages(n, np.uint64)


class Ahead:
    """Memory for so many pings, whose pages are being made until the first worker wants its part.

    To make them takes a tenth of a run, and a processor is idle while another one imports modules and loads code.
    """

    def __init__(self, rows: int, memory: int) -> None:
        most = arena_share(memory)
        self._parts = [words((min(most, 16 * rows) + _SLACK) // 8) for _ in range(workers())]
        self._touched = min(most, 8 * rows // workers()) // 8
        self._wanted, self._touching = Event(), Lock()
        Thread(target=self._touch, daemon=True).start()

    def _touch(self) -> None:
        with self._touching:
            for first in range(0, self._touched, _STEP):
                for part in self._parts:
                    if self._wanted.is_set():
                        return
                    part[first : min(first + _STEP, self._touched) : _PAGE] = 0

    def words(self, n: int) -> np.ndarray:
        """As the function: a part of this memory, if one is left that is large enough."""
        self._wanted.set()
        with self._touching:  # it writes to these pages
            part = self._parts.pop() if self._parts else words(n)
        return part[:n] if len(part) >= n else words(n)
