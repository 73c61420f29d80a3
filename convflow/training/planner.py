"""Memory: what a training or a batch of samples needs, against what is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from convflow.models.backbone import Backbone
from convflow.models.cost import measure
from convflow.types import InputError, Size

TRUST = 1.25
"""Only what needs so many times the free memory is refused: estimates are within 20 %."""


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

    def needs(self, training: bool) -> int:
        """Return an estimate of the bytes, those of weights included."""
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
    if free is None:
        return
    need = work.needs(training)
    if need <= TRUST * free:
        return
    height, width = work.size
    fixed = 2 * work._replace(batch=1).needs(training) - work._replace(batch=2).needs(training)
    fits = int((free / TRUST - fixed) * work.batch / max(need - fixed, 1)) // picture
    cure = f"--{option} {fits} fits" if fits >= 1 else "take a smaller network or size"
    raise InputError(
        f"expected work that fits into {_gib(free)} of free memory, got batches of "
        f"{work.batch // picture} at {height}x{width} that need about {_gib(need)}; {cure}"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
