"""What every launcher of Triton kernels needs: Triton itself, and tensors that fit its variants."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

FEATURES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that kernels read and write; they compute in float32."""


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
