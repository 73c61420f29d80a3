"""The rival is the U-Net of diffusers, and a network of a user that every command takes."""

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks.quality.unet import UNet
from convflow.cli.main import main
from convflow.conditions.added import Added
from convflow.pipeline import Pipeline
from convflow.types import InputError
from tests.tolerance import assert_close_rms

TINY = {"widths": (64, 64), "layers": 1, "num_classes": 3}
"""With 32 channels, a group of the norms would be one channel and forget the time."""


def test_the_rival_has_the_size_that_is_named():
    with torch.device("meta"):
        network = UNet()
    assert 5.64e6 < sum(p.numel() for p in network.parameters()) < 5.66e6
    assert network.multiple == 4
    assert network.label.num_embeddings == 11


def test_time_is_scaled_and_labels_and_what_is_added_reach_the_output():
    network = UNet(**TINY)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([0, 3])
    out = network(x, t, y)
    told = network.label(y)
    assert_close_rms(out, network.unet(x, 1000 * t, told).sample)
    assert (out - network(x, t.flip(0), y)).abs().max() > 1e-4
    assert (out - network(x, t, torch.tensor([1, 3])))[0].abs().max() > 1e-4
    vectors = torch.randn_like(told)
    assert_close_rms(network(x, t, Added(y, vectors)), network.unet(x, 1000 * t, told + vectors)[0])
    with pytest.raises(InputError, match="multiples of 2"):
        network(x[..., 1:], t, y)


@pytest.mark.slow
def test_it_trains_and_samples_as_a_network_of_a_user(tmp_path):
    run = tmp_path / "run"
    words = "--model.name benchmarks.quality.unet:UNet --model.widths 32,32 --model.layers 1"
    words += " --images 64 --batch-size 32 --data.augment 0.5 --device cpu --monitor.log-every 1"
    assert main(["train", "digits.flowdcn", *words.split(), "--run", str(run)]) == 0
    out = tmp_path / "out.png"
    assert main(["sample", str(run), "--num", "1", "--steps", "2", "--out", str(out)]) == 0
    settings = Pipeline.from_pretrained(run).model.settings
    assert settings["family"] == "benchmarks.quality.unet:UNet"
    assert (settings["time_scale"], settings["widths"]) == (1000, [32, 32])
