"""Where each file of a tar lies: an index that is made once and kept in the cache of the user."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convflow.arrays import read_arrays
from convflow.data.class_ids import TEXT_COLUMNS, plain_column
from convflow.data.files import MAX_BYTES
from convflow.data.formats import is_image
from convflow.data.source import one_line
from convflow.data.walk import is_hidden
from convflow.hub import assets
from convflow.storage import writing_file
from convflow.types import InputError

log = logging.getLogger("convflow")

_INDEX_FORMAT = 1
_NOTE_BYTES = 2**20  # of a .cls or .json beside an image
_LONGEST_VALUE = 100  # letters of a value in a .json; a longer one is no label
_ENDING = re.compile(r"^((?:.*/)?[^/.]+)\.[^/]*$")  # as WebDataset divides names


class TarIndex(NamedTuple):
    """What a tar holds."""

    names: list[str]
    """Of its files."""
    places: np.ndarray
    """(N, 2) int64: the first byte of each file, and how many there are."""
    notes: dict[str, dict[str, Any]]
    """What a .cls or .json beside an image says, by name without an ending."""


def key_of(file: str) -> str:
    """Return a name without its ending, which begins at the first dot after the folders."""
    match = _ENDING.match(file)
    return match[1] if match else file


def read_part(tar: Path, start: int, length: int, first: int = MAX_BYTES) -> bytes:
    """Return the first bytes of a file in a tar.

    Args:
        tar: the tar.
        start: where the file begins.
        length: its bytes.
        first: how many of them to read at most.

    Raises:
        InputError: the tar ends before.
    """
    wanted, parts = min(length, first), list[bytes]()
    handle = os.open(tar, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        os.lseek(handle, start, os.SEEK_SET)
        while wanted > 0 and (part := os.read(handle, wanted)):
            parts.append(part)
            wanted -= len(part)
    finally:
        os.close(handle)
    if wanted:
        raise InputError(f"expected {length:,} bytes in {tar.name}, got fewer; was it cut short?")
    return b"".join(parts)


def read_index(tar: Path, label_column: str = "") -> TarIndex:
    """Return what a tar holds, from its index; that is made where it is missing or not of this tar.

    Args:
        tar: the tar.
        label_column: a key of its .json that is kept, whatever it is called.

    Raises:
        InputError: the tar is damaged or compressed.
    """
    status, folder = tar.stat(), assets("tars")
    # A tar that took the place of another may have its size and time; programs set the latter.
    stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    if folder is None:
        return _make(tar, label_column)
    known = f"{_INDEX_FORMAT} {tar.resolve()} {label_column}"
    path = folder / f"{hashlib.sha256(known.encode('utf-8', 'replace')).hexdigest()[:32]}.npz"
    if path.is_file():
        with suppress(InputError, ValueError, KeyError, AttributeError, TypeError):
            found = read_arrays(path, ["stamp", "names", "places", "notes"])
            names = found["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            if str(found["stamp"]) == stamp and found["places"].shape == (len(names), 2):
                return TarIndex(names, found["places"], json.loads(found["notes"].tobytes()))
        log.info(f"the index of {tar} is older than the tar or of another one, and is made again")
    index = _make(tar, label_column)
    joined = "\0".join(index.names).encode("utf-8", "surrogateescape")
    if index.names:
        with suppress(OSError, InputError), writing_file(path) as draft, draft.open("wb") as file:
            np.savez(
                file,
                stamp=np.array(stamp),
                names=np.frombuffer(joined, np.uint8),
                places=index.places,
                notes=np.frombuffer(json.dumps(index.notes).encode(), np.uint8),
            )
    return index


def _make(tar: Path, label_column: str) -> TarIndex:
    """What a tar holds, read from its headers."""
    found, notes = dict[str, tuple[int, int]](), dict[str, dict[str, Any]]()
    size = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # else all are held in memory
                place = _place(info, found)
                file = _plain(info.name)
                if place is None or any(map(is_hidden, file.split("/"))):
                    continue
                if sum(place) > size:
                    raise tarfile.ReadError(f"{file} is cut off at the end")
                found[file] = place
                if file.lower().endswith((".cls", ".json")) and place[1] <= _NOTE_BYTES:
                    said = _note(file, read_part(tar, *place), label_column)
                    notes[key_of(file)] = notes.get(key_of(file), {}) | said
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise InputError(
            f"expected a tar without compression, got {tar}: {one_line(error)}; unpack or copy it "
            "again"
        ) from error
    images = {key_of(file) for file in found if is_image(file)}
    places = np.array(list(found.values()), np.int64).reshape(-1, 2)
    return TarIndex(list(found), places, {k: note for k, note in notes.items() if k in images})


def _place(info: tarfile.TarInfo, found: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """Where a member lies, that of its target for a hard link; None for all but files."""
    if info.islnk():
        return found.get(_plain(info.linkname))
    return (info.offset_data, info.size) if info.isreg() and not info.issparse() else None


def _plain(member: str) -> str:
    """A member's name below the top of the tar, whatever it says."""
    return "/".join(part for part in member.split("/") if part not in ("", ".", ".."))


def _note(file: str, content: bytes, label_column: str) -> dict[str, Any]:
    """What a .cls says as the column `label`, and the short values of a .json."""
    text = content.decode("utf-8", "replace").strip()
    if file.lower().endswith(".cls"):
        return {"label": int(text) if re.fullmatch(r"-?\d{1,18}", text) else text}
    with suppress(ValueError, RecursionError):
        tree = json.loads(text)
        return {
            key: value
            for key, value in (tree.items() if isinstance(tree, dict) else ())
            if isinstance(value, (int, str))
            and len(str(value)) <= _LONGEST_VALUE
            and (key == label_column or plain_column(key) not in TEXT_COLUMNS)
        }
    return {}
