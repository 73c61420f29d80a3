"""Watching whether loss and gradients stay finite without waiting for the device in every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from convflow.conditions.labels import take
from convflow.training.compiling import uncompiled
from convflow.training.divergence import first_nonfinite_gradient, first_nonfinite_module
from convflow.training.draws import Draws
from convflow.training.state import advise, kept
from convflow.types import Diverged

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer


class StepTaken(NamedTuple):
    """A step that was taken and not looked at yet: its images, and those seen before it."""

    images_seen: int
    batch: tuple[Any, ...]


def waits_for_nothing(device: torch.device) -> bool:
    """Return whether numbers on a device are there at once."""
    return device.type == "cpu"


class Lookout:
    """Notes on the device whether a step was finite; the program looks every few steps.

    From the first step that is not finite until it is found, torch's fused AdamW leaves the weights
    as they are: the step can then be taken again, to say what broke. Other optimizers, and the CPU,
    where looking costs nothing, are looked at in every step.

    Args:
        optimizer: of the training.
        device: of the network.
        every: steps between two looks.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, every: int) -> None:
        groups = optimizer.param_groups
        fused = isinstance(optimizer, torch.optim.AdamW) and all(g["fused"] for g in groups)
        plain = all(type(p.data) is Tensor for group in groups for p in group["params"])
        self.every = every if fused and plain and not waits_for_nothing(device) else 1
        self.optimizer, self.device = optimizer, device
        self.restart()

    def restart(self) -> None:
        """Forget all steps: the next is the first."""
        self.steps: list[StepTaken] = []
        if self.every > 1:
            self.bad, self.good = (torch.zeros((), device=self.device) for _ in range(2))
            self.optimizer.found_inf = self.bad  # type: ignore[attr-defined]

    def due(self, step: int, images: int) -> bool:
        """Return whether to look after the step noted last: every few, and at the end of the run.

        Args:
            step: its number.
            images: length of the run.
        """
        _, _, _, total, *_ = self.steps[-1].batch
        return step % self.every == 0 or self.steps[-1].images_seen + total >= images

    def note(self, numbers: list[Tensor], seen: StepTaken) -> None:
        """Take in the loss and the norm of the gradients of a step, before the optimizer's."""
        self.steps.append(seen)
        if self.every > 1:
            finite = torch.stack([number.isfinite() for number in numbers]).all()
            self.bad.copy_(torch.maximum(self.bad, 1 - finite.float()))
            self.good += 1 - self.bad
        else:
            self.finite = all(bool(number.isfinite()) for number in numbers)

    def first_bad(self) -> int | None:
        """Look: return the place in `steps` of the first that was not finite; None if all were."""
        if self.every == 1:
            return None if not self.steps or self.finite else len(self.steps) - 1
        return int(self.good) if float(self.bad) else None


def diverged(
    trainer: Trainer,
    images: Tensor,
    labels: Tensor,
    draws: Draws,
    indices: Any,
    noise: Tensor | None,
    total: int,
) -> Diverged:
    """Return the error that names the first module and the images that are not finite.

    Raises:
        Diverged: it was an earlier step, see `go_back`.
    """
    go_back(trainer)
    parts = [torch.zeros(0, device=trainer.device)]

    def forward() -> None:
        for rows, _ in trainer.passes(len(images), total):
            losses, _ = trainer.losses_of(images[rows], take(labels, rows), draws, rows, noise)
            parts.append(losses)

    with uncompiled(trainer.config.compile != "off"):
        module = first_nonfinite_module(trainer.losses, forward)
    bad = (~torch.cat(parts).isfinite()).nonzero().flatten().tolist()
    names = ", ".join(
        trainer.images.item_name(int(indices[i])) for i in bad[:3] if i < len(indices)
    )
    gradient = first_nonfinite_gradient(trainer.losses)
    where = module or (f"the gradient of {gradient}" if gradient else "the gradient's norm")
    return Diverged(
        f"the loss or its gradient is not finite at step {trainer.step + 1} (images "
        f"{trainer.images_seen:,} to {trainer.images_seen + total:,}); first in "
        f"{where}{f', with {names}' if names else ''}{', ...' if len(bad) > 3 else ''}; "
        + advise(trainer)
    )


def go_back(trainer: Trainer) -> None:
    """Take the first step that was not finite again, if there was one before the present step.

    Args:
        trainer: its weights are still those before that step.

    Raises:
        Diverged: with what broke.
    """
    place, steps = trainer.lookout.first_bad(), trainer.lookout.steps
    if place is None:
        return
    within = trainer.images_seen == steps[-1].images_seen  # a step, not after it
    if within and place == len(steps) - 1:
        return
    trainer.step -= len(steps) - place - within
    trainer.images_seen = steps[place].images_seen
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.lookout.restart()
    trainer.lookout.every = 1
    trainer.train_step(*steps[place].batch)
    raise Diverged(
        f"the loss or its gradient was not finite at step {trainer.step}, and is when the step is "
        f"taken again; kept: {kept(trainer.run_folder)}; go on from there"
    )
