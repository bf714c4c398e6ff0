"""Modules loaded at their first use.

To import Polars takes a sixth of what a command needs from cold, Arrow's functions a twelfth, shapely a fortieth: a
card needs none of them, and the stays of a night need Arrow's functions when their pings are already being read.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["Late", "compute", "polars", "shapely"]


class Late(ModuleType):
    """Stands for a module, by its name, until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import polars
    import shapely
    from pyarrow import compute
else:
    compute, polars, shapely = Late("pyarrow.compute"), Late("polars"), Late("shapely")
