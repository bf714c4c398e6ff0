"""The decorator of every compiled loop: machine code without the interpreter's lock, kept on disk between runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["compiled", "prefetch"]


def compiled(*function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function with Numba, ``@compiled`` or ``@compiled(inline="always")``.

    The code is cached beside the module or in the user's cache folder. Where neither can be written it is compiled in
    every process anew, which takes half a minute and is right all the same.
    """
    if not function:
        return lambda later: compiled(later, **options)
    try:
        return njit(cache=True, nogil=True, **options)(*function)
    except RuntimeError:  # Numba found no folder for its cache
        return njit(nogil=True, **options)(*function)


@intrinsic  # type: ignore[untyped-decorator]
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
