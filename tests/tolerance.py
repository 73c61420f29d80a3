"""How far two results may be apart: one ratio of root mean squares per dtype, and a few others.

Each of the others has a name and a reason here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convflow.bench.agreement import TOLERANCE, distance

BFLOAT16_WEIGHTS = 2e-2
"""As `TOLERANCE`, of networks whose weights and sums over blocks are rounded to bfloat16 too."""

GOLDEN = 1e-5
"""Likewise, against a file that the released code computed in float32 through a whole network.

The file is itself only that exact: our float64 run is 2.8e-6 away from it.
"""

GOLDEN_WORST = 1e-4
"""Largest |actual - expected| of one number against such a file; our float64 run has 3e-5."""

REGROUPED_LOSS = 1e-4
"""Largest relative difference of a loss or gradient norm when processes share the batch.

Sums in another order differ by a rounding, which each step hands on to the next.
"""

REGROUPED_WEIGHTS = 1e-3
"""Likewise of the weights, as a ratio of norms.

Adam divides a gradient by its own size, so where that is near zero the rounding of the sum counts
as much as the gradient.
"""


def assert_close_rms(
    actual: Tensor,
    expected: Tensor,
    dtype: torch.dtype | None = None,
    limit: float | None = None,
) -> None:
    """Shapes agree and rms(actual - expected) stays below the tolerance times rms(expected).

    Args:
        actual: what the code under test gave.
        expected: the truth, in any dtype and on any device; where it is all zero, so must be
            `actual`.
        dtype: the dtype whose tolerance counts; by default that of `actual`.
        limit: a tolerance by name, instead of that of a dtype.
    """
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    limit = limit or TOLERANCE[dtype or actual.dtype]
    found = distance(actual, expected)
    assert found <= limit, f"rms error {found:.2e}, limit {limit:.0e}"  # so that NaN fails


def compare_patterns(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Check that NaN and the infinities stand at the same places, and the rest agrees."""
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, equal_nan=True)
