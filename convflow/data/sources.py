"""Where images come from: folders, archives, tables and arrays; digits, shapes, moving; yours.

Opening reads names and labels only; pixels wait until they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from convflow.data.class_ids import LABEL_SOURCES, Choice
from convflow.data.clips import VIDEO_ENDINGS, open_clips
from convflow.data.files import MAX_PIXELS, read_regular
from convflow.data.formats import is_image, unread
from convflow.data.hugging_face import open_hugging_face
from convflow.data.label_files import listed_files, read_listing
from convflow.data.latents import Latents, find_stores
from convflow.data.moving import DrawnMotions
from convflow.data.pixel_arrays import open_arrays
from convflow.data.shapes import DrawnShapes
from convflow.data.source import Source, StoredSource, one_line, require, stamp_of
from convflow.data.splits import canonical, choose_tables, require_unsplit, split_of
from convflow.data.tables import open_parquet
from convflow.data.tars import expand, open_tars
from convflow.data.timeline import Clips
from convflow.data.trees import understand
from convflow.data.video_files import FILM_ENDINGS
from convflow.data.walk import walk
from convflow.data.zips import open_zip
from convflow.hub import nearest
from convflow.settings.kinds import Table
from convflow.types import InputError, unknown_name

__all__ = ["Source", "open_source"]

EMBEDDED = ("digits", "shapes", "moving")
"""Data that come with the package."""

SOURCES: Table[Callable[[str, bool], Source]] = Table("source of images", Callable, {})  # type: ignore[arg-type]


def open_source(
    path: str,
    split: str = "train",
    *,
    labels: str = "auto",
    label_column: str = "",
    image_column: str = "",
    caption_column: str = "",
    max_pixels: int = MAX_PIXELS,
    draft: bool = False,
    clips: Clips | None = None,
) -> Source:
    """Images and labels from whatever `path` names.

    What was understood stands in the `notes` of the source: the split, where the labels come from,
    which files are not read.

    Args:
        path: `digits` (the 1,797 8x8 digits of scikit-learn); `shapes` (drawn at any size, see
            `convflow.data.shapes`); `moving` (videos, drawn likewise); a folder of class
            folders, with a file of labels
            (`dataset.json`, `metadata.csv`, `metadata.jsonl`), or flat (unconditional); a zip or
            tar of these; shards of WebDataset, as a folder or a pattern `x-{000..255}.tar`; a
            .csv, .tsv or .jsonl that names files; a parquet file or a folder of them; an .npz or
            .npy; `hf:` and a Hugging Face dataset's name, or the folder it was saved to; or
            `package.module:Name` of your own, see `find_source`; a store of latents, or a folder of
            them, see `convflow.data.store`.
        split: Which part, where the data has parts (`train`, `validation`, `test`, `unlabeled`);
            `all` merges all but the unlabeled one. Data without parts counts as `train`.
        labels: `auto` takes a file or a column of labels, else class folders; `folders`, `table`
            and `names` (`cat_0.png`) ask for one kind; `none` is unconditional. With `folders`
            those are classes too that are called like splits beside others that are not.
        label_column: The column of labels in a table; empty to find it.
        image_column: The column of images, or of file names; empty to find it.
        caption_column: The column of captions in a table; empty to find it.
        max_pixels: An image of more pixels cannot be read, and is refused before it is decoded.
        draft: Decode JPEGs at 1/2, 1/4 or 1/8 of their size where that is large enough.
        clips: How clips are taken from videos, which files and folders then hold; None for images.

    Raises:
        InputError: Nothing usable is there; the message says what was expected.
    """
    choice = Choice(labels, label_column, image_column, caption_column)
    if clips is not None and _holds_videos(path):
        return open_clips(path, clips, split, choice, max_pixels)
    source = _open(path, split, labels, choice)
    if isinstance(source, StoredSource):
        source.max_pixels, source.draft = max_pixels, draft
    return source


def _holds_videos(path: str) -> bool:
    """Whether a path is that of a folder or file whose videos are to be read."""
    place = Path(path).expanduser()
    if path in EMBEDDED or find_source(path) or path.startswith("hf:") or find_stores(place):
        return False
    if place.is_file() and not place.name.lower().endswith(VIDEO_ENDINGS):
        raise InputError(
            f"expected a folder of videos, or a video ({' '.join(VIDEO_ENDINGS)}), got {path}; "
            "unpack it and give the folder"
        )
    return place.exists()


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
    if make is not None or path in EMBEDDED:
        if choice != Choice() and choice != Choice("none"):
            raise InputError(
                f"expected no choice of labels or columns with {path}, got one; leave it out"
            )
        if make is not None:
            return _open_users(path, make, split, labels)
        if path in ("shapes", "moving"):
            return (DrawnShapes if path == "shapes" else DrawnMotions)(split, labels != "none")
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
        if shards := expand(place):
            return open_tars(path, shards, choice, split=split, own=split_of(place.name))
        near = nearest(place, EMBEDDED)
        hint = f"did you mean {near}?" if near else "check the path"
        raise InputError(f"expected data at {path}, got no such file or folder; {hint}")
    if not place.is_file():
        raise InputError(f"expected a folder or a regular file, got {path}; give another place")
    ending, own = place.suffix.lower(), split_of(place.name)
    if ending == ".parquet":
        return open_parquet(path, [place], choice, split=split, own=own)
    if ending == ".tar":
        return open_tars(path, [place], choice, split=split, own=own)
    if ending == ".zip":
        return open_zip(path, place, split, choice)
    if ending in (".npz", ".npy"):
        return open_arrays(path, place, split, choice)
    if ending in (".csv", ".tsv", ".jsonl"):
        return _open_folder(path, place.parent, split, choice, place.name)
    if ending in FILM_ENDINGS:
        raise InputError(
            f"expected images, got the video {path}; for clips of it give a size of three sides, "
            "such as 16x64x64 (frames x height x width)"
        )
    raise InputError(
        f"expected a folder, a .zip, .tar, .parquet, .npz, .npy, .csv or .jsonl file, got the file "
        f"{path}; put images into a folder and give the folder"
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


def _open_folder(
    name: str, folder: Path, split: str, choice: Choice, table: str = ""
) -> StoredSource:
    """Images of a folder; those alone that a table in it names, if there is one."""

    def read(file: str, first: int | None = None) -> bytes:
        return read_regular(f"{folder}/{file}", first=first)

    notes: tuple[str, ...] = ()
    if table:
        files = listed_files(table, read, choice, str(folder.absolute()))
    else:
        files, notes = walk(folder)
    if not any(map(is_image, files)):
        for ending, open_files in ((".parquet", open_parquet), (".tar", open_tars)):
            tables = [file for file in sorted(files) if file.lower().endswith(ending)]
            if not tables:
                continue
            chosen, said = choose_tables(tables, name, split)
            left = unread(file for file in files if file not in tables)
            paths = [folder / file for file in chosen]
            own = canonical(split) if said else None
            return open_files(name, paths, choice, (*said, *left, *notes), split=split, own=own)
        if {"state.json", "dataset_dict.json"} & set(files):
            raise InputError(
                f"expected images in {name}, got a saved Hugging Face dataset; write hf:{name}"
            )

        if any(file.lower().endswith(FILM_ENDINGS) for file in files):
            raise InputError(
                f"expected images in {name}, got videos; for clips of them give a size of three "
                "sides, such as 16x64x64 (frames x height x width)"
            )
    listing = read_listing(table, read, choice) if table else None
    tree = understand(name, files, split, choice, read, listing)
    image_files, place = tree.part.files, folder.resolve()
    return StoredSource(
        name,
        tree.labels.class_names,
        tree.labels.ids,
        describe=image_files.__getitem__,
        fetch=lambda index: read(image_files[index]),
        notes=(*tree.notes, *notes),
        stamp=lambda: stamp_of(place, image_files),
        head=lambda index, num: read(image_files[index], num),
        caption=tree.caption,
    )
