"""Paths that are stored in a folder and read again, maybe from another working directory."""

from __future__ import annotations

import os
from pathlib import Path

LEVELS = 6
"""Folders above the one where a path is stored in which it is looked up: from the weights of a
checkpoint up to the folder with `runs/NAME`, or with `runs/GROUP/NAME`."""


def find_place(path: str, folder: Path, *, inside: bool = False) -> str:
    """Return where a path stored in `folder` is: from a folder further up, else from here.

    A run in `project/runs/pets` that was started in `project` finds `pets` there from anywhere,
    whatever else has this name in the working directory.

    Args:
        path: absolute, or relative to the working directory of its time; or no path at all, such
            as a Hub id, which comes back as it is.
        folder: in which it is stored.
        inside: whether it may lie in `folder` itself, and is meant so where it does.
    """
    place = Path(os.path.expanduser(path))
    within = [folder.resolve() / place] if inside else []
    found = next(filter(exists, [*within, *_beside(place, folder), place]), None)
    return path if found is None or _same(place, found) else str(found)


def portable(path: str, folder: Path, stored: str | None = None) -> str:
    """Return a path to store in `folder`: as it is if it is found from there, else absolute.

    Args:
        path: as it is found from the working directory.
        folder: in which it is to be stored.
        stored: what `folder` has in its place already; it stays if it means the same.
    """
    place = Path(os.path.expanduser(path))
    if stored is not None and _same(place, Path(os.path.expanduser(find_place(stored, folder)))):
        return stored
    if place.is_absolute() or not exists(place):
        return path
    first = next(filter(exists, _beside(place, folder)), None)
    return path if first and _same(place, first) else str(place.resolve())


def _beside(place: Path, folder: Path) -> list[Path]:
    """Return a place as seen from the folders above another, but for those on the way to that.

    A run `runs/pets` of the data `pets` does not find itself in `runs`.
    """
    here = folder.resolve()
    found = [Path(os.path.abspath(up / place)) for up in _above(folder)]
    return [at for at in found if not (at.is_relative_to(here) or here.is_relative_to(at))]


def _above(folder: Path) -> list[Path]:
    """Return the folders above one, nearest first, without the root of the file system."""
    return [up for up in folder.resolve().parents if up != up.parent][:LEVELS]


def _same(path: Path, other: Path) -> bool:
    """Return whether two paths lead to one place."""
    return exists(path) and exists(other) and os.path.samefile(path, other)


def exists(path: Path) -> bool:
    """Return whether a path can be reached; `Path.exists` raises where access is denied."""
    return os.path.exists(path)
