"""The names of all files below a folder: each image once, however many links lead to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from convflow.data.formats import is_image
from convflow.data.source import one_line
from convflow.types import InputError


def walk(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Names of all files below, relative, with forward slashes, without hidden ones; sentences.

    Every folder and every image is found once, however many links lead to it.
    """
    files, doubles, empty = list[str](), list[str](), list[str]()
    to_folders, to_files = [""], list[str]()
    seen: set[object] = set()
    while to_folders:  # links found on the way are followed after all that is real
        waiting = [to_folders.pop(0)]
        while waiting:
            inner = waiting.pop()
            if (folder_id := _identity(folder / inner)) in seen:
                doubles.append(inner)
                continue
            seen.add(folder_id)
            found = _entries(folder / inner)
            if inner and not found:
                empty.append(inner)
            for entry in found:
                name = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_symlink():
                    (to_folders if os.path.isdir(entry.path) else to_files).append(name)
                elif entry.is_dir():
                    waiting.append(name)
                else:
                    files.append(name)
        to_folders.sort()
    links, replaced, said = _choose_links(folder, files, sorted(to_files))
    files = [file for file in files if file not in replaced] + links
    left = set(to_files) - set(links)
    doubles += sorted(left)
    said = (*say_empty(empty, ()), *said)
    if not doubles:
        return files, said
    count = f"{len(doubles):,} link leads" if len(doubles) == 1 else f"{len(doubles):,} links lead"
    sentence = f"{count} to what is there already and is read once: {doubles[0]}"
    return files, (*said, sentence)


def say_empty(folders: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """A sentence about folders without files, which would be classes if they had images."""
    above = {
        "/".join(parts[:n])
        for file in files
        if (parts := file.split("/"))
        for n in range(1, len(parts))
    }
    empty = sorted(set(folders) - above)
    if not empty:
        return ()
    shown = ", ".join([*empty[:4], "..."] if len(empty) > 4 else empty)
    return (f"{len(empty):,} folder{'s are' if len(empty) > 1 else ' is'} empty: {shown}",)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or of macOS or a disk station."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _choose_links(
    folder: Path, files: Sequence[str], links: Sequence[str]
) -> tuple[list[str], set[str], tuple[str, ...]]:
    """Links that are files of their own, files that links stand for, and what is said about it.

    An image is read once, by its own name. Links stand for it where they tell images of one
    folder apart by the folders that they are in, and every image is in one of those.

    Raises:
        InputError: Links tell some images of a folder apart, but not all, or not in one way.
    """
    if not links:
        return [], set(), ()
    place = cache(lambda above: os.path.realpath(folder / above))
    used = {
        os.path.join(place(_above(file)), file.rpartition("/")[2]): file
        for file in files
        if is_image(file)
    }
    kept, others = list[str](), dict[str, dict[str, str]]()
    linked = dict[str, str]()
    for link in links:
        target = os.path.realpath(folder / link)
        if not is_image(link) or not os.path.exists(target):
            kept.append(link)
        elif target in used:
            if _above(link) != _above(used[target]):
                others.setdefault(used[target], {}).setdefault(_above(link), link)
        elif target not in linked:
            linked[target] = link
    kept += linked.values()
    ways: dict[str, set[str]] = {}
    for file, found in others.items():
        ways.setdefault(_above(file), set()).update(found)
    if all(len(found) == 1 for found in ways.values()):
        return kept, set(), ()
    replaced = {file for file in used.values() if _above(file) in ways}
    first = min(others)
    unclear = next((file for file in sorted(replaced) if len(others.get(file, ())) != 1), None)
    if unclear is not None:
        raise InputError(
            f"expected each image in one folder, got {first} linked as "
            f"{next(iter(others[first].values()))}, but {unclear} in "
            f"{len(others.get(unclear, ()))} folders of links; mend the links, or move them away"
        )
    chosen = [link for found in others.values() for link in found.values()]
    said = f"{len(chosen):,} images are read as links name them: {chosen[0]} for {first}"
    return kept + chosen, replaced, (said,)


def _above(file: str) -> str:
    return file.rpartition("/")[0]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise InputError(f"expected a readable folder, got {one_line(error)}") from error
    return sorted(found, key=lambda entry: entry.name)


def _identity(folder: Path | str) -> tuple[int, int] | None:
    """The same for all names of a folder."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
