"""Kernels as vectors for LLVM: what numba's own loops lack, and files in its cache.

Only files of kernels import this one, because importing it imports numba.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
"""Numbers of float32 in 64 bytes: a line of the caches, and the widest vectors there are."""
COMPILATION: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_REVISION = zlib.crc32(Path(__file__).read_bytes())
"""Of this file: numba's cache notices changes only in the file of the kernel itself."""


def compiled(function: Callable[..., Any], *closed_over: int) -> Callable[..., Any]:
    """The kernel, with files of its own in numba's cache for the numbers that it closes over.

    Two programs that write the cache at once can swap the kernels that share an index there.
    """
    function.__qualname__ += "_".join(("", *map(str, closed_over), f"{_REVISION:08x}"))
    try:
        return numba.njit(cache=True, **COMPILATION)(function)
    except RuntimeError:  # numba finds no folder that it may write its cache to
        return numba.njit(**COMPILATION)(function)


def pitch(channels: int) -> int:
    """Numbers from one cell of a scratch to the next: no vector lies across two lines."""
    lanes = min(LANES, 1 << (channels - 1).bit_length())
    return -(-channels // lanes) * lanes


@numba.njit(**COMPILATION)
def blank(size):
    """Zeros that begin with a line of the caches."""
    found = np.zeros(size + LANES, np.float32)
    skipped = -(found.ctypes.data // 4) % LANES
    return found[skipped : skipped + size]


def inlined(emit: Callable[..., None]) -> Any:
    """Let kernels call what `emit` writes with a builder of LLVM's instructions.

    Arrays come to it as pointers to their first number, constants as Python's numbers, anything
    else as LLVM's values.
    """

    def typed(_: Any, *given: Any) -> tuple[Any, Callable[..., Any]]:
        def write(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> Any:
            read = []
            for kind, value in zip(given, values, strict=True):
                if isinstance(kind, types.Array):
                    value = context.make_array(kind)(context, b, value).data
                read.append(getattr(kind, "literal_value", value))
            emit(b, *read)
            return context.get_dummy_value()

        if any(isinstance(kind, types.Array) and kind.layout != "C" for kind in given):
            raise numba.TypingError(f"{emit.__name__}: expected contiguous arrays, got {given}")
        return types.void(*given), write

    typed.__signature__ = inspect.signature(emit)  # type: ignore[attr-defined]
    typed.__name__ = emit.__name__
    return intrinsic(prefer_literal=True)(typed)


@inlined
def copy(b, source, at, target, to, C):
    """C numbers from one place to another."""
    for start, lanes in pieces(C):
        store(b, load(b, source, b.add(at, index(start)), lanes), target, b.add(to, index(start)))


def pieces(count: int) -> list[tuple[int, int]]:
    """Start and lanes of the vectors that make up `count` numbers, the widest first."""
    found, start, lanes = [], 0, LANES
    while start < count:
        while lanes > count - start:
            lanes //= 2
        found.append((start, lanes))
        start += lanes
    return found


def index(number: int) -> ir.Constant:
    """A 64 bit number, for places in arrays."""
    return ir.Constant(LONG, number)


def constant(number: float, lanes: int) -> ir.Constant:
    """A vector of one number."""
    return ir.Constant(ir.VectorType(FLOAT, lanes), [number] * lanes)


def load(b, pointer, at, lanes):
    """Numbers of an array from a place on."""
    vector = ir.VectorType(FLOAT, lanes)
    loaded = b.load(b.bitcast(b.gep(pointer, [at]), vector.as_pointer()))
    loaded.align = 4
    return loaded


def store(b, vector, pointer, at):
    """Put numbers into an array from a place on."""
    b.store(vector, b.bitcast(b.gep(pointer, [at]), vector.type.as_pointer())).align = 4


def shuffle(b, one, other, lanes):
    """Lanes of two vectors, counted through both."""
    chosen = ir.Constant(ir.VectorType(INT, len(lanes)), list(lanes))
    return b.shuffle_vector(one, other, chosen)


def spread(b, scalar, lanes):
    """A vector of one value."""
    nothing = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = b.insert_element(nothing, scalar, ir.Constant(INT, 0))
    return shuffle(b, first, nothing, [0] * lanes)


def fma(b, one, other, addend):
    """`one * other + addend`, rounded once where the processor can."""
    return b.fadd(b.fmul(one, other, flags=("contract",)), addend, flags=("contract",))


def rounded(b, how, vector):
    """Whole numbers: "floor" or "trunc"."""
    return call(b, f"llvm.{how}.v{vector.type.count}f32", vector.type, vector)


def any_of(b, flags):
    """Whether any lane is true."""
    bit = flags.type.element
    return call(b, f"llvm.vector.reduce.or.v{flags.type.count}i1", bit, flags)


def total(b, start, vector):
    """`start` and all lanes, added in any order."""
    name = f"llvm.vector.reduce.fadd.v{vector.type.count}f32"
    return call(b, name, FLOAT, start, vector, fastmath=("reassoc",))


def call(b, name, result, *values, fastmath=()):
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [value.type for value in values])
    function = cgutils.get_or_insert_function(b.module, kind, name)
    return b.call(function, values, fastmath=fastmath)
