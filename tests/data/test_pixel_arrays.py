"""Images in .npz and .npy files: layouts, labels, and what is refused."""

import numpy as np
import pytest

from convflow.data import pixel_arrays
from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import labels_of, refuse

PIXELS = np.arange(5 * 4 * 6 * 3, dtype=np.uint8).reshape(5, 4, 6, 3)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (PIXELS, PIXELS),
        (np.moveaxis(PIXELS, 3, 1), PIXELS),
        (np.asfortranarray(PIXELS), PIXELS),
        (PIXELS[..., 0], PIXELS[..., 0]),
        (PIXELS[..., :1], PIXELS[..., 0]),
    ],
)
def test_layouts(tmp_path, stored, wanted):
    np.save(tmp_path / "x.npy", stored)
    np.savez(tmp_path / "x.npz", stored)
    for file in ("x.npy", "x.npz"):
        source = open_source(str(tmp_path / file))
        assert np.array_equal([np.asarray(source.read(i)) for i in range(5)], wanted)
        assert source.header(3)[1] == (4, 6)
        assert source.item_name(2) == f"{file} image 2"
        assert source.class_names == ()


def test_labels(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=PIXELS, y=[3, 3, 1, 1, 3], kinds=np.array([*"abbab"]))
    source = open_source(str(path))
    assert (labels_of(source), source.class_names) == ([1, 1, 0, 0, 1], ("1", "3"))
    assert "columns not used: kinds" in source.notes
    source = open_source(str(path), label_column="kinds")
    assert (labels_of(source), source.class_names) == ([0, 1, 1, 0, 1], ("a", "b"))
    assert open_source(str(path), labels="none").class_names == ()
    refuse(path, "unknown column 'z'; choose from", label_column="z")
    refuse(path, "expected auto, table or none", labels="folders")
    np.savez(path, images=PIXELS)
    refuse(path, "expected an array of labels", labels="table")
    np.save(tmp_path / "x.npy", PIXELS)
    refuse(tmp_path / "x.npy", "one array", labels="table")
    refuse(tmp_path / "x.npy", "'test' split", split="test")


@pytest.mark.parametrize(
    "pixels", [PIXELS.astype(float), PIXELS[0, 0], PIXELS[..., :2], PIXELS[:0], np.array([None])]
)
def test_other_arrays_are_refused(tmp_path, pixels):
    np.save(tmp_path / "x.npy", pixels, allow_pickle=True)
    with pytest.raises(InputError, match=r"expected uint8 images|damaged or no .npy"):
        open_source(str(tmp_path / "x.npy"))


def test_a_large_array_must_be_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_arrays, "_MOST_UNPACKED", PIXELS.nbytes)
    np.savez_compressed(tmp_path / "x.npz", arr_0=PIXELS)
    refuse(tmp_path / "x.npz", "expected at most 360 bytes in a compressed array")
    np.savez(tmp_path / "x.npz", arr_0=PIXELS)
    assert isinstance(pixel_arrays.map_array(tmp_path / "x.npz", "arr_0"), np.memmap)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:300])
    with pytest.raises(InputError, match=r"damaged or no .npz"):
        open_source(str(tmp_path / "x.npz"))
