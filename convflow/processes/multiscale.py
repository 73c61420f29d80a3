"""Multi-scale flow matching: one flow per scale of an image, each with a time of its own.

Decomposable flow matching (DFM): Haji-Ali et al. 2025, arXiv 2506.19839, section 3 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import MoreNoise, Process, Stage
from convflow.processes.decomposition import Axes, Decomposition, fill, pack, unpack
from convflow.processes.prediction import Kind
from convflow.processes.schedule import LINEAR, Schedule
from convflow.processes.stages import StageField, run_stages, spread
from convflow.settings.fields import Factor, Positive, Share, doc
from convflow.settings.read import check_fields
from convflow.types import Cond, InputError, Size

COARSEST_SHARE = 0.9
"""How often the coarsest scale is the main one; the finer ones share the rest (appendix A.5)."""

SHARES_TOLERANCE = 1e-6


@runtime_checkable  # for the shape checks in tests
class ScalesNetwork(Protocol):
    """A network that predicts the velocity of every scale it is shown.

    Called as `model(scales, t, y, active)`: the first k scales from coarse to fine, each
    (B, C, H_s, W_s); the time of each, (B, k), 0 = noise and 1 = data; labels; and how many of the
    k take part in each sample, None for all. It returns k velocities of the scales' shapes.
    """

    def __call__(
        self,
        scales: Sequence[Float[Tensor, "B C *_"]],
        t: Float[Tensor, "B K"],
        y: Cond,
        active: Int[Tensor, " B"] | None = None,
        /,
    ) -> Sequence[Float[Tensor, "B C *_"]]: ...


class ScaleDraws(NamedTuple):
    """Everything random in one training batch, one row per sample.

    Attributes:
        noise: of all scales, packed.
        t: the time of each scale; 0 where it does not take part.
        active: how many scales take part, 1 to S: up to the main one.
    """

    noise: Float[Tensor, "B C 1 N"]
    t: Float[Tensor, "B S"]
    active: Int[Tensor, " B"]


@dataclass(frozen=True)
class MultiscaleFlow(Process):
    """x_s = t_s part_s + (1 - t_s) noise_s for the scales s = 1..S of an image.

    For every sample one scale is drawn as the main one. Its time is logit-normal; those of the
    coarser scales lean to data, independently of each other; finer scales are pure noise, of which
    the network is shown nothing and asked for nothing. So it learns each scale given any state of
    the coarser ones, and sampling can move them one after the other.

    A state is the first scales packed into one tensor, so that every solver runs on it.

    Raises:
        InputError: an unknown name, something that is no number or outside its range, or not one
            for each scale.
    """

    kind: ClassVar[str] = "dfm"
    multiscale: ClassVar[bool] = True
    time_scale: ClassVar[float] = 1000.0
    begins_from: ClassVar[tuple[str, ...]] = ("flow",)
    path: ClassVar[Schedule] = LINEAR
    prediction: ClassVar[Kind] = "velocity"

    factors: Annotated[
        tuple[Factor, ...], doc("size of each scale over the next coarser one, coarse to fine")
    ] = (2,)
    decomposition: Annotated[
        str, doc("how an image is split into scales: laplacian, haar or dct")
    ] = "laplacian"
    probabilities: Annotated[
        tuple[Share, ...],
        doc("probability of each scale to be the main one; none = 0.9, then equal shares of 0.1"),
    ] = ()
    location: Annotated[
        float, doc("mean of the normal behind the main scale's time; above 0 favours data")
    ] = 0.0
    scale: Annotated[
        Positive, doc("standard deviation of the normal behind the main scale's time")
    ] = 1.0
    earlier_location: Annotated[
        float, doc("mean of the normal behind the times of scales coarser than the main one")
    ] = 1.5
    earlier_scale: Annotated[
        Positive, doc("standard deviation of the normal behind the times of coarser scales")
    ] = 1.0
    weights: Annotated[tuple[Positive, ...], doc("weight of each scale in the loss; none = 1")] = ()
    standardize: Annotated[
        bool, doc("divide each scale by its standard deviation, measured when the run starts")
    ] = False
    deviations: Annotated[
        tuple[Positive, ...], doc("standard deviation of each scale; none = measured, or 1")
    ] = ()
    locations: Annotated[
        tuple[float, ...], doc("location of each scale while it is the main one; none = location")
    ] = ()
    axes: Annotated[
        tuple[Axes, ...],
        doc("what each factor divides: space, time (the frames of a video) or both; none = space"),
    ] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        scales = self.scales.num_scales
        for name in ("probabilities", "weights", "deviations", "locations"):
            numbers = getattr(self, name)
            if numbers and len(numbers) != scales:
                raise InputError(
                    f"expected {scales} {name}, one for each scale, got {list(numbers)}; give as "
                    "many as factors and one more"
                )
        if abs(sum(self.shares) - 1) > SHARES_TOLERANCE:
            raise InputError(
                f"expected probabilities that sum to 1, got {list(self.shares)}; change them"
            )

    @cached_property
    def scales(self) -> Decomposition:
        """What splits images into scales and joins them."""
        return Decomposition(self.decomposition, self.factors, self.axes)

    @property
    def shares(self) -> tuple[float, ...]:
        """How often each scale is the main one."""
        later = self.scales.num_scales - 1
        return self.probabilities or (COARSEST_SHARE, *[(1 - COARSEST_SHARE) / later] * later)

    @property
    def means(self) -> tuple[float, ...]:
        """Mean of the normal behind the time of each scale while it is the main one."""
        return self.locations or (self.location,) * self.scales.num_scales

    @property
    def multiple(self) -> int:
        return self.scales.multiple

    @property
    def frame_multiple(self) -> int:
        return self.scales.frame_multiple

    @property
    def downsampling(self) -> tuple[int, ...]:
        return self.scales.downsampling

    @property
    def frame_downsampling(self) -> tuple[int, ...]:
        return self.scales.frame_downsampling

    @property
    def unmeasured(self) -> bool:
        """Whether `deviations` are to be measured."""
        return self.standardize and not self.deviations

    def sizes(self, size: Size, cell: int = 1, frame_cell: int = 1) -> tuple[Size, ...]:
        return self.scales.sizes(size, cell, frame_cell)

    def split(self, data: Float[Tensor, "B C *F H W"]) -> Float[Tensor, "B C 1 N"]:
        """Return the scales of images as the flow sees them, divided by `deviations`, packed."""
        parts = self.scales.split(data)
        scaled = [part / by for part, by in zip(parts, self._deviations(), strict=True)]
        return pack(scaled, data.dim() - 2)

    def join(self, x: Float[Tensor, "B C 1 N"], size: Size) -> Float[Tensor, "B C *_"]:
        """Return the image that the first scales of a packed state sum up to.

        Args:
            x: the first scales, as many as there are.
            size: of the whole image; the result has the resolution of the last of these scales.
        """
        parts = unpack(x, self.sizes(size))
        by = self._deviations()
        return self.scales.join([p * d for p, d in zip(parts, by, strict=False)])

    def measure(self, batches: Iterable[Tensor]) -> tuple[float, ...]:
        """Return the standard deviation of all numbers of each scale, over batches (B, C, H, W).

        Raises:
            InputError: a scale of which all numbers are the same.
        """
        sums = torch.zeros(3, self.scales.num_scales, dtype=torch.float64)
        for data in batches:
            parts = [part.cpu().double() for part in self.scales.split(data)]
            moments = [(p.new_tensor(p.numel()), p.sum(), p.square().sum()) for p in parts]
            sums += torch.tensor(moments, dtype=torch.float64).T
        mean = sums[1] / sums[0]
        variance = sums[2] / sums[0] - mean.square()
        if not bool((variance > 1e-12).all()):
            raise InputError(
                f"expected images whose scales vary, got variances {variance.tolist()}; leave "
                "standardize out"
            )
        return tuple(variance.sqrt().tolist())

    def measured(self, measurements: tuple[float, ...]) -> MultiscaleFlow:
        return replace(self, deviations=measurements)

    def draw_active(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        """Return how many scales take part in each of `n` samples, the last of them the main one.

        Drawn for each sample by itself, on the generator's device.
        """
        edges = torch.tensor(self.shares, dtype=torch.float64).cumsum(0)[:-1]
        u = torch.rand(n, generator=generator, device=generator.device)
        return 1 + (u[:, None] >= edges.to(u)).sum(1)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> ScaleDraws:
        """Return noise and times for a batch of `shape` (B, C, H, W), or (B, C, F, H, W).

        They lie on the generator's device.
        """
        count, channels, *size = shape
        device = generator.device
        active = self.draw_active(count, generator)
        normal = torch.randn(count, self.scales.num_scales, generator=generator, device=device)
        # Column by column: a tensor of locations would make a GPU wait for each draw.
        columns = zip(self.means, normal.unbind(1), strict=True)
        main = torch.stack([mean + self.scale * n for mean, n in columns], 1).sigmoid()
        earlier = torch.sigmoid(self.earlier_location + self.earlier_scale * normal)
        place = torch.arange(1, self.scales.num_scales + 1, device=device) - active[:, None]
        t = torch.where(place < 0, earlier, torch.where(place == 0, main, 0.0))
        packed = (count, channels, 1, sum(map(math.prod, self.sizes(tuple(size)))))
        return ScaleDraws(torch.randn(packed, generator=generator, device=device), t, active)

    def flow_time(self, t: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
        """Return one time for each sample, that of the coarsest scale, which lays out the image.

        It moves from first to last, while the finest that moves begins anew in each stage.
        """
        return t[:, 0]

    def mix(
        self,
        data: Float[Tensor, "B C *F H W"],
        noise: Float[Tensor, "B C 1 N"],
        t: Float[Tensor, "B S"],
    ) -> Float[Tensor, "B C 1 N"]:
        """Return all scales of images on their paths from noise to data, packed."""
        full = torch.promote_types(data.dtype, torch.float32)  # half precision rounds times
        times = spread(t.to(full), self.sizes(tuple(data.shape[2:])))
        return torch.lerp(noise.to(full), self.split(data).to(full), times).to(data.dtype)

    def target(
        self, data: Float[Tensor, "B C *F H W"], noise: Float[Tensor, "B C 1 N"]
    ) -> Float[Tensor, "B C 1 N"]:
        """Return the velocity of every scale, part - noise, packed."""
        return self.split(data) - noise.to(data.dtype)

    def loss_at(
        self,
        model: ScalesNetwork,
        data: Float[Tensor, "B C *F H W"],
        labels: Cond,
        draws: ScaleDraws,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws already made.

        It is the sum, over the scales that take part, of weight times the mean squared error of
        that scale's velocity.

        Raises:
            InputError: a network whose velocities do not have the shapes of the scales.
        """
        noise, t, active = draws
        sizes = self.sizes(tuple(data.shape[2:]))
        part = (torch.arange(self.scales.num_scales, device=active.device) < active[:, None]).to(
            data
        )
        shown = self.mix(data, noise, t) * spread(part, sizes)
        velocities = model(unpack(shown, sizes), t, labels, active)
        targets = unpack(self.target(data, noise), sizes)
        shapes = [tuple(v.shape) for v in velocities]
        if shapes != [tuple(target.shape) for target in targets]:
            raise InputError(
                f"expected velocities of {[tuple(v.shape) for v in targets]}, one for each scale, "
                f"got {shapes}; build the network with the factors of the process"
            )
        weights = self.weights or (1.0,) * len(sizes)
        total = torch.zeros_like(part[:, 0])
        for scale, (velocity, target) in enumerate(zip(velocities, targets, strict=True)):
            full = velocity.to(torch.promote_types(velocity.dtype, torch.float32))
            error = (full - target).square().flatten(1).mean(1)
            total = total + weights[scale] * part[:, scale] * error
        return total

    def stages(
        self,
        steps: int,
        stage_steps: Sequence[int] = (),
        thresholds: Sequence[float] = (),
        stop_scale: int | None = None,
    ) -> list[Stage]:
        """Return the stages of a run, see `run_stages`."""
        return run_stages(self.scales.num_scales, steps, stage_steps, thresholds, stop_scale)

    def start(
        self,
        noise: Float[Tensor, "B C *F H W"],
        draw: MoreNoise,
        stage: Stage,
        state: Float[Tensor, "B C 1 _"] | None = None,
    ) -> Float[Tensor, "B C 1 _"]:
        """Return the packed state at the start of a stage: what is reached, then noise (`fill`)."""
        sizes = self.sizes(tuple(noise.shape[2:]))
        return fill(state, noise, draw, sizes[: len(stage.start)])

    def field(
        self, network: ScalesNetwork, stage: Stage, noise: Float[Tensor, "B C *F H W"]
    ) -> StageField:
        """Return the velocity of the packed scales that move in a stage.

        Guidance sees the time of each scale beside each of its numbers.
        """
        sizes = self.sizes(tuple(noise.shape[2:]))[: len(stage.start)]

        def predict(x: Tensor, t: Tensor, y: Cond) -> Tensor:
            return pack(network(unpack(x, sizes), t, y), noise.dim() - 2)

        return StageField.over(stage, predict, sizes, noise)

    def finish(
        self, state: Float[Tensor, "B C 1 N"], size: Size, stages: Sequence[Stage]
    ) -> Float[Tensor, "B C *_"]:
        """Return the sum of the scales that a state holds, at the resolution of the run's last."""
        held = len(unpack(state, self.sizes(size))) - 1
        return self.scales.grow(self.join(state, size), held, len(stages) - 1)

    def adapt(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a pyramid around a network, some of them its own.

        Raises:
            InputError: factors or a backbone beside those of the process.
        """
        fixed: dict[str, Any] = {"backbone": settings["name"], "factors": list(self.factors)}
        if self.scales.video:
            fixed["axes"] = list(self.axes)
        for name in fixed.keys() & settings.keys():
            raise InputError(
                f"--model.{name}: expected the {name} of the process, got {settings[name]!r}; "
                "leave it out"
            )
        return {**settings, "name": "pyramid", **fixed}

    def describe(self, size: Size, cell: int = 1, frame_cell: int = 1) -> dict[str, Any]:
        return {
            "decomposition": self.decomposition,
            **({"axes": list(self.axes)} if self.axes else {}),
            "sizes": self.sizes(size, cell, frame_cell),
            "probabilities": list(self.shares),
            "deviations": list(self.deviations),
        }

    def _deviations(self) -> tuple[float, ...]:
        if self.unmeasured:
            raise InputError(
                "expected the deviations of the scales, with standardize, got none; a training "
                "measures them at its start, MultiscaleFlow.measure returns them"
            )
        return self.deviations or (1.0,) * self.scales.num_scales
