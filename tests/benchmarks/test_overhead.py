"""The arguments of planned launches are those that Triton itself hands over."""

from __future__ import annotations

import pytest

from tests.ops.offline import run

pytest.importorskip("triton")


@pytest.mark.slow
def test_overhead_is_measured_where_both_hand_over_the_same() -> None:
    """The script compares them before it measures; the fast sibling is in tests/ops/test_launch."""
    out = run("benchmarks/ops/overhead.py", "--rounds", "1")
    for name in ("deform_sample", "msdcn_sample", "depthwise_conv"):
        assert f"{name} " in out
