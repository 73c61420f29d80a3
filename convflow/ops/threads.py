"""Kernels of numba on as many threads as torch uses, where there are some on torch's own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

Kernel = Callable[..., int]
"""See `vectors.compiled`."""
Scratch = Callable[[int], Sequence[Any]]

FIRST_PROCESS = os.getpid()
"""The process that imported this: threads of OpenMP do not survive a fork."""


@cache
def find_numba() -> tuple[ModuleType | None, str]:
    """The numba module and its version, or None and why it cannot be imported."""
    try:
        import numba
    except (ImportError, OSError) as error:
        return None, f"numba cannot be imported: {error}"
    return numba, f"numba {numba.__version__}"


def share(
    kernel: Kernel, given: Sequence[Any], count: int, scratch: Scratch = lambda _: ()
) -> None:
    """Do `count` pieces of work of a kernel on as many threads as torch uses.

    The threads are those of torch's OpenMP, which spin for a while after each of its operations
    and would take the cores from others; where it is not GNU's or this process was forked, Python's
    own. Neither needs numba's threading layers, and both can be entered from several threads.

    Args:
        kernel: of `vectors.compiled`.
        given: its arrays and numbers.
        count: pieces of work; the order in which they are done does not matter.
        scratch: from a number of threads to arrays for them, which follow the given ones.

    Raises:
        MemoryError: the kernel found none.
    """
    threads = max(1, min(torch.get_num_threads(), count))
    size = max(1, count // (4 * threads))

    def run(*words: int, own: Sequence[Any]) -> None:
        if kernel(*words, *given, *own):
            raise MemoryError("a kernel found no memory for its scratch")

    if threads == 1:
        run(0, 1, count, 0, count, own=scratch(1))
    elif (parallel := _openmp()) and os.getpid() == FIRST_PROCESS:
        run(parallel, threads, size, 0, count, own=scratch(threads))
    else:
        pending = iter(range(0, count, size))

        def work() -> None:
            own = scratch(1)
            for start in pending:
                run(0, 1, size, start, min(start + size, count), own=own)

        helpers = [_pool(os.getpid(), threads).submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            helper.result()


@cache
def _openmp() -> int:
    """The address of `GOMP_parallel` of the library that torch runs on, or 0."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process."""
    return ThreadPoolExecutor(threads, thread_name_prefix="convflow")
