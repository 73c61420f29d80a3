"""Training on one process; what other engines change in it, they say themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from convflow import distributed


class Single:
    """The whole network and the whole batch on one device."""

    def prepare(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """Return what is called in place of `module` in training; all processes come here.

        Args:
            module: what is trained.
            unused: whether some of its parameters may take no part in a step.
        """
        return module

    def accumulate(self, module: nn.Module) -> AbstractContextManager[object]:
        """Return a context in which gradients of a prepared module stay on this process."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the sum of `loss` over all processes, and of those accumulated."""
        loss.backward()

    def empty_forward(self, module: nn.Module) -> None:
        """Take the part of a prepared module in the forward passes of others, after an error here.

        An engine may exchange messages in a forward pass. A process that fails before its own
        would leave the others waiting.
        """

    def clip(self, parameters: Iterable[nn.Parameter], most: float | None) -> Tensor:
        """Return the norm of all gradients, which are made shorter where it is above `most`.

        Gradients that are not finite stay as they are.
        """
        held = [parameter for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
        if most is not None and bool(norm.isfinite()):
            nn.utils.clip_grads_with_norm_(held, most, norm)
        return norm

    def agree(self, flags: Sequence[bool], device: torch.device) -> list[bool]:
        """Return for each flag whether it is raised on any process; all processes come here."""
        raised = torch.tensor(flags, device=device).float()
        distributed.sum_over_processes([raised])
        return raised.bool().tolist()

    def save(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the state of a prepared module, whole where it is written; all come here."""
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the share of this process in what `save` has returned."""
        return tensors
