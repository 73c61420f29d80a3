"""Noise and labels of sample i as functions of (seed, i) alone.

They depend neither on the batch size, nor on the number of processes, nor on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def generator_of(seed: int, *key: int, device: torch.device | None = None) -> torch.Generator:
    """Return a generator for a seed and a key of non-negative integers, all mixed well.

    The key goes in as numpy's `spawn_key`: side by side, (seed, 0) and (seed,) would be one state,
    and so would a seed of more than 32 bits and a smaller one with a longer key.
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]
    return torch.Generator(device or torch.device("cpu")).manual_seed(int(state))


def draw_noise(
    seed: int, indices: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "B C H W"]:
    """Return standard normal noise of `shape` (C, H, W) for the samples `indices`, on the CPU."""
    rows = [torch.randn(shape, generator=generator_of(seed, i)) for i in indices]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def assign_labels(indices: Sequence[int], labels: Sequence[int]) -> Int[Tensor, " B"]:
    """Return the label of each sample: `labels` in turn, over and over."""
    return torch.tensor([labels[i % len(labels)] for i in indices], dtype=torch.int64)
