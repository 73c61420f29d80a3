"""Random draws as functions of (seed, i): noise and label of sample i, generators of training.

They depend neither on the batch size, nor on the number of processes, nor on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

WORD = 2**32
"""One of NumPy's seed words has 32 bits."""

LabelPolicy = Literal["balanced", "random"]
"""Labels in turn (`assign_labels`), or drawn (`draw_labels`)."""

TRAINING_KEYS = (0, 256)
"""Begins the keys of training and keeps them apart from those of samples."""

VALIDATION_KEYS = (0, 257)
"""Begins the keys of what is drawn once for the images that a training holds back."""

AUGMENTATION_KEYS = (0, 258)
"""Begins the keys of what happens to the images of a step."""

SEED_RULE = "numpy PCG64 of SeedSequence(seed, spawn_key=(i,)), standard normal float32"
"""How the noise of sample i comes about, in words for a result card."""


def generator_of(seed: int, *key: int, device: torch.device | None = None) -> torch.Generator:
    """Return a torch generator for a seed and a key of non-negative integers, all mixed well.

    Torch's CPU generator takes 32 bits of its seed, so that two keys in a few billion meet; what
    must never meet is drawn by `draw_noise`.
    """
    state = _sequence(seed, *key).generate_state(1, np.uint64)[0]
    return torch.Generator(device or torch.device("cpu")).manual_seed(int(state))


def draw_noise(
    seed: int, indices: Sequence[int], shape: tuple[int, ...], step: int = 0
) -> Float[Tensor, "B C *F H W"]:
    """Return standard normal noise of `shape`, such as (C, H, W), for some samples, on the CPU.

    Each sample has a stream of numpy's PCG64 of its own, seeded with 128 bits, at each step.

    Args:
        seed: any non-negative integer.
        indices: numbers of the samples.
        shape: of one sample.
        step: 0 for the noise that sampling starts from, 1, 2, ... for that of the steps of a
            random solver.
    """
    noise = np.empty((len(indices), *shape), np.float32)
    key = (2, step) if step else ()
    for row, i in zip(noise, indices, strict=True):
        stream = np.random.Generator(np.random.PCG64(_sequence(seed, i, *key)))
        stream.standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(noise)


def assign_labels(indices: Sequence[int], labels: Sequence[int]) -> Int[Tensor, " B"]:
    """Return the label of each sample: `labels` in turn, over and over."""
    return torch.tensor([labels[i % len(labels)] for i in indices], dtype=torch.int64)


def draw_labels(seed: int, indices: Sequence[int], labels: Sequence[int]) -> Int[Tensor, " B"]:
    """Return a label of each sample, drawn uniformly from `labels` with a stream of its own."""
    streams = (np.random.Generator(np.random.PCG64(_sequence(seed, i, 1))) for i in indices)
    return torch.tensor([labels[int(stream.integers(len(labels)))] for stream in streams])


def _sequence(seed: int, *key: int) -> np.random.SeedSequence:
    """Keep seed and key apart: side by side, (seed, 0) and (seed,) would be one state."""
    if seed >= WORD**4 or any(number >= WORD for number in key):
        return long_sequence(seed, *key)
    return np.random.SeedSequence(seed, spawn_key=key)


def long_sequence(*numbers: int) -> np.random.SeedSequence:
    """Return the state of some numbers, each of any length; no two rows of numbers share one.

    `SeedSequence` lays numbers side by side as 32-bit words, in which `n + 2**32 * m` is the same
    as `n` and `m`. Here their count and the length of each are laid beside them. The pool is larger
    than the usual one, so that these words never are those of short numbers.

    Raises:
        ValueError: a number below 0.

    Examples:
        >>> states = [long_sequence(*row).generate_state(1) for row in [(5 + 2**32,), (5, 1)]]
        >>> bool(states[0] == states[1])
        False
    """
    spelled = [word for number in map(int, numbers) for word in (number.bit_length(), number)]
    return np.random.SeedSequence([len(numbers), *spelled], pool_size=8)
