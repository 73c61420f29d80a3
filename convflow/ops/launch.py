"""What every launcher of Triton kernels needs: Triton itself, launches, and tensors that fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

FEATURES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that kernels read and write; they compute in float32."""
NUM_PLANS = 256
"""Kinds of calls whose launches are kept."""


@cache
def find_triton() -> tuple[ModuleType | None, str]:
    """The Triton module and its version, or None and why it cannot be imported."""
    try:
        import triton
    except (ImportError, OSError) as error:
        return None, f"triton cannot be imported: {error}"
    return triton, f"triton {triton.__version__}"


@cache
def usable(operator: str) -> bool:
    """Whether there is Triton to launch an operator with; if not, warns once for each operator."""
    triton, reason = find_triton()
    if triton is None:
        warnings.warn(
            f"{operator} runs its slow reference on the GPU, because {reason}. "
            "Install it with `pip install triton`.",
            RuntimeWarning,
            stacklevel=2,
        )
    return triton is not None


def aligned(tensor: Tensor) -> Tensor:
    """The tensor where 16 bytes can be read at once, so that Triton compiles one variant only."""
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


class Launch:
    """A kernel with its grid, its sizes and its constants, for tensors of fixed dtypes and device.

    Triton looks at every argument of every call to find the variant that it compiled, which takes
    longer than a small kernel runs. Here only the first call does so; later calls run its variant.

    Args:
        kernel: a function under `triton.jit`.
        programs: the size of its grid.
        sizes: its whole numbers, which follow its tensors.
        options: its compile-time constants, which follow the sizes, and launch options.
    """

    def __init__(
        self, kernel: Any, programs: int, sizes: tuple[int, ...], options: Mapping[str, Any]
    ) -> None:
        self.kernel, self.programs, self.sizes, self.options = kernel, programs, sizes, options
        self._run: Callable[..., object] | None = None
        self._fixed: tuple[object, ...] = ()

    def __call__(self, *tensors: Tensor) -> None:
        """Run the kernel; every tensor has the dtype and the device that it had the first time.

        Args:
            tensors: contiguous, each `aligned`.
        """
        with torch.cuda.device_of(tensors[0]):
            if self._run is not None:
                self._run(*tensors, *self._fixed)
                return
            compiled = self.kernel[(self.programs,)](*tensors, *self.sizes, **self.options)
        if compiled is None:  # it was interpreted
            return
        names = self.kernel.arg_names[len(tensors) + len(self.sizes) :]
        self._fixed = (*self.sizes, *(self.options[name] for name in names))
        self._run = compiled[(self.programs, 1, 1)]
