"""What Numba lacks: a quick start in processes of our own, uncounted arrays, five instructions.

Before it runs the first compiled function, Numba loads all that compiling may take: the types and
code of everything it knows (0.2 s), every extension that any installed package registers
(awkward's takes 0.2 s), SciPy's linear algebra (another 0.2 s). A function that lies on disk,
compiled, needs none of it, and ours use no extension. A process that is a user's own is left
alone: there, somebody else may need them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import caching, cgutils, entrypoints
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic

int64 = cast("Callable[[Any], int]", np.int64)
boolean = cast("Callable[[Any], bool]", np.bool_)
"""NumPy's for kernels, whose numbers mypy takes for Python's.

A plain number that one kernel gives to another, or that a variable begins with, is a type of its
own to Numba: the other kernel is compiled for it as well. `int64(0)` is a number like any other.
"""


def start_numba() -> None:
    """Have compiled functions loaded at once; only where one has to be compiled is Numba whole."""
    entrypoints._already_initialized = True
    caching.Cache.load_overload = _load_overload  # type: ignore[method-assign]
    hidden = {name: sys.modules[name] for name in ("scipy",) if name in sys.modules}
    sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("numba.np.arraymath")  # whose functions ours call
    finally:
        del sys.modules["scipy"]
        sys.modules.update(hidden)


def _load_overload(cache: caching.Cache, signature: Any, target_context: Any) -> Any:
    """Return a compiled function from disk, None if it is not there; its compiler is not readied.

    Numba's own method differs in that alone; its compiler readies itself where it is called.
    """
    rtsys.initialize(target_context)
    with cache._guard_against_spurious_io_errors():
        return cache._load_overload(signature, target_context)  # type: ignore[no-untyped-call]


def _address(context: Any, builder: Any, signature: Any, arguments: Any, place: int = 0) -> Any:
    """Return the address of an array's item, of the arguments from a place on: array, index."""
    kind, (array, index) = signature.args[place], arguments[place : place + 2]
    data: Any = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


def _borrowed(_context: Any, array: Any) -> Any:
    """Return an array whose references are not counted, as long as the caller holds its own.

    Numba counts them, by atomic additions, in every function that takes an array and has a loop:
    three quarters of the time of a kernel of many small functions.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.return_type)(context, builder, arguments[0])
        null: Any = cgutils.get_null_value
        view.meminfo, view.parent = null(view.meminfo.type), null(view.parent.type)
        return view._getvalue()

    return array(array), generate


def _load8(_context: Any, array: Any, index: Any) -> Any:
    """Return 8 bytes of a uint8 array from an index on as a little-endian uint64, unaligned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature, arguments)
        value = builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()))
        value.align = 1
        return value

    return types.uint64(array, types.intp), generate


def _copy(_context: Any, target: Any, at: Any, source: Any, start: Any, size: Any) -> Any:
    """Copy items of an array to a place in another one, both of one type.

    What assigning a slice does, whose check of shapes takes seconds to compile.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to = _address(context, builder, signature, arguments)
        begin = _address(context, builder, signature, arguments, 2)
        item_bytes = context.get_abi_sizeof(context.get_data_type(target.dtype))
        copied: Any = cgutils.raw_memcpy
        copied(builder, to, begin, arguments[4], item_bytes)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), generate


def _prefetch(_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of an array element that is about to be read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, integer, integer, integer])
        insert: Any = cgutils.get_or_insert_function
        function = insert(builder.module, kind, "llvm.prefetch.p0i8")
        address = builder.bitcast(_address(context, builder, signature, arguments), pointer)
        builder.call(function, [address, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _trailing_zeros(_context: Any, value: Any) -> Any:
    """Return the number of zero bits below the lowest one of a uint64 (64 for 0)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


def _leading_zeros(_context: Any, value: Any) -> Any:
    """Return the number of zero bits above the highest one of a uint64 (64 for 0)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


# Callers see the signature without the typing context, which no annotation of Numba's can say.
borrowed: Any = intrinsic(_borrowed)
load8: Any = intrinsic(_load8)
copy: Any = intrinsic(_copy)
prefetch: Any = intrinsic(_prefetch)
trailing_zeros: Any = intrinsic(_trailing_zeros)
leading_zeros: Any = intrinsic(_leading_zeros)
