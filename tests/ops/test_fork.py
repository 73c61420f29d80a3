"""Kernels on OpenMP's threads, without Python between the pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convflow.ops import threads
from convflow.ops.vectors import compiled


def test_errors_of_pieces_are_told_and_the_rest_is_done():
    """Exceptions cannot leave a C function; what a thread meets is told after all have ended."""
    if not threads._openmp():
        pytest.skip("torch runs on another OpenMP")

    def kernel(done, bad, worker, start, stop):
        for piece in range(start, stop):
            if piece == bad:
                raise ValueError
            done[piece] = 1

    run = compiled(kernel)
    for parallel in (0, threads._openmp()):
        for bad, expected in ((3, 1), (-1, 0)):
            done = np.zeros(9, np.int64)
            assert run(parallel, 2, 1, 0, 9, done, bad) == expected
            assert done.sum() == 9 - expected


def test_scalars_and_arrays_of_any_kind_reach_the_threads():
    if not threads._openmp():
        pytest.skip("torch runs on another OpenMP")

    def kernel(out, factor, flag, other, worker, start, stop):
        for piece in range(start, stop):
            out[piece] = factor * other[piece, 1] if flag else -1.0

    run, other = compiled(kernel), torch.randn(8, 2, dtype=torch.float64).numpy()
    out = np.zeros(8)
    run(threads._openmp(), 3, 2, 0, 8, out, np.float32(2), True, other)
    assert (out == 2 * other[:, 1]).all()
    run(threads._openmp(), 3, 2, 0, 8, out, np.float32(2), False, other)
    assert (out == -1).all()
