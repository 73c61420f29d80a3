"""What every process promises, and the one place that makes them by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.ddpm import DDPM
from convflow.processes.flow import Draws, FlowMatching
from convflow.processes.multiscale import MultiscaleFlow, ScaleDraws
from convflow.processes.prediction import Kind
from convflow.processes.schedule import Schedule
from convflow.types import Denoiser, InputError, unknown_name


@runtime_checkable  # for the shape checks in tests
class Process(Protocol):
    """How data become noise in training, and what the network is asked for.

    `schedule` and `as_prediction` speak of flow time, from 0 (noise) to 1 (data), whatever the
    process's own time is, in which `Draws.t` is counted and the network is told; so samplers need
    to know nothing of processes. The one exception is `MultiscaleFlow`, whose pictures have a time
    for every scale: it trains and samples another kind of network, and refuses `as_prediction`.
    """

    @property
    def schedule(self) -> Schedule:
        """How much data and noise there is at a flow time."""

    @property
    def prediction(self) -> Kind:
        """What the network predicts, in its first C channels."""

    @property
    def learned_variance(self) -> bool:
        """Whether the network has C more channels, for the variance."""

    @property
    def multiple(self) -> int:
        """Height and width of pictures in model space are multiples of it."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Draws | ScaleDraws:
        """Return noise and times for a batch of `shape` (B, C, H, W), on the generator's device."""

    def flow_time(self, t: Float[Tensor, " *T"]) -> Float[Tensor, " B"]:
        """Return one flow time for each sample, from the times that the network is told."""

    def mix(
        self,
        data: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "B C _ _"],
        t: Float[Tensor, " *T"],
    ) -> Float[Tensor, "B C _ _"]:
        """Return the noisy pictures at the process's own times t; packed, where noise is."""

    def loss(
        self,
        model: Denoiser,
        data: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        generator: torch.Generator,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample, with fresh draws."""

    def loss_at(
        self,
        model: Denoiser,
        data: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        draws: Any,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws that this process has made."""

    def as_prediction(self, model: Denoiser, wanted: Kind = "velocity") -> Denoiser:
        """Return `model`, trained by this process, as a Denoiser in flow time with C channels."""


PROCESSES: dict[str, type] = {"flow": FlowMatching, "ddpm": DDPM, "dfm": MultiscaleFlow}


def create_process(process: str | Mapping[str, Any] = "flow", **settings: Any) -> Process:
    """Return a process by name.

    Args:
        process: a name in `PROCESSES`, or a mapping with this name as `kind` beside settings.
        **settings: arguments of the process. Those of the others may stand there too, as in a
            complete configuration, as long as they have their defaults.

    Raises:
        InputError: an unknown name, setting or value; the message names the nearest. A setting of
            another process.

    Example:
        >>> create_process("flow", schedule="cosine", prediction="noise").prediction
        'noise'
    """
    if not isinstance(process, str):
        settings = {**process, **settings}
        process = settings.pop("kind", "flow")
    if process not in PROCESSES:
        raise InputError(unknown_name("process", process, PROCESSES))
    accepted = _defaults(process)
    for name in settings.keys() - accepted.keys():
        foreign = {kind: _defaults(kind)[name] for kind in PROCESSES if name in _defaults(kind)}
        if not foreign:
            raise InputError(f"{process}: {unknown_name('setting', name, accepted)}")
        if settings[name] not in foreign.values():
            raise InputError(
                f"the process {process!r} has no setting {name!r}, got {settings[name]!r}; leave "
                f"it out, or choose the process {' or '.join(map(repr, foreign))}"
            )
    return PROCESSES[process](**{n: v for n, v in settings.items() if n in accepted})


def _defaults(kind: str) -> dict[str, Any]:
    """Return the settings of a known kind of process and their defaults."""
    return {n: p.default for n, p in inspect.signature(PROCESSES[kind]).parameters.items()}
