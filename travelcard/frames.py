"""Polars, loaded at its first use: to import it takes a sixth of what a command needs from cold, and a card needs none.

A module that `travelcard card` imports has it from here, and from Polars itself where types are checked.
"""

from __future__ import annotations

from typing import Any

__all__ = ["polars"]


class _Polars:
    """Stands for the module."""

    def __getattr__(self, name: str) -> Any:
        import polars  # noqa: PLC0415  this is what it is for

        value = getattr(polars, name)
        setattr(self, name, value)
        return value


polars = _Polars()
