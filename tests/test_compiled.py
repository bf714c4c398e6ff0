"""Compiled code comes out of the cache as long as nothing of it has changed, and not a moment longer."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from travelcard import compiled


def loaded(folder: Path, monkeypatch) -> tuple[int, int]:
    """Call a compiled function of a module that is imported anew: (what it returns, how often it was compiled)."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "toy", raising=False)
    function = importlib.import_module("toy").double
    return function(21), sum(function.stats.cache_misses.values())


def test_cached_code_is_of_one_edition_of_all_files(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(
        "from travelcard.compiled import compiled\n\n\n@compiled\ndef double(n):\n    return 2 * n\n"
    )
    assert loaded(tmp_path, monkeypatch) == (42, 1)
    assert loaded(tmp_path, monkeypatch) == (42, 0)
    monkeypatch.setattr(compiled, "_EDITION", [("another file", 1, 1)])
    assert loaded(tmp_path, monkeypatch) == (42, 1), "a file changed whose code the function may hold"
