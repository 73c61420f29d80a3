"""The running average of a network's weights, in float32 (Polyak & Juditsky 1992)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class EMA:
    """A second network whose weights follow the first: w <- d w + (1 - d) new.

    Only trained parameters are averaged. Frozen parameters and buffers are those of the first
    network itself, in no second copy.

    Args:
        model: the network to follow; the average starts as a float32 copy of what is trained.
        decay: d in the long run.
        warmup: step n uses d = min(decay, (1 + n) / (warmup + n)), so that short runs forget their
            beginning; 0 switches this off.
        every: steps between updates. An update then forgets as much as one after each of these
            steps would, so that the half-life stays.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: float, every: int = 1) -> None:
        frozen = [p for p in model.parameters() if not p.requires_grad]
        shared = {id(tensor): tensor for tensor in [*frozen, *model.buffers()]}
        self.model = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.decay, self.warmup, self.every = decay, warmup, every
        for average, _ in self._pairs(model):
            average.data = average.data.float()

    def _decay(self, step: int) -> float:
        """Return the share that an update after each step would keep at `step`."""
        return min(self.decay, (1 + step) / (self.warmup + step)) if self.warmup else self.decay

    def _pairs(self, model: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return each average and what it follows."""
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        return [(average, new) for average, new in pairs if average is not new]

    def averages(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the averages by the names of the trained parameters of `model`."""
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        return {name: t for name, t in self.model.state_dict().items() if name in trained}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1, where it is time."""
        if step % self.every:
            return
        decay = math.prod(
            self._decay(earlier) for earlier in range(step - self.every + 1, step + 1)
        )
        if pairs := self._pairs(model):
            averages, new = zip(*pairs, strict=True)
            torch._foreach_lerp_(averages, [p.float() for p in new], 1 - decay)
