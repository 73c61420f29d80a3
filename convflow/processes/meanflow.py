"""MeanFlow: a network that predicts average velocities, so that one step goes from noise to data.

MeanFlow: Geng et al. 2025a (arXiv 2505.13447), eq. 3-6, 10-11, 19-22 and algorithm 1. Improved
MeanFlow: Geng et al. 2025b (arXiv 2512.02012), sections 4.1 and 4.2. They let time run from data
to noise; here it runs from noise to data, as in all flows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor
from torch.utils._pytree import tree_map

from convflow.processes.contract import MoreChannels, beside
from convflow.processes.derivative import push_forward
from convflow.processes.flow import FlowMatching, Location, TimesName, shift_times
from convflow.processes.prediction import Kind
from convflow.settings.fields import Fraction, Momentum, NotNegative, Positive, doc
from convflow.types import Denoiser, InputError

LEAST_ERROR = 1e-3
"""Added to the squared error of a sample before its weight is formed (Geng et al. 2025a).

The authors of improved MeanFlow add 0.01 to the sums of theirs; here it is 0.001 for these too.
"""


class SpanDraws(NamedTuple):
    """Everything random in one training batch, one row per sample; `t` has start and end."""

    noise: Float[Tensor, "B C *F H W"]
    t: Float[Tensor, "B 2"]
    guidance: Float[Tensor, " B"] | None = None
    """Scales that the network is told; None where it is told none."""

    @property
    def told(self) -> Float[Tensor, "B K"]:
        """What the network is told beside labels: two times, and a scale where there is one."""
        return self.t if self.guidance is None else torch.cat([self.t, self.guidance[:, None]], 1)


@dataclass(frozen=True)
class MeanFlow(FlowMatching):
    """The average velocity from a time s to a later one e, of the flow through x at s.

        u(x, s, e) = integral of v from s to e / (e - s),        x_e = x_s + (e - s) u(x_s, s, e)

    The derivative of (e - s) u along the flow, with e fixed, gives what a network can be trained
    with, one derivative in forward mode in place of an integral:

        u = v + (e - s) du/ds,           du/ds = the derivative of u along (v, 1, 0) in (x, s, e).

    The right side is not differentiated by the training, and v is the velocity of the sample, as
    in flow matching. Where e = s nothing but flow matching is left, and u(x, s, s) is the velocity.

    With `guidance` w and `mixture` k the field of the averages is the guided one: v becomes

        (1 - k) w v + k u(x, s, s | label) + (1 - k) (1 - w) u(x, s, s | none),

    whose fixed point is u_none + w (u_label - u_none) for guidance w between both velocities. It
    acts where there is a label.

    With `guidance_max` the network is told a scale w, drawn for each sample from 1 to there, evenly
    in its logarithm. Then k = 1 - 1 / w and (1 - k) w = 1, so that the velocity is that of guidance
    w: v + (1 - 1 / w) (u(x, s, s | label) - u(x, s, s | none)). Sampling chooses the scale.

    With `velocity_head` the network has C more channels, which learn the (guided) velocity at s
    whatever e is, with a loss like that of u. In the loss they take
    the place of u(x, s, s); solvers use u(x, s, s) itself.

    Raises:
        InputError: an unknown name, or a number outside its range.
    """

    kind: ClassVar[str] = "meanflow"
    second_time: ClassVar[bool] = True
    time_scale: ClassVar[float] = 1.0  # a larger one is a factor of the derivative's time, too
    more_channels: ClassVar[MoreChannels] = MoreChannels(
        "the velocity", "--process.velocity-head true", "--process.velocity-head false"
    )
    begins_from: ClassVar[tuple[str, ...]] = ("flow",)

    times: TimesName = "logit-normal"
    location: Location = 0.4
    prediction: Annotated[
        Kind, doc("what the network predicts: the velocity, which alone has averages")
    ] = "velocity"
    apart: Annotated[
        Fraction, doc("share of samples whose two times differ; published: 0.25 to 0.75")
    ] = 0.5
    end_location: Annotated[
        float | None,
        doc("mean of the normal behind the second time; none = drawn as the first, then sorted"),
    ] = None
    end_scale: Annotated[
        Positive, doc("standard deviation of the normal behind the second time, with end-location")
    ] = 1.0
    power: Annotated[
        NotNegative, doc("each sample's squared error is divided by its own power p; 0 = not")
    ] = 1.0
    tangent: Annotated[
        Literal["sample", "own"],
        doc("velocity along which u is differentiated: the sample's, or the network's (improved)"),
    ] = "sample"
    guidance: Annotated[
        float, doc("scale of the guidance that is trained into the network; 1 = none")
    ] = 1.0
    mixture: Annotated[
        Momentum, doc("share k of the network's own velocities in guided ones, below 1")
    ] = 0.0
    velocity_head: Annotated[
        bool, doc("whether the network predicts velocities beside averages (improved)")
    ] = False
    guidance_max: Annotated[
        float,
        Meta(ge=1),
        doc(
            "largest scale of guidance that the network is told, published: 8; 1 = it is told none"
        ),
    ] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tells_guidance and (self.guidance, self.mixture) != (1, 0):
            raise InputError(
                f"expected guidance 1 and mixture 0 with guidance-max, which draws them, got "
                f"{self.guidance} and {self.mixture}; leave them out, or give "
                "--process.guidance 1 --process.mixture 0 where --init brings them"
            )
        if self.prediction != "velocity":
            raise InputError(
                f"expected the prediction velocity with the process meanflow, got "
                f"{self.prediction}; leave it out"
            )

    @property
    def guided(self) -> bool:
        """Whether the velocities are guided ones."""
        return self.guidance != 1 or self.mixture > 0 or self.tells_guidance

    @property
    def tells_guidance(self) -> bool:
        return self.guidance_max > 1

    @property
    def learned_variance(self) -> bool:
        return self.velocity_head

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Any:
        count, device = shape[0], generator.device
        start = self.draw_times(count, generator)
        if self.end_location is None:
            other = self.draw_times(count, generator)
            start, end = torch.minimum(start, other), torch.maximum(start, other)
        else:
            normal = torch.randn(count, generator=generator, device=device)
            other = torch.sigmoid(self.end_location + self.end_scale * normal)
            end = torch.maximum(start, shift_times(other, self.shift))
        apart = torch.rand(count, generator=generator, device=device) < self.apart
        t = torch.stack([start, torch.where(apart, end, start)], 1)
        draws = SpanDraws(torch.randn(shape, generator=generator, device=device), t)
        if not self.tells_guidance:
            return draws
        share = torch.rand(count, generator=generator, device=device)
        return draws._replace(guidance=self.guidance_max**share)

    def flow_time(self, t: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Return the first of the two times that the network is told."""
        return t[:, 0]

    def adapt(self, settings: Any) -> dict[str, Any]:
        if settings.get("second_time") is False:
            raise InputError(
                "--model.second-time: expected true with the process meanflow, got false; "
                "leave it out"
            )
        wanted = self.tells_guidance
        if (told := settings.get("told_guidance", wanted)) != wanted:
            raise InputError(
                f"--model.told-guidance: expected {str(wanted).lower()} with guidance-max "
                f"{self.guidance_max:g}, got {str(told).lower()}; leave it out, or give "
                f"--process.guidance-max {'1' if wanted else 'a number above 1'}"
            )
        return {**settings, "second_time": True} | ({"told_guidance": True} if wanted else {})

    def as_prediction(self, model: Denoiser, wanted: Kind = "velocity") -> Denoiser:
        """Return `model`, told one time twice, as a Denoiser that predicts `wanted`."""
        average = self.averages(model)

        def velocity(x: Tensor, t: Tensor, y: Any) -> Tensor:
            return average(x, torch.stack([t, t], 1), y)

        return super().as_prediction(velocity, wanted)

    def averages(self, network: Denoiser, guidance: float = 1.0) -> Denoiser:
        if not self.tells_guidance and not self.velocity_head:
            return network

        def average(x: Tensor, t: Tensor, y: Any) -> Tensor:
            scale = [torch.full_like(t[:, :1], guidance)] if self.tells_guidance else []
            return network(x, torch.cat([t, *scale], 1), y)[:, : x.shape[1]]

        return average

    def loss_at(
        self,
        model: Denoiser,
        data: Float[Tensor, "B C *F H W"],
        labels: Int[Tensor, " B"],
        draws: Any,
        null: Callable[[Any], Any] | None = None,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws already made.

        Its value is the mean squared error against the target, its gradient that of the sum of
        squares over (sum + `LEAST_ERROR`)^p, with the divisor held fixed. The velocities of a
        `velocity_head` have a loss of the same form, and both are summed.

        Args:
            model: told two times, and a scale of guidance where `guidance_max` is above 1.
            data: clean.
            labels: with those dropped that are to be.
            draws: as `draw` returns them.
            null: from labels to none; for guidance.

        Raises:
            InputError: a network that predicts more channels, or has no forward derivative;
                guidance without `null`.
        """
        x = self.mix(data, draws.noise, draws.t[:, 0])
        velocity = self.target(data, draws.noise, draws.t[:, 0])
        # First: objectives beside see features of this call.
        prediction = model(x, draws.told, labels)
        wanted = data.shape[1] * (2 if self.velocity_head else 1)
        if prediction.shape[1] != wanted:
            more = self.more_channels
            raise InputError(
                f"expected a prediction of {wanted} channels, got {prediction.shape[1]}; give "
                f"another network, or {more.refused if self.velocity_head else more.chosen}"
            )
        given = model, x, draws.told, labels
        velocity, own = self.velocities(*given, velocity, null)
        goals = [self._goal(*given, velocity, own)] + [velocity] * self.velocity_head
        full = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        parts = full.split(data.shape[1], 1)
        return sum(
            (self._weighed(one - goal) for one, goal in zip(parts, goals, strict=True)),
            start=full.new_zeros(len(full)),
        )

    def _weighed(self, error: Float[Tensor, "B C *F H W"]) -> Float[Tensor, " B"]:
        """Return mean squares, with the gradient of weighed sums of squares."""
        squares = error.square().flatten(1)
        mean, total = squares.mean(1), squares.sum(1)
        weight = (total.detach() + LEAST_ERROR) ** -self.power
        return mean.detach() + weight * (total - total.detach())

    def goal(
        self,
        model: Denoiser,
        x: Float[Tensor, "B C *F H W"],
        t: Float[Tensor, "B K"],
        labels: Int[Tensor, " B"],
        velocity: Float[Tensor, "B C *F H W"],
        null: Callable[[Any], Any] | None = None,
    ) -> Float[Tensor, "B C *F H W"]:
        """Return v + (e - s) du/ds at the samples: what u(x, s, e) is to be.

        Args:
            model: told two times.
            x: at the first time.
            t: both times, and the scale of guidance where it is told.
            labels: with those dropped that are to be.
            velocity: of the samples, the field of which is known on average alone.
            null: from labels to none; for guidance.
        """
        velocity, own = self.velocities(model, x, t, labels, velocity, null)
        return self._goal(model, x, t, labels, velocity, own)

    @torch.no_grad()
    def _goal(
        self,
        model: Denoiser,
        x: Tensor,
        t: Tensor,
        labels: Any,
        velocity: Tensor,
        own: Tensor | None,
    ) -> Tensor:
        along = velocity if self.tangent == "sample" or own is None else own
        span = t[:, 1] - t[:, 0]
        # At least one sample: processes that share a network must all ask for a derivative.
        rows = torch.nonzero(span > 0).flatten()
        rows = rows if len(rows) else torch.zeros(1, dtype=torch.int64, device=x.device)
        moves = torch.zeros_like(t[rows])
        moves[:, 0] = 1
        slope = push_forward(
            lambda x, t, y: model(x, t, y)[:, : x.shape[1]],
            (x[rows], t[rows]),
            (along[rows].to(x.dtype), moves),
            tree_map(lambda part: part[rows], labels),
        )
        change = beside(span[rows], slope) * slope.to(velocity.dtype)
        return velocity.index_add(0, rows, change.to(velocity.dtype))

    @torch.no_grad()
    def velocities(
        self,
        model: Denoiser,
        x: Float[Tensor, "B C *F H W"],
        t: Float[Tensor, "B K"],
        labels: Any,
        velocity: Float[Tensor, "B C *F H W"],
        null: Callable[[Any], Any] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the velocities of samples, guided ones where they are, and the network's own.

        The latter are None where they are not needed. Arguments as of `goal`.

        Raises:
            InputError: guidance without `null`.
        """
        now = torch.cat([t[:, :1], t[:, :1], t[:, 2:]], 1)
        if not self.guided:
            own = self._velocity(model, x, now, labels) if self.tangent == "own" else None
            return velocity, own
        if null is None:
            raise InputError(
                "expected labels that can be dropped for --process.guidance, got none; leave it out"
            )
        none, own = null(labels), None
        scale: Any = beside(t[:, 2], x) if self.tells_guidance else self.guidance
        mixture: Any = 1 - 1 / scale if self.tells_guidance else self.mixture
        if self.mixture or self.tells_guidance or self.tangent == "own":
            twice = tree_map(lambda *parts: torch.cat(parts), labels, none)
            both = torch.cat([x, x]), torch.cat([now, now]), twice
            own, bare = self._velocity(model, *both).chunk(2)
        else:
            bare = self._velocity(model, x, now, none)
        guided = (1 - mixture) * (scale * velocity + (1 - scale) * bare)
        if own is not None:
            guided = guided + mixture * own
        known = beside((labels != none).to(velocity.dtype), velocity).bool()
        return torch.where(known, guided.to(velocity.dtype), velocity), own

    def _velocity(self, model: Denoiser, x: Tensor, now: Tensor, labels: Any) -> Tensor:
        found = model(x, now, labels)[:, -x.shape[1] :]  # the last, where there are two predictions
        return found.to(torch.promote_types(found.dtype, torch.float32))
