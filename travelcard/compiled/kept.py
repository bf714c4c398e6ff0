"""Machine code in files: found, or made and kept, and loaded."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

__all__ = ["Code", "Made", "code_of"]

_PACKAGE = Path(__file__).parent.parent


def _digest(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def _stand(file: str | Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns


# All that code is made of: every file here, since code holds that of what it calls, and the compiler, which is not
# loaded for this, nor what knows of its version.
_EDITION = _digest(
    _stand(find_spec("numba").origin),  # type: ignore[union-attr, arg-type]  # it is installed
    *sorted(
        (str(file.relative_to(_PACKAGE)), _stand(file)) for file in [*_PACKAGE.glob("*.py"), *_PACKAGE.glob("*/*.py")]
    ),
)


class Made(NamedTuple):
    """What a compiler makes of a function."""

    code: bytes  # an object file
    words: int  # of the result, behind those of the arguments
    result: Any  # how it is read: "signed", "unsigned", "bool", "float", None, or a list of these for a tuple


class Code(NamedTuple):
    """The same, loaded."""

    run: Callable[[int], int]  # with the address of the words; 0 unless it failed
    words: int
    result: Any


def code_of(function: Callable[..., Any], kinds: tuple[Any, ...], make: Callable[[str], Made]) -> Code:
    """The code of a function for arguments of these kinds: it is kept, or else made, under a symbol, and then kept."""
    llvm, engine, processor = _engine()
    source = Path(function.__code__.co_filename)
    name = _digest(function.__module__, function.__qualname__, kinds, processor)[:24]
    edition = _digest(_EDITION, _stand(source))
    paths = [folder / f"{function.__name__}-{name}.code" for folder in _folders(source)]
    found = next((kept for kept in (_kept(path, edition) for path in paths) if kept is not None), None)
    if found is None:
        found = make(f"travelcard_{name}")
        _keep(paths, edition, found)
    engine.add_object_file(llvm.ObjectFileRef.from_data(found.code))
    engine.finalize_object()
    # ctypes holds no interpreter's lock while it runs
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address(f"travelcard_{name}"))
    return Code(run, found.words, found.result)


def _folders(source: Path) -> tuple[Path, Path]:
    """Where code is kept: beside its module or, where that cannot be written, with what the user's programs keep."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return source.parent / "__pycache__", Path(cache) / "travelcard"


def _kept(path: Path, edition: str) -> Made | None:
    """What is in a file; None where it is not there, or of another edition, or not whole."""
    try:
        body = path.read_bytes()
    except OSError:
        return None
    if body[:8] != b"%08x" % crc32(body[8:]):
        return None
    head, _, code = body[8:].partition(b"\n")
    about = json.loads(head)
    return Made(code, about["words"], about["result"]) if about["edition"] == edition else None


def _keep(paths: Iterable[Path], edition: str, made: Made) -> None:
    """Write code to the first of some files that can be written, if one can."""
    about = {"edition": edition, "words": made.words, "result": made.result}
    body = json.dumps(about).encode() + b"\n" + made.code
    for path in paths:
        partial = path.with_name(f"{path.name}.{os.getpid()}")  # under its name there is only what is whole
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(b"%08x" % crc32(body) + body)
                partial.replace(path)
                return
            finally:
                partial.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _engine() -> tuple[Any, Any, str]:
    """(LLVM, what loads code for this processor, what processor that is)."""
    import llvmlite.binding as llvm  # noqa: PLC0415  a card needs no compiled loop

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    processor = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return llvm, llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine), processor
