"""The pipeline of diffusers on several scales, in this process: sizes, noise and steps."""

from __future__ import annotations

import pytest
import torch

from convflow.integrations.diffusers_backbone import DiffusersBackbone
from convflow.integrations.diffusers_scales import ScalesPipeline
from convflow.integrations.diffusers_scheduler import FlowScheduler
from convflow.processes.multiscale import MultiscaleFlow
from tests.integrations.models import create_pipe
from tests.integrations.test_diffusers_pipeline import SETTINGS

PROCESS = MultiscaleFlow(decomposition="dct", factors=(2,), deviations=(0.9, 0.3))
SCALES = {
    "process": "dfm", "size": [16, 24], "steps": 5, "decomposition": "dct", "factors": [2],
    "deviations": [0.9, 0.3], "stage_steps": [2, 3], "thresholds": [0.8],
}  # fmt: skip


class ScalesNetwork(DiffusersBackbone):
    """A pyramid of this library as diffusers has it."""

    in_channels, num_classes, multiple = 3, 3, 4

    def __init__(self):
        super().__init__()
        self.inside = create_pipe("dico", process=PROCESS, size=(16, 24)).model

    def forward(self, scales, t, y):
        return self.inside(scales, t, y)


@pytest.fixture(scope="module")
def pipe():
    made = ScalesPipeline(ScalesNetwork(), FlowScheduler("heun"), settings={**SETTINGS, **SCALES})
    made.set_progress_bar_config(disable=True)
    return made


def test_a_size_has_whole_scales_of_whole_blocks(pipe):
    assert pipe.multiple == PROCESS.multiple == 8
    images = pipe([0], height=8, width=32, generator=1, output_type="latent").images
    assert images.shape == (1, 3, 8, 32)
    with pytest.raises(ValueError, match="multiples of 8, got 12x16"):
        pipe([0], height=12, width=16)


def test_steps_are_those_of_all_scales(pipe):
    usual = pipe([0], generator=1, output_type="latent").images
    other = pipe([0], generator=1, num_inference_steps=5, output_type="latent").images
    assert not torch.allclose(other, usual, atol=1e-4)  # shared otherwise among the scales
    with pytest.raises(Exception, match="at least 2 steps"):
        pipe([0], num_inference_steps=1)
    with pytest.raises(ValueError, match="expected a whole number >= 1, got 0"):
        pipe([0], num_inference_steps=0)


def test_noise_may_be_given(pipe):
    def draw(**more):
        generator = torch.Generator().manual_seed(0)
        return pipe([0, 1], generator=generator, output_type="latent", **more).images

    latents = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(3))
    assert torch.equal(draw(latents=latents), draw(latents=latents))
    assert not torch.allclose(draw(latents=latents), draw(), atol=1e-4)
