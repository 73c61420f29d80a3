"""Images in zips."""

from __future__ import annotations

import os
import re
import struct
import threading
import zipfile
from collections import Counter
from pathlib import Path

from convflow.data.class_ids import AUTO, Choice
from convflow.data.files import read_member
from convflow.data.source import Stamp, StoredSource, one_line, stamp_of
from convflow.data.trees import understand
from convflow.data.walk import is_hidden, say_empty
from convflow.types import InputError

_IS_UTF8 = 0x800  # a flag of a zip's member: so is its name


def open_zip(name: str, path: Path, split: str, choice: Choice = AUTO) -> StoredSource:
    """Return the images and labels of a zip of a folder.

    Raises:
        InputError: No zip, no images, no such split, or labels that cannot be used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise InputError(f"expected a zip archive, got {name}: {one_line(error)}") from error
    names = [(_plain(_decoded(info)), info) for info in infos]
    names = [(file, info) for file, info in names if not any(map(is_hidden, file.split("/")))]
    members = {file: info for file, info in names if info.filename[-1:] not in "/\\"}
    counts = Counter(file for file, _ in names)
    twice = [file for file in members if counts[file] > 1]
    word = "a name is" if len(twice) == 1 else f"{len(twice):,} names are"
    notes = [f"{word} there several times, the last is read: {twice[0]}"] if twice else []
    notes += say_empty({file for file, _ in names} - {*members}, members)
    others = {file: info for file, info in members.items() if not info.flag_bits & _IS_UTF8}
    odd = [f for f, info in others.items() if not f.isascii() and _decoded(info) == info.filename]
    if odd:
        notes.append(f"names are not in UTF-8 and may come out wrong: {odd[0]}")
    # Zipping a folder puts the folder's own name before everything; no image is called by it,
    # and where the zip is called by it too, it is no class of a flat folder.
    tops = {file.partition("/")[0] if "/" in file else "" for file in members}
    root = f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""
    if root[:-1].casefold() == path.stem.casefold():
        members, root = {file.removeprefix(root): members[file] for file in members}, ""
    local = threading.local()

    def read(file: str, first: int | None = None) -> bytes:
        # A handle's position is shared by threads and by forked processes: one for each.
        if getattr(local, "process", None) != os.getpid():
            local.process, local.archive = os.getpid(), zipfile.ZipFile(path)
        return read_member(local.archive, members[file], first=first)

    tree = understand(name, list(members), split, choice, read)
    image_files = tree.part.files
    shown = [file.removeprefix(root) for file in image_files]
    place = path.resolve()

    def stamp() -> Stamp:
        names = "\n".join(shown)
        return Stamp(f"{names}\n{stamp_of(place.parent, [place.name]).text}")

    return StoredSource(
        name,
        tree.labels.class_names,
        tree.labels.ids,
        describe=shown.__getitem__,
        fetch=lambda index: read(image_files[index]),
        notes=(*tree.notes, *notes),
        stamp=stamp,
        head=lambda index, num: read(image_files[index], num),
        caption=tree.caption,
    )


def _decoded(info: zipfile.ZipInfo) -> str:
    """A member's name, in UTF-8 where it is that without saying so, as archives of macOS are."""
    if info.flag_bits & _IS_UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _plain(member: str) -> str:
    """A member's name with forward slashes, below the archive's top whatever it says."""
    parts = re.sub(r"^[A-Za-z]:", "", member.replace("\\", "/")).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))
