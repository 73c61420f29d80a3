"""Compiling the network of a training, and what is said where it has too many sizes for that."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from convflow.models.blocks import MOST_GRAPHS, compile_blocks, usual_options
from convflow.types import InputError

log = logging.getLogger("convflow")

CompileChoice = Literal["off", "blocks", "whole"]


def compile_network(
    network: nn.Module, how: CompileChoice, features: bool = False, **options: Any
) -> None:
    """Compile a network in place; names in its state dict and its weights stay as they are.

    Args:
        network: on its device.
        how: "blocks", see `compile_blocks`; "whole", one graph where torch can; or "off".
        features: whether objectives read features after blocks, which they ask for anew in every
            step: a whole network would then be compiled anew as well.
        **options: of `torch.compile`.

    Raises:
        InputError: torch cannot compile on this machine, or not what is asked for.
    """
    if how == "off":
        return
    if how == "whole" and features:
        raise InputError(
            "--compile: expected blocks or off with an objective that reads features of the "
            "network, got whole; choose --compile blocks"
        )
    _try_compiler(next(network.parameters()).device, options)
    if how == "blocks":
        compile_blocks(network, **options)
        return
    network.compile(**usual_options() | options)


def _try_compiler(device: torch.device, options: dict[str, Any]) -> None:
    """Compile one operation, or raise InputError with what torch complains of."""
    try:
        torch.compile(torch.sin, **options)(torch.zeros(1, device=device))
    except Exception as error:  # of any compiler
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"--compile: expected a machine on which torch.compile works, got {reason[:200]}; "
            "install a compiler (on a CPU: g++), or leave it out"
        ) from error


def uncompiled(wanted: bool) -> AbstractContextManager[object]:
    """Return a context in which compiled networks run as they were written, where `wanted`."""
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()


class BatchShapes:
    """The shapes of batches that a compiled network has seen; each takes a graph of its own."""

    def __init__(self) -> None:
        self.seen: set[torch.Size] = set()

    def add(self, shape: torch.Size) -> None:
        """Take in a shape; say once that there are more than graphs, so that some run eagerly."""
        before = len(self.seen)
        if before <= MOST_GRAPHS:
            self.seen.add(shape)
        if before == MOST_GRAPHS < len(self.seen):
            log.warning(
                f"batches have more than {MOST_GRAPHS} shapes: those beyond are computed without "
                "compiling; fewer --data.buckets have fewer"
            )
