"""Networks that look up their modulation vectors, for times and labels known in advance.

The vectors of adaLN (Peebles & Xie 2023, section 3.2) depend on time and label alone. Sampling in
fixed steps knows both before it begins, and one product for all steps reads their weights, up to a
third of a network's, once rather than in every step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convflow.models.backbone import Backbone
from convflow.models.families import BACKBONES
from convflow.nn.norm import Modulation

LARGEST_SHARE = 0.25
"""How much memory the vectors may take, beside the weights: larger batches gain next to nothing."""
Network = TypeVar("Network", bound=nn.Module)
SAME_TIME = 1e-5
"""How far two times of one step may be apart, as a share above 1."""


@torch.no_grad()
def precompute(model: Network, times: Float[Tensor, " S"], labels: Int[Tensor, " U"]) -> Network:
    """Return the network with its modulation vectors computed for these times and labels.

    It shares all else with `model`, which stays as it is: weights, and hooks of the whole network.
    Told another time or label it predicts NaN, later changes of the weights do not reach its
    vectors, and it has no gradient.

    Args:
        model: a network, on the device of the times and labels.
        times: as the network is told them; those of a call may differ by rounding.
        labels: in [0, num_classes].

    Returns:
        `model` itself where its condition may speak to more than modulations: networks other than
        the families', and those that are compiled, hooked or changed within. And where the vectors
        would take more than `LARGEST_SHARE` of the memory of its weights.
    """
    inner = (module for module in model.modules() if module is not model)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in inner)
    if type(model) not in BACKBONES.values() or hooked or not all(map(is_ours, model.modules())):
        return model
    found = [module for module in model.modules() if isinstance(module, Modulation)]
    numbers = len(times) * len(labels) * sum(module.count * module.width for module in found)
    if numbers > LARGEST_SHARE * sum(weight.numel() for weight in model.parameters()):
        return model
    backbone = cast(Backbone, model)
    condition = backbone.condition(times.repeat_interleave(len(labels)), labels.repeat(len(times)))
    levels = condition if isinstance(condition, tuple) else (condition,)
    of_width = {vectors.shape[-1]: vectors for vectors in levels}
    twin = cast(Any, _with(model, {m: _Table(m, of_width[m.width]) for m in found}))
    rows = _Rows(times, labels)
    twin.condition = rows if condition is levels[0] else lambda t, y: (rows(t, y),) * len(levels)
    return twin


def is_ours(module: nn.Module) -> bool:
    """Whether a module does what its class says, a class of ours or of torch, and not compiled."""
    known = type(module).__module__.startswith(("convflow.", "torch.nn.modules."))
    changed = any(callable(own) and hasattr(type(module), n) for n, own in vars(module).items())
    return known and not changed


class _Table(nn.Module):
    """What a `Modulation` gives for some conditions, a row each, and a last row of NaN."""

    def __init__(self, modulation: Modulation, conditions: Float[Tensor, "R D"]) -> None:
        super().__init__()
        vectors = nn.functional.pad(
            torch.cat(modulation(conditions), -1), (0, 0, 0, 1), value=torch.nan
        )
        self.register_buffer("vectors", vectors, persistent=False)
        self.count = modulation.count

    def forward(self, row: Int[Tensor, " B"]) -> tuple[Tensor, ...]:
        """Return `count` tensors of shape (B, D)."""
        return cast(Tensor, self.vectors)[row].chunk(self.count, dim=-1)


class _Rows:
    """From times and labels to rows, the labels of a time one after the other."""

    def __init__(self, times: Tensor, labels: Tensor) -> None:
        self.times, self.labels = times, labels

    def __call__(self, t: Float[Tensor, " B"], y: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the row of each sample, the last one where there is none; nothing is read back."""
        apart, same = (self.times - t[:, None]).abs(), self.labels == y[:, None]
        known = same.any(1) & (apart.amin(1) <= SAME_TIME * t.abs().clamp_min(1))
        row = apart.argmin(1) * len(self.labels) + same.int().argmax(1)
        return torch.where(known, row, len(self.times) * len(self.labels))


def _with(module: nn.Module, others: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Return a module that shares everything with another but some modules within it."""
    if module in others:
        return others[module]
    twin = copy.copy(module)
    twin._modules = {n: m if m is None else _with(m, others) for n, m in module._modules.items()}
    return twin
