"""A command of travelcard in a process that kills itself, without a word, at a given point.

``python tests/killed.py POINT ARGUMENT ...``; POINT is ``before N`` or ``after N`` (the N-th commit to a Delta table),
``during N MICROSECONDS`` (so long after that commit began), the same with ``-delete`` (the N-th file that is removed),
``file N`` (when the N-th Parquet file is half written), ``spill N`` (when pings went to disk for the N-th time),
``at MILLISECONDS`` (after the start), ``term MILLISECONDS`` (not killed but told to stop), or empty.

With ``spilling`` before it, memory has no room for the pings of a small country.
"""

# ruff: noqa: PLC0415  it is about when a module is loaded, too

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any


def die(by: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), by)


def die_in(seconds: float, by: int = signal.SIGKILL) -> None:
    threading.Thread(target=lambda: (time.sleep(seconds), die(by)), daemon=True).start()


def patched(owner: Any, name: str, number: int, before: Any = None, after: Any = None) -> None:
    """Do something before or after the N-th call of a function."""
    real, lock, calls = getattr(owner, name), threading.Lock(), [0]

    def replacement(*args: Any, **kwargs: Any) -> Any:
        with lock:
            calls[0] += 1
            now = calls[0] == number
        if now and before:
            before()
        result = real(*args, **kwargs)
        if now and after:
            after()
        return result

    setattr(owner, name, replacement)


def set_up(kind: str, number: int, microseconds: int) -> None:
    if kind in ("at", "term"):
        die_in(number / 1000, signal.SIGKILL if kind == "at" else signal.SIGTERM)
    elif kind == "file":
        import pyarrow.parquet as pq

        patched(pq.ParquetWriter, "write_table", number, after=die)
    elif kind == "spill":
        from travelcard.buckets import Arena

        patched(Arena, "_spill", number, after=die)
    else:
        when, _, delete = kind.partition("-")
        points = {"before": (die, None), "after": (None, die), "during": (lambda: die_in(microseconds / 1e6), None)}
        if delete:
            import pyarrow.fs

            class Folder(pyarrow.fs.LocalFileSystem):
                def delete_file(self, path: str) -> None:
                    super().delete_file(path)

            pyarrow.fs.LocalFileSystem = Folder
            patched(Folder, "delete_file", number, *points[when])
        else:
            from deltalake import DeltaTable

            patched(DeltaTable, "create_write_transaction", number, *points[when])


def main(point: str, arguments: list[str]) -> None:
    words = point.split()
    if words[:1] == ["spilling"]:
        from travelcard import buckets

        os.environ["TRAVELCARD_MEMORY"] = "1KiB"
        # as nights.short_chunks, without pytest: where that is imported, the command line warns that it is tested
        buckets.OPEN_CHUNKS, buckets.LEAST = 64, 64
        del os.O_DIRECT
        words = words[1:]
    if words:
        set_up(words[0], int(words[1]), int(words[2]) if len(words) > 2 else 0)
    from travelcard.__main__ import command

    sys.argv = ["travelcard", *arguments]
    command()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
