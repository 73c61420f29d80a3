"""Where images come from: a folder, zip, parquet, Hugging Face dataset; digits, shapes; yours.

Opening reads names and labels only; pixels wait until they are asked for.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convflow.data.class_ids import (
    LABEL_SOURCES,
    Choice,
    LabelSet,
    from_folders,
    from_names,
    offer_names,
    unconditional,
)
from convflow.data.files import MAX_PIXELS, read_member, read_regular
from convflow.data.formats import decoders, is_image, unread
from convflow.data.hugging_face import open_hugging_face
from convflow.data.label_files import (
    choose_listed,
    from_listings,
    is_label_file,
    read_listings,
    sentences,
)
from convflow.data.latents import Latents, find_stores
from convflow.data.shapes import DrawnShapes
from convflow.data.source import Source, StoredSource, one_line, require, stamp_of
from convflow.data.splits import (
    SplitFiles,
    canonical,
    choose_part,
    choose_tables,
    require_unsplit,
    split_of,
)
from convflow.data.tables import open_parquet
from convflow.data.walk import is_hidden, say_empty, walk
from convflow.hub import nearest
from convflow.settings.kinds import Table
from convflow.types import InputError, unknown_name

__all__ = ["Source", "open_source"]

SOURCES: Table[Callable[[str, bool], Source]] = Table("source of images", Callable, {})  # type: ignore[arg-type]

_IS_UTF8 = 0x800  # a flag of a zip's member: so is its name


def open_source(
    path: str,
    split: str = "train",
    *,
    labels: str = "auto",
    label_column: str = "",
    image_column: str = "",
    max_pixels: int = MAX_PIXELS,
) -> Source:
    """Images and labels from whatever `path` names.

    What was understood stands in the `notes` of the source: the split, where the labels come from,
    which files are not read.

    Args:
        path: `digits` (the 1,797 8x8 digits of scikit-learn); `shapes` (drawn at any size, see
            `convflow.data.shapes`); a store of latents, or a folder of them, see
            `convflow.data.store`; a folder of class folders, with a file of labels
            (`dataset.json`, `metadata.csv`, `metadata.jsonl`), or flat (unconditional); a zip of
            these; a parquet file or a folder of them; `hf:` and a Hugging Face dataset's name, or
            the folder it was saved to; or `package.module:Name` of your own, see `find_source`.
        split: Which part, where the data has parts (`train`, `validation`, `test`, `unlabeled`);
            `all` merges all but the unlabeled one. Data without parts counts as `train`.
        labels: `auto` takes a file or a column of labels, else class folders; `folders`, `table`
            and `names` (`cat_0.png`) ask for one kind; `none` is unconditional. With `folders`
            those are classes too that are called like splits beside others that are not.
        label_column: The column of labels in a table; empty to find it.
        image_column: The column of images, or of file names; empty to find it.
        max_pixels: An image of more pixels cannot be read, and is refused before it is decoded.

    Raises:
        InputError: Nothing usable is there; the message says what was expected.
    """
    source = _open(path, split, labels, Choice(labels, label_column, image_column))
    if isinstance(source, StoredSource):
        source.max_pixels = max_pixels
    return source


def find_source(path: str, *, trusted: bool = True) -> Callable[[str, bool], Source] | None:
    """Return what makes a user's own source, None where the path names something else.

    Args:
        path: `package.module:Name` of a class or function; it takes the split, and whether the
            images are to have labels, and returns a `Source`.
        trusted: whether the module may be imported, and anything be called; not by a name that a
            file holds, which must be that of a class derived from `Source`.

    Raises:
        InputError: no such module or name, or nothing that can be called.
    """
    named = re.fullmatch(r"(?!hf:)[^\W\d][\w.]*:[^\W\d]\w*", path)
    if not named or Path(path).exists():
        return None
    found = SOURCES.find(path, trusted=trusted)
    if not trusted and Source not in getattr(found, "__mro__", ()):
        raise InputError(
            f"expected a class derived from convflow.data.sources:Source, for a file names it, got "
            f"{path}; derive it, or give --data {path} yourself"
        )
    return found


def _open_users(path: str, make: Callable[[str, bool], Source], split: str, labels: str) -> Source:
    try:
        source = make(split, labels != "none")
    except InputError:
        raise
    except Exception as error:  # whatever the code of a user raises
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"expected a source of images of {path}, got {reason}") from error
    if not isinstance(source, Source):
        raise InputError(
            f"expected {path} to make a source of images (name, class_names, len, label, "
            f"item_name, read), got {type(source).__name__}; add what it lacks"
        )
    return source


def _open(path: str, split: str, labels: str, choice: Choice) -> Source:
    if not path:
        raise InputError("expected a path to images, got an empty one; 'shapes' always works")
    if labels not in LABEL_SOURCES:
        raise InputError(f"--data.labels: {unknown_name('kind of labels', labels, LABEL_SOURCES)}")
    make = find_source(path)
    if make is not None or path in ("digits", "shapes"):
        if choice != Choice() and choice != Choice("none"):
            raise InputError(
                f"expected no choice of labels or columns with {path}, got one; leave it out"
            )
        if make is not None:
            return _open_users(path, make, split, labels)
        if path == "shapes":
            return DrawnShapes(split, labels != "none")
        require_unsplit(split, path)
        return _open_digits(labels != "none")
    if path.startswith("hf:"):
        return open_hugging_face(path, split, choice)
    place = Path(path).expanduser()
    if stores := find_stores(place):
        require_unsplit(split, path)
        if choice != Choice():
            raise InputError(f"expected no choice of labels or columns with the store {path}")
        return Latents(path, stores)
    if place.is_dir():
        return _open_folder(path, place, split, choice)
    if not place.exists():
        near = nearest(place, ("digits", "shapes"))
        hint = f"did you mean {near}?" if near else "check the path"
        raise InputError(f"expected data at {path}, got no such file or folder; {hint}")
    if not place.is_file():
        raise InputError(f"expected a folder or a regular file, got {path}; give another place")
    if place.suffix.lower() == ".parquet":
        return open_parquet(path, [place], choice, split=split, own=split_of(place.name))
    if place.suffix.lower() == ".zip":
        return _open_zip(path, place, split, choice)
    raise InputError(
        f"expected a folder, a .zip or a .parquet file, got the file {path}; "
        "put images into a folder and give the folder"
    )


def _open_digits(labelled: bool) -> StoredSource:
    table = require("sklearn.datasets", "digits", "the digits").load_digits()
    levels = np.rint(table.images * (255 / 16)).astype(np.uint8)
    return StoredSource(
        name="digits",
        class_names=tuple("0123456789") if labelled else (),
        labels=table.target.astype(np.int64) * labelled,
        describe=lambda index: f"digit {index}",
        fetch=lambda index: Image.fromarray(levels[index]),
    )


def _open_folder(name: str, folder: Path, split: str, choice: Choice) -> StoredSource:
    files, notes = walk(folder)
    if not any(map(is_image, files)):
        tables = [file for file in sorted(files) if file.lower().endswith(".parquet")]
        if tables:
            chosen, said = choose_tables(tables, name, split)
            left = unread(file for file in files if file not in tables)
            paths = [folder / file for file in chosen]
            own = canonical(split) if said else None
            return open_parquet(name, paths, choice, (*said, *left, *notes), split=split, own=own)
        if {"state.json", "dataset_dict.json"} & set(files):
            raise InputError(
                f"expected images in {name}, got a saved Hugging Face dataset; write hf:{name}"
            )

    def read(file: str) -> bytes:
        return read_regular(folder / file)

    part, labels, said = _understand(name, files, split, choice, read)
    image_files, place = part.files, folder.resolve()

    def stamp() -> str:
        return stamp_of(place, image_files)

    return StoredSource(
        name,
        labels.class_names,
        labels.ids,
        describe=image_files.__getitem__,
        fetch=lambda index: read(image_files[index]),
        notes=(*said, *notes),
        stamp=stamp,
    )


def _open_zip(name: str, path: Path, split: str, choice: Choice) -> StoredSource:
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

    def read(file: str) -> bytes:
        # A handle's position is shared by threads and by forked processes: one for each.
        if getattr(local, "process", None) != os.getpid():
            local.process, local.archive = os.getpid(), zipfile.ZipFile(path)
        return read_member(local.archive, members[file])

    part, labels, said = _understand(name, list(members), split, choice, read)
    image_files = part.files
    shown = [file.removeprefix(root) for file in image_files]
    place = path.resolve()

    def stamp() -> str:
        names = "\n".join(shown)
        return f"{names}\n{stamp_of(place.parent, [place.name])}"

    return StoredSource(
        name,
        labels.class_names,
        labels.ids,
        describe=shown.__getitem__,
        fetch=lambda index: read(image_files[index]),
        notes=(*said, *notes),
        stamp=stamp,
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


def _understand(
    name: str, files: Sequence[str], split: str, choice: Choice, read: Callable[[str], bytes]
) -> tuple[SplitFiles, LabelSet, tuple[str, ...]]:
    """Which of the files are images of the split, their labels, and what is said about it."""
    image_files = sorted(file for file in files if is_image(file))
    if not image_files:
        said = "".join(f": {sentence}" for sentence in unread(files)[:1])
        raise InputError(
            f"expected images ({' '.join(decoders())}) in {name}, got none among "
            f"{len(files)} files{said}; give a folder of images or of class folders"
        )
    listings = read_listings(files, image_files, read, choice._replace(source="none"))
    listed = choose_listed(listings, image_files, name, split)
    if listed is not None:
        image_files = listed[0]
    part = choose_part(image_files, name, split, choice.source, chosen=listed is not None)
    part = part._replace(notes=(*(listed[1] if listed else ()), *part.notes))
    labels = _labels(name, files, part, choice, read)
    tables = choice.source in ("auto", "table")
    left = [f for f in files if not is_image(f) and not (tables and is_label_file(f))]
    return part, labels, (*part.notes, *labels.notes, *unread(left))


def _labels(
    name: str, files: Sequence[str], part: SplitFiles, choice: Choice, read: Callable[[str], bytes]
) -> LabelSet:
    """Labels from where the user says, or from a file of labels, or else from folders."""
    if choice.source in ("auto", "table"):
        guess = choice.source == "table" or not any(part.folders)
        listings = read_listings(files, part.files, read, choice, guess)
        found = from_listings(listings, part.files, files, name)
        if found is not None:
            return found
        said = sentences(listings)
        if choice.source == "table" or choice.label_column or choice.image_column:
            got = "; ".join(said) or "none"
            raise InputError(
                f"expected a file with labels (dataset.json, metadata.csv or metadata.jsonl) in "
                f"{name}, got {got}; add one, or leave --data.labels and the columns out"
            )
        found = from_folders(part.folders, name)
        offered = () if found.class_names else offer_names(part.files)
        return found._replace(notes=(*found.notes, *offered, *said))
    if choice.label_column or choice.image_column:
        raise InputError(
            f"expected a table for the column {choice.label_column or choice.image_column}, got "
            f"the images of {name} without one (labels: {choice.source}); leave the column out"
        )
    if choice.source == "folders":
        return from_folders(part.folders, name)
    if choice.source == "names":
        return from_names(part.files, name)
    return unconditional(len(part.files), "as --data.labels none says")
