"""The decorator of every compiled loop: machine code without the interpreter's lock, kept on disk between runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compiled"]


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
