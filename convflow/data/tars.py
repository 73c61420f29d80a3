"""Images in tars: a folder that was packed, or shards in the layout of WebDataset.

Tars are read as the folder that they would unpack to, so that the order of training is that of the
folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from convflow.data.class_ids import AUTO, Choice
from convflow.data.files import MAX_BYTES
from convflow.data.formats import is_image
from convflow.data.label_files import Listing, listing_of
from convflow.data.source import Stamp, StoredSource, stamp_of
from convflow.data.splits import require_unsplit, some
from convflow.data.tar_index import key_of, read_index, read_part
from convflow.data.trees import Tree, understand
from convflow.types import InputError

_MOST_SHARDS = 100_000


def expand(pattern: Path) -> list[Path]:
    """Return the tars that a pattern such as `train-{000..255}.tar` names; none where it is none.

    Raises:
        InputError: One of them is missing, or there are too many.
    """
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", str(pattern))
    if len(parts) < 4 or not parts[-1].lower().endswith(".tar"):
        return []
    spans = [range(int(a), int(b) + 1) for a, b in zip(parts[1::3], parts[2::3], strict=True)]
    if not 0 < np.prod([float(len(span)) for span in spans]) <= _MOST_SHARDS:
        raise InputError(f"expected 1 to {_MOST_SHARDS:,} tars, got {pattern}; check the numbers")
    found = []
    for numbers in product(*spans):
        words = [f"{n:0{len(low)}}" for n, low in zip(numbers, parts[1::3], strict=True)]
        pieces = zip(parts[::3], [*words, ""], strict=True)
        found.append(Path("".join(text for pair in pieces for text in pair)))
    _require(found, str(pattern))
    return found


def open_tars(
    name: str,
    files: Sequence[Path],
    choice: Choice = AUTO,
    notes: tuple[str, ...] = (),
    *,
    split: str = "train",
    own: str | None = None,
) -> StoredSource:
    """Return the images and labels of tars.

    Labels come from class folders or a file of labels, as in a folder, or from a .cls or .json
    beside each image. Where names of images come back in several tars, the tars are folders.

    Args:
        name: What the user gave.
        files: The tars.
        choice: What the user says about labels; `image_column` is the ending of the images.
        notes: Sentences about the choice of the files.
        split: Which part.
        own: The part that their names say.

    Raises:
        InputError: A tar is damaged, missing among its neighbours or of another set; no images, or
            labels that cannot be used.
    """
    if own is not None:
        require_unsplit(split, name, own)
    places, known = _merge(name, files, choice)
    tree = _tree(name, files, places, known, choice, split, own is not None)
    chosen, folder = tree.part.files, files[0].resolve().parent
    found = np.array([places[file] for file in chosen], np.int64)

    def fetch(index: int, first: int = MAX_BYTES) -> bytes:
        number, start, length = found[index].tolist()
        return read_part(files[number], start, length, first)

    paths = [os.path.relpath(file.resolve(), folder) for file in files]
    return StoredSource(
        name,
        tree.labels.class_names,
        tree.labels.ids,
        chosen.__getitem__,
        fetch,
        (*notes, *tree.notes),
        lambda: Stamp(stamp_of(folder, paths).text),
        head=fetch,
        caption=tree.caption,
    )


def _tree(
    name: str,
    files: Sequence[Path],
    places: dict[str, tuple[int, int, int]],
    known: dict[str, dict[str, Any]],
    choice: Choice,
    split: str,
    chosen: bool,
) -> Tree:
    """What is known of the images in tars; arguments as of `open_tars` and from `_merge`."""
    image_files = _choose_ending(name, [file for file in places if is_image(file)], choice)
    choice = choice._replace(image_column="")
    others = [file for file in places if not is_image(file)]
    silent = [file for file in others if key_of(file) in known]
    listing = _listing(name, image_files, known, choice)

    def read(file: str) -> bytes:
        number, start, length = places[file]
        return read_part(files[number], start, length)

    every = [*others, *image_files]
    return understand(name, every, split, choice, read, listing, chosen, silent)


def _merge(
    name: str, files: Sequence[Path], choice: Choice
) -> tuple[dict[str, tuple[int, int, int]], dict[str, dict[str, Any]]]:
    """Number of the tar, start and length of each file; and what is said beside images, by key."""
    shards = _check_set(name, files)
    indices = [read_index(file, choice.label_column) for file in files]
    counts = Counter(file for index in indices for file in index.names)
    twice = next((file for file, count in counts.items() if count > 1), None)
    loose = not shards and not any("/" in file for file in counts)  # each tar is a class
    if twice and not loose and choice.source != "none" and not any(i.notes for i in indices):
        raise InputError(
            f"expected a .cls or .json beside the images of {name}, or names that come once, got "
            f"{twice} in two tars; pass --data.labels none for no classes"
        )
    places, known = dict[str, tuple[int, int, int]](), dict[str, dict[str, Any]]()
    for number, (file, index) in enumerate(zip(files, indices, strict=True)):
        above = f"{file.stem}/" if loose or twice else ""
        for member, (start, length) in zip(index.names, index.places.tolist(), strict=True):
            places[above + member] = number, start, length
        known |= {above + key: note for key, note in index.notes.items()}
    return places, known


def _listing(
    name: str, image_files: Sequence[str], known: dict[str, dict[str, Any]], choice: Choice
) -> Listing | None:
    """What is said beside the images, None where nothing is."""
    if not known or choice.source not in ("auto", "table"):
        return None
    rows = [{"file_name": file, **known.get(key_of(file), {})} for file in image_files]
    choice = choice._replace(caption_column="")  # captions are longer than what the index keeps
    return listing_of(Path(name).name, rows, choice, choice.source == "table")


def _choose_ending(name: str, image_files: list[str], choice: Choice) -> list[str]:
    """One image for each name without an ending."""
    endings = {file: file.removeprefix(key_of(file)).lstrip(".") for file in image_files}
    if choice.image_column:
        wanted = choice.image_column.lstrip(".")
        found = [file for file in image_files if endings.get(file) == wanted]
        if not found:
            kinds = sorted(set(endings.values()))
            raise InputError(
                f"image-column: expected an ending of the images of {name}, got {wanted}; choose "
                f"from {some(kinds, 8)}"
            )
        return found
    if len({*map(key_of, image_files)}) < len(image_files):
        kinds = [ending for ending, _ in Counter(endings.values()).most_common()]
        raise InputError(
            f"expected one image for each name in {name}, got several, with the endings "
            f"{some(kinds, 8)}; choose one with --data.image-column {kinds[0]}"
        )
    return image_files


def _check_set(name: str, files: Sequence[Path]) -> bool:
    """Return whether tars are numbered shards, or one; such are refused unless they are whole.

    Raises:
        InputError: A number is missing between others, or there are several sets.
    """
    if len(files) == 1 or "{" in name:
        return True
    sets: dict[tuple[str, str, int], list[int]] = {}
    for file in files:
        match = re.fullmatch(r"(.*?)(\d+)((?:-of-\d+)?\D*)", str(file.with_suffix("")))
        if match is None:
            return False
        sets.setdefault((match[1], match[3], len(match[2])), []).append(int(match[2]))
    dense = all(max(each) - min(each) < 2 * len(each) for each in sets.values())
    if not dense or len(sets) == len(files):
        return False
    if len(sets) > 1:
        firsts = [f"{Path(f).name}{min(n):0{w}}{b}.tar" for (f, b, w), n in sets.items()]
        raise InputError(
            f"expected tars of one set in {name}, got {some(firsts)}; move those of another set "
            "away, or name the tars, such as x-{000..123}.tar"
        )
    ((front, back, width), numbers), *_ = sets.items()
    total = re.match(r"-of-(\d+)", back)
    whole = range(int(total[1])) if total else range(min(numbers), max(numbers) + 1)
    _require([Path(f"{front}{number:0{width}}{back}.tar") for number in whole], name)
    return True


def _require(tars: Sequence[Path], name: str) -> None:
    missing = [tar.name for tar in tars if not tar.is_file()]
    if missing:
        more = f" ({len(missing):,} are missing)" if len(missing) > 1 else ""
        raise InputError(
            f"expected {len(tars):,} tars as {name}, got none called {some(missing)}{more}; copy "
            "them again, or name those that are there, such as x-{000..123}.tar"
        )
