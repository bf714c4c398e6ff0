"""One writer at a time: a store that is being written says by whom, and is free again when that process ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from travelcard.errors import Busy, InputError

__all__ = ["held", "holder", "signed", "signer"]


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock in a file while something is done, or raise `Busy` at once, with who holds it.

    It is the system's own lock on an open file, which no dead process holds: what such a one left in the file is no
    obstacle, and nobody has to judge whether it still runs.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"the store is being written: {_holder(file)}") from None
        except OSError as error:
            raise InputError(f"{path} cannot be locked on this file system: {error.strerror}") from error
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, signed(what), 0)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        try:
            yield
        finally:
            os.ftruncate(file, 0)  # who is refused has ended as well; only one that died leaves its name
    finally:
        os.close(file)


def holder(path: Path) -> tuple[str, bool] | None:
    """Who holds the lock in a file, and whether that process lives; None where nobody does.

    A file without a text is not touched, so that who looks is in the way of nobody who begins.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not os.pread(file, 1, 0):
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file), True
        return _holder(file), False
    finally:
        os.close(file)


def signed(what: str, **more: str) -> bytes:
    """What a writer leaves where others look: JSON."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    by = {"what": what, "process": os.getpid(), "host": socket.gethostname(), "since": since}
    return json.dumps(by | more).encode()


def signer(text: bytes) -> str:
    """Who left it, as a message says it."""
    by = json.loads(text)
    return f"{by['what']}, since {by['since']}, by process {by['process']} on {by['host']}"


def _holder(file: int) -> str:
    """Who wrote the lock: it may be empty for the moment between locking and writing."""
    text = os.pread(file, 4096, 0)
    return signer(text) if text else "by another process, just now"
