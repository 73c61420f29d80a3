"""How fast the operator is on a GPU, beside rivals and beside the memory's measured rates.

Run it as `python benchmarks/ops/deform_gpu.py` from the repository; `--quick` to see it work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from benchmarks.ops.gpu import (
    DEVICE,
    DTYPES,
    MODES,
    REPEATS,
    copy,
    parse,
    poisoned,
    repeat,
    run,
    timed,
)
from convflow.ops import deform_sample
from convflow.ops.deform import reference
from convflow.ops.deform.op import msdcn_sample
from tests.tolerance import GOLDEN, assert_close_rms

SHAPES = [(64, 16, 16, 16, 72), (16, 32, 32, 16, 72), (4, 64, 64, 16, 72)]
TAPS = reference.TAPS
NOTE = f"""\
Shapes are B x H x W x G x C with K = 9 taps. Offsets: the 3 x 3 grid of a new FlowDCN, dilated
6 g / G cells in group g, plus normal noise of half a cell; numbers that bfloat16 holds, so that all
rivals compute the same. Times are of one call, the mean of {REPEATS} that follow each other.
"ratio" is the rival's time over ours, the median over rounds in which the rivals take turns.
"HBM limit" copies as many bytes as inputs and outputs have; "L2 limit" reads as many bytes as all
corners have from a block that stays in the second-level cache (backward: two times more, for the
gradient). "share" is the limit's time over ours; corners found in the first-level cache can take it
above 1."""


def draw(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Upstream gradient, values, bends of the 3 x 3 grid in cells, and weights; fresh each time."""
    groups = shape[3]
    like: dict[str, Any] = {"device": DEVICE}
    y, x = torch.meshgrid(*[torch.arange(-1.0, 2, **like)] * 2, indexing="ij")
    grid = torch.stack((x, y), -1).view(TAPS, 2)
    dilation = torch.arange(1, groups + 1, **like).view(-1, 1, 1) * 6 / groups
    bends = grid * (dilation - 1) + 0.5 * torch.randn(*shape[:4], TAPS, 2, **like)
    grad, values = (torch.randn(shape, **like).to(dtype) for _ in range(2))
    weights = torch.randn(*shape[:4], TAPS, **like)
    return grad, values, bends.bfloat16().float(), weights.bfloat16().float()


def inputs_of(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Upstream gradient, values, offsets and weights."""
    grad, values, bends, weights = draw(shape, dtype)
    return grad, values, bends + reference.prior_grid().to(bends), weights


def grid_sample(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """The composite over `F.grid_sample`, in the dtype of the values."""
    batch, height, width, groups, channels = values.shape
    sides = [torch.arange(side, device=values.device) for side in (height, width)]
    y, x = torch.meshgrid(*sides, indexing="ij")
    cells = (torch.stack((x, y), -1)[:, :, None, None] + offsets).permute(0, 3, 1, 2, 4, 5)
    grid = ((2 * cells + 1) / cells.new_tensor([width, height]) - 1).reshape(
        batch * groups, height * width, -1, 2
    )
    maps = values.permute(0, 3, 4, 1, 2).reshape(batch * groups, channels, height, width)
    factors = weights.permute(0, 3, 1, 2, 4).reshape(batch * groups, 1, height * width, -1)
    total = (F.grid_sample(maps.float(), grid, align_corners=False) * factors).sum(-1)
    total = total.view(batch, groups, channels, height, width).permute(0, 3, 4, 1, 2)
    return total.to(values.dtype)


def packed(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """deformops' operator; packing its input counts, for ours takes it as the layers give it."""
    from deformops.registry import attn

    *_, groups, channels = values.shape
    steps = torch.tensor([-1.0, 0.0, 1.0], device=values.device)
    bends = offsets - torch.cartesian_prod(steps, steps)
    both = torch.cat((bends, weights[..., None]), -1).to(values.dtype).flatten(3)
    out = attn(values.flatten(3), both, (3, 3), groups=groups, group_dims=channels)
    return out.view_as(values)


@cache
def rivals() -> Mapping[str, Callable[..., Tensor]]:
    """What there is on this machine; ours first."""
    from benchmarks.ops.scheme import scheme

    found = {"deform_sample": deform_sample, "plain Triton": scheme, "grid_sample": grid_sample}
    try:
        import deformops  # noqa: F401
    except ImportError as error:
        print(f"without deformops: {error}")
        return found
    return found | {"deformops": packed}


def check(shape: tuple[int, ...], dtype: torch.dtype) -> list[str]:
    """Names of rivals that agree with the reference in float64; AssertionError if ours does not."""
    grad, *inputs = inputs_of(shape, dtype)
    wide = [tensor.double() for tensor in inputs]
    truths = [
        reference.deform_sample(*wide, "zeros"),
        *reference.deform_sample_backward(grad.double(), *wide, "zeros"),
    ]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    good = []
    for name, function in rivals().items():
        try:
            for actual, truth in zip(poisoned(function, leaves, grad), truths, strict=True):
                assert_close_rms(actual, truth, None if function is deform_sample else dtype)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            if name == "deform_sample":
                raise
            print(f"{name} at {shape} in {dtype} is left out: {error}")
        else:
            good.append(name)
    return good


def check_heads(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """AssertionError unless `msdcn_sample` agrees with its reference in float64."""
    grad, merged, prior, reach = draw_merged(shape, dtype)
    wide = [tensor.double() for tensor in (merged, prior, reach)]
    truths = [
        reference.msdcn_sample(*wide, "zeros"),
        *reference.msdcn_sample_backward(grad.double(), *wide, "zeros"),
    ]
    leaves = [tensor.requires_grad_() for tensor in (merged, prior)]
    found = poisoned(lambda *tensors: msdcn_sample(*tensors, reach), leaves, grad)
    for actual, truth in zip(found[:2], truths, strict=False):
        assert_close_rms(actual, truth)
    # A sum over all positions, of both signs.
    assert_close_rms(found[2], truths[2], limit=GOLDEN)


def draw_merged(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Upstream gradient, values with heads, prior and reach of a layer early in its training."""
    grad, values, *_ = draw(shape, dtype)
    heads = 0.3 * torch.randn(*shape[:3], 4 * TAPS * shape[3], device=DEVICE)
    share = torch.arange(1, shape[3] + 1, device=DEVICE) / shape[3]
    merged = torch.cat((values.flatten(3), heads.to(dtype)), -1)
    return grad.flatten(3), merged, torch.logit(share - 1e-4), heads.new_full((1, 2), 6.0)


def composed(merged: Tensor, prior: Tensor, reach: Tensor) -> Tensor:
    """`msdcn_sample` over `deform_sample`: what a layer does without the fused operator."""
    values, bend, spacing, weights = reference.read_merged(merged, prior)
    offsets = reference.place_taps(bend, spacing, reach[:, None, None, None, None])
    return deform_sample(values, offsets, weights).flatten(3)


def limits(shape: tuple[int, ...], dtype: torch.dtype, mode: str) -> Mapping[str, harness.Call]:
    """Calls that take as long as the memory needs at least."""
    positions, channels = shape[0] * shape[1] * shape[2] * shape[3], shape[4]
    size, training = dtype.itemsize, mode != MODES[0]
    features, taps = positions * channels * size, positions * TAPS * 12
    moved = 2 * features + taps + training * (3 * features + 2 * taps)
    corners = positions * 4 * TAPS * channels * size * (3 if training else 1)
    near = torch.zeros(2**22, device=DEVICE)  # 16 MiB
    turns = max(1, corners // (near.numel() * 4))

    def read() -> None:
        from benchmarks.ops.scheme import read_block

        read_block(near, turns)

    return {"HBM limit": copy(moved), "L2 limit": read}


def set_up(
    dtype: torch.dtype, good: Sequence[str], shape: tuple[int, ...], mode: str
) -> Mapping[str, harness.Call]:
    """The operator, the rivals that agree with it, and the limits."""
    grad, *inputs = inputs_of(shape, dtype)
    calls: dict[str, harness.Call] = {}
    for name in good:
        calls[name] = timed(rivals()[name], inputs, grad, mode)
    return {name: repeat(call) for name, call in (calls | limits(shape, dtype, mode)).items()}


def set_up_heads(
    dtype: torch.dtype, shape: tuple[int, ...], mode: str
) -> Mapping[str, harness.Call]:
    """The operator of raw heads beside its composition."""
    grad, *inputs, reach = draw_merged(shape, dtype)
    rivals = {"msdcn_sample": msdcn_sample, "composition": composed}
    return {
        name: repeat(timed(lambda *t, f=function: f(*t, reach), inputs, grad, mode))
        for name, function in rivals.items()
    }


def main() -> None:
    """Check, measure, print and write the table."""
    options = parse(__doc__)
    shapes = SHAPES[:1] if options.quick else SHAPES
    try:
        good = {(s, d): check(s, DTYPES[d]) for d in options.dtypes for s in shapes}
        for name in options.dtypes:
            check_heads(shapes[0], DTYPES[name])
    except AssertionError as error:
        raise SystemExit(f"ours is wrong, so there is nothing to time: {error}") from error
    cases = []
    for name in options.dtypes:
        for shape in shapes:
            rivals_of = partial(set_up, DTYPES[name], good[shape, name])
            cases.append(harness.Case(f"deform_sample {name}", rivals_of, [shape], MODES))
        heads = partial(set_up_heads, DTYPES[name])
        cases.append(harness.Case(f"msdcn_sample {name}", heads, shapes, MODES))
    run(cases, options.rounds, NOTE, None if options.quick else harness.RESULTS / "deform_gpu.csv")


if __name__ == "__main__":
    main()
