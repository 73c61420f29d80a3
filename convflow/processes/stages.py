"""The stages of a run over scales: stage k moves the first k of them, each at its own pace.

Haji-Ali et al. 2025, arXiv 2506.19839, section 3.3, there with Euler and up to three scales.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Field, Stage
from convflow.types import Denoiser, InputError, Size

THRESHOLD = 0.9
"""Time at which a scale lets the next one begin (appendix A.5)."""

LATER_SHARE = 0.25
"""Share of the steps after the first stage: 40 are 30 + 10 (section 4.3)."""


def split_steps(total: int, num_scales: int) -> tuple[int, ...]:
    """Return the steps of each stage: a quarter, rounded, for all but the first, in equal shares.

    Every stage has at least one; what cannot be shared equally goes to the earlier of them.

    Raises:
        InputError: fewer steps than stages.
    """
    later = num_scales - 1
    if total < num_scales:
        raise InputError(
            f"expected at least {num_scales} steps, one for each scale, got {total}; take more"
        )
    rest = max(later, round(LATER_SHARE * total)) if later else 0
    shares = [rest // later + (stage < rest % later) for stage in range(later)]
    return (total - rest, *shares)


def plan_stages(steps: Sequence[int], thresholds: Sequence[float]) -> list[Stage]:
    """Return the stages of a run over S scales.

    In stage s scale s goes from 0 to its threshold, the last one to 1. From there on it goes to 1
    along a straight line over all remaining steps, so that all scales arrive with the last step.

    Args:
        steps: of each of the S stages.
        thresholds: of all scales but the last, in (0, 1].

    Raises:
        InputError: a stage without a step, a threshold outside its range, or not S - 1 of them.
    """
    if not steps or min(steps) < 1 or len(thresholds) != len(steps) - 1:
        raise InputError(
            "expected at least 1 step for each stage and a threshold for each but the last, got "
            f"steps {list(steps)} and thresholds {list(thresholds)}; change them"
        )
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise InputError(f"expected thresholds in (0, 1], got {list(thresholds)}; change them")
    done = [0, *itertools.accumulate(steps)]

    def time(scale: int, stage: int) -> float:
        """The time of a scale at the end of a stage, both from 0."""
        if stage < scale:
            return 0.0
        top = (*thresholds, 1.0)[scale]
        tail = done[-1] - done[scale + 1]
        share = (done[stage + 1] - done[scale + 1]) / tail if tail else 1.0
        return top if stage == scale else (1 - share) * top + share  # 1 exactly where share is

    scales = range(len(steps))
    return [
        Stage(
            count,
            tuple(time(scale, stage - 1) for scale in scales[: stage + 1]),
            tuple(time(scale, stage) for scale in scales[: stage + 1]),
        )
        for stage, count in enumerate(steps)
    ]


def run_stages(
    num_scales: int,
    steps: int,
    stage_steps: Sequence[int] = (),
    thresholds: Sequence[float] = (),
    stop_scale: int | None = None,
) -> list[Stage]:
    """Return the stages of a run, those after `stop_scale` left out.

    Args:
        num_scales: how many scales there are, S.
        steps: of all stages.
        stage_steps: of each scale's stage; none for those of `split_steps`.
        thresholds: the time of each scale but the finest at which the next begins; one number
            stands for all; none for 0.9.
        stop_scale: the number, from 1, of the scale to stop after.

    Raises:
        InputError: settings that are not those of so many scales.
    """
    stop, limits = stop_scale or num_scales, tuple(thresholds) or (THRESHOLD,)
    limits = limits * (num_scales - 1) if len(limits) == 1 else limits
    for name, numbers, count in (
        ("stage-steps", stage_steps, num_scales),
        ("thresholds" if num_scales > 2 else "threshold", limits, num_scales - 1),
    ):
        if numbers and len(numbers) != count:
            raise InputError(
                f"expected {count} {name} for {num_scales} scales, got {list(numbers)}; change them"
            )
    if not 1 <= stop <= num_scales:
        raise InputError(f"expected a stop-scale from 1 to {num_scales}, got {stop}; change it")
    counts = stage_steps or split_steps(steps, num_scales)
    return plan_stages(counts[:stop], limits[: stop - 1])


@dataclass(frozen=True)
class StageField(Field):
    """The velocity of packed scales over the share of a stage's steps that is done.

    In v, that share, all times are straight lines, and dx_s/dv = (end_s - start_s) velocity_s.

    Attributes:
        start: times of the scales that move at the start of the stage.
        end: at its end.
        rate: their difference, beside each number of the state.
    """

    start: Float[Tensor, " K"] = field(kw_only=True)
    end: Float[Tensor, " K"] = field(kw_only=True)
    rate: Float[Tensor, "1 1 1 N"] = field(kw_only=True)

    @classmethod
    def over(
        cls, stage: Stage, predict: Denoiser, sizes: Sequence[Size], like: Tensor
    ) -> StageField:
        """Return the field of a stage.

        Args:
            stage: in which the scales move.
            predict: the velocity of packed scales, told the time of each, (B, K).
            sizes: height and width of the scales that move.
            like: a tensor of the dtype and device of the states.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)  # half precision rounds times
        rates = [after - before for before, after in zip(stage.start, stage.end, strict=True)]
        start, end, rate = (
            like.new_tensor(numbers, dtype=dtype) for numbers in (stage.start, stage.end, rates)
        )
        clock = partial(spread, sizes=sizes)
        return cls(predict, clock, start=start, end=end, rate=spread(rate[None], sizes))

    def __call__(
        self, x: Float[Tensor, "B C 1 N"], t: Float[Tensor, " B"], y: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C 1 N"]:
        v = t[:, None]
        return self.predict(x, (1 - v) * self.start + v * self.end, y) * self.rate

    def guided(self, guide: Callable[..., Any]) -> StageField:
        """Return the field with guidance; no steps can be left out, for other scales move."""
        return replace(super().guided(guide), begin=0.0)


def spread(numbers: Float[Tensor, "*B K"], sizes: Sequence[Size]) -> Float[Tensor, "*B 1 1 N"]:
    """Return a number for each scale as one for each number of the packed scales."""
    # Sizes stay on the CPU: a tensor of them would make a GPU wait for each call.
    scales = zip(numbers.split(1, -1), sizes, strict=False)
    parts = [number.expand(*number.shape[:-1], math.prod(size)) for number, size in scales]
    return torch.cat(parts, -1)[..., None, None, :]
