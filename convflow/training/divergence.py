"""What to say when a training diverges: which module and which images broke first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from convflow.storage import find_nonfinite
from convflow.types import Diverged


def first_nonfinite_module(model: nn.Module, forward: Callable[[], object]) -> str | None:
    """Return `name (Type)` of the first module whose output is not finite while `forward` runs."""
    with _watching(model) as found, torch.no_grad():
        forward()
    return found[0] if found else None


def first_nonfinite_gradient(model: nn.Module) -> str | None:
    """Return the name of the first parameter whose gradient is not finite."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return name.removeprefix("network.")
    return None


def require_finite(parts: Mapping[str, Mapping[str, Tensor]], kept: Callable[[], object]) -> None:
    """Raise Diverged, naming part and tensor, unless all numbers of a training are finite.

    Args:
        parts: tensors by the name of the part, such as "the weights".
        kept: the name of a good checkpoint; called where it is needed.
    """
    for part, tensors in parts.items():
        if name := find_nonfinite(tensors):
            raise Diverged(
                f"expected finite numbers in {part}, got others, first in {name}; no checkpoint "
                f"was written; kept: {kept()}; try a lower --optim.lr in a new run"
            )


@contextmanager
def _watching(model: nn.Module) -> Iterator[list[str]]:
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            parts = output if isinstance(output, (tuple, list)) else (output,)
            if not all(bool(p.isfinite().all()) for p in parts if isinstance(p, Tensor)):
                found.append(f"{name} ({type(module).__name__})")

        return look

    named = (
        (name.removeprefix("network.") if name not in ("", "network") else "the network", module)
        for name, module in model.named_modules()
    )
    hooks = [module.register_forward_hook(watch(name)) for name, module in named]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
