"""The FID network against the outputs of its published PyTorch port, depth by depth."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from convflow.evaluation.inception import InceptionFID
from convflow.types import InputError
from tests.cases import GOLDENS
from tests.tolerance import GOLDEN, GOLDEN_WORST, assert_close_rms

PUBLISHED_NAMES = {
    "64": "64",
    "192": "192",
    "768": "768",
    "features": "2048",
    "spatial": "spatial_2023",
    "logits": "logits_unbiased",
    "biased_logits": "logits",
}


def read_inception_golden() -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """The inputs and outputs of the published network, and the names and shapes of its weights."""
    with safe_open(GOLDENS / "inception_fid.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["names"])


def seeded_weights() -> dict[str, Tensor]:
    """The weights that the golden file was made with; its metadata has the recipe."""
    _, names = read_inception_golden()
    weights = {}
    for seed, name in enumerate(sorted(names)):
        draw = torch.randn(names[name], generator=torch.Generator().manual_seed(seed))
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros((), dtype=torch.long)
        elif draw.ndim > 1:
            weights[name] = draw * (2 / draw[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            weights[name] = 1 + 0.1 * draw.abs()
        else:
            weights[name] = 0.1 * draw + name.endswith("bn.weight")
    return weights


@pytest.fixture(scope="module")
def network() -> InceptionFID:
    with torch.device("meta"):
        network = InceptionFID().eval()
    network.load_state_dict(seeded_weights(), assign=True)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_inception_golden()[0]


@pytest.fixture(scope="module")
def everything(network: Any, golden: Any) -> dict[str, Tensor]:
    return network.every_depth(golden["in.images"])


def test_names_and_shapes_are_the_published_layout(network):
    _, names = read_inception_golden()
    assert {n: list(t.shape) for n, t in network.state_dict().items()} == names


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_golden(everything, golden, name):
    expected = golden[f"out.{PUBLISHED_NAMES[name]}"]
    assert_close_rms(everything[name], expected, limit=GOLDEN)
    assert (everything[name] - expected).abs().max() < GOLDEN_WORST


def test_forward_gives_the_logits_without_bias(network, golden, everything):
    out = network(golden["in.images"])
    assert list(out) == ["features", "spatial", "logits"]
    assert all(out[name].equal(everything[name]) for name in out)
    bias = everything["biased_logits"] - out["logits"]
    assert_close_rms(bias, network.fc.bias.expand(3, -1), limit=GOLDEN)
    swapped = (out["logits"] - golden["out.logits"]).norm() / golden["out.logits"].norm()
    assert swapped > 0.1  # the golden file tells the two apart


def test_features_do_not_depend_on_the_batch(network, golden, everything):
    for i, image in enumerate(golden["in.images"]):
        alone = network(image[None])
        for name, rows in alone.items():
            assert_close_rms(rows, everything[name][i : i + 1])


def test_grey_is_grey_in_colour(network, golden):
    grey = golden["in.images"][:1, :1]
    colour = network(grey.repeat(1, 3, 1, 1))
    assert all(rows.equal(colour[name]) for name, rows in network(grey).items())


def test_sides_are_not_swapped(network, golden):
    image = golden["in.images"][:1]
    upright = network(image.transpose(2, 3))["features"]
    assert (upright - golden["out.2048"][:1]).norm() > 0.01 * upright.norm()


@pytest.mark.usefixtures("unchecked")
def test_floats_are_refused(network):
    with pytest.raises(InputError, match=r"expected uint8 images .*, got torch\.float32"):
        network(torch.zeros(1, 3, 32, 32))
