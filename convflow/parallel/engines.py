"""All engines by name: how many devices share the work of a step, and what each of them holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import nn

from convflow import distributed
from convflow.parallel.ddp import DDP
from convflow.parallel.single import Single
from convflow.settings.fields import Count, doc
from convflow.settings.kinds import Part, Table


class Parallel(Part):
    """A way of training on several devices; a frozen dataclass whose fields are its settings."""

    def create(
        self, device: torch.device, half: bool, is_block: Callable[[nn.Module], bool]
    ) -> Single:
        """Return the engine of this process; one process needs none but `Single`.

        Args:
            device: of this process.
            half: whether the network computes in bfloat16.
            is_block: whether a module of the network is a block.
        """
        return (
            Single(device)
            if distributed.world_size() == 1
            else self.of_many(device, half, is_block)
        )

    def of_many(
        self, device: torch.device, half: bool, is_block: Callable[[nn.Module], bool]
    ) -> Single:
        """Return the engine of one of several processes; arguments are those of `create`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Replicated(Parallel):
    """Each process holds the whole network and a share of the batch; see `DDP`."""

    kind: ClassVar[str] = "ddp"

    def of_many(
        self, device: torch.device, half: bool, is_block: Callable[[nn.Module], bool]
    ) -> Single:
        """Return a `DDP`."""
        return DDP(device)


@dataclass(frozen=True)
class Automatic(Replicated):
    """One process trains alone; several each hold the whole network, as with "ddp"."""

    kind: ClassVar[str] = "auto"


@dataclass(frozen=True)
class Sharded(Parallel):
    """Each process holds a share of the network and a share of the batch; see `FSDP`."""

    kind: ClassVar[str] = "fsdp"

    shard_size: Annotated[
        Count | None, doc("processes that hold one copy of the weights; none = all of them")
    ] = None

    def of_many(
        self, device: torch.device, half: bool, is_block: Callable[[nn.Module], bool]
    ) -> Single:
        """Return an `FSDP`; torch's engine is imported where it is used."""
        from convflow.parallel.fsdp import FSDP

        return FSDP(device, half, is_block, self.shard_size)


ENGINES: Table[type[Parallel]] = Table(
    "engine", Parallel, {cls.kind: cls for cls in (Automatic, Replicated, Sharded)}
)
Parallel.kinds = ENGINES
