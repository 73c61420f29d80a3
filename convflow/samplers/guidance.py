"""Guidance: Denoisers around Denoisers.

Classifier-free guidance: Ho & Salimans 2022, eq. 6. Its interval: Kynkaanniemi et al. 2024, eq. 2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.types import Denoiser, InputError


class ClassifierFreeGuidance:
    """v = v_null + scale (v_label - v_null), on all channels, while t lies in the interval.

    With a scale of 1 the model is called as it is; else both predictions come from one batched
    call. Outside the interval only the labelled prediction is computed.

    Args:
        model: the Denoiser to guide.
        null: the label that stands for "no label", the model's `num_classes`.
        scale: 1 = no guidance; above 1 pulls towards the label.
        interval: (low, high) in [0, 1]; guidance acts where low <= t <= high.

    Raises:
        InputError: an interval outside [0, 1] or upside down.
    """

    def __init__(
        self,
        model: Denoiser,
        null: int,
        scale: float,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise InputError(f"expected a guidance interval 0 <= low <= high <= 1, got {interval}")
        self.model, self.null, self.scale, self.interval = model, null, scale, interval

    def __call__(
        self, x: Float[Tensor, "B C H W"], t: Float[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the guided prediction."""
        if self.scale == 1 or not len(x):
            return self.model(x, t, y)
        low, high = self.interval
        active = (t >= low) & (t <= high)
        if self.interval != (0.0, 1.0) and not bool(active.any()):
            return self.model(x, t, y)
        null = torch.full_like(y, self.null)
        both = self.model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, null]))
        labelled, unlabelled = both.chunk(2)
        scale = torch.where(active, self.scale, 1.0).to(both.dtype).view(-1, 1, 1, 1)
        return torch.lerp(unlabelled, labelled, scale)
