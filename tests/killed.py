"""A command of travelcard in a process that kills itself, without a word, at a given point.

``python tests/killed.py POINT ARGUMENT ...``; POINT is ``before N`` or ``after N`` (the N-th commit to a Delta table),
``during N MICROSECONDS`` (so long after that commit began), the same with ``-vacuum`` (the N-th table whose files that
no table names are removed), ``file N`` (when the N-th Parquet file is half written) or ``at MILLISECONDS`` (after the
start).
"""

# ruff: noqa: PLC0415  it is about when a module is loaded, too

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(seconds: float) -> None:
    threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()


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


def main(point: str, arguments: list[str]) -> None:
    kind, number, *rest = point.split()
    if kind == "at":
        die_in(int(number) / 1000)
    elif kind == "file":
        import pyarrow.parquet as pq

        patched(pq.ParquetWriter, "write_table", int(number), after=die)
    else:
        from deltalake import DeltaTable

        when, _, vacuum = kind.partition("-")
        before = {"before": die, "after": None, "during": lambda: die_in(int(rest[0]) / 1e6)}[when]
        number = 2 * int(number) if vacuum else int(number)  # each table is asked first, and then told
        patched(DeltaTable, vacuum or "create_write_transaction", number, before, die if when == "after" else None)
    from travelcard.cli import main as command

    command(arguments)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
