"""Shards are read as they were cut, by any number of processes, and written whole again."""

import pytest
import safetensors.torch
import torch

from convflow.parallel.shards import Shards, stream_tensors
from convflow.types import InputError
from tests.shards import write_shards

TENSORS = {
    "step": torch.tensor(7.0),
    "row": torch.arange(3.0).view(1, 3),
    "five": torch.randn(5, 2, 2),
    "half": torch.randn(4).bfloat16(),
    "count": torch.arange(6),
}


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 2**28])
def test_shards_make_the_file_of_one_process(tmp_path, num, most):
    write_shards(tmp_path / "cut", TENSORS, num)
    shards = Shards(tmp_path / "cut")
    path = tmp_path / "whole.safetensors"
    stream_tensors(path, shards.shapes, shards.read, most)
    found = safetensors.torch.load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_damaged_shards_are_refused(tmp_path):
    write_shards(tmp_path, TENSORS | {"bad": torch.tensor([1.0, torch.nan])}, 2)
    shards = Shards(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path} holds numbers that are not finite, first in"):
        shards.read(["five", "bad"])
    path = tmp_path / "shard-1.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    for read in (lambda: Shards(tmp_path), lambda: shards.read(["five"])):
        with pytest.raises(InputError, match=f"{tmp_path} is damaged or no safetensors file"):
            read()
