"""Operators known to PyTorch: their schemas, kernels, gradients and shapes.

`torch.library.custom_op` does the same and checks more at every call, which takes 3 us longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

AnyFunction = Callable[..., Any]


def register(
    name: str,
    schema: str,
    fallback: AnyFunction,
    kernels: Mapping[str, AnyFunction],
    fake: AnyFunction,
    backward: AnyFunction,
    save: AnyFunction | None = None,
) -> AnyFunction:
    """Register an operator, and return it.

    Args:
        name: within the namespace "convflow".
        schema: arguments and results; results share no memory with arguments or with each other.
        fallback: runs on devices that have no kernel.
        kernels: from types of devices, such as "cpu", to what runs there.
        fake: from the same arguments to empty results of the right shapes and dtypes.
        backward: from the context and the upstream gradients to a gradient for each argument.
        save: puts what `backward` needs into its context.
    """
    full = f"convflow::{name}"
    torch.library.define(full, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(full, "default", fallback)
    for device, kernel in kernels.items():
        torch.library.impl(full, device, kernel)
    torch.library.register_fake(full, fake)
    torch.library.register_autograd(full, backward, setup_context=save)
    operator: AnyFunction = getattr(torch.ops.convflow, name).default
    return operator
