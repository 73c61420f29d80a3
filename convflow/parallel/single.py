"""Training on one process; what other engines change in it, they say themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from convflow import distributed
from convflow.parallel.shards import TensorFile
from convflow.storage import read_finite

Built = TypeVar("Built", bound=nn.Module)
T = TypeVar("T")


class Single:
    """The whole network and the whole batch on one device.

    Args:
        device: of this process.

    Attributes:
        sharded: whether a process holds a share of the weights, so that all must call a network.
        shards: processes that hold one copy of the weights.
        exchanges: whether forward passes exchange messages, so that all processes must take each.
    """

    sharded = False
    shards = 1

    def __init__(self, device: torch.device) -> None:
        self.device, self.exchanges = device, self.sharded

    @property
    def takes_part(self) -> bool:
        """Whether this process draws and saves: the first does, or all that share a network."""
        return self.sharded or not distributed.rank()

    def build(self, create: Callable[[], Built]) -> Built:
        """Return what `create` does, maybe without numbers until `prepare` gives them."""
        return create()

    def place(self, module: Built) -> Built:
        """Return a module on the device of this process, as far as it is to be there now."""
        return module.to(self.device)

    def prepare(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """Return what is called in place of `module` in training; all processes come here.

        Args:
            module: what is trained.
            unused: whether some of its parameters may take no part in a step.
        """
        return module

    def prepare_average(self, average: nn.Module, module: nn.Module, called: bool) -> None:
        """Keep an average where what it follows is, which is prepared already.

        Args:
            average: a copy of `module` that was made before.
            module: the network or the objectives in what was prepared.
            called: whether the average is called too.
        """

    def passes(self, own: int, most: int) -> int:
        """Return how many forward passes this process takes in a step.

        Args:
            own: as many as its rows need.
            most: as many as the rows of any process need.
        """
        return most if self.exchanges else own

    def together(self) -> AbstractContextManager[object]:
        """Return a context in which processes may exchange messages in forward passes.

        Where they do, a process that fails leaves the group, and others then too.
        """
        return distributed.leaving_group() if self.exchanges else nullcontext()

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
        norm = self.whole(nn.utils.get_total_norm([p.grad for p in held if p.grad is not None]))
        if most is not None:  # a norm of zero changes nothing; the device is not waited for
            finite = torch.where(norm.isfinite(), norm, torch.zeros_like(norm))
            nn.utils.clip_grads_with_norm_(held, most, finite)
        return norm

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor of which a process may hold a share; all processes come here."""
        return tensor

    def agree(self, flags: Sequence[bool], device: torch.device) -> list[bool]:
        """Return for each flag whether it is raised on any process; all processes come here."""
        raised = torch.tensor(flags, device=device).float()
        distributed.sum_over_processes([raised])
        return raised.bool().tolist()

    def alike(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return those tensors that must be the same on all processes."""
        return tensors

    def all_or_none(self) -> AbstractContextManager[object]:
        """Return a context for those that take part; an error in one is raised in all of them."""
        return nullcontext()

    def gather(self, value: T) -> list[T]:
        """Return what each process gave that takes part, by rank; all of them come here."""
        return [value]

    def save(self, name: str, tensors: dict[str, Tensor]) -> TensorFile:
        """Return the file in which this process stores the state of a prepared module.

        Args:
            name: of the file that would hold all of it.
            tensors: the state, as far as this process has it.
        """
        return TensorFile(name, tensors, {"format": "pt"})

    def read(self, path: Path, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
        """Return the share of this process in the tensors of a file.

        Args:
            path: a safetensors file that one process wrote.
            like: from a name to a tensor that is cut as the result is to be; None for one that is
                not cut.

        Raises:
            InputError: a damaged file, or numbers that are not finite.
        """
        return read_finite(path)

    def check_precision(self, precision: str) -> None:
        """Raise InputError where a prepared module cannot go on in this precision."""
