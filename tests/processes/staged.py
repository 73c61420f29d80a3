"""Runs over stages that a test lays out itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convflow.processes.contract import Stage
from convflow.processes.decomposition import pack, unpack
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.stages import StageField
from convflow.samplers.guidance import guide
from convflow.samplers.linear import GeneralLinear
from convflow.samplers.ode import integrate, time_grid
from convflow.types import Size


@dataclass(frozen=True)
class Staged(GeneralLinear):
    """A solver with stages of its own; those of the settings do not count."""

    kind: str = "euler"
    given: Sequence[Stage] = ()

    def stages(self, process: Any) -> list[Stage]:
        return [*self.given]


def sampler_of(stages: Sequence[Stage], solver: str = "euler") -> Staged:
    """A solver of these stages."""
    return Staged(solver, given=stages)


def sample_staged(
    model: Callable[..., Any],
    process: MultiscaleFlow,
    noise: Tensor,
    labels: Tensor,
    stages: Sequence[Stage],
    solver: str = "euler",
    **more: Any,
) -> Tensor:
    """The images of a run."""
    sampler = sampler_of(stages, solver)
    return sampler.run(process, lambda field_of: field_of(model), noise, labels, **more)


def packed(model: Callable[..., Any], sizes: Sequence[Size]) -> Callable[..., Tensor]:
    """A network of scales as one of packed states."""
    return lambda x, t, y: pack(model(unpack(x, sizes), t, y))


def integrate_staged(
    model: Callable[..., Any],
    noise: Tensor,
    labels: Tensor,
    sizes: Sequence[Size],
    stages: Sequence[Stage],
    solver: str = "euler",
    **guidance: Any,
) -> Tensor:
    """The packed state at the end of a run from packed noise, guided by the options of `guide`."""
    x = noise[..., :0]
    for stage in stages:
        shown = sizes[: len(stage.start)]
        area = sum(height * width for height, width in shown)
        x = torch.cat([x, noise[..., x.shape[-1] : area]], -1)
        field = StageField.over(stage, packed(model, shown), shown, x)
        field = field.guided(partial(guide, **guidance)) if guidance else field
        x = integrate(field, x, labels, time_grid(stage.steps), solver)
    return x
