"""The pipeline of diffusers, in this process: labels, sizes, outputs and what it refuses."""

import diffusers
import numpy as np
import pytest
import torch

from convflow.integrations.diffusers_backbone import DiffusersBackbone
from convflow.integrations.diffusers_pipeline import FlowPipeline
from convflow.integrations.diffusers_scheduler import FlowScheduler
from tests.integrations.models import CLASSES, create_pipe

SETTINGS = {
    "process": "flow", "schedule": "linear", "prediction": "velocity", "averages": False,
    "size": [8, 12], "steps": 2, "guidance": 1.5, "interval": [0.0, 1.0], "channels_guided": None,
    "codec": None,
}  # fmt: skip


class Network(DiffusersBackbone):
    """A network of this library as diffusers has it."""

    in_channels, num_classes, multiple = 3, 3, 4

    def __init__(self):
        super().__init__()
        self.inside = create_pipe("dico").model

    def forward(self, x, t, y):
        return self.inside(x, t, y)


@pytest.fixture(scope="module")
def pipe():
    names = {str(i): name for i, name in enumerate(CLASSES)}
    made = FlowPipeline(Network(), FlowScheduler("heun"), settings=SETTINGS, id2label=names)
    made.set_progress_bar_config(disable=True)
    return made


def test_labels_by_name_number_and_none(pipe):
    assert pipe.label_ids(["dog", 2, None, "1"]) == [1, 2, 3, 1]
    assert pipe.label_ids("hen") == [2]
    assert pipe.label_ids()[:5] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("label", ["cow", 4, -1, 1.5])
def test_an_unknown_label_is_refused(pipe, label):
    with pytest.raises(ValueError, match="expected a class from 0 to 2 or a name"):
        pipe([label])


def test_outputs_are_one_image_in_several_forms(pipe):
    made = {
        kind: pipe(["cat"], generator=3, output_type=kind).images for kind in ("pil", "np", "pt")
    }
    levels = np.asarray(made["pil"][0])
    assert levels.shape == (8, 12, 3)
    np.testing.assert_allclose(made["np"][0], levels / 255, atol=1e-6)
    np.testing.assert_allclose(made["pt"][0].permute(1, 2, 0), levels / 255, atol=1e-6)
    assert pipe(["cat"], output_type="latent", return_dict=False)[0].shape == (1, 3, 8, 12)


def test_sizes_and_noise(pipe):
    one = pipe([0, 1], height=16, width=8, generator=torch.Generator().manual_seed(0)).images
    assert one[0].size == (8, 16)
    latents = torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    again = pipe([0, 1], latents=latents).images
    assert [a.tobytes() for a in one] == [a.tobytes() for a in again]
    with pytest.raises(ValueError, match="multiples of 4, got 15x8"):
        pipe([0], height=15, width=8)
    with pytest.raises(ValueError, match="expected output_type"):
        pipe([0], output_type="jpg")


def test_guidance_and_steps_change_the_image(pipe):
    usual = pipe([0], generator=0, output_type="latent").images
    for other in ({"guidance_scale": 1.0}, {"num_inference_steps": 3}, {"generator": 1}):
        made = pipe([0], **{"generator": 0, **other}, output_type="latent").images
        assert not torch.allclose(made, usual, atol=1e-4)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_that_are_no_count_are_refused(pipe, steps):
    with pytest.raises(ValueError, match=rf"num_inference_steps: .* number >= 1, got {steps}$"):
        pipe([0], num_inference_steps=steps)
    assert len(pipe([0], num_inference_steps=np.int64(1)).images) == 1


def test_the_scheduler_of_diffusers_fits(pipe):
    x = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    kept = pipe.scheduler
    try:
        pipe.scheduler = FlowScheduler("euler")
        ours = pipe([1], latents=x, num_inference_steps=4, output_type="latent").images
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        theirs = pipe([1], latents=x, num_inference_steps=4, output_type="latent").images
    finally:
        pipe.scheduler = kept
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


def test_guidance_of_averages_is_trained_into_them(pipe):
    told = {**SETTINGS, "process": "meanflow", "averages": True, "guidance": 1.0}
    averages = FlowPipeline(Network(), FlowScheduler(), settings=told)
    with pytest.raises(ValueError, match=r"expected guidance_scale 1 .*, got 2\.0"):
        averages([0], guidance_scale=2.0)
