"""Errors of a velocity are those of the formula, in the quarter of times where they are made."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.quality import held_out as module
from convflow.codecs import PixelCodec
from convflow.data.images import to_uint8
from convflow.data.sources import open_source
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching

NUM = 8


def pipe_of(**settings):
    network = create_model("flowdcn", in_channels=3, num_classes=6, width=16, depth=1, num_groups=2)
    process = FlowMatching(**settings)
    return Pipeline(network, PixelCodec(), (16, 16), device="cpu", process=process)


class Drawn:
    """Drawn pictures of 16x16."""

    def __init__(self):
        self.shapes = open_source("shapes")

    def read(self, index):
        return to_uint8(self.shapes.draw(index, (16, 16)), 3)

    def label(self, index):
        return self.shapes.label(index)


@pytest.fixture(autouse=True)
def _pictures(monkeypatch):
    monkeypatch.setattr(module, "open_source", lambda data, split: Drawn())


def clean_and_noise():
    pixels = torch.from_numpy(np.stack([Drawn().read(i) for i in range(NUM)]))
    clean = pixels.movedim(-1, 1) / 127.5 - 1
    return clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))


def test_a_network_that_says_zero_misses_the_whole_velocity():
    errors = module.velocity_errors(pipe_of(), "", NUM)
    clean, noise = clean_and_noise()
    torch.testing.assert_close(errors, (clean - noise).square().flatten(1).mean(1))


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
def test_whatever_is_predicted_the_truth_has_no_error(prediction, monkeypatch):
    pipe, (clean, noise) = pipe_of(prediction=prediction), clean_and_noise()

    class Truth(nn.Module):
        in_channels = 3

        def forward(self, x, t, y):
            assert t.tolist() == [(i + 0.5) / NUM for i in range(NUM)]
            return pipe.process.target(clean, noise, t)

    monkeypatch.setattr(pipe, "model", Truth())
    assert module.velocity_errors(pipe, "", NUM).max() < 1e-5


def test_errors_are_told_by_quarter_of_times(monkeypatch):
    errors = torch.tensor([1.0, 3.0, 5.0, 5.0, 0.0, 0.5, 7.0, 7.0])
    monkeypatch.setattr(module, "velocity_errors", lambda *_: errors)
    found = module.describe(pipe_of(), "", NUM)
    assert found.pop("parameters") == "0.01"
    assert found.pop("error") == "3.5625"
    assert [*found.values()] == ["2.0000", "5.0000", "0.2500", "7.0000"]


def test_other_processes_are_refused():
    pipe = pipe_of()
    pipe.process = DDPM()
    with pytest.raises(SystemExit, match="flow matching"):
        module.velocity_errors(pipe, "", NUM)
