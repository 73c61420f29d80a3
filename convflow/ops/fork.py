"""Kernels that share their pieces of work among OpenMP's threads without returning to Python.

A thread that asks Python's interpreter for each piece waits for the lock of the others. For
features of a small network that takes longer than the work.

Only `vectors.py` imports this file, because importing it imports numba.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

INT, LONG = ir.IntType(32), ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()
AT_NEXT, AT_END, AT_SIZE, AT_FAILED, AT_WORKERS, AT_GIVEN = range(6)
"""Places in what threads share: next piece, end, pieces at once, an error, threads so far, rest."""


def forking(kernel: Any) -> Any:
    """Return what a compiled function calls to run a kernel on several threads.

    Args:
        kernel: a dispatcher of numba that takes arrays and numbers, then the thread's number, the
            first piece of work and the one after the last.

    Returns:
        fork(parallel, threads, size, start, stop, given) -> whether a piece raised an error. Each
        of so many threads takes `size` pieces until none is left. `parallel` is the address of
        `GOMP_parallel`, or 0 where the caller does them all. `given` is a tuple of the kernel's
        other arguments.
    """

    def typed(
        typing: Any, parallel: Any, threads: Any, size: Any, start: Any, stop: Any, given: Any
    ):
        kinds = (*given, types.int64, types.int64, types.int64)
        own = typing.resolve_function_type(types.Dispatcher(kernel), kinds, {})

        def write(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> Any:
            compiled = kernel.overloads[own.args]
            context.active_code_library.add_linking_library(compiled.library)
            address, count, *numbers, packed = values
            parts = cgutils.unpack_tuple(b, packed, len(given))
            shared = ir.LiteralStructType([LONG] * AT_GIVEN + [part.type for part in parts])
            data = cgutils.alloca_once(b, shared)
            size, first, last = numbers
            zero = ir.Constant(LONG, 0)
            for place, value in enumerate([first, last, size, zero, zero, *parts]):
                b.store(value, cgutils.gep_inbounds(b, data, 0, place))

            def run(inner: ir.IRBuilder, *pieces: Any) -> Any:
                status, _ = context.call_internal_no_propagate(inner, compiled.fndesc, own, pieces)
                return status.is_error

            work = _write_work(b, shared, run)
            kind = ir.FunctionType(ir.VoidType(), [work.type, BYTES, INT, INT])
            given_data, alone = b.bitcast(data, BYTES), cgutils.is_null(b, address)
            with b.if_else(alone) as (here, there):
                with here:
                    b.call(work, [given_data])
                with there:
                    openmp = b.inttoptr(address, kind.as_pointer())
                    b.call(openmp, [work, given_data, b.trunc(count, INT), ir.Constant(INT, 0)])
            return b.load(cgutils.gep_inbounds(b, data, 0, AT_FAILED))

        return types.int64(parallel, threads, size, start, stop, given), write

    return intrinsic(typed)


def _write_work(b: ir.IRBuilder, shared: ir.Type, run: Callable[..., Any]) -> ir.Function:
    """Return a C function that does pieces of work until none is left."""
    kind = ir.FunctionType(ir.VoidType(), [BYTES])
    work = ir.Function(b.module, kind, name=b.module.get_unique_name("convflow_work"))
    work.linkage = "internal"
    work.attributes.add("noinline")
    entry, ask, do, end = (work.append_basic_block() for _ in range(4))
    inner = ir.IRBuilder(entry)
    data = inner.bitcast(work.args[0], shared.as_pointer())
    places = [cgutils.gep_inbounds(inner, data, 0, i) for i in range(len(shared.elements))]
    stop, size = inner.load(places[AT_END]), inner.load(places[AT_SIZE])
    given = [inner.load(place) for place in places[AT_GIVEN:]]
    worker = inner.atomic_rmw("add", places[AT_WORKERS], ir.Constant(LONG, 1), "monotonic")
    inner.branch(ask)
    inner.position_at_end(ask)
    start = inner.atomic_rmw("add", places[AT_NEXT], size, "monotonic")
    inner.cbranch(inner.icmp_signed("<", start, stop), do, end)
    inner.position_at_end(do)
    past = inner.add(start, size)
    last = inner.select(inner.icmp_signed("<", past, stop), past, stop)
    failed = run(inner, *given, worker, start, last)
    with inner.if_then(failed, likely=False):
        inner.atomic_rmw("or", places[AT_FAILED], ir.Constant(LONG, 1), "monotonic")
    inner.branch(ask)
    inner.position_at_end(end)
    inner.ret_void()
    return work
