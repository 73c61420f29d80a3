"""Guidance: Denoisers around Denoisers, each pulling away from a weaker prediction.

Classifier-free guidance: Ho & Salimans 2022, eq. 6; its interval: Kynkaanniemi et al. 2024, eq. 2.
Autoguidance: Karras et al. 2024, eq. 3. CFG-Zero*: Fan et al. 2025, eq. 7 and section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.conditions.labels import cat
from convflow.processes.contract import Clock, beside, over
from convflow.types import Denoiser, InputError, check_name

Pair = tuple[Tensor, Tensor]
Null = Callable[[Any], Any]

ZERO_UNTIL = 0.04
"""The flow time before which CFG-Zero* does not move."""


@dataclass(frozen=True)
class Guidance:
    """weak + scale (strong - weak) on some channels, while the time lies in an interval.

    What the strong and the weak prediction are, a subclass says in `predict`. With a scale of 1
    and outside the interval the model is called as it is. Channels that are not guided, a learned
    variance among them, are those of the strong prediction.

    Args:
        model: the Denoiser to guide.
        null: from conditions to those of nothing, such as `Labels(num_classes).null`.
        scale: 1 = no guidance; above 1 pulls away from the weak prediction.
        interval: (low, high) in flow time; guidance acts where low <= t <= high.
        channels: how many of the image's channels are guided, from the first; None = all, 3 as
            published for DiT, SiT and DiCo.
        clock: turns the Denoiser's times into flow time, of each number of a state.

    Raises:
        InputError: an interval outside [0, 1] or upside down, a scale that is not finite, or
            less than one channel.
    """

    model: Denoiser
    null: Null
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)
    channels: int | None = None
    clock: Clock = beside

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"expected a guidance interval 0 <= low <= high <= 1, got {self.interval}"
            )
        if not math.isfinite(self.scale) or (self.channels is not None and self.channels < 1):
            raise InputError(
                "expected a finite guidance scale and at least 1 guided channel, "
                f"got {self.scale} and {self.channels}; change it"
            )

    def predict(self, x: Tensor, t: Tensor, y: Tensor) -> Pair:
        """Return the strong and the weak prediction."""
        raise NotImplementedError

    def __call__(
        self,
        x: Float[Tensor, "B C *F H W"],
        t: Float[Tensor, " B"] | Float[Tensor, "B K"],
        y: Int[Tensor, " B"],
    ) -> Float[Tensor, "B P *F H W"]:
        """Return the guided prediction, in float32 at least; P is C, or 2C with a variance."""
        if self.scale == 1 or not len(x):
            return self.model(x, t, y)
        time = over(self.clock(t), x)
        active = self._active(time)
        if active is not None and not bool(active.any()):
            return self.model(x, t, y)
        # In float32 at least: half precision would round the scale.
        strong, weak = (v.to(_at_least_float32(v)) for v in self.predict(x, t, y))
        guided = self._guided(x)
        scale = torch.full_like(time, self.scale, dtype=strong.dtype)
        scale = scale if active is None else torch.where(active, scale, 1.0)
        out = torch.lerp(weak[:, :guided], strong[:, :guided], scale)
        return torch.cat([out, strong[:, guided:]], 1)

    @property
    def begin(self) -> float:
        """Flow time before which the prediction is zero, so that a solver may begin there."""
        return 0.0

    def _active(self, time: Tensor) -> Tensor | None:
        """Return at which flow times guidance acts, None for always."""
        low, high = self.interval
        return None if (low, high) == (0, 1) else (time >= low) & (time <= high)

    def _guided(self, x: Tensor) -> int:
        return min(self.channels or x.shape[1], x.shape[1])


@dataclass(frozen=True)
class ClassifierFreeGuidance(Guidance):
    """v = v_null + scale (v_label - v_null), both from one batched call; see `Guidance`."""

    def predict(self, x: Tensor, t: Tensor, y: Tensor) -> Pair:
        """Return the predictions with the label and without."""
        both = self.model(torch.cat([x, x]), torch.cat([t, t]), cat([y, self.null(y)]))
        labelled, unlabelled = both.chunk(2)
        return labelled, unlabelled


@dataclass(frozen=True)
class ZeroStarGuidance(ClassifierFreeGuidance):
    """CFG-Zero*: v = a v_null + scale (v_label - a v_null), a = <v_label, v_null> / |v_null|^2.

    The number a, one per sample over the guided channels, makes a v_null the closest to v_label.
    Before the time `zeroed` the velocity is zero where guidance acts. Solvers leave these steps
    out, see `begin`: by default the first 4% of equal steps. It is for velocities only; other
    arguments are as in `Guidance`.
    """

    zeroed: float = ZERO_UNTIL

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.zeroed <= 1:
            raise InputError(f"expected zeroed, a time in [0, 1], got {self.zeroed}; change it")

    @property
    def begin(self) -> float:
        """Flow time before which the velocity is zero, where guidance acts from the start."""
        return 0.0 if self.scale == 1 or self.interval[0] else self.zeroed

    def predict(self, x: Tensor, t: Tensor, y: Tensor) -> Pair:
        """Return the labelled prediction and the scaled unlabelled one, both zero early."""
        strong, weak = (v.to(_at_least_float32(v)) for v in super().predict(x, t, y))
        one, other = (v[:, : self._guided(x)].flatten(1) for v in (strong, weak))
        tiny = torch.finfo(other.dtype).tiny
        ratio = (one * other).sum(1) / other.square().sum(1).clamp(min=tiny)
        time = over(self.clock(t), x)
        early, active = time < self.zeroed, self._active(time)
        keep = (~(early if active is None else early & active)).to(strong.dtype)
        return strong * keep, weak * beside(ratio.to(strong.dtype), strong) * keep


@dataclass(frozen=True)
class Autoguidance(Guidance):
    """v = v_weaker + scale (v - v_weaker), both with the label; see `Guidance`.

    `weaker` is a smaller or less trained Denoiser of the same data; each is called once.
    """

    weaker: Denoiser = field(kw_only=True)

    def predict(self, x: Tensor, t: Tensor, y: Tensor) -> Pair:
        """Return the predictions of the model and of the weaker one."""
        return self.model(x, t, y), self.weaker(x, t, y)


GUIDANCE_KINDS: dict[str, type[Guidance]] = {
    "cfg": ClassifierFreeGuidance,
    "cfg-zero": ZeroStarGuidance,
    "auto": Autoguidance,
}


def guide(model: Denoiser, null: Null, scale: float, kind: str = "cfg", **options: Any) -> Guidance:
    """Return the guided Denoiser of a kind.

    Args:
        model: the Denoiser to guide.
        null: from conditions to those of nothing, such as `Labels(num_classes).null`.
        scale: 1 = no guidance.
        kind: "cfg", "cfg-zero" or "auto".
        **options: interval, channels and clock, see `Guidance`; `weaker` of "auto" and `zeroed` of
            "cfg-zero".

    Raises:
        InputError: an unknown kind, a missing or needless `weaker`, a number out of range.
    """
    check_name("kind of guidance", kind, GUIDANCE_KINDS)
    if ("weaker" in options) != (kind == "auto"):
        raise InputError(
            'expected a weaker model for the guidance "auto" and for no other, '
            f"got {'one' if 'weaker' in options else 'none'} for {kind!r}; change one of the two"
        )
    return GUIDANCE_KINDS[kind](model, null, scale, **options)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
