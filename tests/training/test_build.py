"""The parts of a training from its settings."""

import pytest
import torch

from convflow.codecs import PixelCodec
from convflow.training import build
from convflow.types import InputError


def network(config):
    return build.build_network(config, 2, PixelCodec(), build.open_process(config))


def test_weights_are_a_function_of_the_seed_alone(tiny):
    first = network(tiny()).state_dict()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = network(tiny()).state_dict()
    other = network(tiny("--seed 1")).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_variance_needs_a_network_that_can_learn_one(tiny, monkeypatch):
    monkeypatch.setattr(build, "settings_of", lambda name: ["width"])
    network(tiny())
    message = "a variance, got flowdcn; add --process.variance small"
    with pytest.raises(InputError, match=message):
        network(tiny("--process ddpm"))


def test_more_processes_than_pictures_in_a_batch(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(build.distributed, "world_size", lambda: 9)
    with pytest.raises(InputError, match="at least one image for each of 9 processes, got 8"):
        build.build_trainer(tiny(), tmp_path, torch.device("cpu"))
