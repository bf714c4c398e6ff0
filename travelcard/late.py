"""Modules loaded at their first use.

To import Polars takes a sixth of what a command needs from cold, shapely a fortieth: a card needs none of them, and a
day of pings by cell neither. A module that such commands import has them from here, and from themselves where types are
checked.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Late", "polars", "shapely"]


class Late:
    """Stands for a module, by its name, until something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self._name), name)
        setattr(self, name, value)
        return value


polars, shapely = Late("polars"), Late("shapely")
