"""Memory that a batch needs, in training and in sampling, against memory that is free."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from convflow.models.backbone import Backbone
from convflow.models.blocks import RecomputeChoice
from convflow.models.cost import MOST_PLACES, measure_cost
from convflow.types import InputError, Size, size_text

TRUST = 1.25
"""Only what needs so many times the free memory is refused: estimates are of what tensors hold."""

MOST_COPIES = 16
"""A bound on how often a number is held: results of a layer before and after what follows it,
their gradients; weights, their average, gradients and two moments."""


class MemoryEstimate(NamedTuple):
    """The memory that one network needs for batches of one size.

    Attributes:
        build: makes the network; called where its weights take no memory.
        size: height and width in pixels, of videos frames before them.
        batch: images at once.
        factor: pixels along a side of a cell of model space.
        half: whether the arithmetic is in bfloat16.
        training: whether gradients and the optimizer are held too.
        evaluations: of the network side by side for one image; guidance needs 2.
        recompute: blocks that the backward pass computes again, see `recompute_blocks`.
        frame_factor: frames of a cell, as of `in_cells`.
    """

    build: Callable[[], Backbone]
    size: Size
    batch: int
    factor: int = 1
    half: bool = False
    training: bool = False
    evaluations: int = 1
    recompute: RecomputeChoice = "none"
    frame_factor: int = 1

    def bound(self) -> int:
        """Return more bytes than `needs` does, at once: a place has fewer numbers than a network.

        Every number of a layer's result has a parameter of its own; `MOST_COPIES` may be kept.
        """
        with torch.device("meta"):
            parameters = sum(p.numel() for p in self.build().parameters())
        places = self.batch * self.evaluations * math.prod(self.size) // self.factor**2
        return 4 * MOST_COPIES * parameters * (1 + places)

    def needs(self) -> int:
        """Return an estimate of the bytes, those of weights included."""
        evaluations = self.batch * self.evaluations
        if evaluations > max(MOST_PLACES * self.factor**2 // math.prod(self.size), 2):
            # Beyond counting it goes on as it grew.
            one, two = (self._replace(batch=count, evaluations=1).needs() for count in (1, 2))
            return one + (evaluations - 1) * (two - one)
        cost = measure_cost(
            self.build,
            self.size,
            evaluations,
            self.factor,
            self.half,
            self.recompute,
            self.frame_factor,
        )
        return sum((cost.training if self.training else cost.sampling).values())

    def check(self, free: int | None, option: str) -> None:
        """Raise InputError when the batch cannot fit into free memory, see `check_memory`."""
        if free is None or self.bound() <= free:
            return
        with torch.device("meta"):
            multiple = self.build().multiple * self.factor

        def needs(batch: int) -> int:
            return self._replace(batch=batch).needs()

        check_memory(needs, self.size, self.batch, free, option, multiple)


def check_memory(
    needs: Callable[[int], int],
    size: Size,
    batch: int,
    free: int | None,
    option: str,
    multiple: int = 1,
) -> None:
    """Raise InputError when a batch cannot fit into memory, naming the batch or size that would.

    Args:
        needs: from a number of images to bytes: some, and for each image as many more.
        size: height and width of the images in pixels; the largest that will come.
        batch: images at once.
        free: bytes that are free; None where that is not known.
        option: the command-line option of the batch, without dashes.
        multiple: what divides height and width of a size that is named.
    """
    if free is None or (need := needs(batch)) <= TRUST * free:
        return
    fixed = 2 * needs(1) - needs(2)
    share = (free / TRUST - fixed) * batch / max(need - fixed, 1)
    cure = "take a smaller network or size"
    if share >= 1:
        cure = f"--{option} {int(share)} fits"
    elif share > 0:  # what is not fixed grows with the pixels
        height, width = (int(side * share**0.5) // multiple * multiple for side in size[-2:])
        fitting = size_text((*size[:-2], height, width))
        cure = f"one of {fitting} fits" if min(height, width) else cure
    raise InputError(
        f"expected work that fits into {_gib(free)} of free memory, got batches of {batch} at "
        f"{size_text(size)} that need about {_gib(need)}; {cure}"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
