"""Where the time of sampling goes: into the network, into the codec, or into the loop around them.

The calls of the network are timed within the loop itself, one by one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from convflow.bench.harness import deciles, synchronise
from convflow.bench.models import create_noisy
from convflow.generate import Samples
from convflow.pipeline import Pipeline
from convflow.recipes.digits import flowdcn
from convflow.samplers.linear import GeneralLinear
from convflow.types import Disagreement

WallClock = Callable[[], float]
"""The time in seconds, once everything that was begun is done."""

USUAL_SOLVERS = ["euler", "heun", "ab4"]

NOTE = """\
"total_ms" is the time of one batch from noise to images; "network_ms" the time within the calls
of the network, measured in the same run; "codec_ms" that from model space to images; what is left
is the loop: the solver's sums, guidance and noise. "share" is network_ms over total_ms, "low" and
"high" its first and ninth decile over the rounds. With guidance each call is one of twice the
batch. On a GPU every call is waited for, so that nothing hides behind it: the share is a lower
bound there."""


@dataclass(frozen=True)
class Spent:
    """Where the seconds of one run went, and how often the network was called."""

    total: float
    network: float
    codec: float
    calls: int

    @property
    def share(self) -> float:
        """The part of the time that the network took, from 0 to 1."""
        return self.network / self.total


@dataclass(frozen=True)
class SamplerRow:
    """One way of sampling; times are medians over the rounds, `share` too."""

    solver: str
    guidance: float
    steps: int
    calls: int
    total_ms: float
    network_ms: float
    codec_ms: float
    share: float
    low: float
    high: float
    images_per_s: float


class Spans:
    """Sums up the time between beginnings and ends."""

    def __init__(self, clock: WallClock) -> None:
        self.clock, self.total, self.count, self._begun = clock, 0.0, 0, 0.0

    def begin(self, *_: Any) -> None:
        """Note that a span begins."""
        self._begun = self.clock()

    def end(self, *_: Any) -> None:
        """Note that it ends."""
        self.total += self.clock() - self._begun
        self.count += 1


class TimedCodec:
    """A codec whose `decode` is timed; in everything else the one that it was made from."""

    def __init__(self, codec: Any, spans: Spans) -> None:
        self._codec, self._spans = codec, spans

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def decode(self, x: Tensor) -> Tensor:
        """Return images."""
        self._spans.begin()
        images = self._codec.decode(x)
        self._spans.end()
        return images


@contextmanager
def watching(network: nn.Module, clock: WallClock) -> Iterator[Spans]:
    """Time every call of a network within the block."""
    spans = Spans(clock)
    hooks = [
        network.register_forward_pre_hook(spans.begin),
        network.register_forward_hook(spans.end),
    ]
    try:
        yield spans
    finally:
        for hook in hooks:
            hook.remove()


def spend(
    run: Callable[[Spans], object], network: nn.Module, clock: WallClock = time.perf_counter
) -> Spent:
    """Return where the time of one run went.

    Args:
        run: samples; it is given what sums up the time of its codec.
        network: that it calls.
        clock: see `clock_of`.
    """
    codec = Spans(clock)
    with watching(network, clock) as spans:
        begun = clock()
        run(codec)
        total = clock() - begun
    return Spent(total, spans.total, codec.total, spans.count)


def clock_of(device: torch.device) -> WallClock:
    """Return a clock that waits for a device."""

    def clock() -> float:
        synchronise(device)
        return time.perf_counter()

    return clock


def create_digits(device: str = "auto") -> Pipeline:
    """Return a pipeline as the digits recipe trains it, with random weights, always the same."""
    config = flowdcn()
    settings = dict(config.model)
    model = create_noisy(
        settings.pop("name"), in_channels=config.data.channels, num_classes=10, **settings
    )
    size, sampling = config.data.size, config.sampling
    return Pipeline(model, config.codec, size, (), sampling, device, config.process)


def measure_samplers(
    pipe: Pipeline,
    solvers: Sequence[str] = USUAL_SOLVERS,
    guidances: Sequence[float] = (1.0, 1.5),
    *,
    num: int = 16,
    rounds: int = 5,
    **options: Any,
) -> Iterator[SamplerRow]:
    """Return a row for every guidance and solver, as they are measured.

    Args:
        pipe: a model.
        solvers: of fixed cost, names in `SOLVERS`.
        guidances: scales of classifier-free guidance, 1 for none; a model without classes has no
            other.
        num: images in one batch.
        rounds: how often each is run, after once to warm up.
        **options: steps, size and whatever else `Pipeline.samples` takes.

    Raises:
        Disagreement: watched, a run makes other images, or calls the network as often as its
            solver does not.
        InputError: settings that do not fit the model.
    """
    clock = clock_of(pipe.device)
    for guidance in guidances if pipe.model.conditional else (1.0,):
        for solver in solvers:
            samples = pipe.samples(solver=solver, guidance=guidance, guidance_kind="cfg", **options)
            plain = samples.read(range(num))
            found = []
            for _ in range(rounds):
                made: list[Tensor] = []
                spent = spend(_reading(samples, num, made), pipe.model, clock)
                check_run(samples, spent, made[0], plain)
                found.append(spent)
            yield _row(samples, found, num)


def check_run(samples: Samples, spent: Spent, watched: Tensor, plain: Tensor) -> None:
    """Raise Disagreement unless a watched run is what it would have been unwatched."""
    name, expected = samples.solver.kind, count_calls(samples)
    if spent.calls != expected:
        raise Disagreement(
            f"{name}: expected {expected} calls of the network, got {spent.calls}; there is "
            "nothing to time, please report it with the output of convflow doctor"
        )
    if not watched.equal(plain):
        raise Disagreement(
            f"{name}: expected the same images from the same seed, got others; there is nothing "
            "to time, please report it with the output of convflow doctor"
        )


def count_calls(samples: Samples) -> int:
    """Return how often sampling one batch calls the network, by the solver's own rows."""
    assert isinstance(samples.solver, GeneralLinear), "convflow bench sampling checks it"
    return samples.solver.count_evaluations(samples.process)


def _reading(samples: Samples, num: int, made: list[Tensor]) -> Callable[[Spans], None]:
    def run(codec: Spans) -> None:
        timed: Any = TimedCodec(samples.codec, codec)
        made.append(dataclasses.replace(samples, codec=timed).read(range(num)))

    return run


def _row(samples: Samples, found: Sequence[Spent], num: int) -> SamplerRow:
    def middle(name: str) -> float:
        return median(getattr(spent, name) for spent in found)

    total = middle("total")
    low, high = deciles([spent.share for spent in found])
    return SamplerRow(
        solver=samples.solver.kind,
        guidance=samples.guidance,
        steps=samples.solver.describe(samples.process)["steps"],
        calls=found[0].calls,
        total_ms=1e3 * total,
        network_ms=1e3 * middle("network"),
        codec_ms=1e3 * middle("codec"),
        share=middle("share"),
        low=low,
        high=high,
        images_per_s=num / total,
    )
