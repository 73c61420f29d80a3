"""The Triton kernels alone: what they compile for, and what makes them compile anew."""

from __future__ import annotations

import math

import pytest
import torch

from convflow.ops import launch
from convflow.ops.depthwise import gpu
from tests.ops.offline import compile_all

pytestmark = pytest.mark.skipif(
    launch.find_triton()[0] is None, reason=f"no Triton to compile with: {launch.find_triton()[1]}"
)
TARGETS = ["sm_80", "sm_90", "gfx942"]


def check(rows: list[dict], count: int) -> None:
    """All are there, nothing spills, and every read but those of weights is of 16 bytes."""
    assert len(rows) == count
    for row in rows:
        assert row["spills"] == 0, row
        forward = row["kernel"] == "forward"
        vector = 16 // getattr(torch, row["dtype"]).itemsize
        weights = math.isqrt(row["taps"]) * vector if forward else 0
        assert row["loads"] - row["wide_loads"] == weights, row
        assert row["wide_loads"] > 0, row
        if forward:
            assert row["shared_bytes"] == 0, f"lanes exchange numbers: {row}"


@pytest.mark.slow
def test_compiles_for_every_target() -> None:
    """The largest of the usual kernels, in the dtype of which least else is compiled."""
    options = "--forms depthwise --dtypes float16 --channels 416 --taps 49".split()
    check(compile_all("--targets", *TARGETS, *options), 6)


@pytest.mark.slow
def test_compiles_the_smallest_and_the_largest() -> None:
    options = "--forms depthwise --channels 72 --dtypes float32 bfloat16".split()
    check(compile_all("--targets", *TARGETS, *options, "--taps", "9", "49"), 24)


def test_variants_differ_by_kind_only() -> None:
    assert gpu.variants(torch.bfloat16, 416, 7) == gpu.variants(torch.bfloat16, 8, 7)
    options = gpu.variants(torch.bfloat16, 416, 7)
    assert options["forward"]["VECTOR"] == 8
    assert options["taps_gradient"]["COLUMNS"] == 8
    assert gpu.variants(torch.float32, 3, 3, amd=True)["forward"]["VECTOR"] == 1
