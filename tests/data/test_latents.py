"""Latents come back record by record, of one store or of many, or not at all."""

import numpy as np
import pytest

from convflow.data.latents import Latents, find_stores
from convflow.data.loader import Order, batches
from convflow.data.sources import open_source
from convflow.data.store import write_store
from convflow.types import InputError
from tests.data.test_store import CODEC, store


def test_records_come_back_in_any_order(tmp_path):
    records = store(tmp_path)
    latents = open_source(str(tmp_path))
    assert (len(latents), latents.sizes, latents.shape) == (7, ((24, 16),), (3, 24, 16))
    order, flips = np.array([6, 0, 3, 3, 2]), np.array([True, False, False, True, True])
    found, labels = latents.batch(order, flips)
    np.testing.assert_array_equal(found, records[order, flips.astype(int)])
    assert labels.tolist() == [0, 0, 1, 1, 0]
    assert latents.item_name(5) == "image 5"
    batch = next(batches(latents, Order(7, seed=0, flip=True), 0, 4))
    np.testing.assert_array_equal(batch.pixels[0, 0], latents.batch(batch.indices)[0][0, 0])
    with pytest.raises(InputError, match="expected images, got the store of latents"):
        latents.read(0)


def test_many_stores_are_one(tmp_path):
    records = [
        store(tmp_path / name, count, seed) for name, count, seed in (("a", 4, 1), ("b", 5, 2))
    ]
    latents = Latents("both", find_stores(tmp_path))
    found, labels = latents.batch(np.array([8, 0, 4]))
    np.testing.assert_array_equal(
        found, np.stack([records[1][4, 0], records[0][0, 0], records[1][0, 0]])
    )
    assert labels.tolist() == [0, 0, 0]
    assert latents.item_name(8) == "image 4"
    assert latents.fingerprint != Latents("a", [tmp_path / "a"]).fingerprint
    store(tmp_path / "c", codec=CODEC | {"scale": 0.25})
    with pytest.raises(InputError, match=r"expected stores of one kind, got another codec in .*c"):
        Latents("all", find_stores(tmp_path))


def test_stores_that_are_not_whole_are_refused(tmp_path):
    store(tmp_path / "a")
    path = tmp_path / "a/shard-00001.npy"
    content = path.read_bytes()
    latents = open_source(str(tmp_path / "a"))
    path.write_bytes(content[:-1])
    with pytest.raises(
        InputError, match=r"expected .* bytes in .*00001.npy, got .*; copy the store"
    ):
        open_source(str(tmp_path / "a"))
    with pytest.raises(InputError, match=r"00001.npy cannot be read \(it is cut short\)"):
        latents.batch(np.array([5]), np.array([True]))
    path.unlink()
    with pytest.raises(InputError, match="got no such file; copy the store again"):
        open_source(str(tmp_path / "a"))
    path.write_bytes(content)
    np.save(tmp_path / "a/labels.npy", np.full(7, 2))
    with pytest.raises(InputError, match=r"labels.npy .* damaged"):
        open_source(str(tmp_path / "a"))
    (tmp_path / "a/store.json").unlink()
    (tmp_path / "a/encoding.json").write_text("{}")
    with pytest.raises(InputError, match=r"got the unfinished .*; repeat the command"):
        open_source(str(tmp_path / "a"))
    with pytest.raises(InputError, match="no choice of labels"):
        open_source(str(tmp_path / "a"), labels="none")
    parts = [np.zeros((1, 1, 1, 4, n, 2), np.float16) for n in (2, 3)]
    with pytest.raises(InputError, match="expected latents of one size"):
        write_store(tmp_path / "d", parts, np.zeros(2), codec=CODEC, factor=8)
