"""What operators refuse, and calls that they leave to their references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from convflow.ops.inputs import check_operands, is_transformed
from convflow.types import InputError


def test_dtypes_and_devices() -> None:
    check_operands(x=torch.zeros(1), weight=torch.zeros(2, dtype=torch.float16))
    with pytest.raises(InputError, match=r"x: expected a floating dtype, got torch.int64; convert"):
        check_operands(x=torch.arange(2))
    with pytest.raises(InputError, match="weight: expected device cpu as of x, got meta; move"):
        check_operands(x=torch.zeros(1), weight=torch.zeros(1, device="meta"))


def test_transforms_and_tangents_are_seen() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(is_transformed(x))
        return x.sum()

    look(torch.ones(2))
    torch.func.grad(look)(torch.ones(2))
    with forward_ad.dual_level():
        look(forward_ad.make_dual(torch.ones(2), torch.ones(2)))
    assert seen == [False, True, True]
