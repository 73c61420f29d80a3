"""Images that are stored in groups are seen once an epoch, and each group is read once in it."""

import numpy as np
import pytest

from convflow.data import tables
from convflow.data.groups import GroupOrder, groups_of
from convflow.data.loader import Images, Order
from convflow.data.source import Groups
from convflow.data.sources import open_source
from convflow.types import InputError

NUMBERS = np.repeat(np.arange(7), [3, 1, 5, 5, 2, 4, 3])


def test_groups_of_a_window_are_mixed_and_each_image_is_seen_once():
    order = GroupOrder(Groups(NUMBERS, 2), seed=1, flip=True)
    epochs = [order.at(start, 23) for start in (0, 23)]
    for indices, _ in epochs:
        assert sorted(indices.tolist()) == list(range(23))
        seen = NUMBERS[indices]
        places = [np.flatnonzero(seen == group) for group in range(7)]
        in_turn = sorted(places, key=lambda found: found[0])
        windows = [in_turn[start : start + 2] for start in range(0, 7, 2)]
        ends = [max(found[-1] for found in window) for window in windows]
        assert all(end < after[0][0] for end, after in zip(ends, windows[1:], strict=False))
        mixed = [window[0][-1] > window[1][0] for window in windows[:3]]
        assert any(mixed)
    assert not np.array_equal(epochs[0][0], epochs[1][0])
    assert 0 < epochs[0][1].sum() < 23
    parts = [order.rows(start, 8) for start in range(0, 46, 8)]
    again = GroupOrder(Groups(NUMBERS, 2), seed=1, flip=True)
    assert np.array_equal(again.rows(16, 8).indices, parts[2].indices)
    whole = np.concatenate([part.indices for part in parts])[:46]
    assert np.array_equal(whole, np.concatenate([indices for indices, _ in epochs]))
    assert order.describe() == "shuffled in windows of 2 of 7 row groups, about 7 images"


def test_groups_that_all_fit_have_the_usual_order():
    usual, order = Order(23, 1, True), GroupOrder(Groups(NUMBERS, 7), 1, True)
    for one, other in zip(usual.at(5, 40), order.at(5, 40), strict=True):
        assert np.array_equal(one, other)
    assert order.fingerprint == usual.fingerprint == ""
    assert order.describe().startswith("all row groups fit into memory")
    assert GroupOrder(Groups(NUMBERS, 2), 1, True).fingerprint == "-2 groups"


def test_each_row_group_is_read_once_in_an_epoch(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow.parquet")
    from tests.data.made import write

    path = write(tmp_path / "x.parquet", [0, 1, 2, 3] * 10, count=40, rows=4)
    loads = []

    class Counting(tables._Cache):
        def __init__(self, load, limit_bytes):
            size = load(0).nbytes
            super().__init__(lambda group: loads.append(group) or load(group), 5 * size)

    monkeypatch.setattr(tables, "_Cache", Counting)
    source = open_source(str(path))
    assert source.groups.numbers.tolist() == [i // 4 for i in range(40)]
    assert source.groups.window > 100
    groups = groups_of(source, np.arange(40), "x")._replace(window=2)
    found = []
    for order in (GroupOrder(groups, 0, False), Order(40, 0, False)):
        images = Images(source, np.arange(40), channels=1, size=(8, 8), cache_bytes=0, workers=1)
        loads.clear()
        for start in range(0, 40, 8):
            images.batch(order.rows(start, 8).indices)
        found.append(len(loads))
    assert found[0] == 10
    assert found[1] > 15


def test_images_that_are_read_one_by_one_have_none():
    with pytest.raises(InputError, match="expected images with shapes, whose images are read one"):
        groups_of(open_source("shapes"), np.arange(4), "shapes")
