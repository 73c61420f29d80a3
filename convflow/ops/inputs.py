"""What operators ask of their tensors: dtypes, devices, and a call that they can serve."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from convflow.types import InputError


def check_operands(**tensors: Tensor) -> None:
    """Raise InputError unless all are floating and on the device of the first."""
    first, *_ = tensors
    device = tensors[first].device
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise InputError(
                f"{name}: expected a floating dtype, got {tensor.dtype}; convert it with .float()"
            )
        if tensor.device != device:
            raise InputError(
                f"{name}: expected device {device} as of {first}, got {tensor.device}; "
                "move all of them to one device"
            )


def is_transformed(*tensors: Tensor) -> bool:
    """True inside torch.func transforms and with forward-mode tangents: operators have neither."""
    if torch.compiler.is_compiling():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def has_tangents_only(*tensors: Tensor) -> bool:
    """True where tangents of forward mode are all that is wanted: no gradients, no transforms."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
