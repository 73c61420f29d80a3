"""Flow matching: a path from noise to data, and a network that predicts along it.

Lipman et al. 2023, eq. 20-23 and Liu et al. 2023, eq. 1; other paths and predictions: Ma et al.
2024 (SiT), section 3; logit-normal times and the time shift: Esser et al. 2024, eq. 19 and section
5.3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Field, Process, Stage, beside
from convflow.processes.prediction import ROWS, Kind, Predicts, Row
from convflow.processes.schedule import LINEAR, Schedule, find_schedule
from convflow.settings.fields import Positive, doc
from convflow.settings.read import check_fields
from convflow.types import Denoiser, InputError, Size

TimesName = Annotated[
    Literal["uniform", "logit-normal"],
    doc("how training times are drawn: evenly, or as the sigmoid of a normal"),
]
Location = Annotated[
    float, doc("mean of the normal behind logit-normal times; above 0 favours data")
]
Time = TypeVar("Time", float, Tensor)


class TrainingDraws(NamedTuple):
    """Everything random in one training batch, one row per sample; `t` in the process's time."""

    noise: Float[Tensor, "B C *F H W"]
    t: Float[Tensor, " B"]


@dataclass(frozen=True)
class FlowMatching(Process):
    """x_t = alpha(t) data + sigma(t) noise, for t from 0 (noise) to 1 (data).

    By default the straight path x_t = t data + (1 - t) noise with the velocity as the target.
    `schedule` is a name in `SCHEDULES`, or in Python a Schedule of your own.

    Raises:
        InputError: an unknown name, or a number outside its range.
    """

    kind: ClassVar[str] = "flow"
    time_scale: ClassVar[float] = 1000.0

    times: TimesName = "uniform"
    location: Location = 0.0
    scale: Annotated[
        Positive, doc("standard deviation of the normal behind logit-normal times")
    ] = 1.0
    shift: Annotated[
        Positive, doc("training times become t / (t + (1 - t) shift); above 1 favours noise")
    ] = 1.0
    schedule: Annotated[str | Schedule, doc("path from noise to data: linear, cosine or vp")] = (
        "linear"
    )
    prediction: Annotated[
        Kind, doc("what the network predicts: the velocity, the noise, the data or the score")
    ] = "velocity"

    def __post_init__(self) -> None:
        check_fields(self)
        find_schedule(self.schedule)

    @cached_property
    def path(self) -> Schedule:
        return find_schedule(self.schedule)

    def draw_times(self, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Return `n` training times in [0, 1], on the generator's device."""
        device = generator.device
        if self.times == "uniform":
            t = torch.rand(n, generator=generator, device=device)
        else:
            normal = torch.randn(n, generator=generator, device=device)
            t = torch.sigmoid(self.location + self.scale * normal)
        return shift_times(t, self.shift)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> TrainingDraws:
        t = self.draw_times(shape[0], generator)
        return TrainingDraws(torch.randn(shape, generator=generator, device=generator.device), t)

    def flow_time(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the flow time of what the network is told, which is that time."""
        return t

    def mix(
        self,
        data: Float[Tensor, "B C *F H W"],
        noise: Float[Tensor, "B C *F H W"],
        t: Float[Tensor, " B"],
    ) -> Float[Tensor, "B C *F H W"]:
        """Return the point at time t on the path from noise to data."""
        full = torch.promote_types(data.dtype, torch.float32)  # half precision rounds times
        noise, t = noise.to(full), beside(t, data).to(full)
        if self.path is LINEAR:  # one rounding less
            return torch.lerp(noise, data.to(full), t).to(data.dtype)
        return (self.path.alpha(t) * data + self.path.sigma(t) * noise).to(data.dtype)

    def row(self, data: Float[Tensor, "B C *F H W"], t: Float[Tensor, " B"]) -> Row:
        """Return the row of this prediction over (data, noise) for each sample.

        Its dtype is that of the data, float32 at least.
        """
        full = torch.promote_types(data.dtype, torch.float32)
        return ROWS[self.prediction](self.path, beside(t, data).to(full))

    def target(
        self,
        data: Float[Tensor, "B C *F H W"],
        noise: Float[Tensor, "B C *F H W"],
        t: Float[Tensor, " B"],
    ) -> Float[Tensor, "B C *F H W"]:
        """Return what the prediction is to be, such as the velocity d x_t / dt.

        Of the score sigma times it, which is minus the noise: the score itself has no bound.
        """
        row = self.row(data, t)
        return row.data * data + row.noise * noise

    def loss_at(
        self,
        model: Denoiser,
        data: Float[Tensor, "B C *F H W"],
        labels: Int[Tensor, " B"],
        draws: TrainingDraws,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws already made.

        It is the plain mean squared error of the prediction, without a weight for the time; of the
        score that of sigma times it, the weight of Song & Ermon 2019.

        Raises:
            InputError: the network predicts more channels than the data have.
        """
        prediction = model(self.mix(data, draws.noise, draws.t), draws.t, labels)
        if prediction.shape[1] != data.shape[1]:
            raise InputError(
                f"expected a prediction of {data.shape[1]} channels, got {prediction.shape[1]}; "
                "flow matching has no use for a learned variance"
            )
        full = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        target = self.target(data, draws.noise, draws.t)
        error = self.row(data, draws.t).scale * full - target
        return error.square().flatten(1).mean(1)

    def as_prediction(self, model: Denoiser, wanted: Kind = "velocity") -> Denoiser:
        """Return `model`, trained by this process, as a Denoiser that predicts `wanted`."""
        if wanted == self.prediction:
            return model
        return Predicts(model, self.path, self.prediction, wanted)

    def field(self, network: Denoiser, stage: Stage, noise: Float[Tensor, "B C *F H W"]) -> Field:
        return Field(self.as_prediction(network))


def shift_times(t: Time, shift: float) -> Time:
    """Return t / (t + (1 - t) shift); 0 and 1 stay where they are."""
    return t / (t + (1 - t) * shift)


def shift_of_size(size: Size, trained: Size) -> float:
    """Return the time shift sqrt(pixels / trained pixels) that suits another size.

    More pixels show an image through more noise. Above 1 times lean to noise, until as much of
    the image is hidden at each as was of a trained one without a shift: exactly so on the linear
    path, for which it was derived (Esser et al. 2024, section 5.3.2, where time runs from data to
    noise), and nearly on the others.

    Args:
        size: height and width in pixels of any kind, of videos frames before them.
        trained: those of training, in the same pixels; there the shift is 1.

    Raises:
        InputError: a side of 0 or less.

    Examples:
        >>> shift_of_size((64, 64), (32, 32))
        2.0
    """
    if min(*size, *trained) <= 0:
        raise InputError(f"expected sides above 0, got {size} and {trained}; give both sizes")
    return math.sqrt(math.prod(size) / math.prod(trained))
