"""Multi-scale flow matching: one flow per scale of a picture, each with a time of its own.

Decomposable flow matching (DFM): Haji-Ali et al. 2025, arXiv 2506.19839, section 3 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple, NoReturn, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.decomposition import Decomposition, pack, unpack
from convflow.processes.prediction import Kind
from convflow.processes.schedule import LINEAR
from convflow.types import InputError, Size, check_kinds, check_several

FIRST = 0.9
"""How often the coarsest scale is the main one; the finer ones share the rest (appendix A.5)."""

SUM_TOLERANCE = 1e-6


@runtime_checkable  # for the shape checks in tests
class ScalesNetwork(Protocol):
    """A network that predicts the velocity of every scale it is shown.

    Called as `model(scales, t, y, active)`: the first k scales from coarse to fine, each
    (B, C, H_s, W_s); the time of each, (B, k), 0 = noise and 1 = data; labels; and how many of the
    k take part in each sample, None for all. It returns k velocities of the scales' shapes.
    """

    def __call__(
        self,
        scales: Sequence[Float[Tensor, "B C _ _"]],
        t: Float[Tensor, "B K"],
        y: Int[Tensor, " B"],
        active: Int[Tensor, " B"] | None = None,
        /,
    ) -> Sequence[Float[Tensor, "B C _ _"]]: ...


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

    def take(self, rows: slice) -> ScaleDraws:
        """Return the draws of some samples of the batch."""
        return ScaleDraws(*(part[rows] for part in self))


class MultiscaleFlow:
    """x_s = t_s part_s + (1 - t_s) noise_s for the scales s = 1..S of a picture.

    For every sample one scale is drawn as the main one. Its time is logit-normal; those of the
    coarser scales lean to data, independently of each other; finer scales are pure noise, of which
    the network is shown nothing and asked for nothing. So it learns each scale given any state of
    the coarser ones, which `samplers/staged.py` makes use of.

    Args:
        factors: between neighbouring scales, coarse to fine; S - 1 of them.
        decomposition: a name in `DECOMPOSITIONS`.
        probabilities: of each scale to be the main one, above 0, sum 1; by default 0.9 for the
            first and equal shares of 0.1 for the others.
        location: mean of the normal behind the main scale's time; positive favours data.
        scale: its standard deviation.
        earlier_location: likewise of every coarser scale.
        earlier_scale: likewise.
        weights: of each scale's error in the loss, above 0; by default 1.
        standardize: whether the scales are to have deviation 1; the numbers are `measure`d.
        deviations: of each scale; the flow runs on part / deviation. By default 1.
        locations: in place of `location`, one for each scale while it is the main one.

    Raises:
        InputError: an unknown name, something that is no number or outside its range, or not one
            for each scale.
    """

    prediction: Kind = "velocity"
    learned_variance = False
    schedule = LINEAR

    def __init__(
        self,
        factors: Sequence[int] = (2,),
        decomposition: str = "laplacian",
        probabilities: Sequence[float] = (),
        location: float = 0.0,
        scale: float = 1.0,
        earlier_location: float = 1.5,
        earlier_scale: float = 1.0,
        weights: Sequence[float] = (),
        standardize: bool = False,
        deviations: Sequence[float] = (),
        locations: Sequence[float] = (),
    ) -> None:
        self.decomposition = Decomposition(decomposition, factors)
        scales = self.num_scales = self.decomposition.num_scales
        check_several(Real, probabilities=probabilities, weights=weights, deviations=deviations)
        check_several(Real, locations=locations)
        share = (1 - FIRST) / (scales - 1)
        self.probabilities = tuple(probabilities) or (FIRST, *[share] * (scales - 1))
        self.weights, self.deviations = tuple(weights) or (1.0,) * scales, tuple(deviations)
        self.unmeasured = standardize and not deviations
        for name, numbers in (
            ("probabilities", self.probabilities),
            ("weights", self.weights),
            ("deviations", self.deviations or (1.0,) * scales),
        ):
            if len(numbers) != scales or not all(0 < n < math.inf for n in numbers):
                raise InputError(
                    f"expected {scales} {name} above 0, one for each scale, got {list(numbers)}; "
                    "give as many as factors and one more, for with 0 a scale never learns"
                )
        if abs(sum(self.probabilities) - 1) > SUM_TOLERANCE:
            raise InputError(
                f"expected probabilities that sum to 1, got {list(self.probabilities)}; change them"
            )
        check_kinds(Real, location=location, scale=scale)
        check_kinds(Real, earlier_location=earlier_location, earlier_scale=earlier_scale)
        spreads = (scale, earlier_scale)
        if not min(spreads) > 0 or not all(map(math.isfinite, (location, earlier_location))):
            raise InputError(
                "expected finite locations and scales above 0, got "
                f"{location}, {earlier_location} and {scale}, {earlier_scale}; change them"
            )
        self.locations = tuple(locations) or (location,) * scales
        if len(self.locations) != scales or not all(map(math.isfinite, self.locations)):
            raise InputError(
                f"expected {scales} finite locations, one for each scale, got "
                f"{list(self.locations)}; give as many as factors and one more"
            )
        self.scale = scale
        self.earlier_location, self.earlier_scale = earlier_location, earlier_scale

    @property
    def multiple(self) -> int:
        """Height and width of pictures are multiples of it."""
        return self.decomposition.multiple

    def sizes(self, size: Size, cell: int = 1) -> tuple[Size, ...]:
        """Return height and width of every scale in cells, or raise InputError where not whole."""
        return self.decomposition.sizes(size, cell)

    def split(self, data: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C 1 N"]:
        """Return the scales of pictures as the flow sees them, divided by `deviations`, packed."""
        parts = self.decomposition.split(data)
        return pack([part / by for part, by in zip(parts, self._deviations(), strict=True)])

    def join(self, x: Float[Tensor, "B C 1 N"], size: Size) -> Float[Tensor, "B C _ _"]:
        """Return the picture that the first scales of a packed state sum up to.

        Args:
            x: the first scales, as many as there are.
            size: of the whole picture; the result has the resolution of the last of these scales.
        """
        parts = unpack(x, self.sizes(size))
        by = self._deviations()
        return self.decomposition.join([p * d for p, d in zip(parts, by, strict=False)])

    def measure(self, batches: Iterable[Tensor]) -> tuple[float, ...]:
        """Return the standard deviation of all numbers of each scale, over batches (B, C, H, W).

        Raises:
            InputError: a scale of which all numbers are the same.
        """
        sums = torch.zeros(3, self.num_scales, dtype=torch.float64)
        for data in batches:
            parts = [part.cpu().double() for part in self.decomposition.split(data)]
            moments = [(p.new_tensor(p.numel()), p.sum(), p.square().sum()) for p in parts]
            sums += torch.tensor(moments, dtype=torch.float64).T
        mean = sums[1] / sums[0]
        variance = sums[2] / sums[0] - mean.square()
        if not bool((variance > 1e-12).all()):
            raise InputError(
                f"expected pictures whose scales vary, got variances {variance.tolist()}; leave "
                "standardize out"
            )
        return tuple(variance.sqrt().tolist())

    def draw_active(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        """Return how many scales take part in each of `n` samples, the last of them the main one.

        Drawn for each sample by itself, on the generator's device.
        """
        edges = torch.tensor(self.probabilities, dtype=torch.float64).cumsum(0)[:-1]
        u = torch.rand(n, generator=generator, device=generator.device)
        return 1 + (u[:, None] >= edges.to(u)).sum(1)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> ScaleDraws:
        """Return noise and times for a batch of pictures of `shape` (B, C, H, W).

        They lie on the generator's device.
        """
        count, channels, height, width = shape
        device = generator.device
        active = self.draw_active(count, generator)
        normal = torch.randn(count, self.num_scales, generator=generator, device=device)
        # Column by column: a tensor of locations would make a GPU wait for each draw.
        columns = zip(self.locations, normal.unbind(1), strict=True)
        main = torch.stack([mean + self.scale * n for mean, n in columns], 1).sigmoid()
        earlier = torch.sigmoid(self.earlier_location + self.earlier_scale * normal)
        place = torch.arange(1, self.num_scales + 1, device=device) - active[:, None]
        t = torch.where(place < 0, earlier, torch.where(place == 0, main, 0.0))
        packed = (count, channels, 1, sum(h * w for h, w in self.sizes((height, width))))
        return ScaleDraws(torch.randn(packed, generator=generator, device=device), t, active)

    def flow_time(self, t: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
        """Return one time for each sample, that of the coarsest scale, which lays out the picture.

        It moves from first to last, while the finest that moves begins anew in each stage.
        """
        return t[:, 0]

    def mix(
        self,
        data: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "B C 1 N"],
        t: Float[Tensor, "B S"],
    ) -> Float[Tensor, "B C 1 N"]:
        """Return all scales of pictures on their paths from noise to data, packed."""
        full = torch.promote_types(data.dtype, torch.float32)  # half precision rounds times
        times = spread(t.to(full), self.sizes((data.shape[2], data.shape[3])))
        return torch.lerp(noise.to(full), self.split(data).to(full), times).to(data.dtype)

    def target(
        self, data: Float[Tensor, "B C H W"], noise: Float[Tensor, "B C 1 N"]
    ) -> Float[Tensor, "B C 1 N"]:
        """Return the velocity of every scale, part - noise, packed."""
        return self.split(data) - noise.to(data.dtype)

    def loss(
        self,
        model: ScalesNetwork,
        data: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        generator: torch.Generator,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample, with fresh draws."""
        return self.loss_at(model, data, labels, self.draw(tuple(data.shape), generator))

    def loss_at(
        self,
        model: ScalesNetwork,
        data: Float[Tensor, "B C H W"],
        labels: Int[Tensor, " B"],
        draws: ScaleDraws,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws already made.

        It is the sum, over the scales that take part, of weight times the mean squared error of
        that scale's velocity.

        Raises:
            InputError: a network whose velocities do not have the shapes of the scales.
        """
        noise, t, active = draws
        sizes = self.sizes((data.shape[2], data.shape[3]))
        part = (torch.arange(self.num_scales, device=active.device) < active[:, None]).to(data)
        shown = self.mix(data, noise, t) * spread(part, sizes)
        velocities = model(unpack(shown, sizes), t, labels, active)
        targets = unpack(self.target(data, noise), sizes)
        shapes = [tuple(v.shape) for v in velocities]
        if shapes != [tuple(target.shape) for target in targets]:
            raise InputError(
                f"expected velocities of {[tuple(v.shape) for v in targets]}, one for each scale, "
                f"got {shapes}; build the network with the factors of the process"
            )
        total = torch.zeros_like(part[:, 0])
        for scale, (velocity, target) in enumerate(zip(velocities, targets, strict=True)):
            full = velocity.to(torch.promote_types(velocity.dtype, torch.float32))
            error = (full - target).square().flatten(1).mean(1)
            total = total + self.weights[scale] * part[:, scale] * error
        return total

    def as_prediction(self, model: Any, wanted: Kind = "velocity") -> NoReturn:
        """Raise InputError: a network with a time for each scale is no Denoiser with one."""
        raise InputError(
            f"expected a process with one time for the whole picture, to predict its {wanted}, got "
            "dfm with one for each scale; sample it with a solver of fixed cost, without a search"
        )

    def _deviations(self) -> tuple[float, ...]:
        if self.unmeasured:
            raise InputError(
                "expected the deviations of the scales, with standardize, got none; a training "
                "measures them at its start, MultiscaleFlow.measure returns them"
            )
        return self.deviations or (1.0,) * self.num_scales


def spread(numbers: Float[Tensor, "*B K"], sizes: Sequence[Size]) -> Float[Tensor, "*B 1 1 N"]:
    """Return a number for each scale as one for each number of the packed scales."""
    # Sizes stay on the CPU: a tensor of them would make a GPU wait for each call.
    scales = zip(numbers.split(1, -1), sizes, strict=False)
    parts = [
        number.expand(*number.shape[:-1], height * width) for number, (height, width) in scales
    ]
    return torch.cat(parts, -1)[..., None, None, :]
