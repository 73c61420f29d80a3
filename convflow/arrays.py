"""Arrays of .npz and .npy files that may be damaged or hostile: read within the bytes there are."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from convflow.types import InputError


def list_arrays(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an .npz by the names of their arrays, or raise InputError."""
    with _whole_npz(path), zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): info for info in archive.infolist()}


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return those of the arrays `names` that an .npz holds; the others stay unread.

    Memory is taken for what the file holds, not for what a header claims: a shape must be that of
    its bytes, and above a gibibyte no byte may become more than a hundred.

    Raises:
        InputError: no such file, a damaged one, or arrays of Python objects.
    """
    found = {name: info for name, info in list_arrays(path).items() if name in names}
    arrays = {}
    with _whole_npz(path), zipfile.ZipFile(path) as archive:
        for name, info in found.items():
            most = 100 if info.file_size > 2**30 else 1032  # the most that deflate can do
            packed = min(info.compress_size, path.stat().st_size)
            if info.file_size > most * (packed + 1):
                raise ValueError(f"{name} would become {info.file_size:,} bytes")
            with archive.open(info) as file:
                read_array_header(file, info.file_size)
            with archive.open(info) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def map_array(path: Path, name: str) -> np.ndarray:
    """Return an array of an .npz, mapped where it is not compressed, else in memory.

    Raises:
        InputError: no such array, or as of `read_arrays`.
    """
    members = list_arrays(path)
    if name not in members:
        raise InputError(
            f"expected the array {name} in {path}, got {', '.join(members) or 'nothing'}"
        )
    entry = members[name]
    if entry.compress_type != zipfile.ZIP_STORED:
        return read_arrays(path, [name])[name]
    with _whole_npz(path), path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)  # past its name and extra field
        return _map(path, file, entry.file_size)


def map_npy(path: Path) -> np.ndarray:
    """Return the array of an .npy, mapped; raise InputError where the file is no good one."""
    with _whole_npz(path, ".npy"), path.open("rb") as file:
        return _map(path, file, path.stat().st_size)


def _map(path: Path, file: IO[bytes], size: int) -> np.ndarray:
    shape, fortran, dtype = read_array_header(file, size)
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def read_array_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and dtype of an .npy; the file is left where the numbers begin.

    Raises:
        ValueError: no such header, Python objects, or a shape that does not fill the bytes.
    """
    begin, version = file.tell(), np.lib.format.read_magic(file)
    if version > (2, 0):
        raise ValueError(f"version {version} of .npy is unknown")
    readers = (np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0)
    shape, fortran, dtype = readers[version[0] - 1](file)
    rest = size - (file.tell() - begin)
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"{rest:,} bytes are not an array {shape} of {dtype}")
    return shape, fortran, dtype


@contextmanager
def _whole_npz(path: Path, kind: str = ".npz") -> Iterator[None]:
    """Turn an error while arrays are read into an InputError that names the file."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("it is no file")
        yield
    except FileNotFoundError as error:
        raise InputError(f"expected an {kind} at {path}, found no such file") from error
    except Exception as error:  # zip, zlib, headers: nearly any exception on damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is damaged or no {kind} file ({reason[:200]}); copy it again"
        ) from error
