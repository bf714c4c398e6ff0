"""travelcard: from telecom location records to each number's travel card.

Names load their module when first used, so that `travelcard card` starts without the kernel's compiler.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "rekey": "rekey",
    "purge": "erasure",
    "history": "history",
    "forget": "erasure",
    "flows": "flows",
    "expire": "retention",
    "correct": "correction",
    "Pseudonyms": "pseudonyms",
    "Busy": "errors",
    "CellMap": "cells",
    "Card": "card",
    "GateError": "errors",
    "InputError": "errors",
    "MissingExtra": "errors",
    "NotFound": "errors",
    "Policy": "policy",
    "Risk": "risk",
    "Store": "store",
    "TravelcardError": "errors",
    "cards": "cards",
    "explain": "explain",
    "join_risk": "risk",
    "mask": "errors",
    "places": "places",
    "read_pings": "ingest",
    "read_risk": "risk",
    "run": "batch",
    "spark": "spark",
    "stays": "stays",
    "stitch": "stays",
    "synth": "synth",
    "visits": "window",
}
_MODULES = {"places", "spark", "synth"}  # public as modules: tc.places.china()

__all__ = [
    "Busy",
    "Card",
    "CellMap",
    "GateError",
    "InputError",
    "MissingExtra",
    "NotFound",
    "Policy",
    "Pseudonyms",
    "Risk",
    "Store",
    "TravelcardError",
    "cards",
    "correct",
    "expire",
    "explain",
    "flows",
    "forget",
    "history",
    "join_risk",
    "mask",
    "places",
    "purge",
    "read_pings",
    "read_risk",
    "rekey",
    "run",
    "spark",
    "stays",
    "stitch",
    "synth",
    "visits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'travelcard' has no attribute {name!r}")
    module = importlib.import_module(f"travelcard.{_HOME[name]}")
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """`tc.stays` and `tc.cards` are functions that live in modules of the same name.

    The import system binds a submodule to its name in the package; here the function of that name is bound instead.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in _HOME and name not in _MODULES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
