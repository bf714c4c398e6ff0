"""Modules loaded at their first use.

A card needs neither Polars nor Arrow's functions nor shapely. The stays of a night need Arrow's functions when pings
are already being read; their memory is made, and their files are listed, before there is even NumPy or Arrow.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["Late", "compute", "fs", "numpy", "polars", "pyarrow", "shapely"]


class Late(ModuleType):
    """Stands for a module, by its name, until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import numpy
    import polars
    import pyarrow
    import shapely
    from pyarrow import compute, fs
else:
    compute, fs, numpy, polars, pyarrow, shapely = (
        Late(name) for name in ("pyarrow.compute", "pyarrow.fs", "numpy", "polars", "pyarrow", "shapely")
    )
