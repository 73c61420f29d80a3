"""Stored networks: whole, in shards, in the layout of diffusers, and damaged."""

import json
import sys

import pytest
import torch

import convflow
from convflow.models.stored import (
    StoredFiles,
    find_stored,
    import_code,
    own_modules,
    read_stored,
    write_stored,
)
from convflow.types import InputError


@pytest.fixture
def folder(tmp_path):
    model = convflow.create_model("dico", width=8, depths=[1] * 5, in_channels=3, num_classes=2)
    model.save_settings(tmp_path)
    write_stored(tmp_path, model.state_dict(), most=20_000)
    return tmp_path


def test_shards_are_read_as_one(folder):
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    weights = read_stored(find_stored(folder), verify=True)
    model = convflow.load_model(folder)
    assert all(torch.equal(weights[n], tensor) for n, tensor in model.state_dict().items())


def test_small_weights_are_one_file(folder, tmp_path):
    write_stored(tmp_path, {"a": torch.ones(2)})
    assert [p.name for p in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def test_a_missing_shard_and_a_damaged_index_are_named(folder):
    first, *_ = sorted(folder.glob("*.safetensors"))
    first.unlink()
    with pytest.raises(InputError, match=f"expected weights at .*{first.name}, found no such file"):
        convflow.load_model(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../b"}}))
    with pytest.raises(InputError, match="expected a weight_map to files"):
        convflow.load_model(folder)


def test_a_shard_with_nan_is_refused(folder):
    from safetensors.torch import load_file, save_file

    shard = sorted(folder.glob("*.safetensors"))[1]
    tensors = load_file(shard)
    next(iter(tensors.values())).fill_(torch.nan)
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(InputError, match="numbers that are not finite"):
        convflow.load_model(folder)
    convflow.load_model(folder, verify=False)


def test_a_folder_of_others_is_none_of_ours(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text("{}")
    assert find_stored(tmp_path) is None
    (tmp_path / "pipeline.json").write_text("{}")
    found = find_stored(tmp_path)
    assert found == StoredFiles(tmp_path / "transformer", "diffusion_pytorch_model")


def test_modules_are_found_at_any_depth():
    tree = {"family": "a.b:C", "x": [{"kind": "d:E"}, {"kind": "flow", "y": {"kind": "d:F"}}]}
    assert own_modules(tree) == ["a.b", "d"]
    assert own_modules("kind: z:Z") == []


def test_tensors_that_share_their_memory_are_all_stored(tmp_path):
    one = torch.ones(4)
    write_stored(tmp_path, {"a": one, "b": one, "c": one[:2]})
    found = read_stored(StoredFiles(tmp_path), verify=True)
    assert {name: len(tensor) for name, tensor in found.items()} == {"a": 4, "b": 4, "c": 2}


def test_other_code_under_a_loaded_name_is_refused(tmp_path, monkeypatch):
    for name, text in (("same", "X = 1"), ("other", "X = 2"), ("ours", "X = 1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part_of_mine.py").write_text(text)
    monkeypatch.delitem(sys.modules, "part_of_mine", raising=False)
    for name in ("ours", "ours", "same"):
        import_code(tmp_path / name, {"kind": "part_of_mine:X"})
    with pytest.raises(
        InputError, match="got other code that is loaded already as the module part"
    ):
        import_code(tmp_path / "other", {"kind": "part_of_mine:X"})
    monkeypatch.delitem(sys.modules, "part_of_mine")
    (tmp_path / "sys.py").write_text("X = 3")
    with pytest.raises(InputError, match="from Python itself"):
        import_code(tmp_path, {"kind": "sys:X"})


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "a-b", "a..b"])
def test_a_module_that_leads_elsewhere_is_refused(name, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "evil.py").write_text("1 / 0")
    with pytest.raises(InputError, match="expected code under a name like my_net:Net"):
        import_code(tmp_path / "inner", {"kind": f"{name}:X"})


def test_code_that_fails_leaves_no_module(tmp_path):
    (tmp_path / "broken_part.py").write_text("1 / 0")
    with pytest.raises(InputError, match=r"can be imported in .*broken_part\.py, got ZeroDivision"):
        import_code(tmp_path, {"kind": "broken_part:X"})
    assert "broken_part" not in sys.modules
