"""Frozen encoders: how they are opened, what they give, and that none slips into a checkpoint."""

import copy

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from convflow.evaluation.dinov2 import DINOv2
from convflow.objectives.alignment import Encoder, negative_cosine, resample
from convflow.objectives.table import create_objectives
from convflow.types import InputError
from tests.evaluation.test_dinov2 import read_dinov2_golden
from tests.objectives.encoder import NAME, WIDTH, network_of, pictures
from tests.tolerance import assert_close_rms


def test_features_are_resampled_as_torch_resamples_images():
    features = torch.randn(2, 5, 4, 3, requires_grad=True)
    for grid in ((5, 4), (10, 8), (7, 9), (2, 2)):
        found = resample(features, grid)
        truth = F.interpolate(features.movedim(-1, 1), grid, mode="bilinear", antialias=True)
        assert_close_rms(found, truth.movedim(1, -1))
    assert resample(features, (5, 4)) is features


def test_the_cosine_is_that_of_each_place():
    ours, theirs = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64).unbind()
    truth = [
        -sum(
            float(a @ b) / float(a.norm() * b.norm())
            for a, b in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)
        )
        / 12
        for x, y in zip(ours, theirs, strict=True)
    ]
    assert_close_rms(negative_cosine(ours, theirs), torch.tensor(truth))


def test_dinov2_by_path_gives_the_tokens_of_patches_of_the_grid(tmp_path):
    weights, config, _, _ = read_dinov2_golden()
    path = tmp_path / "dinov2_tiny_pretrain.pth"
    torch.save(weights, path)
    encoder = Encoder("dinov2", str(path))
    images = pictures(2, 3, 20)
    network = DINOv2.fitting(weights).eval()
    network.load_state_dict(weights)
    found = encoder(images, (3, 2))
    assert encoder.width() == found.shape[-1] == config["width"]
    # By hand: patches of the resized image, through the blocks, the last norm, without the class.
    patch = config["patch_size"]
    prepared = network.prepare(images, (3 * patch, 2 * patch))
    tokens = network.patch_embed["proj"](prepared).permute(0, 2, 3, 1).reshape(2, 6, -1)
    tokens = torch.cat([network.cls_token.expand(2, -1, -1), tokens], 1) + network.positions(3, 2)
    truth = network.norm(nn.Sequential(*network.blocks)(tokens))
    assert_close_rms(found.reshape(2, 6, -1), truth[:, 1:])
    assert_close_rms(truth[:, 0], network.encode(prepared))
    safetensors.torch.save_file(weights, tmp_path / "same.safetensors")
    again = Encoder("dinov2", str(tmp_path / "same.safetensors"))
    assert again(images, (3, 2)).equal(found)


def test_an_exported_program_is_an_encoder(tmp_path):
    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, stride=2)

        def forward(self, images):
            return {"maps": self.conv(images.float())}

    path, network = tmp_path / "maps.pt2", Maps().eval()
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(network, (pictures(2),), dynamic_shapes=(sizes,)), path)
    encoder, images = Encoder(str(path)), pictures(3, 3, 12)
    with torch.no_grad():
        truth = network(images)["maps"].movedim(1, -1)
    assert_close_rms(encoder(images, (6, 6)), truth)
    assert encoder.width() == 5


def test_it_is_in_no_copy_and_no_state_but_its_checksum_is():
    network, process = network_of("flowdcn")
    found = create_objectives({"repa": {"encoder": NAME, "hidden": 4}}, network, process)
    objective = found["repa"].objective
    assert found["repa"].weight == 0.5
    assert copy.deepcopy(objective).encoder is objective.encoder
    shapes = {name: tuple(t.shape) for name, t in objective.state_dict().items()}
    assert shapes.pop("checksum") == (32,)
    assert {name.split(".")[0] for name in shapes} == {"project"}
    assert shapes["project.4.weight"] == (WIDTH, 4)
    state = objective.state_dict()
    objective.load_state_dict(state)
    state["checksum"] = 255 - state["checksum"]
    with pytest.raises(InputError, match="expected the encoder that the run began with"):
        objective.load_state_dict(state)


@pytest.mark.parametrize(
    ("some", "message"),
    [
        ({}, "expected --objectives.repa.encoder with this kind"),
        ({"encoder": "dinov3"}, "unknown detector 'dinov3'"),
        ({"encoder": NAME, "encoder_weights": "x.pth"}, "expected weights with inception, dinov2"),
        ({"encoder": NAME.replace("create", "pooled")}, "features that keep their places"),
        ({"encoder": "nowhere:create"}, "a file alone runs no code; add --import nowhere"),
        ({"encoder": "nowhere.py:create"}, "a file alone runs no code; give the option again"),
        ({"encoder": 3}, "--objectives.repa.encoder: expected a name, got '3'"),
        ({"encoder": NAME, "hidden": 0}, "--objectives.repa.hidden: expected a whole number of at"),
        ({"encoder": NAME, "block": 4}, "expected a block from 0 to 3, got 4"),
        ({"encoder": NAME, "hiden": 4}, "unknown setting 'hiden'; did you mean 'hidden'"),
        ({"encoder": NAME, "fade": 4}, "expected --objectives.repa.until with it, got none"),
        ({"encoder": NAME, "until": 0}, "--objectives.repa.until: expected a whole number of at"),
        ({"kind": "u-repa", "encoder": NAME}, r"a U-shaped network \(dico, fcdm\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(some, message):
    network, process = network_of("flowdcn")
    with pytest.raises(InputError, match=message):
        create_objectives({"repa": some}, network, process)


def test_what_others_look_at_must_be_there():
    network, process = network_of("flowdcn")
    for settings, message in (
        ({"process": {"weight": 0}, "sra": {}}, "sra: expected a loss of the process at one time"),
        ({"process": {"until": 9}, "sra": {}}, "process.until: expected none"),
        (
            {"process": {"weight": 0}, "dispersive": {"until": 9}},
            "dispersive.until: expected an objective that does not end",
        ),
    ):
        with pytest.raises(InputError, match=message):
            create_objectives(settings, network, process)
