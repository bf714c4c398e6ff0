"""The decorator of every compiled loop, and the one way in which such loops find a word in a table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.core.cgutils import raw_memcpy
from numba.core.runtime import rtsys
from numba.extending import intrinsic

__all__ = ["compiled", "copy_bytes", "of_four", "prefetch", "put_word", "shift_of", "slot_of", "word_at"]

# Not the word of schema.bucket_of: the ids of one bucket agree in the top bits of that product.
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_EDITION = sorted(
    (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in Path(__file__).parent.glob("*.py")
)


def compiled(*function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function with Numba, ``@compiled`` or ``@compiled(inline="always")``.

    The code is cached beside the module or in the user's cache folder. Where neither can be written it is compiled in
    every process anew, which takes half a minute and is right all the same.
    """
    if not function:
        return lambda later: compiled(later, **options)
    made = njit(nogil=True, **options)(*function)
    with suppress(RuntimeError):  # Numba found no folder for its cache
        made._cache = _Cache(made.py_func)  # as made.enable_caching() would, with Numba's own
    return made


class _Cache(FunctionCache):  # type: ignore[misc]  # see numba in pyproject.toml
    """Numba's cache, out of which code is loaded before all that only a compiler needs: that takes 0.2 s a process.

    A function's code holds that of all it calls, whose files Numba does not look at: here they count too.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = self._cache_file._source_stamp, _EDITION

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
        return super().load_overload(sig, target_context) if found is None else found


@compiled(inline="always")
def slot_of(word: np.uint64, shift: np.uint64) -> np.uint64:
    """The first of the four slots of a table in which a word is looked for; `shift` is the table's `shift_of`.

    The top bits of the product: ids that count up, as cells and numbers do, then hardly collide.
    """
    return ((word ^ word >> np.uint64(31)) * _FACTOR) >> shift & ~np.uint64(3)


@compiled(inline="always")
def shift_of(table: np.ndarray) -> np.uint64:
    """How far a product is shifted to the right to leave a slot of this table."""
    shift = np.uint64(64)
    while np.uint64(len(table)) >> (np.uint64(64) - shift) > np.uint64(1):
        shift -= np.uint64(1)
    return shift


@intrinsic
def of_four(_: Any, table: Any, slot: Any, key: Any, bits: Any) -> Any:
    """In a compiled loop: which of four slots from table[slot] on holds a key above so many bits, 4 for none.

    Compared at once: by itself, the compiler makes four loads, shifts and choices of it.
    """

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        word, four = ir.IntType(64), ir.VectorType(ir.IntType(64), 4)
        slots = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), four.as_pointer()), align=8)

        def all_four(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(four, ir.Undefined), value, ir.IntType(32)(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))

        same = builder.icmp_unsigned("==", builder.lshr(slots, all_four(arguments[3])), all_four(arguments[2]))
        which = builder.or_(builder.zext(builder.bitcast(same, ir.IntType(4)), word), word(16))
        return builder.cttz(which, ir.IntType(1)(1))

    return types.uint64(table, types.uint64, types.uint64, types.uint64), generated


@intrinsic
def word_at(_: Any, array: Any, index: Any) -> Any:
    """In a compiled loop: eight bytes of an array of bytes from array[index] on, wherever that is, as a word."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(at, align=1)

    return types.uint64(array, types.int64), generated


@intrinsic
def put_word(_: Any, array: Any, index: Any, word: Any) -> Any:
    """In a compiled loop: write a word as the eight bytes of an array of bytes from array[index] on."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], at, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), generated


@intrinsic
def copy_bytes(_: Any, array: Any, index: Any, source: Any, begin: Any, n: Any) -> Any:
    """In a compiled loop: write `n` bytes of an array of bytes from source[begin] on to another's array[index] on."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, data = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        to, at = builder.gep(out, [arguments[1]]), builder.gep(data, [arguments[3]])
        raw_memcpy(builder, to, at, arguments[4], 1)
        return context.get_dummy_value()

    return types.void(array, types.int64, source, types.int64, types.int64), generated


@intrinsic
def prefetch(_: Any, array: Any, index: Any) -> Any:
    """In a compiled loop: have array[index], which is wanted soon, fetched into the cache, and go on."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        at = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(call, [at, word(0), word(3), word(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(array, types.uint64), generated
