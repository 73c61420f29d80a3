"""What every process promises: a path from noise to data, and states that a solver moves along it.

Ho et al. 2020 for chains, Lipman et al. 2023 for flows; the stages are those of Haji-Ali et al.
2025, arXiv 2506.19839, of which other processes have one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from convflow.processes.prediction import Kind
from convflow.processes.schedule import Schedule
from convflow.settings.kinds import Part
from convflow.types import Cond, Denoiser, InputError, Size, in_cells

Clock = Callable[[Tensor], Tensor]
"""From times that a network is told to flow times, 0 = noise and 1 = data, beside each number of a
state: (B, 1, 1, 1), or (B, 1, 1, N) where the numbers of a state have times of their own; `over`
gives them the axes of a state."""

MoreNoise = Callable[[int], Tensor]
"""From 1, 2, ... to more standard normal noise of the shape of the first."""

Guided = TypeVar("Guided", bound="Field")


class Stage(NamedTuple):
    """Some steps of equal length, and the times of the scales that move, before and after them."""

    steps: int
    start: tuple[float, ...] = (0.0,)
    end: tuple[float, ...] = (1.0,)


class MoreChannels(NamedTuple):
    """What a network of a process may predict in C more channels, in words for messages."""

    purpose: str
    chosen: str
    """The option with which it has them."""
    refused: str
    """The option with which it has not."""


def beside(t: Shaped[Tensor, " B"], like: Tensor | None = None) -> Float[Tensor, B * 1]:
    """Return a number of each sample beside its image, or beside what `like` has of each."""
    return t.view(-1, *(1,) * (3 if like is None else like.dim() - 1))


def over(time: Float[Tensor, "B 1 1 *N"], state: Float[Tensor, "B C *S"]) -> Tensor:
    """Return the times of a `Clock` with as many axes as a state, such as the five of videos."""
    return time.view(time.shape[0], *(1,) * (state.dim() - time.dim()), *time.shape[1:])


@dataclass(frozen=True)
class Field:
    """A prediction over states, such as their velocity: a Denoiser, called as `field(x, t, y)`.

    Attributes:
        predict: what guidance acts on; a Denoiser of states.
        clock: from the times that `predict` is told to flow times.
        begin: flow time before which states stand still, so that solvers leave these steps out.
    """

    predict: Denoiser
    clock: Clock = beside
    begin: float = 0.0

    def __call__(
        self, x: Float[Tensor, "B C *F H W"], t: Float[Tensor, " B"], y: Cond
    ) -> Float[Tensor, "B P *F H W"]:
        """Return the prediction at the solver's time t, from 0 to 1 over a stage."""
        return self.predict(x, t, y)

    def guided(self: Guided, guide: Callable[..., Any]) -> Guided:
        """Return the field with guidance: `guide(predict, clock=clock)`, and its `begin`."""
        predict = guide(self.predict, clock=self.clock)
        return dataclasses.replace(self, predict=predict, begin=predict.begin)


class Process(Part):
    """How data become noise in training, and what the network is asked for.

    `path` and `Field` speak of flow time, from 0 (noise) to 1 (data), whatever the process's own
    time is, in which `draw` counts and the network is told. A solver moves states and knows nothing
    of processes: `start` makes them of noise, `field` moves them, `finish` makes data of them.
    Unless a process says otherwise they are the images in model space, moved in one stage.

    A process is a frozen dataclass whose fields are its settings.
    """

    multiscale: ClassVar[bool] = False
    """Whether images are several scales, each with a time of its own."""
    time_scale: ClassVar[float] = 1.0
    """What a new network multiplies its times by before it embeds them, so that they reach 1000."""
    second_time: ClassVar[bool] = False
    """Whether the network is told two times, and predicts what is so between them on average."""
    more_channels: ClassVar[MoreChannels] = MoreChannels(
        "a variance", "--process.variance learned", "--process.variance small"
    )
    """What C more channels are for, where the network has them."""
    begins_from: ClassVar[tuple[str, ...]] = ()
    """Other kinds of process from whose networks a network of this one may begin."""

    @property
    def path(self) -> Schedule:
        """How much data and noise there is at a flow time."""
        raise NotImplementedError

    @property
    def prediction(self) -> Kind:
        """What the network predicts, in its first C channels."""
        raise NotImplementedError

    @property
    def learned_variance(self) -> bool:
        """Whether the network has C more channels, for what `more_channels` says.

        The name is older than the velocity head; settings of stored networks have it.
        """
        return False

    @property
    def tells_guidance(self) -> bool:
        """Whether the network is told a scale of guidance beside two times."""
        return False

    @property
    def multiple(self) -> int:
        """Height and width of images in model space are multiples of it."""
        return 1

    @property
    def frame_multiple(self) -> int:
        """Frames of videos in model space are a multiple of it."""
        return 1

    @property
    def downsampling(self) -> tuple[int, ...]:
        """How many times shorter than the image's the sides of each scale are, coarse to fine."""
        return (1,)

    @property
    def frame_downsampling(self) -> tuple[int, ...]:
        """How many times fewer frames than the video each scale has, from coarse to fine."""
        return tuple(1 for _ in self.downsampling)

    @property
    def unmeasured(self) -> bool:
        """Whether the data must be shown to `measure` before the training begins."""
        return False

    def sizes(self, size: Size, cell: int = 1, frame_cell: int = 1) -> tuple[Size, ...]:
        """Return the size in cells of every scale, from coarse to fine.

        Args:
            size: height and width of the image, in pixels, of a video frames before them.
            cell: pixels along a side of a cell, the factor of the codec.
            frame_cell: frames of a cell, the `frame_factor` of the codec.

        Raises:
            InputError: sides that are not whole.
        """
        return (in_cells(size, cell, frame_cell),)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Any:
        """Return noise and times for a batch of `shape`, (B, C, H, W) or (B, C, F, H, W).

        They lie on the generator's device.
        """
        raise NotImplementedError

    def flow_time(self, t: Float[Tensor, " *T"]) -> Float[Tensor, " B"]:
        """Return one flow time for each sample, from the times that the network is told."""
        raise NotImplementedError

    def mix(
        self,
        data: Float[Tensor, "B C *F H W"],
        noise: Float[Tensor, "B C *_"],
        t: Float[Tensor, " *T"],
    ) -> Float[Tensor, "B C *_"]:
        """Return the noisy states at the process's own times t."""
        raise NotImplementedError

    def loss(
        self,
        model: Any,
        data: Float[Tensor, "B C *F H W"],
        labels: Cond,
        generator: torch.Generator,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample, with fresh draws."""
        return self.loss_at(model, data, labels, self.draw(tuple(data.shape), generator))

    def loss_at(
        self, model: Any, data: Float[Tensor, "B C *F H W"], labels: Cond, draws: Any
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws that this process has made."""
        raise NotImplementedError

    def stages(
        self,
        steps: int,
        stage_steps: Sequence[int] = (),
        thresholds: Sequence[float] = (),
        stop_scale: int | None = None,
    ) -> list[Stage]:
        """Return the stages of a run of so many steps: one.

        Raises:
            InputError: settings of several stages.
        """
        given = {"stage-steps": stage_steps, "thresholds": thresholds, "stop-scale": stop_scale}
        for name, value in given.items():
            if value:
                raise InputError(
                    f"expected a model trained with the process dfm for {name}, got one without "
                    "scales; leave it out"
                )
        return [Stage(steps)]

    def start(
        self,
        noise: Float[Tensor, "B C *F H W"],
        draw: MoreNoise,
        stage: Stage,
        state: Float[Tensor, "B C *_"] | None = None,
    ) -> Float[Tensor, "B C *_"]:
        """Return the state at the start of a stage.

        Args:
            noise: of the size of whole images.
            draw: gives more noise of that shape, where states are more numbers than an image.
            stage: that begins.
            state: at the end of the stage before; None in the first.
        """
        return noise

    def field(self, network: Any, stage: Stage, noise: Float[Tensor, "B C *F H W"]) -> Field:
        """Return the velocity of states in a stage.

        Args:
            network: trained by this process, in its own time.
            stage: in which it moves the states.
            noise: that the run began from; the states have its size, dtype and device.
        """
        raise NotImplementedError

    def averages(self, network: Denoiser, guidance: float = 1.0) -> Denoiser:
        """Return what predicts averages between two times (B, 2), where a network is told them.

        Args:
            network: trained by this process.
            guidance: scale that the network is told, where it is told one.
        """
        return network

    def finish(
        self, state: Float[Tensor, "B C *_"], size: Size, stages: Sequence[Stage]
    ) -> Float[Tensor, "B C *_"]:
        """Return the data that a state stands for, at the size of a run's result.

        Args:
            state: at the end of a step.
            size: height and width of the noise.
            stages: of the run.
        """
        return state

    def misfits(self, other: Process) -> dict[str, tuple[Any, Any]]:
        """Return where networks of two processes are asked or answer otherwise: ours and theirs."""
        ours, theirs = (
            {
                "kind": process.kind,
                "schedule": process.path.name,
                "prediction": process.prediction,
                "variance": getattr(process, "variance", None),
            }
            for process in (self, other)
        )
        return {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}

    def measure(self, batches: Iterable[Tensor]) -> tuple[float, ...]:
        """Return what must be measured of the data, batches (B, C, H, W): here nothing."""
        return ()

    def measured(self, measurements: tuple[float, ...]) -> Process:
        """Return the process with what `measure` has returned."""
        return self

    def adapt(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the network that this process trains, its name among them.

        Args:
            settings: name and settings of a network on one image.

        Raises:
            InputError: settings that the process alone makes.
        """
        return dict(settings)

    def describe(self, size: Size, cell: int = 1, frame_cell: int = 1) -> dict[str, Any]:
        """Return how an image is seen, for a user to read: nothing where it is one scale."""
        return {}
