"""DINOv2 against an independent implementation, and its image preparation against Pillow."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.nn import functional as F

from convflow.evaluation.dinov2 import DINOv2
from convflow.types import InputError
from tests.cases import GOLDENS
from tests.tolerance import GOLDEN, GOLDEN_WORST, assert_close_rms

PARAMS = {  # published: the released modules' counts
    "vits14": ({"width": 384, "depth": 12, "heads": 6}, 22_056_576),
    "vitb14": ({"width": 768, "depth": 12, "heads": 12}, 86_580_480),
    "vitl14": ({}, 304_368_640),
}


def read_dinov2_golden():
    """The weights, settings, normalised images and class tokens of a tiny random network."""
    with safe_open(GOLDENS / "dinov2_tiny.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    return weights, config, tensors["in.pixels"], tensors["out.features"]


@pytest.fixture(scope="module")
def network():
    weights, config, _, _ = read_dinov2_golden()
    network = DINOv2(**config).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return network


def test_golden_at_the_native_grid(network):
    _, _, pixels, expected = read_dinov2_golden()
    actual = network.encode(pixels)
    assert_close_rms(actual, expected, limit=GOLDEN)
    assert (actual - expected).abs().max() < GOLDEN_WORST


def test_the_normalisations_are_the_published_ones(network):
    norms = [module for module in network.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-6] * 5  # too small to show in the golden file


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_and_inferred_sizes(name):
    settings, params = PARAMS[name]
    with torch.device("meta"):
        network = DINOv2(**settings)
        twin = DINOv2.fitting(network.state_dict())
    assert sum(p.numel() for p in network.parameters()) == params
    shapes = {n: t.shape for n, t in network.state_dict().items()}
    assert {n: t.shape for n, t in twin.state_dict().items()} == shapes
    assert twin.blocks[0].attn.heads == network.blocks[0].attn.heads
    assert (twin.patch_size, twin.grid) == (14, 37)


def test_the_published_layout():
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in DINOv2().state_dict().items()}
    block = {
        "norm1.weight": (1024,),
        "norm1.bias": (1024,),
        "attn.qkv.weight": (3072, 1024),
        "attn.qkv.bias": (3072,),
        "attn.proj.weight": (1024, 1024),
        "attn.proj.bias": (1024,),
        "ls1.gamma": (1024,),
        "norm2.weight": (1024,),
        "norm2.bias": (1024,),
        "mlp.fc1.weight": (4096, 1024),
        "mlp.fc1.bias": (4096,),
        "mlp.fc2.weight": (1024, 4096),
        "mlp.fc2.bias": (1024,),
        "ls2.gamma": (1024,),
    }
    expected = {f"blocks.{i}.{name}": shape for i in range(24) for name, shape in block.items()}
    assert shapes == expected | {
        "cls_token": (1, 1, 1024),
        "pos_embed": (1, 1370, 1024),
        "mask_token": (1, 1024),
        "patch_embed.proj.weight": (1024, 3, 14, 14),
        "patch_embed.proj.bias": (1024,),
        "norm.weight": (1024,),
        "norm.bias": (1024,),
    }


def cubic(distance):
    """Keys' kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def resample(old, new):
    """The matrix from `old` positions to `new` ones under the scale (new + 0.1) / old."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        place = (i + 0.5) * old / (new + 0.1) - 0.5
        for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            matrix[i, min(max(k, 0), old - 1)] += cubic(place - k)
    return matrix


@pytest.mark.parametrize("grid", [(16, 16), (5, 2), (3, 4)])
def test_positions_are_interpolated_with_the_tenth(network, grid):
    actual = network.positions(*grid)
    plane = network.pos_embed[0, 1:].double().unflatten(0, (3, 3))
    rows, columns = resample(3, grid[0]), resample(3, grid[1])
    expected = torch.einsum("ia,jb,abd->ijd", rows, columns, plane).flatten(0, 1)
    assert actual[:, :1].equal(network.pos_embed[:, :1])
    assert_close_rms(actual[0, 1:], expected, torch.float32)
    plain = F.interpolate(plane.permute(2, 0, 1)[None], grid, mode="bicubic", align_corners=False)
    without = plain[0].flatten(1).T
    assert (actual[0, 1:] - without).norm() > 1e-3 * without.norm()


def test_positions_at_the_native_grid_are_those_stored(network):
    assert network.positions(3, 3).equal(network.pos_embed)


@pytest.mark.parametrize("size", [(40, 30), (300, 500)])
def test_pictures_are_prepared_by_pillow(network, size):
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    planes = [
        [
            np.asarray(
                Image.fromarray(p.float().numpy()).resize((224, 224), Image.Resampling.BICUBIC)
            )
            for p in image
        ]
        for image in images
    ]
    scaled = torch.from_numpy(np.array(planes)).clamp(0, 255) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (scaled - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert_close_rms(network(images)["features"], network.encode(pixels), limit=GOLDEN)


def pillow_pass(rows):
    """Resize the last axis to 224: Keys' kernel with a = -0.5, antialias, rounded to 8 bits."""
    old = rows.shape[-1]
    scale = max(old / 224, 1.0)
    centres = (np.arange(224) + 0.5) * old / 224
    d = np.abs(np.arange(old) + 0.5 - centres[:, None]) / scale
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    weights = np.where(d < 1, near, np.where(d < 2, far, 0.0))
    weights /= weights.sum(1, keepdims=True)
    return np.clip(np.floor(rows @ weights.T + 0.5), 0, 255)


@pytest.mark.parametrize("size", [(40, 30), (300, 500)])
def test_the_published_chain_in_8_bits(size):
    """Stein et al.'s default, in numpy: rows, then columns, each rounded; then ImageNet's norm."""
    network = DINOv2(**read_dinov2_golden()[1], eight_bit=True)
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    resized = pillow_pass(pillow_pass(images.double().numpy()).swapaxes(2, 3)).swapaxes(2, 3)
    mean, std = ([[[n]] for n in row] for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = torch.from_numpy((resized / 255 - np.array(mean)) / np.array(std))
    apart = (network.prepare(images) - expected).abs() * torch.tensor(std) * 255
    assert (apart > 0.01).double().mean() < 1e-3  # Pillow's weights are whole numbers
    assert apart.max() < 1.01


def test_8_bits_are_about_a_third_of_a_level_from_a_clean_resize(network):
    images = torch.randint(256, (2, 3, 300, 500), dtype=torch.uint8)
    other = DINOv2(**read_dinov2_golden()[1], eight_bit=True)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    levels = (network.prepare(images) - other.prepare(images)) * std * 255
    assert 0.25 < levels.square().mean().sqrt() < 0.5


def test_features_do_not_depend_on_the_batch(network):
    images = torch.randint(256, (3, 3, 20, 30), dtype=torch.uint8)
    together = network(images)["features"]
    assert together.shape == (3, 32)
    for i in range(3):
        assert_close_rms(network(images[i : i + 1])["features"], together[i : i + 1])


def test_grey_is_grey_in_colour(network):
    grey = torch.randint(256, (2, 1, 20, 30), dtype=torch.uint8)
    assert network(grey)["features"].equal(network(grey.repeat(1, 3, 1, 1))["features"])


def test_the_giant_is_refused():
    with pytest.raises(InputError, match=r"got SwiGLU layers \(ViT-g\); use dinov2_vitl14"):
        DINOv2.fitting({"blocks.0.mlp.w12.weight": torch.zeros(1)})


def test_other_weights_are_refused():
    for weights in ({"fc.weight": torch.zeros(2, 2)}, {"pos_embed": torch.zeros(2)}):
        with pytest.raises(InputError, match=r"expected DINOv2 weights in the torch\.hub layout"):
            DINOv2.fitting(weights)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="expected heads that divide width and patch_size"):
        DINOv2(width=32, heads=5)
    with pytest.raises(InputError, match="14 and 500; take those of the weights"):
        DINOv2(width=32, heads=2, image_size=500)
