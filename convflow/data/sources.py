"""Where pictures come from: a folder, a zip, parquet files, a Hugging Face dataset; digits, shapes.

Opening reads names and labels only; pixels wait until they are asked for.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convflow.data.files import MAX_PIXELS, read_member, read_regular
from convflow.data.pictures import (
    SPLITS,
    Pictures,
    Source,
    in_split,
    natural_key,
    one_line,
    require,
    require_whole,
    split_of,
    stamp_of,
)
from convflow.data.shapes import DrawnShapes
from convflow.data.tables import open_hugging_face, open_parquet
from convflow.types import InputError

__all__ = ["EXTENSIONS", "Source", "open_source"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def open_source(path: str, *, split: str = "train", max_pixels: int = MAX_PIXELS) -> Source:
    """Pictures and labels from whatever `path` names.

    Args:
        path: `digits` (the 1,797 8x8 digits of scikit-learn); `shapes` (drawn at any size, see
            `convflow.data.shapes`); a folder of class folders; a flat folder (unconditional); a
            zip of either; a parquet file or a folder of them; `hf:` and a Hugging Face dataset's
            name, or the folder it was saved to.
        split: Which part, where the data has parts (`train`, `validation`, `test`). Data without
            parts counts as `train`.
        max_pixels: A picture of more pixels cannot be read, and is refused before it is decoded.

    Raises:
        InputError: Nothing usable is there; the message says what was expected.
    """
    source = _open(path, split)
    if isinstance(source, Pictures):
        source.max_pixels = max_pixels
    return source


def _open(path: str, split: str) -> Source:
    if not path:
        raise InputError("expected a path to pictures, got an empty one; 'shapes' always works")
    if path == "digits":
        require_whole(split, path)
        return _open_digits()
    if path == "shapes":
        return DrawnShapes(split)
    if path.startswith("hf:"):
        return open_hugging_face(path, split)
    place = Path(path).expanduser()
    if place.is_dir():
        return _open_folder(path, place, split)
    if not place.exists():
        raise InputError(f"expected data at {path}, got no such file or folder{_suggest(place)}")
    if place.suffix.lower() == ".parquet":
        require_whole(split, path, split_of(place.name))
        return open_parquet(path, [place])
    if place.suffix.lower() == ".zip":
        return _open_zip(path, place, split)
    raise InputError(
        f"expected a folder, a .zip or a .parquet file, got the file {path}; "
        "put pictures into a folder and give the folder"
    )


def _open_digits() -> Pictures:
    table = require("sklearn.datasets", "digits", "the digits").load_digits()
    levels = np.rint(table.images * (255 / 16)).astype(np.uint8)
    return Pictures(
        name="digits",
        class_names=tuple("0123456789"),
        labels=table.target.astype(np.int64),
        describe=lambda index: f"digit {index}",
        fetch=lambda index: Image.fromarray(levels[index]),
    )


def _open_folder(name: str, folder: Path, split: str) -> Pictures:
    files = list(_walk(folder))
    if not any(map(_is_picture, files)):
        tables = [file for file in sorted(files) if file.lower().endswith(".parquet")]
        if tables:
            return open_parquet(name, [folder / file for file in in_split(tables, name, split)])
        if {"state.json", "dataset_dict.json"} & set(files):
            raise InputError(
                f"expected pictures in {name}, got a saved Hugging Face dataset; write hf:{name}"
            )

    def read(file: str) -> bytes:
        return read_regular(folder / file)

    return _from_files(name, files, split, read, folder.resolve())


def _open_zip(name: str, path: Path, split: str) -> Pictures:
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"expected a zip archive, got {name}: {one_line(error)}") from error
    files = [file for file in files if not re.search(r"(^|/)\.|^__MACOSX/", file)]
    # Zipping a folder puts the folder's own name before everything; that name is no class.
    tops = set(map(_top, files))
    root = f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""
    local = threading.local()

    def read(file: str) -> bytes:
        # A handle's position is shared by threads and by forked processes: one for each.
        if getattr(local, "process", None) != os.getpid():
            local.process, local.archive = os.getpid(), zipfile.ZipFile(path)
        return read_member(local.archive, root + file)

    inside = [file.removeprefix(root) for file in files]
    return _from_files(name, inside, split, read, path.resolve())


def _from_files(
    name: str, files: Sequence[str], split: str, read: Callable[[str], bytes], place: Path
) -> Pictures:
    """Pictures and labels of files in the folder or archive `place`."""
    pictures = sorted(file for file in files if _is_picture(file))
    num_ignored = len(files) - len(pictures)
    if not pictures:
        raise InputError(
            f"expected pictures ({' '.join(EXTENSIONS)}) in {name}, got none among "
            f"{len(files)} files; give a folder of pictures or of class folders"
        )
    tops, start = set(map(_top, pictures)), 0
    if {top.lower() for top in tops} <= SPLITS.keys():
        part = in_split(sorted(tops), name, split)[0] + "/"
        pictures, start = [file for file in pictures if file.startswith(part)], len(part)
        tops = {_top(file[start:]) for file in pictures}
    else:
        require_whole(split, name)
    if "" in tops and len(tops) > 1:
        loose = sum(_top(file[start:]) == "" for file in pictures)
        raise InputError(
            f"expected class folders or loose pictures in {name}, got {len(tops) - 1} folders "
            f"with pictures beside {loose} loose pictures; move those into a class folder, or all "
            "pictures into one folder"
        )
    class_names = tuple(sorted(tops - {""}, key=natural_key))
    ids = {top: number for number, top in enumerate(class_names or ("",))}
    labels = np.array([ids[_top(file[start:])] for file in pictures], np.int64)

    def stamp() -> str:
        if place.is_dir():
            return stamp_of(place, pictures)
        return stamp_of(place.parent, [place.name])

    return Pictures(
        name,
        class_names,
        labels,
        describe=pictures.__getitem__,
        fetch=lambda index: read(pictures[index]),
        num_ignored=num_ignored,
        stamp=stamp,
    )


def _walk(folder: Path) -> Iterator[str]:
    """Names of all files below, relative, with forward slashes, without hidden ones."""

    def stop(error: OSError) -> None:
        raise InputError(f"expected a readable folder, got {one_line(error)}") from error

    for here, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        # A link to a folder above itself would be walked for ever.
        folders[:] = [
            inner
            for inner in folders
            if not inner.startswith(".")
            and not Path(here).resolve().is_relative_to((Path(here) / inner).resolve())
        ]
        prefix = Path(here).relative_to(folder).as_posix() + "/"
        yield from (prefix.removeprefix("./") + file for file in files if file[0] != ".")


def _top(file: str) -> str:
    """First folder of a path; empty for a loose file."""
    return file.rpartition("/")[0].partition("/")[0]


def _is_picture(file: str) -> bool:
    return file.lower().endswith(EXTENSIONS)


def _suggest(place: Path) -> str:
    """The nearest name that does exist, as the end of a message."""
    missing = place
    while not missing.parent.exists():
        missing = missing.parent
    readable = missing.parent.is_dir() and os.access(missing.parent, os.R_OK)
    others = missing.parent.iterdir() if readable else ()
    near = {path.name: str(path) for path in others if not path.name.startswith(".")}
    if len(place.parts) == 1:
        near |= {"digits": "digits", "shapes": "shapes"}
    match = difflib.get_close_matches(missing.name, near, n=1)
    return f"; did you mean {near[match[0]]}?" if match else ""
