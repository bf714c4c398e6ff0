"""Compiled loops give what Python gives; their code is kept as long as nothing of it has changed, and not longer."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.errors import TypingError

from travelcard.compiled import compiled, compiler, kept, scratch, word_at


class Both(NamedTuple):
    values: np.ndarray
    n: int


@compiled
def returned(both, number, word, truth, fraction, pair):
    total = np.int64(0)
    for i in range(len(both.values)):
        total += both.values[i]
    return total + both.n, (number - 1, word + np.uint64(1)), not truth, 2 * fraction, (pair[0], pair[1] * 2.0)


@compiled
def at(values, row, column):
    return values[row, column]


@compiled
def put(values, value):
    for i in range(len(values)):
        values[i] = value


@compiled
def quotient(a, b):
    return a // b


@compiled
def total_of_scratch(n):
    room, whole = scratch(8, np.int16), np.int64(0)
    for i in range(n):
        room[i & 7] = i
        whole += room[i & 7]
    return whole


@compiled
def word(data):
    return word_at(data, 1)


@compiled
def made():
    return len(np.zeros(3))


whole = st.integers(-(2**63) + 1, 2**63 - 2)


@given(
    st.lists(st.integers(-1000, 1000), max_size=5), whole, st.integers(0, 2**64 - 2), st.booleans(),
    st.floats(allow_nan=False), st.booleans(),
)  # fmt: skip
def test_arguments_and_results_are_what_python_has(values, number, unsigned, truth, fraction, small):
    array = np.array(values, np.int16 if small else np.int64)
    expected = sum(values) + 7, (number - 1, unsigned + 1), not truth, 2 * fraction, (number, fraction * 2)
    found = returned(Both(array, 7), number, np.uint64(unsigned), np.bool_(truth), fraction, (number, fraction))
    assert found == expected
    assert isinstance(found[2], bool)


@pytest.mark.parametrize(
    "values", [np.arange(12).reshape(3, 4), np.arange(12).reshape(4, 3).T, np.arange(48).reshape(6, 8)[::2, ::2]]
)
def test_arrays_are_read_where_they_lie(values):
    values.setflags(write=False)
    assert at(values, 2, 3) == values[2, 3]


def test_arrays_are_written_in_place():
    values = np.zeros(10, np.float64)
    assert put(values[::3], 1.5) is None
    assert values.tolist() == [1.5, 0, 0] * 3 + [1.5]
    assert put(values[:0], 1.5) is None


def test_what_only_a_loop_can_call():
    assert total_of_scratch(20) == sum(range(20))
    assert word(np.arange(9, dtype=np.uint8)) == int.from_bytes(bytes(range(1, 9)), "little")
    with pytest.raises(TypeError, match="word_at is called by compiled loops alone"):
        word_at(np.arange(9, dtype=np.uint8), 1)


def test_what_fails_says_so():
    assert quotient(7, 2) == 3
    with pytest.raises(RuntimeError, match="quotient failed"):
        quotient(7, 0)
    with pytest.raises(TypeError, match="float"):  # nothing is rounded on the way
        quotient(np.float32(7.5), 2)
    with pytest.raises(OverflowError):
        quotient(2**63, 2)
    with pytest.raises(TypingError, match="zeros"):
        made()


TOY = "from travelcard.compiled import compiled\n\n\n@compiled\ndef double(n):\n    return 2 * n\n"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Call a compiled function of a module that is imported anew: (what it returns, how often it was compiled)."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    original, engine_of, compilations = compiler.machine_code, kept._engine.__wrapped__, []
    monkeypatch.setattr(compiler, "machine_code", lambda *given: compilations.append(given) or original(*given))

    def call() -> tuple[int, int]:
        compilations.clear()
        engine = engine_of()  # as in a new process; what is loaded here already stays in its own
        monkeypatch.setattr(kept, "_engine", lambda: engine)
        monkeypatch.delitem(sys.modules, "toy", raising=False)
        return importlib.import_module("toy").double(21), len(compilations)

    return call


def code_in(folder: Path) -> Path:
    (path,) = folder.glob("**/double-*.code*")
    return path


def test_kept_code_is_of_one_edition_of_all_files(toy, monkeypatch):
    assert [toy(), toy()] == [(42, 1), (42, 0)]
    monkeypatch.setattr(kept, "_EDITION", [("another file", 1, 1)])
    assert [toy(), toy()] == [(42, 1), (42, 0)], "a file changed whose code the function may hold"


def test_kept_code_is_of_its_own_module_as_it_is(toy, tmp_path):
    assert toy() == (42, 1)
    (tmp_path / "toy.py").write_text(TOY.replace("2 * n", "20 * n"))
    assert toy() == (420, 1)


@pytest.mark.parametrize("damage", ["empty", "short", "flipped", "text"])
def test_damaged_code_is_made_anew(toy, tmp_path, damage):
    assert toy() == (42, 1)
    path = code_in(tmp_path)
    whole = path.read_bytes()
    flipped = bytes([*whole[:-50], whole[-50] ^ 4, *whole[-49:]])
    path.write_bytes({"empty": b"", "short": whole[:-1], "flipped": flipped, "text": b"not code at all\n"}[damage])
    assert [toy(), toy()] == [(42, 1), (42, 0)]


def test_code_is_kept_in_the_users_cache_where_its_module_is_not_to_be_written(toy, tmp_path, monkeypatch):
    (tmp_path / "__pycache__").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert [toy(), toy()] == [(42, 1), (42, 0)]
    assert code_in(tmp_path).parent == tmp_path / "cache" / "travelcard"


def test_a_machine_without_a_writable_cache_still_works(toy, tmp_path, monkeypatch):
    (tmp_path / "__pycache__").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "__pycache__"))
    assert [toy(), toy()] == [(42, 1), (42, 1)]


def test_where_code_is_kept_no_compiler_is_loaded():
    program = """
import sys, numpy as np
from travelcard.kernel import _in_order
values = np.array([3, 1, 2], np.uint32)
_in_order(values)
print(values.tolist(), "numba" in sys.modules)
"""
    run = [sys.executable, "-c", program]
    subprocess.run(run, check=True, capture_output=True)
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout == "[1, 2, 3] False\n"
