"""Compiled loops: their decorator, and their machine code, which is kept in a file and called without its compiler.

To load the compiler, Numba, and what it keeps of each function takes 0.2 s a process; the code alone takes a few
milliseconds. A loop is called with a row of 64-bit words: numbers, and of arrays where they are and what shape they
have, as `compiler.machine_code` lays it down.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator
from ctypes import addressof, c_char
from functools import update_wrapper
from operator import index
from threading import RLock
from typing import Any, NamedTuple

import numpy as np

from .kept import Code, Made, code_of

__all__ = [
    "Intrinsic",
    "Kernel",
    "compiled",
    "copy_bytes",
    "of_four",
    "prefetch",
    "put_word",
    "scratch",
    "shift_of",
    "slot_of",
    "word_at",
    "words_at",
]

_LOCK = RLock()
# Not the word of schema.bucket_of: the ids of one bucket agree in the top bits of that product.
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_FLAGS = 0x1 | 0x2 | 0x100 | 0x400  # of an array: in C's order, in Fortran's, aligned, to be written
_PLAIN = 0x1 | 0x400  # one that lies in one piece and may be written


class Intrinsic(NamedTuple):
    """What only a compiled loop can call: a function of `compiler`, by its name."""

    name: str

    def __call__(self, *_: Any) -> Any:
        raise TypeError(f"{self.name} is called by compiled loops alone")


of_four, word_at, put_word = Intrinsic("of_four"), Intrinsic("word_at"), Intrinsic("put_word")
words_at, copy_bytes = Intrinsic("words_at"), Intrinsic("copy_bytes")
prefetch, scratch = Intrinsic("prefetch"), Intrinsic("scratch")


def compiled(*function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function with Numba, ``@compiled`` or ``@compiled(inline="always")``.

    The code is kept beside the module or in the user's cache folder. Where neither can be written it is compiled in
    every process anew, which takes a quarter of a minute and is right all the same.
    """
    return Kernel(function[0], options) if function else lambda later: Kernel(later, options)


class Kernel:
    """A function that runs as machine code, which is compiled at the first call with arguments of their kinds."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function, self.options = function, options
        self._codes: dict[tuple[Any, ...], Code] = {}
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        kinds: list[Any] = []
        words: list[int] = []
        for value in arguments:
            _lay(value, kinds, words)
        key = tuple(kinds)
        code = self._codes.get(key) or self._loaded(key, arguments)
        room = array("q", words)
        room.frombytes(bytes(8 * code.words))
        if code.run(room.buffer_info()[0]):
            raise RuntimeError(f"{self.function.__qualname__} failed")
        return _taken(code.result, iter(room[len(words) :]))

    def _loaded(self, kinds: tuple[Any, ...], arguments: tuple[Any, ...]) -> Code:
        def make(symbol: str) -> Made:
            from .compiler import machine_code  # noqa: PLC0415  it loads Numba

            return machine_code(self, arguments, symbol)

        with _LOCK:
            if kinds not in self._codes:
                self._codes[kinds] = code_of(self.function, kinds, make)
            return self._codes[kinds]


def _lay(value: Any, kinds: list[Any], words: list[int]) -> None:
    """Lay an argument out as words, and say of what kind it is: those of one kind are compiled alike."""
    if isinstance(value, np.ndarray):
        flags = value.flags.num & _FLAGS
        kinds.append((value.dtype, value.ndim, flags))
        words += (0, 0, value.size, value.itemsize, _address(value, flags), *value.shape, *value.strides)
    elif isinstance(value, tuple):
        kinds.append((type(value), len(value)))
        for part in value:
            _lay(part, kinds, words)
    elif isinstance(value, float):
        kinds.append(float)
        words += struct.unpack("q", struct.pack("d", value))
    elif isinstance(value, np.generic):
        kinds.append(value.dtype)
        word = index(value.item())
        words.append(word - (1 << 64) if word >> 63 > 0 else word)
    else:
        kinds.append(type(value))
        words.append(index(value))


def _address(array: np.ndarray, flags: int) -> int:
    """Where an array begins: asked of NumPy it takes four times as long, which is most of a call of many arrays."""
    if flags & _PLAIN == _PLAIN and array.size:
        return addressof(c_char.from_buffer(array))  # type: ignore[arg-type]  # an array is a buffer
    return int(array.__array_interface__["data"][0])


def _taken(result: Any, words: Iterator[int]) -> Any:
    """A result out of words."""
    if isinstance(result, list):
        return tuple(_taken(part, words) for part in result)
    if result is None:
        return None
    word = next(words)
    if result == "float":
        return struct.unpack("d", struct.pack("q", word))[0]
    return word & (1 << 64) - 1 if result == "unsigned" else bool(word) if result == "bool" else word


# ------------------------------------------------------------------------------------------------ words and their slots


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
