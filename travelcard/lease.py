"""One writer at a time of a store that is no folder: an object that its writer renews, and nobody else may write."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from travelcard.errors import Busy, InputError
from travelcard.lock import signed, signer
from travelcard.objects import Found, Objects

__all__ = ["Lease", "leased", "lessee"]

OBJECT = ".travelcard/store.lock"  # beside the tables
RENEWED_S = 15
# Without a renewal for so long a writer counts as dead; clocks that differ by a minute make no two writers of it.
LEASE_S = 120


class Lease:
    """The right to write a store, from when it was taken until it is released or lost.

    The object is only ever replaced on condition that it is as we last saw it, so of two that want it one gets it. Who
    releases it leaves it empty; who dies leaves its name.
    """

    def __init__(self, root: str, what: str, owner: str) -> None:
        self._objects = Objects(root)
        self._text = signed(what, owner=owner, lease=uuid.uuid4().hex)
        self._turn = threading.Lock()
        found = self._objects.get(OBJECT)
        # whoever holds the owner's lock file and finds the owner's name here: that process ended without a word
        if found is not None and found.text and json.loads(found.text)["owner"] != owner and _age(found) < LEASE_S:
            raise Busy(f"the store is being written: {_said(found)}")
        self._seen = self._put(None if found is None else found.version)
        if self._seen is None:
            raise Busy("the store is being written: by another process, just now")

    def _put(self, over: dict[str, str] | None) -> dict[str, str] | None:
        """Write our text over a version: the new version, or None if the object is another one by now."""
        if version := self._objects.put(OBJECT, self._text, over):
            return version
        found = self._objects.get(OBJECT)  # a write whose answer was lost was tried again, and found itself
        return found.version if found is not None and found.text == self._text else None

    def renew(self) -> None:
        """Say that this process lives; raises `Busy` when another one has taken its place."""
        with self._turn:
            if self._seen is not None:  # once lost, lost
                self._seen = self._put(self._seen)
            if self._seen is None:
                raise Busy("another process writes the store now, as this one did not renew its lock in time")

    def release(self) -> None:
        with self._turn:
            if self._seen is not None:
                self._objects.put(OBJECT, b"", self._seen)


@contextmanager
def leased(root: str, what: str, lock: Path) -> Iterator[Lease]:
    """Hold a store in an object store while something is done, or raise `Busy` at once, with who holds it.

    `lock` is the local file that this process holds meanwhile. What stands in the object under this file's name is
    therefore of a process that ended, and is taken over at once; another machine's is when it was not renewed for two
    minutes. A thread renews ours; who commits renews it as well, so that one that slept through its lease commits
    nothing.
    """
    lease = Lease(root, what, _owner(lock))
    ended = threading.Event()

    def renewing() -> None:
        while not ended.wait(RENEWED_S):
            with suppress(Busy, InputError):  # the next commit says so
                lease.renew()

    thread = threading.Thread(target=renewing, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        with suppress(InputError):  # it runs out by itself
            lease.release()


def lessee(root: str) -> tuple[str, bool] | None:
    """Who holds a store, and whether that process lives, as far as can be told; None where nobody does."""
    found = Objects(root).get(OBJECT)
    return None if found is None or not found.text else (_said(found), _age(found) < LEASE_S)


def _owner(lock: Path) -> str:
    """The name of a lock file: of all machines' working directories, this one."""
    path = lock.with_suffix(".owner")
    name = uuid.uuid4().hex
    try:
        if path.exists() and len(known := path.read_text(encoding="utf-8")) == len(name):  # a full disk left half of it
            return known
        path.write_text(name, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return name


def _age(found: Found) -> float:
    """Seconds since an object was written, by the object store's clock and ours."""
    return (datetime.now(UTC) - found.written).total_seconds()


def _said(found: Found) -> str:
    return f"{signer(found.text)}, which said so last {_age(found):.0f} s ago"
