"""Directional derivatives of networks in forward mode, without a graph for gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from convflow.types import InputError


@torch.no_grad()
def push_forward(
    network: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    tangents: tuple[Tensor, ...],
    *fixed: Any,
) -> Tensor:
    """Return how fast the output of a network changes where its inputs change so fast.

    d/ds network(inputs + s tangents, fixed) at s = 0: a Jacobian times a vector. One evaluation
    gives it, and nothing of that is kept for a backward pass. It runs in modules as they are, with
    their hooks, so that networks whose weights are shared between processes can be asked too; all
    of these must ask. What is compiled runs as it was written.

    Args:
        network: called as `network(*inputs, *fixed)`.
        inputs: floating tensors.
        tangents: in the shapes and dtypes of the inputs.
        *fixed: further arguments, which do not change.

    Raises:
        InputError: the network has an operator without a forward derivative, or cuts it off.

    Examples:
        >>> push_forward(lambda x: x.square(), (torch.tensor(3.0),), (torch.tensor(2.0),))
        tensor(12.)
    """
    with forward_ad.dual_level(), _as_written():
        pairs = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
        try:
            output = network(*pairs, *fixed)
        except (NotImplementedError, RuntimeError) as error:
            if "forward AD" not in str(error) and "jvp" not in str(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"expected a network of operators with a forward derivative, got one with another "
                f"({reason}); write it of torch's operators, or choose --process flow"
            ) from error
        slope = forward_ad.unpack_dual(output).tangent
        if slope is None:
            raise InputError(
                "expected a network that carries forward derivatives, got one whose output has "
                "none; keep it from detaching its inputs, or choose --process flow"
            )
        return slope


def _as_written() -> AbstractContextManager[object]:
    """Return a context in which nothing compiled runs, for that would lose tangents."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import takes seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
