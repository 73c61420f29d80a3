"""Tensors where kernels want them, and one warning where there is no Triton."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from convflow.ops import launch


def test_only_what_is_not_aligned_is_copied() -> None:
    tensor = torch.arange(9.0)
    assert launch.aligned(tensor) is tensor
    moved = launch.aligned(tensor[1:])
    assert moved.data_ptr() % 16 == 0
    assert moved.equal(tensor[1:])


class Kernel:
    """What a launch asks of Triton: a grid, then the arguments; the first call compiles."""

    arg_names = ("x", "y", "height", "K", "WIDE")

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getitem__(self, grid: tuple[int, ...]):
        return lambda *given, **options: self.calls.append((grid, given, options)) or Compiled(self)


class Compiled:
    """A variant: constants follow the other arguments by place."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]):
        return lambda *given: self.kernel.calls.append((grid, given, None))


def test_only_the_first_launch_goes_through_triton() -> None:
    kernel, options = Kernel(), {"WIDE": False, "K": 9, "num_warps": 4}
    run = launch.Launch(kernel, 7, (5,), options)
    first, second = torch.zeros(1), torch.ones(1)
    run(first, second)
    run(second, first)
    assert kernel.calls == [
        ((7,), (first, second, 5), options),
        ((7, 1, 1), (second, first, 5, 9, False), None),
    ]


def test_without_triton_each_operator_warns_once(no_triton: None) -> None:
    assert launch.find_triton()[0] is None
    with pytest.warns(
        RuntimeWarning, match="first runs its slow reference .* `pip install triton`"
    ):
        assert not launch.usable("first")
    with pytest.warns(RuntimeWarning, match="second runs its slow reference"):
        assert not launch.usable("second")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not launch.usable("first")


def test_operators_alone_need_torch_and_jaxtyping_alone_and_importing_loads_no_compiler() -> None:
    code = (
        "import sys\n"
        "for name in ('msgspec', 'beartype', 'safetensors', 'huggingface_hub', 'PIL', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "import torch\n"
        "from convflow.ops import deform_sample, depthwise_conv\n"
        "assert not {'numba', 'triton'} & sys.modules.keys()\n"
        "x = torch.ones(1, 2, 2, 1, 4, dtype=torch.float64, requires_grad=True)\n"
        "out = deform_sample(x, torch.zeros(1, 2, 2, 1, 1, 2), torch.ones(1, 2, 2, 1, 1))\n"
        "depthwise_conv(out.flatten(3), torch.ones(4, 1, 1, 1)).sum().backward()\n"
        "assert x.grad.eq(1).all()\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
