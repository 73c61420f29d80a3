"""What is said of images: a column of text in a table, or a .txt or .json beside each image."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from convflow.class_names import composed
from convflow.data.class_ids import choose_column, plain_column
from convflow.types import InputError

CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "prompt", "prompts", "description")
"""What columns of captions are called, in small letters; the first that is there counts."""

Say = Callable[[int], str]
"""From the index of an image to its caption; empty where nothing is said."""


class Captions(NamedTuple):
    """The captions of images."""

    say: Say
    note: str
    """A sentence about where they come from."""
    files: frozenset[str] = frozenset()
    """Files that hold nothing else."""


def find_caption_column(
    columns: Sequence[str], wanted: str, where: str, texts: Collection[str] | None = None
) -> str | None:
    """Return the column of captions: the wanted one, or the one that is called so, if any.

    Args:
        columns: Those that may be asked for.
        wanted: By the user; empty to find it.
        where: What they are columns of, for the message.
        texts: Those that hold text; None where that shows in the cells.

    Raises:
        InputError: There is no such column, or it holds no text.
    """
    if wanted:
        column = choose_column("caption", columns, wanted, where)
        if texts is not None and column not in texts:
            raise InputError(
                f"caption-column: expected a column of text, got {column}; {where} has text in "
                f"{', '.join(texts) or 'no column'}"
            )
        return column
    named = {plain_column(name): name for name in reversed(columns)}
    found = (named[name] for name in CAPTION_COLUMNS if name in named)
    return next((name for name in found if texts is None or name in texts), None)


def caption_text(value: Any) -> str:
    """Return a cell as a caption of one line: several one a line, nothing for what is no text."""
    if isinstance(value, (list, tuple)):
        return "\n".join(filter(None, map(caption_text, value)))
    return " ".join(value.split()) if isinstance(value, str) else ""


def is_caption(value: Any) -> bool:
    """Return whether a cell may be a caption: text, several texts, or nothing."""
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, str) for each in value)
    return value is None or isinstance(value, str)


def captions_of(source: Any) -> Say | None:
    """Return what gives the captions of a source of images; None where it has none."""
    return getattr(source, "caption", None)


def by_path(folders: Mapping[str, Mapping[str, str]], image_files: Sequence[str]) -> Say:
    """Return captions by the files of labels, each from the nearest folder above its image.

    Args:
        folders: Captions by path in Unicode's form NFC, by the folder of the file that has them.
        image_files: By index.
    """

    def say(index: int) -> str:
        file = composed(image_files[index])
        folder = file.rpartition("/")[0]
        while folder and file not in folders.get(folder, {}):
            folder = folder.rpartition("/")[0]
        return folders.get(folder, {}).get(file, "")

    return say


def captions_beside(
    files: Collection[str], image_files: Sequence[str], read: Callable[[str], bytes], wanted: str
) -> Captions | None:
    """Return captions from a .txt or .json beside each image, read when they are asked for.

    Where both lie there, the .txt counts, unless it is empty.

    Args:
        files: Paths of all files.
        image_files: Paths of the images that are used.
        read: Path to bytes.
        wanted: The key of a .json; empty for a .txt, or else the key that is called so.
    """
    known = {file for file in files if file.lower().endswith((".txt", ".json"))}
    if not known:
        return None

    def beside(image_file: str, ending: str) -> str | None:
        folder, slash, name = image_file.rpartition("/")
        stems = (name.rpartition(".")[0], name.partition(".")[0])  # x.jpg.txt is not usual
        found = (f"{folder}{slash}{stem}{ending}" for stem in stems)
        return next((file for file in found if file in known), None)

    def entries(file: str | None) -> dict[str, Any]:
        with suppress(ValueError, RecursionError):
            tree = json.loads(read(file)) if file else {}
            return tree if isinstance(tree, dict) else {}
        return {}

    texts = [] if wanted else [file for each in image_files if (file := beside(each, ".txt"))]
    first = next(filter(None, (beside(each, ".json") for each in image_files)), None)
    keys = [key for key, value in entries(first).items() if is_caption(value)]
    wrong = first is None or (wanted and wanted not in keys)
    key = None if wrong else find_caption_column(keys, wanted, str(first))
    origins = [f"{texts[0]} and other .txt files"] if texts else []
    origins += [] if key is None else [f"`{key}` of {first} and other .json files"]
    if not origins:
        return None

    def say(index: int) -> str:
        file = beside(image_files[index], ".txt") if texts else None
        text = read(file).decode("utf-8", "replace").strip() if file else ""
        if text or key is None:
            return text
        return caption_text(entries(beside(image_files[index], ".json")).get(key))

    return Captions(say, f"captions from {', or else from '.join(origins)}", frozenset(texts))
