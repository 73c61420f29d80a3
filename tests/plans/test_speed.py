"""The measured speed is that of real steps; a batch that memory cannot hold is cut."""

import itertools
from dataclasses import replace

import pytest
import torch

from convflow.plans import speed
from convflow.plans.choices import Candidate
from convflow.plans.settings import blank_plan, settings_of_plan
from convflow.plans.speed import fit_memory, measure_rate
from convflow.types import InputError

CPU = torch.device("cpu")
TINY = ["--model.width", "16", "--model.depth", "1", "--model.num-groups", "2", "--precision"]


@pytest.fixture
def config():
    tried = blank_plan(Candidate((8, 8), 1, 32, 1, 6))
    return settings_of_plan(tried, [*TINY, "float32", "--data.channels", "1"])


def test_warm_up_is_not_counted_and_the_clock_is(config):
    ticks = itertools.count()
    rate = measure_rate(config, 3, CPU, 10.0, lambda: float(next(ticks)))
    assert rate == pytest.approx(6 * 10 / 11)  # batches of 6; the clock ticks before each of 10
    assert measure_rate(config, 3, CPU, 0.0) > 0


def test_a_step_in_parts_is_one_step(config, monkeypatch):
    steps = []
    create = speed.create_optimizer

    def counted(*given):
        optimizer = create(*given)
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        return optimizer

    monkeypatch.setattr(speed, "create_optimizer", counted)
    ticks = itertools.count()
    parts = replace(config, micro_batch=4)  # of 4 and 2 images
    rate = measure_rate(parts, 3, CPU, 10.0, lambda: float(next(ticks)))
    assert rate == pytest.approx(6 * 10 / 11)
    assert len(steps) == 2 + 10


def test_random_numbers_of_others_stay_as_they_are(config):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    measure_rate(config, 3, CPU, 0.0)
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.slow
def test_a_batch_is_cut_until_it_fits(config, monkeypatch):
    large = replace(config, batch_size=4096)
    free = 10**7
    monkeypatch.setattr("convflow.distributed.free_memory", lambda device: free)
    cut = fit_memory(large, 3, CPU)
    assert cut.batch_size == 4096
    assert cut.micro_batch in {2**n for n in range(12)}
    monkeypatch.setattr("convflow.distributed.free_memory", lambda device: 10**12)
    assert fit_memory(large, 3, CPU) == large
    monkeypatch.setattr("convflow.distributed.free_memory", lambda device: 1000)
    with pytest.raises(InputError, match="expected work that fits"):
        fit_memory(large, 3, CPU)
