"""Files and folders appear complete or not at all."""

import math

import pytest
import safetensors.torch
import torch

from convflow import storage
from convflow.storage import (
    read_json,
    write_text,
    writing_file,
    writing_folder,
)
from convflow.types import InputError


def test_a_folder_appears_in_one_move(tmp_path):
    final = tmp_path / "deep/er/final"
    with writing_folder(final) as draft:
        (draft / "inner").mkdir()
        (draft / "inner/file").write_text("all")
        assert not final.exists()
    assert (final / "inner/file").read_text() == "all"
    assert [p.name for p in final.parent.iterdir()] == ["final"]


def write_half(writer, name, error):
    with writer as draft:
        (draft / name).write_text("half")
        raise error


def test_an_error_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"could not write .*final: No space left"):
        write_half(writing_folder(tmp_path / "final"), "file", OSError(28, "No space left"))
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_and_leave_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing_folder(tmp_path / "final"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_text_has_the_same_bytes_everywhere(tmp_path):
    write_text(tmp_path / "text", "a\nb\r\n")
    assert (tmp_path / "text").read_bytes() == b"a\nb\r\n"


def test_a_folder_that_exists_is_never_replaced(tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    write_text(final / "file", "old")
    with pytest.raises(InputError, match="exists"), writing_folder(final):
        pass
    assert (final / "file").read_text() == "old"


def test_a_draft_of_a_killed_process_does_not_get_in(tmp_path):
    (tmp_path / ".writing-final").mkdir()
    (tmp_path / ".writing-final/stale").write_text("")
    with writing_folder(tmp_path / "final") as draft:
        (draft / "file").write_text("")
    assert [p.name for p in (tmp_path / "final").iterdir()] == ["file"]


def test_others_may_read_what_is_written(tmp_path):
    (tmp_path / "plain").write_text("")
    usual = (tmp_path / "plain").stat().st_mode
    tensors = {"x": torch.zeros(2)}
    with writing_folder(tmp_path / "folder") as draft:
        safetensors.torch.save_file(tensors, draft / "weights.safetensors")
        (draft / "weights.safetensors").chmod(0o600)
    with storage.writing_file(tmp_path / "file.safetensors") as draft:
        safetensors.torch.save_file(tensors, draft)
        draft.chmod(0o600)
    for name in ("folder/weights.safetensors", "file.safetensors"):
        assert (tmp_path / name).stat().st_mode == usual


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(InputError, match="File too large"):
        write_half(writing_file(path), "", OSError(27, "File too large"))
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        b" " * (2**26 + 1),
    ],
    ids=["brackets", "deep", "number", "text", "long"],
)
def test_json_beyond_all_bounds(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json is damaged or not JSON \(.*\); copy it"):
        read_json(tmp_path / "config.json")


def test_json_that_is_no_file(tmp_path):
    with pytest.raises(InputError, match="damaged or cannot be read"):
        read_json(tmp_path)
    with pytest.raises(InputError, match="found no such file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(("value", "bad"), [(1.0, False), (3e38, False), (math.nan, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_numbers_pass_though_their_sum_overflows(value, bad, dtype):
    tensors = {"steps": torch.tensor(3), "none": torch.zeros(0), "a": torch.full((9, 2), value)}
    tensors["a"] = tensors["a"].to(dtype)
    assert storage.find_nonfinite(tensors) == ("a" if bad else None)
    tensors["b"] = torch.tensor([math.inf, -math.inf])
    assert storage.find_nonfinite(tensors) == ("a" if bad else "b")


def test_a_file_is_compared_with_its_checksum(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    stored = storage.checksum(tmp_path / "file")
    assert stored["bytes"] == 3
    assert stored["sha256"].startswith("ba7816bf")
    for files in ({"file": stored}, {}, {"other": {}}):
        storage.check_sums(tmp_path, {"files": files}, ["file"])
    for files in ({"file": stored | {"bytes": 4}}, {"file": 3}, ["file"], {"file": [stored]}):
        with pytest.raises(InputError, match="file is damaged"):
            storage.check_sums(tmp_path, {"files": files}, ["file"])
    with pytest.raises(InputError, match=r"expected the file .*gone, found none"):
        storage.check_sums(tmp_path, {"files": {"gone": stored}}, ["gone"])


def test_whole_numbers_are_no_weights():
    weights = {"a": torch.zeros(2), "step": torch.zeros((), dtype=torch.int64)}
    assert storage.find_misfits(weights, weights | {"a": torch.zeros(2).half()}) == []
    misfits = storage.find_misfits(weights, weights | {"a": torch.zeros(2).int()})
    assert misfits == ["a holds int32, expected floating point"]


def test_parts_of_tensors_are_read_one_by_one_and_checked(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.ones(4), "b": torch.zeros(2)}, path)
    seen = []

    def first(name, tensor):
        seen.append(name)
        return tensor[:1].clone()

    parts = storage.read_finite_parts(path, first)
    assert {name: tensor.tolist() for name, tensor in parts.items()} == {"a": [1], "b": [0]}
    safetensors.torch.save_file({"a": torch.ones(4), "b": torch.tensor([torch.nan])}, path)
    with pytest.raises(InputError, match="not finite, first in b; copy it again"):
        storage.read_finite_parts(path, first)
    assert sorted(seen) == ["a", "a", "b"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="is damaged or no safetensors file"):
        storage.read_finite_parts(path, first)
