"""How fast the operator is on a GPU, beside rivals and beside the memory's measured rates.

Run it as `python benchmarks/ops/deform_gpu.py` from the repository; `--quick` to see it work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from benchmarks.ops import truth
from benchmarks.ops.gpu import (
    DEVICE,
    DTYPES,
    GPU,
    MODES,
    REPEATS,
    beside_graphs,
    copy,
    parse,
    run,
    timed,
)
from convflow.ops import deform_sample
from convflow.ops.deform import reference
from convflow.ops.deform.op import msdcn_sample

SHAPES = [(64, 16, 16, 16, 72), (16, 32, 32, 16, 72), (4, 64, 64, 16, 72)] if GPU else [
    (1, 3, 4, 2, 8)
]  # fmt: skip
OURS = "deform_sample"
TAPS = reference.TAPS
NOTE = f"""\
Shapes are B x H x W x G x C with K = 9 taps. Offsets: the 3 x 3 grid of a new FlowDCN, dilated
6 g / G cells in group g, plus normal noise of half a cell; whole thirty-seconds of a cell, which
bfloat16 holds and float32 adds exactly, so that all rivals compute the same. Times are of one
call, the mean of {REPEATS} that follow each other: of calls from Python, and in lines with "graph"
of a replayed CUDA graph, which has no Python and one launch.
"ratio" is the rival's time over ours, the median over rounds in which the rivals take turns.
"HBM limit" copies as many bytes as inputs and outputs have; "L2 limit" reads as many bytes as all
corners have from a block that stays in the second-level cache (backward: two times more, for the
gradient). "share" is the limit's time over ours; corners found in the first-level cache can take it
above 1."""


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
    """What there is on this machine."""
    from benchmarks.ops.scheme import scheme

    found = {"plain Triton": scheme, "grid_sample": grid_sample}
    try:
        import deformops  # noqa: F401
    except ImportError as error:
        print(f"without deformops: {error}")
        return found
    return found | {"deformops": packed}


def agreeing(shape: tuple[int, ...], dtype: torch.dtype) -> list[str]:
    """Names of the rivals that agree with the reference in float64; says which do not, and why."""
    grad, *inputs = truth.inputs_of(shape, dtype, DEVICE)
    good = []
    for name, function in rivals().items():
        try:
            truth.check_sample(function, grad, inputs, dtype)
        except Exception as error:  # a rival may fail in any way
            print(f"{name} at {shape} in {dtype} is left out: {type(error).__name__}: {error}")
        else:
            good.append(name)
    return good


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
    near = torch.zeros(2**22 if GPU else 2**12, device=DEVICE)  # 16 MiB
    turns = max(1, corners // (near.numel() * 4))

    def read() -> None:
        from benchmarks.ops.scheme import read_block

        read_block(near, turns)

    return {"HBM limit": copy(moved), "L2 limit": read}


def set_up(
    dtype: torch.dtype, others: Sequence[str], shape: tuple[int, ...], mode: str
) -> Mapping[str, harness.Call]:
    """The operator, beside some rivals or, without any, beside the limits."""
    grad, *inputs = truth.inputs_of(shape, dtype, DEVICE)
    calls = {OURS: timed(deform_sample, inputs, grad, mode)}
    for name in others:
        calls[name] = timed(rivals()[name], inputs, grad, mode)
    beside = {} if others else limits(shape, dtype, mode)
    return beside_graphs(calls | beside)


def set_up_heads(
    dtype: torch.dtype, shape: tuple[int, ...], mode: str
) -> Mapping[str, harness.Call]:
    """The operator of raw heads beside its composition."""
    grad, *inputs, reach = truth.draw_merged(shape, dtype, DEVICE)
    functions = {"msdcn_sample": msdcn_sample, "composition": composed}
    calls = {
        name: timed(lambda *t, f=function: f(*t, reach), inputs, grad, mode)
        for name, function in functions.items()
    }
    return beside_graphs(calls)


def check(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """AssertionError unless both operators agree with the reference in float64."""
    grad, *inputs = truth.inputs_of(shape, dtype, DEVICE)
    truth.check_sample(deform_sample, grad, inputs)
    grad, *inputs = truth.draw_merged(shape, dtype, DEVICE)
    truth.check_heads(msdcn_sample, grad, inputs)


def main() -> None:
    """Check, measure, print and write the table."""
    options = parse(__doc__, "beside rivals, in a table of their own; otherwise beside the limits")
    shapes = SHAPES[:1] if options.quick else SHAPES
    dtypes = [DTYPES[name] for name in options.dtypes]
    try:
        for dtype, shape in product(dtypes, shapes):
            check(shape, dtype)
    except AssertionError as error:
        raise SystemExit(f"ours is wrong, so there is nothing to time: {error}") from error
    cases = []
    for name, dtype in zip(options.dtypes, dtypes, strict=True):
        for shape in shapes:
            others = agreeing(shape, dtype) if options.rivals else []
            if others or not options.rivals:
                beside = partial(set_up, dtype, others)
                cases.append(harness.Case(f"{OURS} {name}", beside, [shape], MODES))
        if not options.rivals:
            heads = partial(set_up_heads, dtype)
            cases.append(harness.Case(f"msdcn_sample {name}", heads, shapes, MODES))
    table = "deform_gpu_rivals.csv" if options.rivals else "deform_gpu.csv"
    run(cases, options.rounds, NOTE, None if options.quick else harness.RESULTS / table)


if __name__ == "__main__":
    main()
