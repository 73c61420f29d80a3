"""How much of the time of sampling lies outside the network, without waiting for each call of it.

Run it as `python benchmarks/samplers/network_share.py` from the repository, `--quick` to see it
work.
`convflow bench samplers` waits for the device at every call, and so finds a lower bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.bench import models, table, utilisation
from convflow.bench.agreement import require_agreement
from convflow.bench.samplers import count_calls
from convflow.codecs import PixelCodec
from convflow.distributed import choose_device
from convflow.generate import Samples
from convflow.models.backbone import Backbone
from convflow.models.blocks import compile_blocks
from convflow.models.cost import measure_cost as measure_cost
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.types import Disagreement

NAME, SETTINGS = "flowdcn-xl/2", dict[str, Any]()
SOLVER, GUIDANCE = "ab2", 1.5
TINY = {"width": 32, "depth": 2, "num_groups": 2}
SAMPLING, NETWORK = "sampling", "network alone"
VARIANTS: dict[str, Callable[[nn.Module], None]] = {
    "eager": lambda model: None,
    "blocks": compile_blocks,
    "graphs": lambda model: model.compile(mode="reduce-overhead", dynamic=False),
}
"""What is done to the network, in place; the last takes minutes, and is CUDA graphs on a GPU."""

NOTE = """\
"sampling" is one batch from seeds to latents on the CPU, by a network with random weights; "network
alone" as many calls of the network on the inputs that the loop gave it, one after the other. Both
are waited for once, at their end, and take turns: "ratio" of the latter is the network's share,
"outside" the rest. "utilisation" is that of `convflow bench models`."""


class Latents(PixelCodec):
    """Four channels at an eighth of the size, of which numbers are made and no images."""

    factor = 8

    def channels(self, image_channels: int) -> int:
        """Those of the latents, for colour."""
        return 4 if image_channels == 3 else super().channels(image_channels)


def main() -> None:
    """Measure, print and write the table, which grows with each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--variants", nargs="+", choices=VARIANTS, default=["eager", "blocks"])
    add(
        "--precision", choices=models.PRECISION_DTYPES, default="bfloat16", help="of the arithmetic"
    )
    add("--batch", type=int, default=32, help="latents at once; guidance evaluates twice as many")
    add("--size", type=int, default=256, metavar="PIXELS", help="eight times a side of the latents")
    add("--steps", type=int, default=16)
    add("--rounds", type=int, default=5, help="how often both have their turn")
    add("--quick", action="store_true", help="a tiny network, few small latents, no table")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    size, batch, steps = (options.size, options.size), options.batch, options.steps
    rounds, name, settings = options.rounds, NAME, SETTINGS
    if options.quick:
        size, batch, steps, rounds, name, settings = (64, 64), 2, 4, 2, "flowdcn", TINY

    harness.machine()  # refuses now rather than after minutes
    print(NOTE, "\n")
    device = choose_device()
    model = models.create_noisy(name, device, **settings)
    pipe = Pipeline(model, Latents(), size, device=str(device))
    chosen = {"solver": SOLVER, "steps": steps, "guidance": GUIDANCE, "guidance_kind": "cfg"}
    samples = pipe.samples(precision=options.precision, **chosen)
    inputs = watch(samples, batch)
    truth = evaluate(model, inputs[0], torch.float32)
    gmacs = measure_cost(partial(create_model, name, **settings), size, factor=8).gmacs
    workload = utilisation.Workload(2e9 * gmacs * sum(len(x) for x, *_ in inputs), models.LIMIT)
    dtype, rows = models.PRECISION_DTYPES[options.precision], list[table.Cells]()
    for variant in options.variants:
        VARIANTS[variant](model)
        found = evaluate(model, inputs[0], dtype)
        what = f"{name} and itself {variant}"
        require_agreement(what, found, truth, models.THROUGH_NETWORK[dtype])
        calls = partial(set_up, samples, inputs, dtype)
        shape = (batch, *samples.shape)
        case = harness.Case(f"{name} {SOLVER} {variant}", calls, [shape], [f"{steps} steps"])
        timed = harness.measure(case, rounds)
        rated = utilisation.rate(timed, {row.rival: workload for row in timed}, device)
        outside = 1 - next(row.ratio for row in rated if row.rival == NETWORK)
        rows += [table.cells(vars(row) | {"outside": outside}) for row in rated]
        print(*table.lines(rows[-len(rated) :]), "", sep="\n", flush=True)
        if not options.quick:
            path = harness.RESULTS / f"network_share_{device.type}.csv"
            harness.write_table(path, rows, precision=options.precision, guidance=GUIDANCE)
    print(harness.machine())


def watch(samples: Samples, batch: int) -> list[tuple[Tensor, ...]]:
    """The inputs of every call of the network while a batch is made.

    Raises:
        Disagreement: there are other calls than the solver's rows tell.
    """
    seen: list[tuple[Tensor, ...]] = []
    hook = samples.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    samples.read(range(batch))
    hook.remove()
    if len(seen) != (expected := count_calls(samples)):
        raise Disagreement(f"expected {expected} calls of the network, got {len(seen)}")
    return seen


@torch.inference_mode()
def evaluate(model: Backbone, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """A copy of the network's answer in this arithmetic."""
    with models.Setting(inputs[0].device, dtype).arithmetic():
        return model(*inputs).clone()


def set_up(
    samples: Samples,
    inputs: list[tuple[Tensor, ...]],
    dtype: torch.dtype,
    shape: tuple[int, ...],
    mode: str,
) -> Mapping[str, harness.Call]:
    """Sampling, the network alone, and the product of its limit."""
    device = inputs[0][0].device

    @torch.inference_mode()
    def alone() -> None:
        with models.Setting(device, dtype).arithmetic():
            for given in inputs:
                samples.model(*given)

    sampling = partial(samples.read, range(shape[0]))
    return {SAMPLING: sampling, NETWORK: alone, models.LIMIT: utilisation.product(device, dtype)}


if __name__ == "__main__":
    main()
