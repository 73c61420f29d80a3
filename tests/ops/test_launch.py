"""Tensors where kernels want them, and one warning where there is no Triton."""

from __future__ import annotations

import warnings

import pytest
import torch

from convflow.ops import launch


def test_only_what_is_not_aligned_is_copied() -> None:
    tensor = torch.arange(9.0)
    assert launch.aligned(tensor) is tensor
    moved = launch.aligned(tensor[1:])
    assert moved.data_ptr() % 16 == 0
    assert moved.equal(tensor[1:])


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
