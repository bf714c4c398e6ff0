"""Imports point up, the surface is what `__all__` says, and importing the package costs nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import nights
import pytest

import travelcard as tc

# Each module imports only from those before it (DESIGN section 6).
ORDER = [
    "errors",
    "late",
    "files",
    "schema",
    "memory",
    "compiled",
    "boundaries",
    "borders",
    "places",
    "snappy",
    "pages",
    "decode",
    "sources",
    "names",
    "cells",
    "inventory",
    "locations",
    "ingest",
    "kernel",
    "stays",
    "scatter",
    "spill",
    "buckets",
    "window",
    "risk",
    "policy",
    "rules",
    "card",
    "explain",
    "cards",
    "parquet",
    "walk",
    "pseudonyms",
    "lock",
    "objects",
    "lease",
    "store",
    "ledger",
    "erasure",
    "gate",
    "engine",
    "batch",
    "retention",
    "correction",
    "rekey",
    "history",
    "flows",
    "check",
    "report",
    "spark",
    "keys",
    "config",
    "synth",
    "bench",
    "service",
    "cli",
]
PACKAGE = Path(tc.__file__).parent
MODULES = sorted(
    path.stem if path.suffix else path.name
    for path in PACKAGE.iterdir()
    if (path.suffix == ".py" and not path.stem.startswith("_")) or (path / "__init__.py").exists()
)
HEAVY = {
    "deltalake", "fastapi", "h3", "numba", "numpy", "pandas", "polars", "pyarrow", "pyspark", "shapely", "sqlalchemy",
}  # fmt: skip


def sources(name: str) -> list[Path]:
    path = PACKAGE / f"{name}.py"
    return [path] if path.exists() else sorted((PACKAGE / name).rglob("*.py"))


def imported_by(name: str) -> set[str]:
    """The modules of travelcard that a module imports anywhere: at its top, in a function, or for its annotations."""
    found = set()
    for path in sources(name):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                dotted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                inner = node.module == "travelcard"
                dotted = [f"travelcard.{alias.name}" for alias in node.names] if inner else [node.module]
            else:
                continue
            found |= {".".join(parts.split(".")[1:2]) for parts in dotted if parts.split(".")[0] == "travelcard"}
    return found - {name, "__version__"}


def test_every_module_has_its_place_in_the_order():
    assert set(MODULES) <= set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_from_above(name):
    # "" stands for the whole package, whose lazy names would be a way around the order.
    assert imported_by(name) <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize("name", MODULES)
def test_no_relative_imports(name):
    """A package's own files may name each other so; between modules an import says where it points."""
    for path in sources(name):
        levels = [
            n.level for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)
        ]
        assert max(levels, default=0) <= (path.parent != PACKAGE)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("spark", "service")])
def test_all_of_a_module_exists_and_is_from_no_module_below(name):
    importlib.import_module(f"travelcard.{name}")
    module = sys.modules[f"travelcard.{name}"]  # `tc.stays` is the function of that name
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        home = getattr(getattr(module, public), "__module__", "") or ""
        if home.startswith("travelcard."):
            assert home.split(".")[1] in ORDER[: ORDER.index(name) + 1]


@pytest.mark.parametrize("name", tc.__all__)
def test_every_name_of_the_package_can_be_had(name):
    value = getattr(tc, name)
    assert value is not None
    if name not in ("places", "spark", "synth"):  # public as modules
        assert callable(value)


def test_the_surface_is_exactly_all():
    assert sorted(dir(tc)) == sorted([*tc.__all__, "__version__"])
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        tc.nothing_of_this_name  # noqa: B018  the attribute access is what is tested


def python(code: str) -> str:
    """What a fresh interpreter prints, warnings being errors."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_after(code: str) -> set[str]:
    return set(python(f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})").split())


def test_importing_the_package_loads_no_dependency():
    assert not loaded_after("import travelcard") & HEAVY
    assert not loaded_after("import travelcard; travelcard.InputError, travelcard.mask, dir(travelcard)") & HEAVY


def test_what_measures_stays_small():
    """A measured process is never seen to take less memory than its parent had when it began."""
    assert not loaded_after("import travelcard.cli, travelcard.bench.stays") & HEAVY


def test_a_frame_in_and_a_frame_out_need_no_store():
    assert not loaded_after("import travelcard; travelcard.stays") & {"deltalake", "pyspark", "litestar", "pyogrio"}


def test_a_command_that_reads_a_configuration_loads_no_event_loop(tmp_path):
    code, loaded = nights.loaded_by(tmp_path, "check")
    assert code == 1
    assert "msgspec" in loaded
    assert not loaded & {"asyncio.base_events", "pandas", "numba", "pydantic"}


def test_functions_keep_their_names_however_their_modules_are_loaded():
    """The import system binds a module in its package when it is loaded; `tc.stays` must stay the function."""
    print_them = "print(callable(tc.stays), callable(tc.visits), tc.stays.__name__, tc.places.__name__)"
    expected = "True True stays travelcard.places\n"
    assert python(f"import travelcard as tc\nimport travelcard.window, travelcard.stays\n{print_them}") == expected
    assert python(f"from travelcard.window import visits\nimport travelcard as tc\n{print_them}") == expected
    assert python(f"import travelcard as tc\ntc.stays, tc.visits\nimport travelcard.stays\n{print_them}") == expected
