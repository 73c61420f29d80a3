"""The images that a run began with, kept in a file."""

import struct
import zipfile

import numpy as np
import pytest

from convflow.data.selection import Selection, describe_others
from convflow.data.source import StoredSource


def source_of(count, name="item{}"):
    return StoredSource("some", (), np.zeros(count, np.int64), name.format, lambda index: b"")


def test_it_is_read_for_the_same_pictures_alone(tmp_path):
    path = tmp_path / "x.npz"
    kept = Selection(np.array([0, 2, 3]), np.array([[4, 5], [6, 7], [8, 9]]))
    assert Selection.read(path, source_of(4)) is None
    kept.write(path, source_of(4))
    found = Selection.read(path, source_of(4))
    assert (found.indices.tolist(), found.sides.tolist()) == (
        kept.indices.tolist(),
        kept.sides.tolist(),
    )
    assert Selection.read(path, source_of(5)) is None
    assert Selection.read(path, source_of(4, "other{}")) is None
    path.write_bytes(path.read_bytes()[:-30])
    assert Selection.read(path, source_of(4)) is None


def test_what_is_new_and_what_is_gone_is_named(tmp_path):
    path = tmp_path / "x.npz"
    assert describe_others(path, source_of(4)) == ""
    Selection(np.array([0]), np.array([[4, 5]])).write(path, source_of(4, "\udcffü{}"))
    assert describe_others(path, source_of(4, "\udcffü{}")) == ""
    assert describe_others(path, source_of(3, "\udcffü{}")) == "gone: \udcffü3"
    assert describe_others(path, source_of(6, "\udcffü{}")) == "new: \udcffü4, \udcffü5"
    words = "new: a0, a1; gone: \udcffü0, \udcffü1, \udcffü2 and 1 more"
    assert describe_others(path, source_of(2, "a{}")) == words


@pytest.mark.parametrize(
    ("indices", "sides"),
    [
        ([0, 4], [[1, 1]] * 2),
        ([2, 1], [[1, 1]] * 2),
        ([-1, 1], [[1, 1]] * 2),
        ([0, 1], [[1, 1]]),
        ([0, 1], [[1, 1], [0, 1]]),
        ([], []),
    ],
)
def test_nonsense_is_no_selection(tmp_path, indices, sides):
    path = tmp_path / "x.npz"
    Selection(np.array(indices, np.int64), np.array(sides, np.int64)).write(path, source_of(4))
    assert Selection.read(path, source_of(4)) is None


def test_a_selection_that_unpacks_without_end_is_no_selection(tmp_path):
    """And one of a single number, or of Python objects."""
    path = tmp_path / "x.npz"
    for content in ({"indices": np.array(3)}, {"indices": np.array([{}], object)}):
        np.savez(path, sides=np.ones((1, 2), np.int64), items="x", **content)
        assert Selection.read(path, source_of(4)) is None
    np.savez_compressed(path, indices=np.zeros(2**20, np.int64))
    with zipfile.ZipFile(path) as archive:
        lied = archive.getinfo("indices.npy").file_size
    whole = path.read_bytes().replace(struct.pack("<I", lied), struct.pack("<I", 2**31))
    path.write_bytes(whole)
    assert Selection.read(path, source_of(4)) is None
