"""What only a compiler needs: kernels through Numba to machine code, and what loops call that Python cannot say.

Nothing else imports Numba: where all code is kept already, no process loads it.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from llvmlite import ir
from numba import njit, typeof, types
from numba.core.cgutils import alloca_once, raw_memcpy
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from . import Intrinsic, Kernel
from .kept import Made

__all__ = ["machine_code"]

_WORD = ir.IntType(64)
_DISPATCHERS: dict[Kernel, Any] = {}
_GLOBALS: dict[int, dict[str, Any]] = {}  # as Numba is to see them, by where a module's are: the kernels keep these


@global_compiler_lock
def machine_code(kernel: Kernel, arguments: tuple[Any, ...], symbol: str) -> Made:
    """Compile a kernel for arguments such as these to a function of a name, from words to words.

    It gets the address of its arguments, flattened, a word each: of an array two that are 0, its items, their size,
    where they begin, its shape and its strides. Behind them it lays its result, and returns 0 unless it failed.
    """
    signature = tuple(map(typeof, arguments))
    dispatcher = _numba(kernel)
    dispatcher.compile(signature)
    made = dispatcher.overloads[signature]
    context, described = made.target_context, made.fndesc
    module = context.create_module(symbol)
    function = ir.Function(module, ir.FunctionType(_WORD, [_WORD.as_pointer()]), symbol)
    callee = ir.Function(
        module, context.call_conv.get_function_type(described.restype, described.argtypes), described.llvm_func_name
    )
    builder = ir.IRBuilder(function.append_basic_block())
    packer = context.get_arg_packer(described.argtypes)
    flat = [
        _from_word(builder, builder.load(builder.gep(function.args[0], [_WORD(i)])), kind)
        for i, kind in enumerate(packer.argument_types)
    ]
    status, value = context.call_conv.call_function(
        builder, callee, described.restype, described.argtypes, packer.from_arguments(builder, flat)
    )
    result = _described(described.restype)
    returned = () if result is None else context.get_arg_packer([described.restype]).as_arguments(builder, [value])
    for i, (one, kind) in enumerate(zip(returned, _leaves(result), strict=True), len(flat)):
        builder.store(_to_word(builder, one, kind), builder.gep(function.args[0], [_WORD(i)]))
    builder.ret(builder.zext(status.is_error, _WORD))
    library = context.codegen().create_library(symbol)
    library.enable_object_caching()
    library.add_ir_module(module)
    library.add_linking_library(made.library)
    library.finalize()
    return Made(library._get_compiled_object(), len(returned), result)


def _numba(value: Any) -> Any:
    """A kernel or an intrinsic as Numba knows it; anything else as it is."""
    if isinstance(value, Intrinsic):
        return globals()[value.name]
    if not isinstance(value, Kernel):
        return value
    if value not in _DISPATCHERS:
        names = value.function.__globals__
        seen = _GLOBALS.setdefault(id(names), dict(names))
        function = FunctionType(value.function.__code__, seen, value.function.__name__)
        # without Numba's memory a kernel makes no array, and counts no references
        _DISPATCHERS[value] = njit(_nrt=False, **value.options)(function)
        for name in value.function.__code__.co_names:
            if name in seen:
                seen[name] = _numba(names[name])
    return _DISPATCHERS[value]


def _described(kind: Any) -> Any:
    """How a result is read, see `Made`."""
    if isinstance(kind, types.BaseTuple) and not isinstance(kind, types.BaseNamedTuple):
        return [_described(part) for part in kind]
    if isinstance(kind, types.Integer):
        return "signed" if kind.signed else "unsigned"
    names = {types.none: None, types.boolean: "bool", types.float64: "float"}
    if kind not in names:
        raise TypeError(f"a kernel returns numbers and tuples of them, not {kind}")
    return names[kind]


def _leaves(result: Any) -> list[Any]:
    if isinstance(result, list):
        return [leaf for part in result for leaf in _leaves(part)]
    return [] if result is None else [result]


def _from_word(builder: Any, word: Any, kind: Any) -> Any:
    """A word as a value of a kind."""
    if isinstance(kind, ir.PointerType):
        return builder.inttoptr(word, kind)
    if isinstance(kind, ir.IntType):
        return word if kind.width == _WORD.width else builder.trunc(word, kind)
    return builder.bitcast(word, kind)


def _to_word(builder: Any, value: Any, kind: str) -> Any:
    """A number as a word."""
    if kind == "float":
        return builder.bitcast(value, _WORD)
    if value.type.width == _WORD.width:
        return value
    return builder.sext(value, _WORD) if kind == "signed" else builder.zext(value, _WORD)


# ------------------------------------------------------------------------------------------------ what loops call


@intrinsic
def of_four(_: Any, table: Any, slot: Any, key: Any, bits: Any) -> Any:
    """Which of four slots from table[slot] on holds a key above so many bits, 4 for none.

    Compared at once: by itself, the compiler makes four loads, shifts and choices of it.
    """

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        four = ir.VectorType(_WORD, 4)
        slots = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), four.as_pointer()), align=8)

        def all_four(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(four, ir.Undefined), value, ir.IntType(32)(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))

        same = builder.icmp_unsigned("==", builder.lshr(slots, all_four(arguments[3])), all_four(arguments[2]))
        which = builder.or_(builder.zext(builder.bitcast(same, ir.IntType(4)), _WORD), _WORD(16))
        return builder.cttz(which, ir.IntType(1)(1))

    return types.uint64(table, types.uint64, types.uint64, types.uint64), generated


@intrinsic
def word_at(_: Any, array: Any, index: Any) -> Any:
    """Eight bytes of an array of bytes from array[index] on, wherever that is, as a word."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = builder.bitcast(builder.gep(data, [arguments[1]]), _WORD.as_pointer())
        return builder.load(at, align=1)

    return types.uint64(array, types.int64), generated


@intrinsic
def put_word(_: Any, array: Any, index: Any, word: Any) -> Any:
    """Write a word as the eight bytes of an array of bytes from array[index] on."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        at = builder.bitcast(builder.gep(data, [arguments[1]]), _WORD.as_pointer())
        builder.store(arguments[2], at, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), generated


@intrinsic
def words_at(_: Any, address: Any, n: Any) -> Any:
    """The `n` words of memory from an address on, as an array."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made, size = signature.return_type, _WORD(8)
        array = context.make_array(made)(context, builder)
        populate_array(array, builder.inttoptr(arguments[0], _WORD.as_pointer()), [arguments[1]], [size], size, None)
        return array._getvalue()

    return types.Array(types.uint64, 1, "C")(types.int64, types.int64), generated


@intrinsic
def copy_bytes(_: Any, array: Any, index: Any, source: Any, begin: Any, n: Any) -> Any:
    """Write `n` bytes of an array of bytes from source[begin] on to another's array[index] on."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, data = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        to, at = builder.gep(out, [arguments[1]]), builder.gep(data, [arguments[3]])
        raw_memcpy(builder, to, at, arguments[4], 1)
        return context.get_dummy_value()

    return types.void(array, types.int64, source, types.int64, types.int64), generated


@intrinsic(prefer_literal=True)
def scratch(_: Any, n: Any, kind: Any) -> Any:
    """An array of `n`, a constant, of a kind of numbers: what was there before is in it, and it ends with the call."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made, each = signature.return_type, context.get_data_type(kind.dtype)
        room, size = alloca_once(builder, each, size=_WORD(n.literal_value)), context.get_abi_sizeof(each)
        array = context.make_array(made)(context, builder)
        populate_array(array, room, [_WORD(n.literal_value)], [_WORD(size)], _WORD(size), None)
        return array._getvalue()

    return types.Array(kind.dtype, 1, "C")(n, kind), generated


@intrinsic
def prefetch(_: Any, array: Any, index: Any) -> Any:
    """Have array[index], which is wanted soon, fetched into the cache, and go on."""

    def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        at = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        builder.call(call, [at, word(0), word(3), word(1)])  # to read, into every cache, data
        return context.get_dummy_value()

    return types.void(array, types.uint64), generated
