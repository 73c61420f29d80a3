"""Where in a network objectives look: blocks at a share of its depth, and the middle of a U."""

from __future__ import annotations

from typing import Any

from torch import nn

from convflow.models.backbone import Backbone
from convflow.nn.resample import Hourglass
from convflow.processes.flow import FlowMatching
from convflow.processes.process import Process
from convflow.types import InputError


def middle_block(network: Backbone) -> int | None:
    """Return the number of the last block of the middle stage; None of a network without a U."""
    body = next((m for m in network.inner.modules() if isinstance(m, Hourglass)), None)
    if body is None:
        return None
    stages: Any = body.stages
    return sum(map(len, stages[:3])) - 1


def block_at(network: Backbone, share: float) -> int:
    """Return the number of the block that ends a share of the network's blocks.

    Raises:
        InputError: a network without blocks that have features.
    """
    if not (count := len(network.trunk_blocks)):
        raise InputError(
            f"expected a network with blocks that have a Modulation, got {network.family} "
            "without; choose an objective that needs no features"
        )
    return max(round(share * count), 1) - 1


def aligned_block(network: Backbone) -> int:
    """Return the block at a third of the depth, of a U the last of the middle stage."""
    middle = middle_block(network)
    return block_at(network, 1 / 3) if middle is None else middle


def create_projector(width: int, out: int, hidden: int) -> nn.Sequential:
    """Return three linear layers with SiLU between them, as REPA projects features."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, out),
    )


def require_flow(process: Process, objective: str) -> FlowMatching:
    """Return the process, or raise InputError where it is not flow matching on one scale."""
    if not isinstance(process, FlowMatching) or process.second_time:
        raise InputError(
            f"expected the process flow with the objective {objective}, got {process.kind}; leave "
            "the objective out, or add --process flow"
        )
    return process
