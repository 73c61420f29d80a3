"""Kernels of numba on as many threads as torch uses, where there are some on torch's own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

Task = Callable[[int, int], object]
"""Does the pieces of work from a number up to another; the order does not matter."""


@cache
def find_numba() -> tuple[ModuleType | None, str]:
    """The numba module and its version, or None and why it cannot be imported."""
    try:
        import numba
    except (ImportError, OSError) as error:
        return None, f"numba cannot be imported: {error}"
    return numba, f"numba {numba.__version__}"


def share(task: Task, count: int) -> None:
    """Do `count` pieces of work on all threads; kernels must release the interpreter's lock.

    The threads are those of torch's OpenMP, which spin for a while after each of its operations
    and would take the cores from others; where it is not GNU's or this process was forked, Python's
    own. Neither needs numba's threading layers, and both can be entered from several threads.
    """
    threads = max(1, min(torch.get_num_threads(), count))
    size = max(1, count // (4 * threads))
    pending, errors = iter(range(0, count, size)), list[BaseException]()

    def work(*_: object) -> None:
        try:
            for start in pending:
                task(start, min(start + size, count))
        except BaseException as error:  # C would drop it
            errors.append(error)

    if threads <= 1:
        task(0, count)
    elif (parallel := _openmp()) is not None and os.getpid() == _first_process():
        parallel(_Callback(work), None, threads, 0)
    else:
        helpers = [_pool(os.getpid(), threads).submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            helper.result()
    if errors:
        raise errors[0]


_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp() -> Any:
    """`GOMP_parallel` of the library that torch runs on, or None."""
    _first_process()
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.GOMP_parallel
    except (OSError, AttributeError):
        return None


@cache
def _first_process() -> int:
    """The process that asked first: threads do not survive a fork."""
    return os.getpid()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process."""
    return ThreadPoolExecutor(threads, thread_name_prefix="convflow")
