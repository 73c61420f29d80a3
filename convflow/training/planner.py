"""Memory: what a training or a batch of samples needs, against what is free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

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


def check_memory(work: Work, free: int | None, option: str, *, training: bool) -> None:
    """Raise InputError when a batch cannot fit into memory, naming the batch that would.

    Args:
        work: the largest that will come.
        free: bytes that are free, weights not yet there; None where that is not known.
        option: the command-line option of the batch, without dashes.
        training: whether gradients and the optimizer are held too.
    """
    if free is None:
        return
    need = work.needs(training)
    if need <= TRUST * free:
        return
    height, width = work.size
    fixed = 2 * work._replace(batch=1).needs(training) - work._replace(batch=2).needs(training)
    fits = int((free / TRUST - fixed) * work.batch / max(need - fixed, 1))
    cure = f"--{option} {fits} fits" if fits >= 1 else "take a smaller network or size"
    raise InputError(
        f"expected work that fits into {_gib(free)} of free memory, got batches of {work.batch} at "
        f"{height}x{width} that need about {_gib(need)}; {cure}"
    )


def free_memory(device: torch.device) -> int | None:
    """Return the bytes free on a device, None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None or device.type != "cpu" else kib * 1024


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
