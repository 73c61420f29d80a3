"""The network's share of the time of sampling, by a clock that the test winds itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convflow.bench import samplers
from convflow.bench.samplers import Spans, Spent, spend
from convflow.bundle.config import SamplingConfig
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.processes.process import create_process
from convflow.samplers.solvers import create_solver
from convflow.types import Disagreement
from tests.cases import build, build_pyramid


class FakeClock:
    """A time that passes only where somebody says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


class Network(nn.Module):
    """Takes its time."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock.wait(self.seconds)
        return x


@pytest.mark.parametrize(
    ("network", "solver", "share"), [(99.0, 1.0, 0.99), (1.0, 99.0, 0.01), (3.0, 1.0, 0.75)]
)
def test_the_share_is_that_of_the_network(network, solver, share):
    clock = FakeClock()
    model = Network(clock, network)

    def run(codec):
        for _ in range(5):
            model(torch.zeros(1))
            clock.wait(solver)

    spent = spend(run, model, clock)
    assert (spent.calls, spent.network, spent.total) == (5, 5 * network, 5 * (network + solver))
    assert spent.share == pytest.approx(share)


def test_the_codec_is_told_apart():
    clock = FakeClock()
    model = Network(clock, 6.0)

    class Slow(PixelCodec):
        kind = "pixel"

        def decode(self, x):
            clock.wait(3.0)
            return super().decode(x)

    def run(spans):
        codec = samplers.TimedCodec(Slow(), spans)
        assert (codec.factor, codec.kind) == (1, "pixel")
        clock.wait(1.0)
        assert codec.decode(model(torch.ones(1, 1, 2, 2))).eq(255).all()

    assert spend(run, model, clock) == Spent(total=10.0, network=6.0, codec=3.0, calls=1)


def test_nobody_watches_when_it_is_over():
    clock = FakeClock()
    model = Network(clock, 1.0)

    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spend(fail, model, clock)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def pipeline(kind="flow"):
    if kind == "dfm":
        config, sampling = (
            create_process("dfm"),
            SamplingConfig(create_solver("euler", steps=4), 1.5),
        )
        return Pipeline(build_pyramid(), PixelCodec(), (8, 8), (), sampling, "cpu", config)
    case = "flowdcn-learned-variance" if kind == "ddpm" else "flowdcn"
    sampling = SamplingConfig(create_solver("ddim" if kind == "ddpm" else "euler", steps=6), 1.0)
    return Pipeline(build(case), PixelCodec(), (4, 6), (), sampling, "cpu", create_process(kind))


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("ddpm", "dfm")]


@pytest.mark.parametrize("kind", ["flow", *SLOW])
def test_every_solver_is_measured_on_every_process(kind):
    rows = [
        *samplers.measure_samplers(pipeline(kind), guidances=(1.0, 2.0), num=2, rounds=2, steps=6)
    ]
    assert [(row.guidance, row.solver) for row in rows] == [
        (guidance, solver) for guidance in (1.0, 2.0) for solver in samplers.USUAL_SOLVERS
    ]
    for row in rows:
        assert row.steps == 6
        assert 0 < row.low <= row.share <= row.high < 1
        assert 0 < row.codec_ms < row.total_ms
        assert row.network_ms < row.total_ms
    if kind != "dfm":  # whose stages are counted one by one
        assert [row.calls for row in rows[:3]] == [6, 12, 15]


def test_a_model_without_classes_has_no_guidance():
    pipe = Pipeline(build("flowdcn-no-classes"), PixelCodec(), (4, 6), (), None, "cpu")
    rows = samplers.measure_samplers(pipe, ["euler"], (1.0, 2.0), num=1, rounds=1, steps=2)
    assert [row.guidance for row in rows] == [1.0]


def test_a_run_that_is_not_the_unwatched_one_is_found():
    samples = pipeline().samples(steps=3)
    plain = samples.read(range(2))
    spent = Spent(1.0, 0.5, 0.1, calls=3)
    samplers.check_run(samples, spent, plain, plain)
    with pytest.raises(Disagreement, match="euler: expected the same images"):
        samplers.check_run(samples, spent, plain + 1, plain)
    with pytest.raises(Disagreement, match="euler: expected 3 calls of the network, got 4"):
        samplers.check_run(samples, Spent(1.0, 0.5, 0.1, calls=4), plain, plain)


def test_a_network_that_escapes_its_watch_is_found(monkeypatch):
    monkeypatch.setattr(samplers, "spend", lambda run, *_: run(Spans(float)) or Spent(1, 0, 0, 0))
    with pytest.raises(Disagreement, match="expected 2 calls of the network, got 0"):
        [*samplers.measure_samplers(pipeline(), ["euler"], (1.0,), num=1, rounds=1, steps=2)]


def test_the_pipeline_without_a_model_is_the_recipes_and_always_the_same():
    one, other = samplers.create_digits("cpu"), samplers.create_digits("cpu")
    assert (one.size, one.sampling.solver.kind, one.model.num_classes) == ((8, 8), "heun", 10)
    assert one(num=2, steps=2).pixels.equal(other(num=2, steps=2).pixels)
