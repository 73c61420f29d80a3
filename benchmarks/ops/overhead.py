"""How long a call of each operator keeps the processor, with kernels that do nothing.

Run it as `python benchmarks/ops/overhead.py` from the repository; it needs no GPU. Triton compiles
the kernels for sm_90, and what would load and start them is replaced by functions that return at
once. So the checks, PyTorch's dispatch, the allocation of the result and Triton's own Python count.
The call of the CUDA driver, about which a machine without a GPU knows nothing, does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

if os.environ.get("TRITON_INTERPRET") == "1":
    raise SystemExit("expected Triton's compiler, got TRITON_INTERPRET=1; unset it")

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.ops import deform_sample, depthwise_conv
from convflow.ops.deform import gpu as deform
from convflow.ops.deform import op as deform_op
from convflow.ops.depthwise import gpu as depthwise
from convflow.ops.launch import Launch

launched: list[tuple[Any, ...]] = []
"""Grids and arguments of the last kernels, where they are wanted."""
record = False
CALLS = 50


class EmptyLauncher:
    """Starts nothing."""

    def __init__(self, source: object, metadata: object) -> None:
        pass

    def __call__(self, x: int, y: int, z: int, *arguments: Any) -> None:
        if record:
            # Stream, function, metadata twice and two hooks come before the kernel's arguments.
            launched.append((x, y, z, *arguments[6:]))


def load_binary(*arguments: object) -> tuple[int, int, int, int, int]:
    """Module, function, registers, spills and threads of a kernel that was not loaded."""
    return 0, 0, 32, 0, 1024


class EmptyDriver:
    """What Triton asks of a device."""

    launcher_cls = EmptyLauncher
    utils = SimpleNamespace(
        load_binary=load_binary,
        get_device_properties=lambda device: {"max_shared_mem": 232448, "warpSize": 32},
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def cases() -> dict[str, Callable[[], object]]:
    """A call of every operator, without gradients."""
    values = torch.zeros(1, 8, 8, 2, 72, dtype=torch.bfloat16)
    offsets, weights = torch.zeros(1, 8, 8, 2, 9, 2), torch.zeros(1, 8, 8, 2, 9)
    merged = torch.zeros(1, 8, 8, 2 * 72 + 72, dtype=torch.bfloat16)
    prior, reach = torch.zeros(2), torch.ones(1, 2)
    x = torch.zeros(1, 8, 8, 64, dtype=torch.bfloat16)
    kernel, bias = (torch.nn.Parameter(torch.zeros(s)) for s in ((64, 1, 3, 3), (64,)))
    return {
        "deform_sample": lambda: deform_sample(values, offsets, weights),
        "msdcn_sample": lambda: deform_op.msdcn_sample(merged, prior, reach),
        "depthwise_conv": lambda: depthwise_conv(x, kernel, bias),
    }


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Send tensors of the CPU to the launchers of the GPU."""
    launchers = (
        ("deform_sample", deform.deform_sample),
        ("msdcn_sample", deform.msdcn_sample),
        ("depthwise_conv", depthwise.depthwise_conv),
    )
    library = torch.library.Library("convflow", "IMPL")  # it must outlive what it registers
    for name, launcher in launchers:
        library.impl(name, launcher, "CPU", allow_override=True)
    with patch.object(deform_op, "fuses", lambda values: True), torch.no_grad():
        yield
    del library


def look_up(self: Launch, *tensors: Tensor) -> None:
    """`Launch.__call__` as it would be with Triton's own way from arguments to a variant."""
    with torch.cuda.device_of(tensors[0]):
        self.kernel[(self.programs,)](*tensors, *self.sizes, **self.options)


def check(call: Callable[[], object]) -> None:
    """Raise SystemExit unless a planned launch hands over what Triton's own does."""
    global record
    record = True
    with patch.object(Launch, "__call__", look_up):
        call()
    call()
    call()
    record = False
    ours, own = ([by_size(one) for one in launched[-1]], [by_size(one) for one in launched[-3]])
    if ours != own:
        raise SystemExit(f"expected the arguments {own}, got {ours}")
    launched.clear()


def by_size(argument: object) -> object:
    """Of a tensor its shape, because results are new at every call."""
    return tuple(argument.shape) if isinstance(argument, Tensor) else argument


def micros(call: Callable[[], object]) -> float:
    """Processor time of one call, the mean of many."""
    start = time.thread_time()
    for _ in range(CALLS):
        call()
    return (time.thread_time() - start) / CALLS * 1e6


def main() -> None:
    """Check, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=51)
    options = parser.parse_args()
    torch.set_num_threads(1)
    triton.runtime.driver.set_active(EmptyDriver())
    with on_the_cpu():
        for name, call in cases().items():
            check(call)
            ours, own = [], []
            for _ in range(options.rounds):
                ours.append(micros(call))
                with patch.object(Launch, "__call__", look_up):
                    own.append(micros(call))
            print(
                f"{name:16}{min(ours):7.1f} us at best, {median(ours):7.1f} in the middle; with "
                f"Triton's own lookup {min(own):7.1f} and {median(own):7.1f}"
            )
    print(harness.harness.machine() | {"triton": triton.__version__})


if __name__ == "__main__":
    main()
