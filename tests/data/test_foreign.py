"""Latents of other programs become shards of one size."""

import numpy as np
import pytest

from convflow.data.foreign import Foreign, explained, numbered, stacked
from convflow.types import InputError


def test_records_are_stacked_scaled_back_and_of_one_size(tmp_path):
    records = [np.full((1, 1, 2, 3, 3), i, np.float32) for i in range(3)]
    found = Foreign(stacked(records), np.arange(3), numbered(np.arange(3)), "abc", "sample", True)
    scale, shift = np.float32([[[2]], [[4]]]), np.float32(1)
    (shard,) = found.shards("float16", scale, shift)
    assert (shard.shape, shard.dtype) == ((3, 1, 1, 2, 3, 3), np.float16)
    assert shard[2, 0, 0, :, 0, 0].tolist() == [2, 1.5]
    assert found.class_names == ("0", "1", "2")
    with pytest.raises(InputError, match="expected latents of one size"):
        list(stacked([*records, np.zeros((1, 1, 2, 3, 4))]))
    said = pytest.raises(InputError, match=r"as of --format x in .* \(words\), got 1")
    with said, explained("x", tmp_path, "words"):
        raise KeyError(1)
