"""DDPM: a chain of a thousand small steps into noise, and the network that walks it back.

Ho, Jain & Abbeel 2020, eq. 2-14; learned variance, bound and respacing: Nichol & Dhariwal 2021,
section 3.1, eq. 15-16 and section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from convflow.processes.contract import Field, Process, Stage, beside
from convflow.processes.flow import TrainingDraws
from convflow.processes.prediction import Kind, Predicts
from convflow.processes.schedule import Schedule, discrete
from convflow.settings.fields import doc
from convflow.types import Denoiser, InputError, check_name

VarianceName = Literal["learned", "small", "large"]

Steps = Float[Tensor, " B"] | Int[Tensor, " B"]
"""Numbers of steps of a chain, one for each sample."""


class Posterior(NamedTuple):
    """The step back from x_t: x_{t-1} is normal with this mean and log variance; `data` is the
    prediction of x_0 that it rests on."""

    mean: Float[Tensor, "B C *F H W"]
    log_variance: Float[Tensor, "B C *F H W"]
    data: Float[Tensor, "B C *F H W"]

    @property
    def variance(self) -> Float[Tensor, "B C *F H W"]:
        """exp(log_variance)."""
        return self.log_variance.exp()


@dataclass(frozen=True)
class DDPM(Process):
    """x_t = sqrt(abar_t) data + sqrt(1 - abar_t) noise at step t; the network predicts the noise.

    abar_t is the product of 1 - beta up to step t. Time is the number of a step, 0 = nearly clean
    to `len(self) - 1` = nearly noise; the network is told `times[t]`, the number of that step in
    the chain it was trained on (t itself unless respaced). All tables are computed on the CPU, in
    float64.

    In flow time step k of N lies at 1 - (k + 1) / N: noise at t = 0 is the last step, and clean
    data at t = 1 one step before step 0. `path` interpolates log alpha^2 in between.

    With the variance "learned" the network has twice the channels, and the second half v, from -1
    to 1, gives log variance = (1 + v) / 2 log beta + (1 - v) / 2 log "small". Fixed are "small"
    (that of the true step back from known data) and "large" (beta).

    Raises:
        InputError: an unknown variance, or `betas` of a subclass outside (0, 1).
    """

    kind: ClassVar[str] = "ddpm"
    prediction: ClassVar[Kind] = "noise"

    variance: Annotated[
        VarianceName, doc("variance of the steps back; learned doubles the network's channels")
    ] = "learned"

    def __post_init__(self) -> None:
        check_name("variance", self.variance, get_args(VarianceName))
        betas = self.betas
        if not len(betas) or not bool(((betas > 0) & (betas < 1)).all()):
            raise InputError(f"expected betas within (0, 1), got {betas.tolist()[:3]}, ...")
        _ = self._tables, self.times, self.path  # here, where no mode of torch is switched on

    @cached_property
    def betas(self) -> Float[Tensor, " N"]:
        """The variance added by each step: 1000 of them, rising linearly from 1e-4 to 0.02."""
        return linear_betas()

    @cached_property
    def times(self) -> Int[Tensor, " N"]:
        """What the network is told at each step."""
        return torch.arange(len(self), device=self.betas.device)

    @cached_property
    def num_times(self) -> int:
        """How many steps the network was trained on."""
        return len(self)

    @cached_property
    def signal(self) -> Float[Tensor, " N"]:
        """abar at each step, that is alpha^2."""
        return (1 - self.betas).cumprod(0)

    @cached_property
    def signal_before(self) -> Float[Tensor, " N"]:
        """abar at the step before, 1 before the first."""
        return torch.cat([self.signal.new_ones(1), self.signal[:-1]])

    @cached_property
    def path(self) -> Schedule:
        return discrete("ddpm", self.signal)

    @property
    def learned_variance(self) -> bool:
        return self.variance == "learned"

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        left = 1 - self.signal
        small = self.betas * (1 - self.signal_before) / left
        first = small[1:2] if len(self) > 1 else self.betas  # of the first step it would be zero
        return {
            "alpha": self.signal.sqrt(),
            "sigma": left.sqrt(),
            "of_data": self.betas * self.signal_before.sqrt() / left,
            "of_x": (1 - self.signal_before) * (1 - self.betas).sqrt() / left,
            "beta": self.betas.log(),
            "small": torch.cat([first, small[1:]]).log(),
            "large": torch.cat([first, self.betas[1:]]).log(),
        }

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, steps: int) -> DDPM:
        """Return the chain through `steps` evenly spaced steps of this one, both ends included.

        It is for sampling step by step; flow time stays as it is.

        Raises:
            InputError: fewer than one step, or more than there are.
        """
        if not 1 <= steps <= len(self):
            raise InputError(f"expected 1 to {len(self)} steps, got {steps}")
        last = len(self) - 1
        kept = torch.linspace(0, last, steps, dtype=torch.float64).round().long()
        return _Respaced(self.variance, self, kept if steps > 1 else torch.tensor([last]))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> TrainingDraws:
        """Return noise and uniform steps for a batch of `shape`, on the generator's device."""
        device = generator.device
        t = torch.randint(len(self), shape[:1], generator=generator, device=device).float()
        return TrainingDraws(torch.randn(shape, generator=generator, device=device), t)

    def mix(
        self, data: Float[Tensor, "B C *F H W"], noise: Float[Tensor, "B C *F H W"], t: Steps
    ) -> Float[Tensor, "B C *F H W"]:
        """Return x_t at the steps t."""
        alpha, sigma = (self._at(name, t, data) for name in ("alpha", "sigma"))
        return (alpha * data + sigma * noise).to(data.dtype)

    def predict_data(
        self, noise: Float[Tensor, "B C *F H W"], x: Float[Tensor, "B C *F H W"], t: Steps
    ) -> Float[Tensor, "B C *F H W"]:
        """Return the data that x_t and a prediction of its noise speak of."""
        return (x - self._at("sigma", t, x) * noise) / self._at("alpha", t, x)

    def predict_noise(
        self, data: Float[Tensor, "B C *F H W"], x: Float[Tensor, "B C *F H W"], t: Steps
    ) -> Float[Tensor, "B C *F H W"]:
        """Return the noise that x_t and a prediction of its data speak of."""
        return (x - self._at("alpha", t, x) * data) / self._at("sigma", t, x)

    def posterior(
        self,
        output: Float[Tensor, "B P *F H W"],
        x: Float[Tensor, "B C *F H W"],
        t: Steps,
        clip: bool = False,
    ) -> Posterior:
        """Return the step back from x_t that the network's output describes.

        Args:
            output: of the network at (x, `times[t]`): the noise, then v where it is learned.
            x: the noisy images.
            t: steps of this chain, 0 to `len(self) - 1`.
            clip: keep the predicted data in [-1, 1]; for pixels, never for latents.

        Raises:
            InputError: an output without the channels that the variance needs.
        """
        self._check(output, x)
        channels = x.shape[1]
        data = self.predict_data(output[:, :channels], x, t)
        data = data.clamp(-1, 1) if clip else data
        mean = self._at("of_data", t, x) * data + self._at("of_x", t, x) * x
        if not self.learned_variance:
            return Posterior(mean, self._at(self.variance, t, x).expand_as(mean), data)
        share = (output[:, channels:] + 1) / 2
        beta, small = self._at("beta", t, x), self._at("small", t, x)
        return Posterior(mean, share * beta + (1 - share) * small, data)

    def bound(
        self,
        output: Float[Tensor, "B P *F H W"],
        data: Float[Tensor, "B C *F H W"],
        x: Float[Tensor, "B C *F H W"],
        t: Steps,
    ) -> Float[Tensor, " B"]:
        """Return the term of the variational bound at steps t, in bits per number of the data.

        The divergence of the true step back, given the data, from the network's; at step 0 the
        negative log-likelihood of the data, in bins of 1/127.5 as if they were pixels.
        """
        mean, log_variance, _ = self.posterior(output, x, t)
        true = self._at("of_data", t, x) * data + self._at("of_x", t, x) * x
        rest = self._at("small", t, x) - log_variance
        square = (true - mean).square() * torch.exp(-log_variance)
        divergence = (torch.exp(rest) - 1 - rest + square) / 2
        likelihood = _log_likelihood(data, mean, log_variance)
        first = beside(t == 0, data)
        return torch.where(first, -likelihood, divergence).flatten(1).mean(1) / math.log(2)

    def loss_at(
        self,
        model: Denoiser,
        data: Float[Tensor, "B C *F H W"],
        labels: Int[Tensor, " B"],
        draws: TrainingDraws,
    ) -> Float[Tensor, " B"]:
        """Return the loss of each sample for draws already made.

        It is the mean squared error of the noise. A learned variance adds 1/1000 of the bound,
        which is its term at one step times (number of steps) / 1000, here 1; the mean gets no
        gradient from it (Nichol & Dhariwal 2021, eq. 16).

        Raises:
            InputError: a network with other channels than the variance needs.
        """
        noise, t = draws
        x = self.mix(data, noise, t)
        output = model(x, self.model_times(t), labels)
        self._check(output, data)
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        prediction, v = output[:, : data.shape[1]], output[:, data.shape[1] :]
        error = (prediction - noise).square().flatten(1).mean(1)
        if not self.learned_variance:
            return error
        frozen = torch.cat([prediction.detach(), v], dim=1)
        return error + self.bound(frozen, data, x, t) * len(self) / 1000

    def as_prediction(self, model: Denoiser, wanted: Kind = "velocity") -> Denoiser:
        """Return `model`, trained by this process, as a Denoiser in flow time with C channels."""

        def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return model(x, self.step_at(t), y)

        return Predicts(network, self.path, self.prediction, wanted)

    def field(self, network: Denoiser, stage: Stage, noise: Float[Tensor, "B C *F H W"]) -> Field:
        return Field(self.as_prediction(network))

    def chain(self, network: Denoiser) -> Field:
        """Return the network itself, in its own time, for solvers that go step by step."""
        return Field(network, lambda step: beside(self.flow_time(step)))

    def step_at(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return what the network is told at flow times t, the fractional step N (1 - t) - 1.

        From step 0 to clean data, at t = 1, it is told 0.
        """
        return (self.num_times * (1 - t) - 1).clamp(min=0)

    def flow_time(self, step: Steps) -> Float[Tensor, " B"]:
        """Return the flow time 1 - (step + 1) / N of what the network is told."""
        return 1 - (step + 1) / self.num_times

    def model_times(self, t: Steps) -> Float[Tensor, " B"]:
        """Return what the network is told at steps t of this chain, `times[t]` as float32."""
        return self.times.to(t.device)[t.round().long()].float()

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Return a number for each sample, to be multiplied with images, in float32 at least."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return beside(self._tables[name].to(dtype).to(t.device)[t.round().long()], like)

    def _check(self, output: Tensor, x: Tensor) -> None:
        wanted = x.shape[1] * (2 if self.learned_variance else 1)
        if output.shape[1] != wanted:
            raise InputError(
                f"expected a network output of {wanted} channels for the {self.variance} variance, "
                f"got {output.shape[1]}; build the network with learned_variance="
                f"{self.learned_variance}, or choose another variance"
            )


@dataclass(frozen=True, eq=False)
class _Respaced(DDPM):
    """The chain through some steps of another one."""

    whole: DDPM = field(default_factory=DDPM)
    kept: Int[Tensor, " K"] = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    @cached_property
    def betas(self) -> Float[Tensor, " K"]:
        """The variance added from each step to the next."""
        signal = self.whole.signal[self.kept]
        return 1 - signal / torch.cat([signal.new_ones(1), signal[:-1]])

    @cached_property
    def times(self) -> Int[Tensor, " K"]:
        return self.whole.times[self.kept]

    @cached_property
    def num_times(self) -> int:
        return self.whole.num_times

    @cached_property
    def path(self) -> Schedule:
        """How much data and noise there is at a flow time, in the whole chain."""
        return self.whole.path


def linear_betas() -> Float[Tensor, " N"]:
    """Return the variance that each of a thousand steps adds, from 1e-4 to 0.02, in float64."""
    return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64, device="cpu")


def _log_likelihood(data: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the log probability of the bin of width 2/255 around each number of the data.

    The first and the last bin of [-1, 1] are open. The normal distribution function is the
    approximation by a tanh with which published weights were trained, good to 3e-4.
    """

    def below(edge: Tensor) -> Tensor:
        z = (edge - mean) * torch.exp(-log_variance / 2)
        return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2

    upper = torch.where(data > 0.999, 1.0, below(data + 1 / 255))
    lower = torch.where(data < -0.999, 0.0, below(data - 1 / 255))
    return (upper - lower).clamp(min=1e-12).log()
