"""Operators of one's own are known to PyTorch with all that it asks of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convflow.ops.register import register


def double(x: Tensor) -> Tensor:
    return 2 * x


def triple(x: Tensor) -> Tensor:
    """Another result than the fallback's, so that it shows who ran."""
    return 3 * x


def differentiate(ctx: Any, grad: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return grad * x


def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def test_a_registered_operator() -> None:
    scale = register(
        "test_scale",
        "(Tensor x) -> Tensor",
        double,
        {"cpu": triple},
        lambda x: x.new_empty(x.shape),
        differentiate,
        save,
    )
    x = torch.tensor([1.0, 4.0], requires_grad=True)
    assert scale(x).equal(3 * x)
    assert scale(x.to("meta")).shape == (2,)
    assert torch.autograd.grad(scale(x).sum(), x)[0].equal(x)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(scale, (x,), test_utils=tests)
