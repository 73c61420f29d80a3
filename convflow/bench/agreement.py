"""How far two ways of computing the same numbers may be apart.

The tests and the benchmarks hold to the same tolerances: what fails a test has no speed either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convflow.types import Disagreement

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest rms(actual - expected) / rms(expected), by the dtype that was computed in."""


def distance(actual: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor]) -> float:
    """Return rms(actual - expected) / rms(expected), in float64 and over all tensors at once.

    What lies on a GPU is compared there; other accelerators may lack float64.

    Args:
        actual: a tensor, or several.
        expected: as many, of the same shapes, in any dtype and on any device.

    Returns:
        0 where both are zero, infinity where only `expected` is or where shapes differ, NaN where
        there is one.
    """
    ours, theirs = ([t] if isinstance(t, Tensor) else list(t) for t in (actual, expected))
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float("inf")
    error = size = 0.0
    for one, other in zip(ours, theirs, strict=True):
        home = one.device if torch.cuda.is_available() else "cpu"
        one, other = one.detach().to(home).double(), other.detach().to(home).double()
        error += (one - other).square().sum().item()
        size += other.square().sum().item()
    if size == 0:
        return 0.0 if error == 0 else error * float("inf")
    return (error / size) ** 0.5


def require_agreement(
    what: str, actual: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor], limit: float
) -> None:
    """Raise Disagreement unless the distance is at most `limit`."""
    found = distance(actual, expected)
    if not found <= limit:  # written so that NaN fails
        raise Disagreement(
            f"{what}: expected the same numbers within {limit:.0e} (rms), got {found:.1e}; "
            "there is nothing to time, please report it with the output of convflow doctor"
        )
