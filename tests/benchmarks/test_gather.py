"""What the gradient of the values looks at is counted as a map of one tile shows."""

from __future__ import annotations

import torch

from benchmarks.ops import gather


def test_counts_of_small_maps() -> None:
    torch.manual_seed(0)
    one, four = gather.count(8), gather.count(16)
    assert (one["tiles"], one["looked_at"], one["multiplied"]) == (1, 1, 1)
    # Only taps whose whole box is off the map are left out.
    assert 8 < one["pairs"] <= 9
    assert four["tiles"] == four["looked_at"] == 4
    assert 9 < four["pairs"] <= 36
