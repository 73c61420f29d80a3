"""Kernels as vectors for LLVM: what numba's own loops lack, and files in its cache.

Only files of kernels import this one, because importing it imports numba.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from convflow.ops.fork import INT as INT
from convflow.ops.fork import LONG as LONG
from convflow.ops.fork import forking

LANES = 16
"""Numbers of float32 in 64 bytes: a line of the caches, and the widest vectors there are."""
COMPILATION: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
NO_CFUNC: dict[str, Any] = {"no_cfunc_wrapper": True}
ALONE: dict[str, Any] = {"no_cpython_wrapper": True, **NO_CFUNC}
"""What numba need not write for kernels, which takes time."""
FLOAT, HALF = ir.FloatType(), ir.IntType(16)


def compiled(function: Callable[..., Any], *closed_over: int) -> Callable[..., int]:
    """Return a kernel that shares its pieces of work among threads, see `threads.share`.

    Args:
        function: of arrays and numbers, then the number of the thread, the first piece and the one
            after the last; it tells nothing.
        closed_over: numbers that it closes over. The kernel has files of its own in numba's cache
            for them, and for the sources of `function` and of all that writes kernels.

    Returns:
        kernel(parallel, threads, size, start, stop, *given) -> whether a piece raised an error.
        Where `parallel`, the address of `GOMP_parallel`, is 0, the caller does all pieces.
    """
    sources = Path(__file__), Path(__file__).with_name("fork.py"), Path(inspect.getfile(function))
    revision = zlib.crc32(b"".join(source.read_bytes() for source in sources))
    # A name of its own: a kernel of the cache and a new one with the same symbol would be one
    # kernel, and two programs that write the cache at once can swap those that share an index.
    name = "_".join((function.__name__, *map(str, closed_over), f"{revision:08x}"))
    function.__qualname__ = f"alone_{name}"
    alone = numba.njit(**ALONE, **COMPILATION)(function)
    known = {"fork": forking(alone), "__name__": __name__}
    run = FunctionType(_run.__code__, known, function.__name__)
    run.__qualname__ = name
    try:
        return numba.njit(cache=True, **NO_CFUNC, **COMPILATION)(run)
    except RuntimeError:  # numba finds no folder that it may write its cache to
        return numba.njit(**NO_CFUNC, **COMPILATION)(run)


def _run(parallel, threads, size, start, stop, *given):
    """Compiled with a `fork` of its own among its globals."""
    return fork(parallel, threads, size, start, stop, given)


def pitch(channels: int) -> int:
    """Numbers from one cell of a scratch to the next: no vector lies across two lines."""
    lanes = min(LANES, 1 << (channels - 1).bit_length())
    return -(-channels // lanes) * lanes


def blank(workers: int, size: int) -> np.ndarray:
    """Zeros, a row of `size` or a few more for each thread; it begins with a line of the caches."""
    size = -(-size // LANES) * LANES
    found = np.zeros(workers * size + LANES, np.float32)
    skipped = -(found.__array_interface__["data"][0] // 4) % LANES
    return found[skipped : skipped + workers * size].reshape(workers, size)


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


@inlined
def copy_some(b, source, at, target, to, count):
    """A number of numbers that is known at run time only, one by one."""
    with cgutils.for_range(b, count) as loop:
        one = b.load(b.gep(source, [b.add(at, loop.index)]))
        b.store(one, b.gep(target, [b.add(to, loop.index)]))


@inlined
def clear(b, target, at, count):
    """Zeros in place of so many numbers, which `LANES` divides."""
    at = index(at) if isinstance(at, int) else at
    with cgutils.for_range(b, b.sdiv(count, index(LANES))) as loop:
        store(b, constant(0.0, LANES), target, b.add(at, b.mul(loop.index, index(LANES))))


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
    """Numbers of an array from a place on; those of 16 bits are bfloat16."""
    element = pointer.type.pointee
    vector = ir.VectorType(element, lanes)
    loaded = b.load(b.bitcast(b.gep(pointer, [at]), vector.as_pointer()))
    loaded.align = 2 if element == HALF else 4
    if element != HALF:
        return loaded
    wide = b.zext(loaded, ir.VectorType(INT, lanes))
    return b.bitcast(b.shl(wide, whole(16, lanes)), ir.VectorType(FLOAT, lanes))


def store(b, vector, pointer, at):
    """Put numbers into an array from a place on, rounded to bfloat16 where it has 16 bits."""
    if pointer.type.pointee == HALF and vector.type.element == FLOAT:
        vector = _halves(b, vector)
    place = b.bitcast(b.gep(pointer, [at]), vector.type.as_pointer())
    b.store(vector, place).align = 2 if vector.type.element == HALF else 4


def _halves(b, vector):
    """The bits of the nearest bfloat16, of two as near that with an even last bit."""
    lanes = vector.type.count
    bits = b.bitcast(vector, ir.VectorType(INT, lanes))
    odd = b.and_(b.lshr(bits, whole(16, lanes)), whole(1, lanes))
    near = b.lshr(b.add(b.add(bits, whole(0x7FFF, lanes)), odd), whole(16, lanes))
    nan = b.fcmp_unordered("uno", vector, vector)
    return b.trunc(b.select(nan, whole(0x7FC0, lanes), near), ir.VectorType(HALF, lanes))


def whole(number: int, lanes: int) -> ir.Constant:
    """A vector of one whole number of 32 bits."""
    return ir.Constant(ir.VectorType(INT, lanes), [number] * lanes)


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
