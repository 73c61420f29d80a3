"""A store holds what was written, and knows when it no longer does."""

import json

import numpy as np
import pytest

from convflow.codecs import LatentCodec
from convflow.data.latents import Latents
from convflow.data.store import (
    INDEX,
    damaged_files,
    is_written,
    read_index,
    write_shard,
    write_store,
)
from convflow.settings.read import to_dict
from convflow.types import InputError

CODEC = to_dict(LatentCodec(scale=0.5, shift=0.0))


def store(folder, count=7, seed=0, arrays=2, **changes):
    """A store of `count` moments with their mirror images, three to a shard; the records too."""
    rng = np.random.default_rng(seed)
    records = rng.normal(size=(count, 2, 2, 4, 3, 2)).astype(np.float16)
    records[:, :, 1] = np.abs(records[:, :, 1])
    records = records[:, :, :arrays]
    parts = (records[i : i + 3] for i in range(0, count, 3))
    given = {"codec": CODEC, "factor": 8, "class_names": ("cat", "dog")} | changes
    write_store(folder, parts, np.arange(count) % 2, **given)
    return records


def test_the_index_tells_statistics_and_damage(tmp_path):
    records = store(tmp_path).astype(np.float64)
    index = read_index(tmp_path)
    assert [shard.count for shard in index.shards] == [3, 3, 1]
    assert index.sizes == ((24, 16),)
    means, stds = records[:, :, 0], records[:, :, 1]
    mean = means.mean((0, 1, 3, 4))
    np.testing.assert_allclose(index.mean, mean)
    square = (means**2 + stds**2).mean((0, 1, 3, 4))
    np.testing.assert_allclose(index.std, np.sqrt(square - mean**2))
    assert list(damaged_files(tmp_path, index)) == []
    path = tmp_path / index.shards[1].file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (tmp_path / "labels.npy").unlink()
    assert list(damaged_files(tmp_path, index)) == [path.name, "labels.npy"]


def test_a_shard_that_is_cut_short_is_no_shard(tmp_path):
    write_shard(tmp_path, 4, 0, np.zeros((2, 1, 1, 4, 2, 2), np.float32))
    assert is_written(tmp_path, 4)
    assert not is_written(tmp_path, 5)
    path = tmp_path / "shard-00004.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_written(tmp_path, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree | {"format": 2}, "of format 1, got 2 .* update convflow"),
        (lambda tree: tree | {"count": "many"}, "is damaged"),
        (lambda tree: tree | {"sizes": [[16, 16]]}, "is damaged"),
        (lambda tree: tree | {"shards": [{**tree["shards"][0], "file": "../x"}]}, "is damaged"),
    ],
)
def test_an_index_that_is_damaged_is_refused(tmp_path, change, words):
    store(tmp_path)
    path = tmp_path / INDEX
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=words):
        Latents("here", [tmp_path]).batch(np.arange(7))
