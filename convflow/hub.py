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
    is a path. A revision may follow: `owner/name@v1`.
    """
    owner, _, rest = split_revision(name)[0].partition("/")
    plain = all(re.fullmatch(r"\w[\w.-]{0,95}", part, re.ASCII) for part in (owner, rest))
    path = owner == "runs" or rest.lower().endswith(ENDINGS) or Path(owner).exists()
    return plain and not path


def split_revision(name: str) -> tuple[str, str | None]:
    """Return a repository and the branch, tag or commit behind its "@", None where there is none.

    >>> split_revision("owner/name@v1.0"), split_revision("owner/name")
    (('owner/name', 'v1.0'), ('owner/name', None))
    """
    repository, _, revision = name.partition("@")
    usual = re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision, re.ASCII)
    return (repository, revision) if usual else (name, None)


def at_revision(folder_or_id: str | Path, revision: str | None) -> str | Path:
    """Return a Hub id with a revision, or what was given where that is None.

    Raises:
        InputError: a revision of something else than a Hub id, or two of them.
    """
    if revision is None:
        return folder_or_id
    name = str(folder_or_id)
    if Path(name).exists() or not is_id(name) or split_revision(name)[1] is not None:
        raise InputError(
            f"expected a Hub id like owner/name for the revision {revision!r}, got {name!r}; leave "
            "the revision out"
        )
    if split_revision(whole := f"{name}@{revision}")[1] != revision:
        raise InputError(f"expected a branch, tag or commit as revision, got {revision!r}")
    return whole


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

    repository, revision = split_revision(name)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # of the Hub or of the network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        near = nearest(Path(name))
        same = near is not None and near.name == Path(name).name
        names = "name, the revision" if revision else "name"
        hint = (
            f"did you mean {str(near)!r}?"
            if same
            else f"check the {names} and the connection, or {fetching(name)}, and give that folder"
        )
        raise InputError(
            f"found neither a folder {name!r} here nor a repository of this name on the Hugging "
            f"Face Hub, expected {wanted} ({reason}); {hint}"
        ) from error


def fetching(name: str, pattern: str = "") -> str:
    """Return how a repository is brought to a machine without a way to the Hub, for a message."""
    repository, revision = split_revision(name)
    place = repository.rpartition("/")[2]
    chosen = f" --include '{pattern}'" if pattern else ""
    chosen = f" --revision {revision}{chosen}" if revision else chosen
    return f"where there is one run: hf download {repository}{chosen} --local-dir {place}"


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
