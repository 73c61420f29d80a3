"""Names that may mean a folder here or a repository on the Hugging Face Hub."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from convflow.types import InputError

WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files of weights."""
ENDINGS = (
    *WEIGHTS, ".csv", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".png", ".pt2", ".tar", ".zip",
)  # fmt: skip


def is_id(name: str) -> bool:
    """Return whether a name that no file or folder has can only be a repository `owner/name`.

    What begins with ".", "~" or "runs/", ends as files do, or would lie in a folder that is there,
    is a path.
    """
    owner, _, rest = name.partition("/")
    plain = all(re.fullmatch(r"\w[\w.-]{0,95}", part, re.ASCII) for part in (owner, rest))
    path = owner == "runs" or rest.lower().endswith(ENDINGS) or Path(owner).exists()
    return plain and not path


def missing(path: str | Path, wanted: str) -> InputError:
    """Return the error that says that nothing is at a path, with the nearest name that is there."""
    given = Path(path).expanduser()
    message = f"found nothing at {str(path)!r}, expected {wanted}"
    near = given if given.exists() else nearest(given)
    return InputError(
        f"{message}; did you mean {str(near)!r}?" if near else f"{message}; check the path"
    )


def download(name: str, patterns: Sequence[str], wanted: str) -> Path:
    """Return a folder with the files of a repository on the Hub.

    Raises:
        InputError: a path with nothing there, or no such repository, or no way to it.
    """
    if not is_id(name):
        raise missing(name, f"{wanted}, or a Hub id like owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # of the Hub or of the network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        near = nearest(Path(name))
        same = near is not None and near.name == Path(name).name
        hint = (
            f"did you mean {str(near)!r}?"
            if same
            else f"check the name and the connection, or {fetching(name)}, and give that folder"
        )
        raise InputError(
            f"found neither a folder {name!r} here nor a repository of this name on the Hugging "
            f"Face Hub, expected {wanted} ({reason}); {hint}"
        ) from error


def fetching(name: str, pattern: str = "") -> str:
    """Return how a repository is brought to a machine without a way to the Hub, for a message."""
    place = name.rpartition("/")[2]
    chosen = f" --include '{pattern}'" if pattern else ""
    return f"where there is one run: hf download {name}{chosen} --local-dir {place}"


def assets(kind: str) -> Path | None:
    """Return the folder of the cache for one kind of file, None where nothing may be written."""
    from huggingface_hub import cached_assets_path

    try:
        return cached_assets_path("convflow", kind)
    except OSError:
        return None


def nearest(path: Path, words: Sequence[str] = ()) -> Path | None:
    """Return what is most like a path that does not exist, None if nothing is."""
    lost = path
    while not lost.parent.exists():
        if lost.parent == lost:  # a drive of Windows that is not there
            return None
        lost = lost.parent
    if not lost.parent.is_dir() or not os.access(lost.parent, os.R_OK):
        return None
    names = [entry.name for entry in lost.parent.iterdir() if not entry.name.startswith(".")]
    known = words if len(path.parts) == 1 else ()
    match = difflib.get_close_matches(lost.name, [*names, *known], n=1)
    if match and match[0] in known:
        return Path(match[0])
    found = lost.parent / match[0] if match else None
    return found and (whole if (whole := found / path.relative_to(lost)).exists() else found)
