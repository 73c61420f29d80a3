"""Data parallel training: every process holds the network and a share of the batch."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, suppress
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from convflow import distributed
from convflow.parallel.single import Single


class _Skippable(nn.Module):
    """A module that does nothing when it is called with nothing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given: Any) -> Any:
        """Return what the module makes of what is given, None of nothing."""
        return self.module(*given) if given else None


class DDP(Single):
    """Torch's `DistributedDataParallel`: gradients are summed while the backward pass still runs.

    That all processes begin with the same weights is for the caller to see to.
    """

    def prepare(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """Return a module whose backward pass exchanges gradients."""
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            prepared = DistributedDataParallel(  # torch 2.13 renames an argument, not quite
                _Skippable(module),
                broadcast_buffers=False,
                init_sync=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=unused,
            )
        prepared.register_comm_hook(None, lambda _, bucket: _sum(bucket))  # its own takes the mean
        return prepared

    def accumulate(self, module: nn.Module) -> AbstractContextManager[object]:
        """Return a context in which forward and backward pass exchange nothing."""
        return cast(DistributedDataParallel, module).no_sync()

    def empty_forward(self, module: nn.Module) -> None:
        """Take part in what torch exchanges once, in the forward pass of the second step.

        Where objectives exchange messages too, leave the group, for the others wait for them.
        """
        if self.exchanges:
            distributed.leave_group()
            return
        with torch.enable_grad(), suppress(RuntimeError):  # of a process that is gone
            module()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the sum of `loss` over all processes.

        A process that fails here leaves the group, for the others wait in the midst of an
        exchange; they then leave too.

        Raises:
            InputError: another process was lost.
        """
        with distributed.leaving_group():
            loss.backward()


def _sum(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    exchange = dist.all_reduce(bucket.buffer(), async_op=True)
    assert exchange is not None
    return exchange.get_future().then(lambda done: done.value()[0])
