"""Draws on which no rounding decides, and what our operators must agree with before they are timed.

A tap just below a cell's edge falls into one cell in float32 and into another in float64, and its
slope jumps. So offsets lie on a grid that float32 adds exactly, and heads keep off the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convflow.ops.deform import reference
from tests.tolerance import GOLDEN, assert_close_rms

TAPS = reference.TAPS
GRID = 32
"""Offsets are whole multiples of 1 / GRID of a cell."""
EDGE = 1e-3
"""No tap of raw heads comes nearer to a cell's edge than this, in cells."""

Shape = tuple[int, ...]
Function = Callable[..., Tensor]


def draw(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Upstream gradient, values, bends of the 3 x 3 grid in cells, and weights; fresh each time.

    bfloat16 holds the bends and the weights, so that rivals in half precision compute the same.
    """
    groups = shape[3]
    like: dict[str, Any] = {"device": device}
    y, x = torch.meshgrid(*[torch.arange(-1.0, 2, **like)] * 2, indexing="ij")
    grid = torch.stack((x, y), -1).view(TAPS, 2)
    dilation = torch.arange(1, groups + 1, **like).view(-1, 1, 1) * 6 / groups
    bends = grid * (dilation - 1) + 0.5 * torch.randn(*shape[:4], TAPS, 2, **like)
    grad, values = (torch.randn(shape, **like).to(dtype) for _ in range(2))
    weights = torch.randn(*shape[:4], TAPS, **like)
    return grad, values, on_grid(bends), weights.bfloat16().float()


def on_grid(bends: Tensor) -> Tensor:
    """The nearest offsets that bfloat16 holds and that float32 adds to a cell's number exactly."""
    return ((bends * GRID).round() / GRID).bfloat16().float()


def inputs_of(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Upstream gradient, values, offsets and weights."""
    grad, values, bends, weights = draw(shape, dtype, device)
    return grad, values, bends + reference.prior_grid().to(bends), weights


def draw_merged(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Upstream gradient, values with heads, prior and reach of a layer early in its training."""
    grad, values, *_ = draw(shape, dtype, device)
    groups, channels = shape[3:]
    heads = 0.3 * torch.randn(*shape[:3], 4 * TAPS * groups, device=device)
    share = torch.arange(1, groups + 1, device=device) / groups
    merged = torch.cat((values.flatten(3), heads.to(dtype)), -1)
    prior, reach = torch.logit(share - 1e-4), heads.new_full((1, 2), 6.0)
    start = groups * channels
    bends = merged[..., start : start + 2 * TAPS * groups].view(*shape[:4], TAPS, 2)
    while bool((near := near_edges(merged, prior, reach)).any()):
        bends += near * (2 / GRID)
    return grad.flatten(3), merged, prior, reach


def near_edges(merged: Tensor, prior: Tensor, reach: Tensor) -> Tensor:
    """Which offsets (B, H, W, G, K, 2) bring a tap to within EDGE of a cell's edge."""
    _, bend, spacing, _ = reference.read_merged(merged.double(), prior.double())
    offsets = reference.place_taps(bend, spacing, reach.double()[:, None, None, None, None])
    return (offsets - offsets.round()).abs() < EDGE


def found_by(function: Function, leaves: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Output and gradients, in memory that held NaN before."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what is not initialised
    try:
        out = function(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    finally:
        torch.use_deterministic_algorithms(False)


def check_sample(
    function: Function,
    grad: Tensor,
    inputs: Sequence[Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Raise AssertionError unless a `deform_sample` agrees with the reference in float64.

    Args:
        function: from values, offsets and weights to the output.
        grad: the upstream gradient.
        inputs: values, offsets and weights.
        dtype: whose tolerance counts; by default that of each result.
    """
    wide = [tensor.double() for tensor in inputs]
    truths = [
        reference.deform_sample(*wide, "zeros"),
        *reference.deform_sample_backward(grad.double(), *wide, "zeros"),
    ]
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    for actual, truth in zip(found_by(function, leaves, grad), truths, strict=True):
        assert_close_rms(actual, truth, dtype)


def check_heads(function: Function, grad: Tensor, inputs: Sequence[Tensor]) -> None:
    """Raise AssertionError unless an `msdcn_sample` agrees with the reference in float64.

    Args:
        function: from values with heads, prior and reach to the output.
        grad: the upstream gradient.
        inputs: values with heads, prior and reach, as `draw_merged` makes them.
    """
    *inputs, reach = inputs
    wide = [tensor.double() for tensor in (*inputs, reach)]
    truths = [
        reference.msdcn_sample(*wide, "zeros"),
        *reference.msdcn_sample_backward(grad.double(), *wide, "zeros"),
    ]
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out, grad_merged, grad_prior = found_by(lambda *t: function(*t, reach), leaves, grad)
    assert_close_rms(out, truths[0])
    assert_close_rms(grad_merged, truths[1])
    # A sum over all positions, of both signs.
    assert_close_rms(grad_prior, truths[2], limit=GOLDEN)
