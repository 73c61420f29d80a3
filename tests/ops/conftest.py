"""What tests of all kernels do to the machine: bad memory, and a missing Triton."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from convflow.ops import launch


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the launchers ask for with NaN: a number that no kernel wrote does not pass."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -(2**31))

    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide Triton, and forget before and after what was found of it."""
    monkeypatch.setitem(sys.modules, "triton", None)
    for cached in (launch.find_triton, launch.usable):
        cached.cache_clear()
    yield
    for cached in (launch.find_triton, launch.usable):
        cached.cache_clear()


@pytest.fixture
def no_plans() -> Iterator[None]:
    """Plan all launches anew, with what a test changes in a launcher, and forget them after it."""
    from convflow.ops.deform import gpu as deform
    from convflow.ops.depthwise import gpu as depthwise

    plans = (
        deform.plan,
        deform.plan_merged,
        depthwise.forward_launch,
        depthwise.taps_gradient_launch,
    )
    for cached in plans:
        cached.cache_clear()
    yield
    for cached in plans:
        cached.cache_clear()
