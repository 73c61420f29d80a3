"""The blocks of a network, changed in place: compiled, or computed again in the backward pass."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from convflow.models.backbone import Backbone
from convflow.models.diffusers_layouts import is_diffusers_block
from convflow.nn.norm import Modulation
from convflow.types import InputError

RecomputeChoice = Literal["none", "blocks", "every-2"]

MOST_GRAPHS = 64
"""Graphs of one kind of block: one for each width, size, dtype and with or without gradients."""


def is_block(module: nn.Module) -> bool:
    """Return whether a condition modulates this very module: a block, or a head made here."""
    modulated = any(isinstance(child, Modulation) for child in module.children())
    return modulated or is_diffusers_block(module)


def compile_blocks(model: nn.Module, **options: Any) -> None:
    """Compile every part of a network that a condition modulates: its blocks and its heads.

    Blocks of one width and size share a graph, so that a network of 28 compiles as fast as one of
    a single block. It happens at the first call, in place: names in the state dict, hooks and
    weights stay as they are. What lies between the blocks runs as before.

    Args:
        model: any network; on a device or not, before or after loading weights.
        **options: of `torch.compile`. By default `dynamic=False`, a graph for each size, which
            training of convolutional networks wants in torch 2.13.

    Raises:
        InputError: nothing in the network is modulated.

    Examples:
        >>> from convflow import create_model
        >>> compile_blocks(create_model("dico", width=16))
    """
    parts = [module for module in model.modules() if is_block(module)]
    if not parts:
        raise InputError(
            f"expected a network with blocks that have a Modulation, got {type(model).__name__} "
            "without; use its own compile() instead"
        )
    for part in parts:
        part.compile(**usual_options() | options)


def usual_options() -> dict[str, Any]:
    """Return what `torch.compile` is given by default: a graph for each size, up to a limit."""
    # Not every torch has it; without, more than 8 graphs of a kind of block are left eager.
    has_limit = "recompile_limit" in inspect.signature(torch.compile).parameters
    return {"dynamic": False, **({"recompile_limit": MOST_GRAPHS} if has_limit else {})}


def recompute_blocks(model: Backbone, which: RecomputeChoice) -> None:
    """Let blocks keep their input alone for the backward pass, which computes the rest again.

    It costs a second forward pass of these blocks in each step, and saves what autograd keeps of
    them. Losses and gradients stay as they are. It happens in place: names in the state dict, hooks
    and weights stay. Without gradients nothing changes.

    Args:
        model: any network with blocks, before it is compiled.
        which: "blocks", all; "every-2", the first, the third and so on; "none".

    Raises:
        InputError: nothing in the network is modulated.

    Examples:
        >>> from convflow import create_model
        >>> recompute_blocks(create_model("dico", width=16), "blocks")
    """
    if which == "none":
        return
    if not model.trunk_blocks:
        raise InputError(
            f"expected a network with blocks that have a Modulation, got {type(model).__name__} "
            "without; leave out --memory.recompute"
        )
    for block in model.trunk_blocks[:: 2 if which == "every-2" else 1]:
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Any) -> Any:
    def again(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)

        def call(*parts: Any) -> Any:
            return forward(
                *parts[: len(given)], **dict(zip(named, parts[len(given) :], strict=True))
            )

        # By position, so that what counts saved tensors is told of them.
        return checkpoint(call, *given, *named.values(), use_reentrant=False)

    return again
