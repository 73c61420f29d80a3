"""Images that lie decoded in one array: .npy files, and .npz files as the ADM suite writes them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from convflow.arrays import list_arrays, map_array, map_npy
from convflow.data.captions import find_caption_column
from convflow.data.class_ids import (
    AUTO,
    Choice,
    LabelSet,
    choose_column,
    from_values,
    not_used,
    unconditional,
)
from convflow.data.source import Stamp, StoredSource, stamp_of
from convflow.data.splits import require_unsplit, split_of
from convflow.types import InputError

IMAGE_ARRAYS = ("arr_0", "images", "image", "x", "data")
LABEL_ARRAYS = ("arr_1", "labels", "label", "y")
"""Arrays that are taken where nobody names one, the first that is there."""

_MOST_UNPACKED = 2**30  # bytes of a compressed array, which is held in memory whole


def open_arrays(name: str, path: Path, split: str, choice: Choice = AUTO) -> StoredSource:
    """Return the images and labels of an .npz, or the images of an .npy; the files are mapped.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) uint8 of 1 or 3 channels C, labels (N,) class
    ids or text.

    Raises:
        InputError: A damaged file, no such arrays, or others than these.
    """
    require_unsplit(split, name, split_of(path.name))
    if path.suffix.lower() == ".npy":
        if choice[1:] != AUTO[1:] or choice.source not in ("auto", "none"):
            raise InputError(
                f"expected no choice of labels or columns with {name}, one array, got one; leave "
                "it out, or save images and labels as an .npz"
            )
        names, image, pixels = list[str](), "", map_npy(path)
    else:
        names = list(list_arrays(path))
        image = _choose("image", names, choice.image_column, IMAGE_ARRAYS, name)
        pixels = _array(path, image)
    pixels = _images(pixels, f"{name} {image}".strip())
    labels, label = _labels(name, path, names, choice, len(pixels))
    texts = [each for each in names if each not in (image, label)]
    told = find_caption_column(texts, choice.caption_column, name)
    captions = None if told is None else _texts(name, path, told, len(pixels), choice)
    told = None if captions is None else told
    notes = (*labels.notes, *([f"captions from array `{told}`"] if told else []))
    return StoredSource(
        name,
        labels.class_names,
        labels.ids,
        f"{path.name} image {{}}".format,
        lambda index: Image.fromarray(np.ascontiguousarray(pixels[index])),
        (*notes, *not_used(names, image, label, told)),
        lambda: Stamp(stamp_of(path.resolve().parent, [path.name]).text),
        caption=None if captions is None else lambda index: str(captions[index]),
    )


def _texts(name: str, path: Path, told: str, count: int, choice: Choice) -> np.ndarray | None:
    """Captions (N,) of an array of text; None where it is something else that nobody asked for."""
    values = _array(path, told)
    if values.shape != (count,) or values.dtype.kind not in "US":
        if not choice.caption_column:
            return None
        raise InputError(
            f"expected {count:,} texts as {told} of {name}, got {values.dtype} {values.shape}; "
            "name another with --data.caption-column"
        )
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


def _choose(kind: str, names: Sequence[str], wanted: str, usual: Sequence[str], where: str) -> str:
    if wanted:
        return choose_column(kind, names, wanted, where)
    found = next((name for name in usual if name in names), "")
    if not found and kind == "image":
        raise InputError(
            f"expected an array {usual[0]} of images in {where}, got {', '.join(names)}; name one "
            "with --data.image-column"
        )
    return found


def _array(path: Path, name: str) -> np.ndarray:
    entry = list_arrays(path)[name]
    if entry.compress_type != zipfile.ZIP_STORED and entry.file_size > _MOST_UNPACKED:
        raise InputError(
            f"expected at most {_MOST_UNPACKED:,} bytes in a compressed array, got "
            f"{entry.file_size:,} in {name} of {path}; save it with numpy.savez, to be mapped"
        )
    return map_array(path, name)


def _images(pixels: np.ndarray, where: str) -> np.ndarray:
    """Images (N, H, W) or (N, H, W, 3)."""
    if pixels.dtype == np.uint8 and pixels.ndim in (3, 4) and 0 not in pixels.shape:
        if pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
            pixels = np.moveaxis(pixels, 1, 3)
        if pixels.ndim == 3 or pixels.shape[3] == 3:
            return pixels
        if pixels.shape[3] == 1:
            return pixels[..., 0]
    raise InputError(
        f"expected uint8 images (N, height, width, 1 or 3) as {where}, got {pixels.dtype} "
        f"{pixels.shape}; convert them"
    )


def _labels(
    name: str, path: Path, names: Sequence[str], choice: Choice, count: int
) -> tuple[LabelSet, str]:
    """Labels, and the array that holds them."""
    if choice.source in ("folders", "names"):
        raise InputError(
            f"--data.labels: expected auto, table or none for the arrays of {name}, got "
            f"{choice.source}; change it"
        )
    label = _choose("label", names, choice.label_column, LABEL_ARRAYS, name)
    if choice.source == "none" or not label:
        if choice.source == "table":
            raise InputError(
                f"expected an array of labels in {name}, got {', '.join(names)}; name one with "
                "--data.label-column"
            )
        reason = "as --data.labels none says" if choice.source == "none" else "no array of labels"
        return unconditional(count, reason), ""
    values = _array(path, label)
    if values.shape != (count,) or values.dtype.kind not in "iuUS":
        raise InputError(
            f"expected {count:,} integer or text labels as {label} of {name}, got {values.dtype} "
            f"{values.shape}; name another with --data.label-column, or pass --data.labels none"
        )
    plain = values.astype(str) if values.dtype.kind == "S" else values
    describe = f"{path.name} image {{}}".format
    return from_values(plain.tolist(), None, describe, f"array `{label}`"), label
