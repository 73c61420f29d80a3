"""What Zarr, LMDB and .pt files may hold of latents; round trips: `test_latent_formats.py`."""

import os
import pickle
import sys

import numpy as np
import pytest
import torch

from convflow.data.foreign import from_logs, to_logs
from convflow.data.latent_archives import read_lmdb, read_torch, read_zarr
from convflow.types import InputError


def test_logarithms_of_the_variance():
    moments = np.float32([[[1.0]], [[np.log(4.0)]]])
    assert from_logs(moments)[:, 0, 0, 0].tolist() == pytest.approx([1, 2])
    np.testing.assert_allclose(to_logs(from_logs(moments)), moments, rtol=1e-6)


@pytest.mark.parametrize(("kind", "read"), [("zarr", read_zarr), ("lmdb", read_lmdb)])
def test_a_package_that_is_missing_is_named(kind, read, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(InputError, match=f"needs the package {kind}, .*; pip install {kind}"):
        read(tmp_path)


def lmdb_of(path, values):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path)) as opened, opened.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return path


class Malice:
    def __reduce__(self):
        return os.system, ("true",)


def test_values_of_an_lmdb_may_be_pickles_of_arrays_alone(tmp_path):
    zeros = np.zeros((2, 1, 1))
    values = [
        {"moments": zeros + i, "moments_flip": zeros, "label": np.int64(i)} for i in range(11)
    ]
    pickles = {str(i): pickle.dumps(value) for i, value in enumerate(values)}
    found = read_lmdb(lmdb_of(tmp_path / "a", {"__len__": b"11", **pickles}))
    assert (found.names[10], found.labels[10], len(found.class_names)) == ("10", 10, 11)
    (records,) = found.records
    assert records.shape == (11, 2, 2, 1, 1, 1)
    assert records[10, 0, 0].item() == 10
    about = {"length": pickle.dumps(2), "about": b"a set", "meta": pickle.dumps({"classes": 3})}
    found = read_lmdb(lmdb_of(tmp_path / "names", {"b": pickles["1"], "a": pickles["3"], **about}))
    assert (found.names, found.labels.tolist()) == (["a", "b"], [3, 1])
    for what, said in (
        ({"moments": Malice()}, "expected a pickle of numbers alone, got one that wants .*system"),
        ({"moments": np.zeros((2, 1, 1))}, r"--format lmdb in .* got 'label'"),
    ):
        path = lmdb_of(tmp_path / said[:12].strip("-"), {"0": pickle.dumps(what)})
        with pytest.raises(InputError, match=said):
            read_lmdb(path)
    with pytest.raises(InputError, match="got no images"):
        read_lmdb(lmdb_of(tmp_path / "empty", {"about": b""}))


def test_a_zarr_of_other_arrays_is_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "a"), mode="w")
    group.create_array("x", shape=(3, 4, 2, 2), dtype="float32")
    with pytest.raises(InputError, match=r"of class ids\), got x float32 \(3, 4, 2, 2\)"):
        read_zarr(tmp_path / "a")


def test_one_pt_for_each_image(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        content = {"mean": torch.ones(4, 2, 2), "logvar": torch.zeros(4, 2, 2)}
        torch.save(content, tmp_path / name / "0.pt")
    found = read_torch(tmp_path)
    assert (found.class_names, found.labels.tolist()) == (("cat", "dog"), [0, 1])
    assert next(iter(found.records)).shape == (2, 1, 2, 4, 2, 2)
    for content, said in (
        ({"mean": torch.ones(4)}, "got 'logvar'"),
        ({"mean": torch.ones(4), "logvar": torch.ones(4)}, "expected latents as of --format pt"),
        (Malice(), "wants to run code"),
    ):
        (tmp_path / "cat/0.pt").unlink()
        torch.save(content, tmp_path / "cat/0.pt")
        with pytest.raises(InputError, match=said):
            list(read_torch(tmp_path).records)
