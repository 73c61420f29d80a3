"""The running average of a network's weights, in float32 (Polyak & Juditsky 1992)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """A second network whose weights follow the first: w <- d w + (1 - d) new.

    Args:
        model: the network to follow; the average starts as its float32 copy.
        decay: d in the long run.
        warmup: step n uses d = min(decay, (1 + n) / (warmup + n)), so that short runs forget their
            beginning; 0 switches this off.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: float) -> None:
        self.model = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (self.warmup + step)) if self.warmup else self.decay
        averages: list[torch.Tensor] = [*self.model.parameters()]
        if averages:
            torch._foreach_lerp_(averages, [p.float() for p in model.parameters()], 1 - decay)
