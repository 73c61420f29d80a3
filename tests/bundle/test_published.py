"""What counts as published weights, and what is understood of them beside the network.

From file to image: `tests/cli/test_import.py`.
"""

import pytest
import torch

from convflow.bundle import published
from convflow.bundle.published import fetch, is_published, read_published
from convflow.bundle.released import Release
from convflow.codecs import LatentCodec
from convflow.nn.positions import sincos_positions
from convflow.types import InputError
from tests import hub_cache
from tests.cases import read_golden


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.pt", True),
        ("b/model.safetensors", False),
        ("b", False),
        ("b/other.safetensors", True),
        ("c/transformer/diffusion_pytorch_model.safetensors.index.json", True),
        ("c", True),
        ("c/transformer", True),
        ("d.npz", False),
        ("dit-xl/2-256", True),
        ("nothing.pt", False),
        ("who/what/nothing.pt", True),
        ("b/what/nothing.pt", False),  # b is a folder here
        ("who/what", False),
    ],
)
def test_what_is_published(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ("a.pt", "b/model.safetensors", "b/config.json", "b/other.safetensors", "d.npz")
    for place in (*places, "c/transformer/diffusion_pytorch_model.safetensors.index.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert is_published(name) is expected


@pytest.mark.parametrize(
    ("file", "cells", "given", "size"),
    [
        ("dit.pt", 8, None, (64, 64)),
        ("dit-512.pt", 8, None, (64, 64)),
        ("dit-512x512.pt", None, None, (512, 512)),
        ("dit_1512.pt", None, None, (256, 256)),
        ("dit-512.pt", 8, (32, 48), (32, 48)),
    ],
)
def test_the_size_of_the_images(file, cells, given, size, tmp_path):
    tensors = dict(read_golden("dit_tiny")[0])
    tensors.pop("pos_embed", None)
    if cells:
        side = cells // 2
        tensors["pos_embed"] = sincos_positions(side, side, 48, torch.empty(0)).reshape(1, -1, 48)
    torch.save(tensors, tmp_path / file)
    found = read_published(tmp_path / file, size=given, num_heads=4)
    assert found.config.size == size
    assert found.config.codec == LatentCodec()
    assert found.config.class_names == ()


def test_latents_of_another_autoencoder_are_never_taken_for_those_of_stable_diffusion(tmp_path):
    tensors = dict(read_golden("flowdcn_tiny")[0])
    tensors["x_embedder.proj.weight"] = torch.zeros(48, 16, 2, 2)
    for kind in ("weight", "bias"):
        name = f"final_layer.linear.{kind}"
        tensors[name] = tensors[name].repeat(4, *[1] * (tensors[name].ndim - 1))
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"got 16; say which autoencoder: .* --autoencoder"):
        read_published(tmp_path / "a.pt")
    assert read_published(tmp_path / "a.pt", autoencoder="b").config.codec == LatentCodec("b")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            ["Net-S.txt"],
            r"expected a file \*Net-S\*\.pt in a/b on the Hugging Face Hub, found none",
        ),
        (["Net-S.pt", "Net-S-old.pt"], "expected one file of weights, got Net-S-old.pt, Net-S.pt"),
    ],
)
def test_a_repository_without_the_file(files, said, tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    for file in files:
        (tmp_path / "made" / file).write_text("weights")
    hub_cache.put(tmp_path / "cache", "a/b", tmp_path / "made")
    hub_cache.use(tmp_path / "cache", monkeypatch)
    release = Release("dico-s", 256, "MIT", "a/b", ("*Net-S*.pt",))
    monkeypatch.setitem(published.RELEASES, "net", release)
    with pytest.raises(InputError, match=said):
        fetch("net")
    assert is_published("a/b/Net-S.pt")
    if "Net-S.pt" in files:
        assert fetch("a/b/Net-S.pt").read_text() == "weights"
