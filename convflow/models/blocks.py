"""The blocks of a network, compiled in place: one graph for each kind, not for each block."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from convflow.nn.norm import Modulation
from convflow.types import InputError

MOST_GRAPHS = 64
"""Graphs of one kind of block: one for each width, size, dtype and with or without gradients."""


def is_block(module: nn.Module) -> bool:
    """Return whether a condition modulates this very module: a block or a head."""
    return any(isinstance(child, Modulation) for child in module.children())


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

    Example:
        >>> from convflow import create_model
        >>> compile_blocks(create_model("dico", width=16))
    """
    parts = [module for module in model.modules() if is_block(module)]
    if not parts:
        raise InputError(
            f"expected a network with blocks that have a Modulation, got {type(model).__name__} "
            "without; use its own compile() instead"
        )
    # Not every torch has it; without, more than 8 graphs of a kind of block are left eager.
    has_limit = "recompile_limit" in inspect.signature(torch.compile).parameters
    usual = {"dynamic": False, **({"recompile_limit": MOST_GRAPHS} if has_limit else {})}
    for part in parts:
        part.compile(**usual | options)
