"""Arrays are read within the bytes that are there, or refused in one line."""

import os
import struct
import zipfile

import numpy as np
import pytest

from convflow.arrays import list_arrays, read_arrays
from convflow.types import InputError


def npy(shape, numbers=b""):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + numbers


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy("(-3,)"), "not an array"),
        (npy("(1000000000000,)"), "not an array"),
        (npy("(2,)", b"\0" * 24), "not an array"),
        (npy("(" * 2000), ""),
        (b"\x93NUMPY\x07\x00", "unknown"),
        (b"no array", ""),
    ],
)
def test_headers_of_arrays_that_cannot_be(tmp_path, content, said):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", content)
    with pytest.raises(InputError, match=rf"a\.npz is damaged or no \.npz file \(.*{said}"):
        read_arrays(path, ["mu"])


@pytest.mark.parametrize("place", ["data", "size", "method"])
def test_compressed_arrays_that_are_damaged(tmp_path, place):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, mu=np.arange(1000.0))
    whole = bytearray(path.read_bytes())
    central = whole.index(b"PK\1\2")
    if place == "data":
        whole[200:260] = bytes(60)
    elif place == "size":
        whole[central + 24 : central + 28] = struct.pack("<I", 2**31)
    else:
        whole[central + 10 : central + 12] = struct.pack("<H", 77)
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        read_arrays(path, ["mu"])


def test_arrays_are_read_by_name(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", mu=np.arange(3.0), objects=np.array([{}]))
    found = read_arrays(tmp_path / "a.npz", ["mu", "sigma"])
    assert list(found) == ["mu"]
    assert found["mu"].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="object"):
        read_arrays(tmp_path / "a.npz", ["objects"])
    with pytest.raises(InputError, match="no such file"):
        read_arrays(tmp_path / "b.npz", [])


def test_a_pipe_is_no_npz(tmp_path):
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(InputError, match="it is no file"):
        list_arrays(tmp_path / "x.npz")
