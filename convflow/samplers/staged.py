"""Sampling a picture scale by scale: stage k moves the first k scales, each at its own pace.

Haji-Ali et al. 2025, arXiv 2506.19839, section 3.3, there with Euler and up to three scales. The
state of all scales is one packed tensor, so that every solver of `ode.py` runs on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.decomposition import pack, unpack
from convflow.processes.multiscale import MultiscaleFlow, ScalesNetwork, spread
from convflow.samplers.ode import SOLVERS, Callback, integrate, time_grid
from convflow.samplers.tableaus import count_evaluations
from convflow.types import Denoiser, InputError, Size

THRESHOLD = 0.9
"""Time at which a scale lets the next one begin (appendix A.5)."""

LATER = 0.25
"""Share of the steps after the first stage: 40 are 30 + 10 (section 4.3)."""


class Stage(NamedTuple):
    """Some steps of equal length, and the times of the scales that move, before and after them."""

    steps: int
    start: tuple[float, ...]
    end: tuple[float, ...]


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
    rest = max(later, round(LATER * total)) if later else 0
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


def count_staged_evaluations(solver: str, stages: Sequence[Stage]) -> int:
    """Return how often a run calls the network."""
    return sum(count_evaluations(SOLVERS[solver], time_grid(stage.steps)) for stage in stages)


def packed(model: ScalesNetwork, sizes: Sequence[Size]) -> Denoiser:
    """Return a network of scales as a Denoiser of packed states.

    It takes (B, C, 1, N) with a time for each number, (B, 1, 1, N), which is the same within a
    scale; so guidance sees a picture like any other.
    """
    areas = [height * width for height, width in sizes]
    starts = [0, *itertools.accumulate(areas[:-1])]

    def denoiser(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        times = torch.stack([t[:, 0, 0, start] for start in starts], 1)
        return pack(model(unpack(x, sizes), times, y))

    return denoiser


def draw_packed(
    noise: Float[Tensor, "B C H W"], count: int, draw: Callable[[int], Tensor]
) -> Float[Tensor, "B C 1 N"]:
    """Return `count` numbers of noise per channel: those of `noise`, then of draw 1, 2, ..."""
    rows, step = [noise.flatten(2)], 0
    while sum(row.shape[2] for row in rows) < count:
        step += 1
        rows.append(draw(step).to(noise).flatten(2))
    return torch.cat(rows, 2)[:, :, None, :count]


@torch.no_grad()
def integrate_staged(
    model: ScalesNetwork,
    noise: Float[Tensor, "B C 1 N"],
    labels: Int[Tensor, " B"],
    sizes: Sequence[Size],
    stages: Sequence[Stage],
    solver: str = "euler",
    guide: Callable[[Denoiser], Denoiser] | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "B C 1 M"]:
    """Return the packed state of the scales of the last stage at its end.

    Within a stage all times are straight lines in v, the share of its steps that are done, and the
    solver integrates dx_s/dv = (end_s - start_s) model_s from 0 to 1; multistep solvers start anew
    in each.

    Args:
        model: of scales; a stage shows it those that move.
        noise: packed, of at least the scales that move; sums are kept in its dtype.
        labels: class labels, `num_classes` for none.
        sizes: height and width of every scale, from coarse to fine.
        stages: see `plan_stages`.
        solver: a name in `SOLVERS`.
        guide: puts guidance around a Denoiser of packed states, see `packed`.
        callback: told of every step of the whole, with the packed state of the scales that move.

    Raises:
        InputError: an unknown solver.
    """
    total, done = sum(stage.steps for stage in stages), 0
    x = noise[..., :0]
    for number, stage in enumerate(stages):
        shown = sizes[: number + 1]
        area = sum(height * width for height, width in shown)
        x = torch.cat([x, noise[..., x.shape[-1] : area]], -1)
        denoiser = packed(model, shown)
        velocity = _along(guide(denoiser) if guide else denoiser, stage, shown, x)
        told = callback and _shifted(callback, done, total)
        x = integrate(velocity, x, labels, time_grid(stage.steps), solver, told)
        done += stage.steps
    return x


def sample_staged(
    model: ScalesNetwork,
    process: MultiscaleFlow,
    noise: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    stages: Sequence[Stage],
    solver: str = "euler",
    *,
    draw: Callable[[int], Tensor],
    guide: Callable[[Denoiser], Denoiser] | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "B C _ _"]:
    """Return pictures, at the resolution of the last stage's scale.

    Args:
        model: of scales, as the process trains it.
        process: whose scales these are.
        noise: of the size of whole pictures.
        labels: class labels, `num_classes` for none.
        stages: see `plan_stages`; fewer than there are scales stop early.
        solver: a name in `SOLVERS`.

    Other arguments:
        draw: from 1, 2, ... to more noise of that shape: all scales have more numbers than a
            picture.
        guide: as in `integrate_staged`.
        callback: told of every step, with the running picture: the sum of the states of the scales
            that move, at the size of the result. After the last step it is the result.
    """
    size, last = (noise.shape[2], noise.shape[3]), len(stages) - 1
    sizes = process.sizes(size)
    start = draw_packed(noise, sum(h * w for h, w in sizes[: last + 1]), draw)

    def report(step: int, of: int, x: Tensor) -> None:
        assert callback is not None
        held = len(unpack(x, sizes)) - 1
        callback(step, of, process.decomposition.grow(process.join(x, size), held, last))

    told = report if callback else None
    x = integrate_staged(model, start, labels, sizes, stages, solver, guide, told)
    return process.join(x, size)


def _along(guided: Denoiser, stage: Stage, sizes: Sequence[Size], like: Tensor) -> Denoiser:
    """Return the velocity over the share of a stage's steps, from that over the scales' times."""
    rates = [after - before for before, after in zip(stage.start, stage.end, strict=True)]
    dtype = torch.promote_types(like.dtype, torch.float32)  # half precision rounds times
    start, end, rate = (
        spread(like.new_tensor(numbers, dtype=dtype), sizes)
        for numbers in (stage.start, stage.end, rates)
    )

    def velocity(x: Tensor, share: Tensor, y: Tensor) -> Tensor:
        v = share.view(-1, 1, 1, 1)
        return guided(x, (1 - v) * start + v * end, y) * rate  # exact at both ends

    return velocity


def _shifted(callback: Callback, done: int, total: int) -> Callback:
    return lambda step, of, x: callback(done + step, total, x)
