"""How fast depthwise convolution is on a GPU, beside torch's own and a copy of as many bytes.

Run it as `python benchmarks/ops/depthwise_gpu.py` from the repository; `--quick` to see it work.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
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
from benchmarks.ops.truth import found_by
from convflow.ops import depthwise_conv
from tests.tolerance import GOLDEN, TOLERANCE, assert_close_rms

SHAPES = [
    (64, 32, 32, 416, 3), (64, 16, 16, 832, 3), (16, 64, 64, 416, 3), (64, 32, 32, 416, 7)
] if GPU else [(1, 5, 6, 8, 3)]  # fmt: skip
OURS = "depthwise_conv"
RIVALS = [OURS, "channels_last", "contiguous"]
NOTE = f"""\
Shapes are B x H x W x C and the side of the kernel. The rivals are `F.conv2d` on memory in
`torch.channels_last` format and on contiguous memory, with weights in the dtype of the features,
cuDNN's choice of the fastest, and no TF32; ours has float32 weights. Times are of one call, the
mean of {REPEATS} that follow each other: of calls from Python, and in lines with "graph" of a
replayed CUDA graph, which has no Python and one launch. "ratio" is the rival's time over ours, the
median over rounds in which the rivals take turns. "HBM limit" copies as many bytes as inputs and
outputs have, each read or written once in the forward and once in the backward; "share" is its time
over ours."""


def draw(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Upstream gradient, features, weight and bias; numbers that bfloat16 holds."""
    *sizes, side = shape
    grad, x = (torch.randn(sizes, device=DEVICE).bfloat16().to(dtype) for _ in range(2))
    weight = torch.randn(sizes[3], 1, side, side, device=DEVICE) / side
    bias = torch.randn(sizes[3], device=DEVICE)
    return [grad, x, weight.bfloat16().float(), bias.bfloat16().float()]


def arrange(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors as a rival wants them."""
    grad, x, weight, bias = tensors
    if name == OURS:
        return [grad, x, weight, bias]
    maps = [tensor.permute(0, 3, 1, 2) for tensor in (grad, x)]
    if name == "contiguous":
        maps = [tensor.contiguous() for tensor in maps]
    return [*maps, weight.to(x.dtype), bias.to(x.dtype)]


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The library's convolution, on channels first."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))


def check(shape: tuple[int, ...], dtype: torch.dtype) -> list[str]:
    """Names of rivals that agree with float64; AssertionError if ours does not."""
    tensors = draw(shape, dtype)
    good, truths = [], found("contiguous", [tensor.double() for tensor in tensors])
    for name in RIVALS:
        try:
            for place, (actual, truth) in enumerate(zip(found(name, tensors), truths, strict=True)):
                # Weights' and biases' gradients are sums over all positions, of both signs.
                limit = (
                    TOLERANCE[actual.dtype] if place < 2 else max(GOLDEN, TOLERANCE[actual.dtype])
                )
                assert_close_rms(actual, truth, limit=limit)
        except (AssertionError, RuntimeError) as error:
            if name == OURS:
                raise
            print(f"{name} at {shape} in {dtype} is left out: {error}")
        else:
            good.append(name)
    return good


def found(name: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Output and gradients of a rival, maps with channels first."""
    grad, *inputs = arrange(name, tensors)
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out, grad_x, *sums = found_by(depthwise_conv if name == OURS else convolve, leaves, grad)
    if name == OURS:
        out, grad_x = out.permute(0, 3, 1, 2), grad_x.permute(0, 3, 1, 2)
    return [out, grad_x, *sums]


def set_up(
    dtype: torch.dtype, good: Sequence[str], shape: tuple[int, ...], mode: str
) -> Mapping[str, harness.Call]:
    """The operator, the rivals that agree with it, and the limit."""
    tensors = draw(shape, dtype)
    calls: dict[str, harness.Call] = {}
    for name in good:
        grad, *inputs = arrange(name, tensors)
        calls[name] = timed(depthwise_conv if name == OURS else convolve, inputs, grad, mode)
    features, taps = (tensor.nbytes for tensor in tensors[1:3])
    once = 2 * features + taps
    calls["HBM limit"] = copy(once if mode == MODES[0] else once + 3 * features + 2 * taps)
    return beside_graphs(calls)


def main() -> None:
    """Check, measure, print and write the table."""
    options = parse(__doc__)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
    shapes = SHAPES[:1] if options.quick else SHAPES
    try:
        good = {(s, d): check(s, DTYPES[d]) for d in options.dtypes for s in shapes}
    except AssertionError as error:
        raise SystemExit(f"ours is wrong, so there is nothing to time: {error}") from error
    cases = [
        harness.Case(f"{OURS} {name}", partial(set_up, DTYPES[name], rivals), [shape], MODES)
        for (shape, name), rivals in good.items()
    ]
    path = None if options.quick else harness.RESULTS / "depthwise_gpu.csv"
    run(cases, options.rounds, NOTE, path)


if __name__ == "__main__":
    main()
