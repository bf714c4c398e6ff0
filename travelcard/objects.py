"""An object store, for what Arrow's file systems lack: writing on condition, removing without leaving a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from travelcard.errors import InputError, MissingExtra, one_line

__all__ = ["Found", "Objects"]


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was seen."""

    text: bytes
    version: dict[str, str]
    written: datetime  # by the object store's clock


class Objects:
    """The objects under a prefix, by their paths from there."""

    def __init__(self, root: str) -> None:
        try:
            import obstore  # noqa: PLC0415  an extra
            from obstore import exceptions, store  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtra(f"writing {root} needs obstore: pip install 'travelcard[s3]'") from error
        self._root, self._obstore, self._exceptions = root, obstore, exceptions
        with self._refusing("reached"):
            self._store = store.from_url(root)

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (self._exceptions.BaseError, OSError) as error:
            raise InputError(f"{self._root} cannot be {what}: {one_line(error)}") from error

    def get(self, path: str) -> Found | None:
        """An object, or None where there is none."""
        with self._refusing("read"):
            try:
                found = self._obstore.get(self._store, path)
                return Found(bytes(found.bytes()), _version(found.meta), found.meta["last_modified"])
            except FileNotFoundError:
                return None

    def put(self, path: str, text: bytes, over: Mapping[str, str] | None) -> dict[str, str] | None:
        """Write an object if it is still the version `over` (None: if there is none): its version, or None if not."""
        mode: Any = "create" if over is None else over
        with self._refusing("written"):
            try:
                return _version(self._obstore.put(self._store, path, text, mode=mode))
            except (self._exceptions.AlreadyExistsError, self._exceptions.PreconditionError):
                return None

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""
        with self._refusing("written"):
            self._obstore.delete(self._store, paths)


def _version(meta: Mapping[str, Any]) -> dict[str, str]:
    """What tells one version of an object from another, as far as the object store says it."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}
