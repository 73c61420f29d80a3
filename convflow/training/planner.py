"""Memory and disk: what a training or a batch of samples needs, against what is free."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from convflow.models.backbone import Backbone
from convflow.models.cost import MOST_PLACES, measure
from convflow.spoken import bytes_of
from convflow.types import InputError, Size

TRUST = 1.25
"""Only what needs so many times the free memory is refused: estimates are of what tensors hold."""

COPIES = 16
"""A bound on how often a number is held: results of a layer before and after what follows it,
their gradients; weights, their average, gradients and two moments."""


class Work(NamedTuple):
    """One network on batches of one size.

    Attributes:
        build: makes the network; called where its weights take no memory.
        size: height and width in pixels.
        batch: pictures at once.
        factor: pixels along a side of a cell of model space.
        half: whether the arithmetic is in bfloat16.
    """

    build: Callable[[], Backbone]
    size: Size
    batch: int
    factor: int = 1
    half: bool = False

    def bound(self) -> int:
        """Return more bytes than `needs` does, at once: a place has fewer numbers than a network.

        Every number of a layer's result has a parameter of its own; `COPIES` of it may be kept.
        """
        with torch.device("meta"):
            parameters = sum(p.numel() for p in self.build().parameters())
        places = self.batch * math.prod(self.size) // self.factor**2
        return 4 * COPIES * parameters * (1 + places)

    def needs(self, training: bool) -> int:
        """Return an estimate of the bytes, those of weights included."""
        most = max(MOST_PLACES * self.factor**2 // math.prod(self.size), 2)
        if self.batch > most:  # beyond counting it goes on as it grew
            one, two = (self._replace(batch=batch).needs(training) for batch in (1, 2))
            return one + (self.batch - 1) * (two - one)
        cost = measure(self.build, self.size, self.batch, self.factor, self.half)
        return sum((cost.training if training else cost.sampling).values())


def check_memory(
    work: Work, free: int | None, option: str, *, training: bool, picture: int = 1
) -> None:
    """Raise InputError when a batch cannot fit into memory, naming the batch that would.

    Args:
        work: the largest that will come.
        free: bytes that are free, weights not yet there; None where that is not known.
        option: the command-line option of the batch, without dashes.
        training: whether gradients and the optimizer are held too.
        picture: evaluations side by side for one picture.
    """
    if free is None or work.bound() <= free:
        return
    need = work.needs(training)
    if need <= TRUST * free:
        return
    height, width = work.size
    fixed = 2 * work._replace(batch=1).needs(training) - work._replace(batch=2).needs(training)
    evaluations = (free / TRUST - fixed) * work.batch / max(need - fixed, 1)
    fits, cure = int(evaluations) // picture, "take a smaller network or size"
    if fits >= 1:
        cure = f"--{option} {fits} fits"
    elif evaluations > 0:  # what is not fixed grows with the pixels
        sides = _smaller(work, (evaluations / picture) ** 0.5)
        cure = f"one of {sides[0]}x{sides[1]} fits" if min(sides) else cure
    raise InputError(
        f"expected work that fits into {_gib(free)} of free memory, got batches of "
        f"{work.batch // picture} at {height}x{width} that need about {_gib(need)}; {cure}"
    )


def describe_disk(parameters: int, keep: int, kept: int, folder: Path) -> tuple[str, bool]:
    """Return a line about the disk that checkpoints will take, and whether it is free.

    A checkpoint holds weights, their average and two moments in float32; one more than are kept is
    there while the newest is written.

    Args:
        parameters: of the network.
        keep: checkpoints that are kept.
        kept: checkpoints that are there already.
        folder: on the disk; it exists.
    """
    each, free = 16 * parameters, shutil.disk_usage(folder).free
    many = f"{keep} are kept" if keep > 1 else "1 is kept"
    line = (
        f"checkpoints take about {bytes_of(each)} each, at most {many} and 1 is being written: "
        f"{bytes_of(each * (keep + 1))}; {bytes_of(free)} are free here"
    )
    if fits := each * max(1, keep + 1 - kept) <= free:
        return line, fits
    return f"{line}, too little; free some, lower --checkpoint.keep or choose another --run", fits


def _smaller(work: Work, share: float) -> Size:
    """Return a share of both sides, or less where the network takes only multiples."""
    with torch.device("meta"):
        multiple = work.build().multiple * work.factor
    height, width = (int(side * share) // multiple * multiple for side in work.size)
    return height, width


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
