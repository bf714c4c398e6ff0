"""How much memory a run may take and how it is shared out; and memory on pages of its own, which can be made ahead."""

from __future__ import annotations

import ctypes
import mmap
import os
from threading import Event, Lock, Thread
from typing import Any

from travelcard.late import numpy as np

__all__ = ["MEMORY", "Ahead", "arena_share", "given_back", "pages", "threads_here", "words", "workers"]

MEMORY = 4 << 30  # bytes that a run may take, as far as it can tell
FIXED = 768 << 20  # of them are Python, its libraries, row groups being decoded; more of it helps nobody
ARENA_SHARE = 0.8  # of the others are for pings by bucket, the rest for the kernel's scratch
_STEP = 1 << 24  # bytes made at a time: between two, the thread waits for the interpreter's lock
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


def _mapped(size: int) -> mmap.mmap:
    """So many bytes on pages of their own.

    Not np.empty, which asks the kernel for huge pages: where these must first be made by moving others together, the
    first touch took up to 1.6 ns a byte, four times as long as with small pages.
    """
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def pages(n: int, dtype: Any) -> np.ndarray:
    """An array of `n` on pages of its own, none of which costs memory before it is written."""
    return np.frombuffer(_mapped(max(n, 1) * np.dtype(dtype).itemsize), dtype)[:n]


def words(n: int) -> np.ndarray:
    """`pages` for so many words of 64 bits."""
    return pages(n, np.uint64)


def given_back(array: np.ndarray) -> None:
    """Give the pages back that an array from here is on: what it holds is lost.

    To unmap them would do so one array at a time, whichever threads ask for it, and takes 0.09 ns a byte.
    """
    madvise = ctypes.CDLL(None).madvise  # that of mmap keeps the interpreter's lock
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    madvise(array.ctypes.data, array.nbytes, mmap.MADV_DONTNEED)


class Ahead:
    """Memory for the pings in so many bytes of files, whose pages are being made until the first worker wants its part.

    To make them takes a twelfth of a run, and a processor is idle while another one loads modules. It is done by what
    needs no module: a ping takes eight bytes, and in a file hardly ever more than twice as many.
    """

    def __init__(self, files: int, memory: int) -> None:
        most = arena_share(memory)
        self._parts = [_mapped(min(most, 2 * files) + _SLACK) for _ in range(workers())]
        self._made = min(most, files // 2 // workers())
        self._wanted, self._making = Event(), Lock()
        Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        with self._making:
            parts = [ctypes.c_char.from_buffer(part) for part in self._parts]
            for first in range(0, self._made, _STEP):
                for part in parts:
                    if self._wanted.is_set():
                        return
                    ctypes.memset(ctypes.byref(part, first), 0, min(_STEP, self._made - first))

    def words(self, n: int) -> np.ndarray:
        """As the function: a part of this memory, if one is left that is large enough."""
        self._wanted.set()
        with self._making:  # it writes to these pages
            part = self._parts.pop() if self._parts else None
        return words(n) if part is None or len(part) < 8 * n else np.frombuffer(part, np.uint64, n)
