"""Where pings wait for which memory has no room: a file that has no name, so that nothing of it outlives the process.

It is written and read past the system's cache where the file system can do that: a day's pings fill the cache with what
is needed once, and to copy them there and back took a third of a run's processor time.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

__all__ = ["BLOCK", "Spill"]

_MOST = 1024  # pieces of memory that the system writes at once
BLOCK = 4096  # bytes: past the cache, all that is read or written begins and ends at a multiple of this, in memory too


class Spill:
    """The file, in a folder that is made if it is not there. Raises `OSError` as the system does."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.size = 0
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  it lives as long as this
        if hasattr(os, "O_DIRECT"):
            self._pass_by_the_cache()

    def _pass_by_the_cache(self) -> None:
        number = self._file.fileno()
        before = fcntl.fcntl(number, fcntl.F_GETFL)
        page = np.zeros(2 * BLOCK, np.uint8)
        page = page[-page.ctypes.data % BLOCK :][:BLOCK]
        try:
            fcntl.fcntl(number, fcntl.F_SETFL, before | os.O_DIRECT)
            os.pwrite(number, page.data, 0)
        except OSError:  # one that is in memory, or has larger blocks; or a disk that is full, as the first write finds
            fcntl.fcntl(number, fcntl.F_SETFL, before)

    def write(self, words: np.ndarray, chunks: np.ndarray, length: int) -> None:
        """Append chunks of an array to the file, each so many words on pages of memory of its own."""
        data, at = words.data.cast("B"), 8 * length * chunks
        rest, n = [data[begin : begin + 8 * length] for begin in at.tolist()], 0
        while n < len(rest):
            done = os.pwritev(self._file.fileno(), rest[n : n + _MOST], self.size)
            self.size += done
            while n < len(rest) and done >= len(rest[n]):
                done, n = done - len(rest[n]), n + 1
            if done:
                rest[n] = rest[n][done:]

    def read(self, at: int, words: np.ndarray) -> None:
        """Read so much from a byte on, again whole blocks."""
        if os.preadv(self._file.fileno(), [words.data], at) != words.nbytes:
            raise OSError("what was written there a moment ago ends before its end")

    def close(self) -> None:
        """Give the file up."""
        with suppress(OSError):
            self._file.close()
