"""Folders and repositories of diffusers are found, described and read, or refused by name."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from convflow.bundle.diffusers_models import describe_transformer, find_transformer
from convflow.bundle.published import is_published, read_published
from convflow.models.diffusers_network import DiffusersNetwork
from convflow.types import InputError
from tests.transformers import create, save_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_pipeline_a_transformer_and_shards_are_read_alike(tmp_path):
    model = save_pipeline(tmp_path / "pipeline", "flux")
    model.save_pretrained(tmp_path / "alone")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len([*(tmp_path / "shards").glob("*.safetensors")]) > 1
    for name in ("pipeline", "alone", "shards"):
        assert is_published(tmp_path / name)
        network = read_published(tmp_path / name).model
        assert isinstance(network, DiffusersNetwork)
        weights = model.state_dict()
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, weights[network.name_in_diffusers(key)]), key


def test_what_lies_beside_says_autoencoder_size_and_time_shift(tmp_path):
    save_pipeline(tmp_path, "sd3")
    for part, settings in (("vae", {}), ("scheduler", {"shift": 3.0})):
        (tmp_path / part).mkdir()
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (tmp_path / part / name).write_text(json.dumps(settings), encoding="utf-8")
    found = describe_transformer(find_transformer(tmp_path))
    assert found.size == (64, 64)
    assert found.sampling.solver.shift == 3.0
    assert found.codec.autoencoder == str(tmp_path / "vae")
    place = tmp_path / "scheduler" / "scheduler_config.json"
    place.write_text(json.dumps({"use_dynamic_shifting": True}), encoding="utf-8")
    save_pipeline(tmp_path, "flux")
    shift = describe_transformer(find_transformer(tmp_path)).sampling.solver.shift
    assert shift == pytest.approx(math.exp(1.15))


def change(folder, **settings):
    path = folder / "transformer" / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8")) | settings
    path.write_text(json.dumps(tree), encoding="utf-8")


def drop(folder, name):
    path = folder / "transformer" / WEIGHTS
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})


REFUSED = {
    "another class": (
        lambda folder: change(folder, _class_name="HunyuanDiT2DModel"),
        "HunyuanDiT2DModel",
    ),
    "quantised": (
        lambda folder: change(folder, quantization_config={"quant_method": "bitsandbytes"}),
        "in the quantisation bitsandbytes",
    ),
    "no weights": (
        lambda folder: (folder / "transformer" / WEIGHTS).unlink(),
        "expected all weights of a FluxTransformer2DModel",
    ),
    "a weight is missing": (
        lambda folder: drop(folder, "proj_out.bias"),
        r"\(proj_out.bias is missing or of another shape\)",
    ),
    "other settings": (
        lambda folder: change(folder, joint_attention_dim=9),
        "expected all weights of a FluxTransformer2DModel",
    ),
    "another task": (
        lambda folder: change(folder, out_channels=8),
        "expected",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_by_name(case, tmp_path):
    spoil, words = REFUSED[case]
    save_pipeline(tmp_path / "here", "flux")
    spoil(tmp_path / "here")
    with pytest.raises(InputError, match=words):
        read_published(tmp_path / "here")


def test_other_folders_are_no_transformers(tmp_path):
    assert find_transformer(tmp_path) is None
    assert find_transformer("nobody/nothing") is None
    network = DiffusersNetwork.from_diffusers(create("flux"))
    network.save_pretrained(tmp_path / "ours")
    assert find_transformer(tmp_path / "ours") is None
    save_pipeline(tmp_path / "theirs", "flux")
    shutil.rmtree(tmp_path / "theirs" / "transformer")
    assert find_transformer(tmp_path / "theirs") is None
