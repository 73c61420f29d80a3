"""The numba kernel alone: which pieces it fills."""

from __future__ import annotations

import numpy as np

from convflow.ops.depthwise.cpu_kernels import LANES, backward_kernel, backward_scratch


def test_fills_only_the_pieces_asked_for():
    maps = np.ones((2, 3, 4, 2 * LANES), np.float32)
    weight = np.ones((2, 25, LANES), np.float32)
    found = [np.full_like(maps, -7), np.full((2, *weight.shape), -7, np.float32)]
    found.append(np.full((2, 2 * LANES), -7, np.float32))
    scratch = backward_scratch(1, 3, 4, 5)
    assert not backward_kernel(5)(0, 1, 1, 1, 3, maps, maps, weight, *found, *scratch)
    for begun, filled in ((0, True), (1, True)):  # image 0's second group, image 1's first
        mine = slice(LANES, None) if not begun else slice(None, LANES)
        other = slice(None, LANES) if not begun else slice(LANES, None)
        assert (found[0][begun, ..., mine] > 0).all() == filled
        assert (found[0][begun, ..., other] == -7).all()
        assert (found[2][begun, mine] == 12).all()
        assert (found[2][begun, other] == -7).all()
    assert found[1][0, 1, 12, 0] == 12  # the middle of the kernel meets every cell
    assert (found[1][1, 1] == -7).all()
