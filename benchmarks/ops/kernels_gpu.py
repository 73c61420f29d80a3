"""Each Triton kernel alone: its errors at the sizes that are timed, and its time.

Calls are timed beside replayed graphs, and other launch constants beside those in use.

Run it as `python benchmarks/ops/kernels_gpu.py` from the repository. Every line of the table is
written as soon as it is known. Without a GPU, under TRITON_INTERPRET=1, it is a dry run of a tiny
size: errors count there too, times are left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from benchmarks.ops import truth
from convflow.bench.agreement import TOLERANCE, distance
from convflow.ops.deform import gpu
from convflow.ops.deform import reference as deform_reference
from convflow.ops.depthwise import gpu as depthwise
from convflow.ops.depthwise import reference as depthwise_reference
from tests.tolerance import GOLDEN

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
SHAPES = [(64, 16, 16, 16, 72), (16, 32, 32, 16, 72), (4, 64, 64, 16, 72)] if GPU else [
    (1, 9, 8, 2, 8)
]  # fmt: skip
DEPTHWISE = [(64, 32, 32, 416, 3), (64, 16, 16, 832, 3), (64, 32, 32, 416, 7)] if GPU else [
    (1, 5, 6, 8, 3)
]  # fmt: skip
# The interpreter multiplies the bits of bfloat16 as if they were whole numbers.
HALF = torch.bfloat16 if GPU else torch.float16
SWEEPS: dict[str, list[dict[str, int]]] = {
    "forward": [
        {"LANES": lanes, "PIECES": pieces, "num_warps": warps}
        for lanes, pieces, warps in ((64, 3, 2), (128, 3, 4), (256, 3, 8), (128, 1, 4), (256, 1, 8))
    ],
    "taps_gradient": [
        {"BLOCK": block, "num_warps": warps}
        for block, warps in product((8, 16, 32, 64), (2, 4, 8))
    ],
    "values_gradient": [
        {"SLICE": slice_, "PART": part, "num_warps": warps}
        for slice_, part, warps in ((128, 64, 4), (128, 32, 4), (64, 64, 4), (64, 64, 8))
    ]
    + [{"maxnreg": 255}],
}  # fmt: skip
PATH = harness.RESULTS / "kernels_gpu.jsonl"

Call = Callable[[], object]


def main() -> None:
    """Measure; exit with 1 where a kernel is wrong."""
    wrong = []
    PATH.parent.mkdir(parents=True, exist_ok=True)
    with PATH.open("w", encoding="utf-8", buffering=1) as table:
        table.write(json.dumps(harness.machine()) + "\n")
        for row in (*card(), *deform(), *heads(), *not_finite(), *convolution(), *sweep()):
            line = json.dumps(row)
            print(line, flush=True)
            table.write(line + "\n")
            if row.get("wrong"):
                wrong.append(line)
    if wrong:
        raise SystemExit("kernels are wrong:\n" + "\n".join(wrong))


def card() -> Iterator[dict[str, Any]]:
    """What the device is, and how fast it copies memory."""
    if not GPU:
        return
    found, size = torch.cuda.get_device_properties(0), 2**30
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    micros = wall(lambda: target.copy_(source), 10)["graph_us"]
    yield {
        "card": found.name,
        "multiprocessors": found.multi_processor_count,
        "l2_bytes": found.L2_cache_size,
        "copy_TB_per_s": round(2 * size / (micros * 1e6), 2),
    }


def deform() -> Iterator[dict[str, Any]]:
    """Errors, bits and times of the deformable operator's kernels."""
    for dtype, shape in product((HALF, torch.float32), SHAPES):
        grad, *inputs = truth.inputs_of(shape, dtype, DEVICE)
        wide = [tensor.double() for tensor in inputs]
        truths = [
            deform_reference.deform_sample(*wide, "zeros"),
            *deform_reference.deform_sample_backward(grad.double(), *wide, "zeros"),
        ]

        def forward(inputs: Sequence[Tensor] = inputs) -> Tensor:
            return gpu.deform_sample(*inputs, "zeros")

        def backward(grad: Tensor = grad, inputs: Sequence[Tensor] = inputs) -> tuple[Tensor, ...]:
            return gpu.deform_sample_backward(grad, *inputs, "zeros")

        found, again = [forward(), *backward()], backward()
        same = all(map(torch.equal, found[1:], again))
        yield {"deform_sample": shape, "dtype": str(dtype)} | judged(found, truths, same)
        del truths, wide, found, again
        times = spans(lambda f=forward, b=backward: (f(), b()))
        yield {
            "deform_sample": shape,
            "dtype": str(dtype),
            "kernels_us": times,
            "forward": wall(forward),
            "backward": wall(backward),
        }


def heads() -> Iterator[dict[str, Any]]:
    """Errors and times of the operator of raw heads."""
    for dtype in (HALF, torch.float32):
        grad, *inputs = truth.draw_merged(SHAPES[0], dtype, DEVICE)
        wide = [tensor.double() for tensor in inputs]
        truths = [
            deform_reference.msdcn_sample(*wide, "zeros"),
            *deform_reference.msdcn_sample_backward(grad.double(), *wide, "zeros"),
        ]

        def call(grad: Tensor = grad, inputs: Sequence[Tensor] = inputs) -> list[Tensor]:
            out = gpu.msdcn_sample(*inputs, "zeros")
            return [out, *gpu.msdcn_sample_backward(grad, *inputs, "zeros")]

        row = {"msdcn_sample": SHAPES[0], "dtype": str(dtype)} | judged(call(), truths)
        yield row | {"kernels_us": spans(call)}


def not_finite() -> Iterator[dict[str, Any]]:
    """Whether NaN weights reach every gradient that depends on them."""
    shape = (*SHAPES[0][:3], 1, 8)
    for dtype in (HALF, torch.float32):
        grad, values, offsets, weights = truth.inputs_of(shape, dtype, DEVICE)
        weights[..., 4], offsets[..., 4, :] = torch.nan, 0
        found = gpu.deform_sample_backward(grad, values, offsets, weights, "zeros")
        kept = [bool(tensor.isnan().any()) for tensor in found[:2]]
        yield {"nan_weights": shape, "dtype": str(dtype), "reach": kept, "wrong": not all(kept)}


def convolution() -> Iterator[dict[str, Any]]:
    """Errors and times of the depthwise convolution's kernels."""
    for shape in DEPTHWISE:
        *sizes, side = shape
        x, grad = (torch.randn(sizes, device=DEVICE).to(HALF) for _ in range(2))
        weight = torch.randn(sizes[3], 1, side, side, device=DEVICE) / side
        bias = torch.randn(sizes[3], device=DEVICE)
        truths = [
            depthwise_reference.depthwise_conv(x.double(), weight.double(), bias.double()),
            *depthwise_reference.depthwise_conv_backward(
                grad.double(), x.double(), weight.double()
            ),
        ]

        def forward(x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return depthwise.depthwise_conv(x, weight, bias)

        def both(
            forward: Callable[[], Tensor] = forward,
            grad: Tensor = grad,
            x: Tensor = x,
            weight: Tensor = weight,
        ) -> list[Tensor]:
            return [forward(), *depthwise.depthwise_conv_backward(grad, x, weight)]

        row = {"depthwise_conv": shape, "dtype": str(HALF)} | judged(both(), truths)
        yield row | {"kernels_us": spans(both), "forward": wall(forward)}


def sweep() -> Iterator[dict[str, Any]]:
    """Times with other launch constants, one kernel at a time; a dry run tries one of each."""
    variants = gpu.variants
    for shape in SHAPES[::2]:
        grad, *inputs = truth.inputs_of(shape, HALF, DEVICE)
        for kernel, options in SWEEPS.items():
            for option in options if GPU else options[:1]:

                def chosen(
                    *a: Any, k: str = kernel, o: dict[str, int] = option, **more: Any
                ) -> Any:
                    found = {
                        name: dict(constants) for name, constants in variants(*a, **more).items()
                    }
                    found[k] |= o
                    return found

                def both(grad: Tensor = grad, inputs: Sequence[Tensor] = inputs) -> None:
                    gpu.deform_sample(*inputs, "zeros")
                    gpu.deform_sample_backward(grad, *inputs, "zeros")

                row: dict[str, Any] = {"sweep": kernel, "shape": shape, **option}
                try:
                    gpu.plan.cache_clear()
                    with patch.object(gpu, "variants", chosen):
                        row["us"] = spans(both, 8).get(kernel)
                except Exception as error:  # constants that do not compile or do not fit
                    row["failed"] = f"{type(error).__name__}: {str(error)[:80]}"
                finally:
                    gpu.plan.cache_clear()
                yield row


def judged(
    found: Sequence[Tensor], truths: Sequence[Tensor], same_bits: bool = True
) -> dict[str, Any]:
    """Errors of a result and its gradients, and whether one is beyond its dtype's tolerance."""
    errors = [distance(one, other) for one, other in zip(found, truths, strict=True)]
    # Float32 gradients beside half features, and sums over all positions, of both signs.
    limits = [
        max(TOLERANCE[one.dtype], GOLDEN if place > 1 else 0) for place, one in enumerate(found)
    ]
    right = same_bits and all(e <= limit for e, limit in zip(errors, limits, strict=True))
    shown = [f"{error:.1e}" for error in errors]
    return {"errors": shown, "same_bits": same_bits, "wrong": not right}


def spans(call: Call, count: int = 20) -> dict[str, float]:
    """Median microseconds of every kernel that a call runs, by name; runs it once without a GPU."""
    if not GPU:
        call()
        return {}
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(count):
            call()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in profile.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            found.setdefault(event.name[:40], []).append(event.device_time_total)
    return {name: round(median(times), 1) for name, times in found.items()}


def wall(call: Call, count: int = 50) -> dict[str, float]:
    """Microseconds of a call among others, and of one of ten in a replayed graph."""
    if not GPU:
        return {}
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    torch.cuda.synchronize()
    calls = (time.perf_counter() - start) / count * 1e6
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            call()
    graph.replay()
    torch.cuda.synchronize()
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    graph.replay()
    graph.replay()
    ended.record()
    torch.cuda.synchronize()
    return {"calls_us": round(calls, 1), "graph_us": round(begun.elapsed_time(ended) * 50, 1)}


if __name__ == "__main__":
    main()
