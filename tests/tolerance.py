"""How far two tensors may be apart: one ratio of root mean squares per dtype, stated once."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 2e-6,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
"""Largest rms(actual - expected) / rms(expected), by the dtype that was computed in."""


def assert_close_rms(actual: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """Shapes agree and rms(actual - expected) stays below the tolerance times rms(expected).

    Args:
        actual: what the code under test gave.
        expected: the truth, in any dtype and on any device; where it is all zero, so must be
            `actual`.
        dtype: the dtype whose tolerance counts; by default that of `actual`.
    """
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    limit = TOLERANCE[dtype or actual.dtype]
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    error, size = (actual - expected).norm().item(), expected.norm().item()
    # Written so that NaN fails.
    assert error <= limit * size, f"rms error {error / max(size, 1e-300):.2e}, limit {limit:.0e}"
