"""The numba kernels of the norm alone: which vectors they fill."""

from __future__ import annotations

import numpy as np

from convflow.ops.norm_kernels import PIECE_ROWS, forward_kernel


def test_fills_only_the_pieces_asked_for():
    x = np.full((2, PIECE_ROWS + 1, 16), 3, np.float32)
    factor, shift, out = np.full((2, 16), 2, np.float32), np.ones((2, 16), np.float32), 0 * x
    assert not forward_kernel()(0, 1, 1, 1, 3, x, factor, shift, np.float32(0), out)
    filled = np.zeros(out.shape[:2], bool)
    filled[0, PIECE_ROWS:] = filled[1, :PIECE_ROWS] = True
    assert (out[filled] == 3).all()
    assert (out[~filled] == 0).all()
