"""Pictures in tables: parquet files in the Hugging Face layout, and Hugging Face datasets."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convflow.data.files import check_shrinking, read_below
from convflow.data.pictures import (
    Pictures,
    in_split,
    natural_key,
    one_line,
    require,
    require_whole,
    stamp_of,
)
from convflow.types import InputError

_CACHED_PARQUET_BYTES = 256 * 2**20


def open_parquet(name: str, files: Sequence[Path]) -> Pictures:
    """Pictures and labels of parquet files, read one row group at a time.

    Neighbouring rows share a row group, so reading in random order is fast while the encoded
    pictures fit the cache of 256 MiB, and slow beyond it.

    Args:
        name: What the user gave.
        files: The files, in order; all with the columns of the first.

    Raises:
        InputError: The files, their columns or their labels cannot be used.
    """
    parquet = require("pyarrow.parquet", "parquet", name)
    try:
        schema = parquet.read_schema(files[0])
        layouts = [parquet.read_metadata(file) for file in files]
    except (OSError, ValueError) as error:
        raise InputError(f"expected parquet files, got {name}: {one_line(error)}") from error
    given = Path(name).expanduser()
    folder = given if given.is_dir() else files[0].parent
    note = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = note.get("info", {}).get("features", {})
    types = {field.name: str(field.type) for field in schema}
    pictures = [
        column
        for column, kind in types.items()
        if kind in ("binary", "large_binary") or (kind.startswith("struct<") and "bytes:" in kind)
    ]
    classes = [column for column in types if features.get(column, {}).get("_type") == "ClassLabel"]
    image, label = _columns(name, list(types), pictures, classes)

    groups = [
        (file, number, layout.row_group(number).num_rows)
        for file, layout in zip(files, layouts, strict=True)
        for number in range(layout.num_row_groups)
    ]
    group_starts = np.cumsum([0, *(rows for _, _, rows in groups)])
    file_starts = np.cumsum([0, *(layout.num_rows for layout in layouts)])

    def load(group: int) -> Any:
        file, number, _ = groups[group]
        with parquet.ParquetFile(file) as table:
            layout = table.metadata.row_group(number)
            parts = [layout.column(i) for i in range(layout.num_columns)]
            parts = [part for part in parts if part.path_in_schema.split(".")[0] == image]
            check_shrinking(
                sum(part.total_uncompressed_size for part in parts),
                sum(part.total_compressed_size for part in parts),
            )
            return table.read_row_group(number, columns=[image], use_threads=False).column(0)

    cache = _Cache(load, _CACHED_PARQUET_BYTES)

    def fetch(index: int) -> bytes:
        group = int(np.searchsorted(group_starts, index, side="right")) - 1
        cell = cache[group][index - int(group_starts[group])].as_py()
        return _encoded(cell, [groups[group][0].parent, folder])

    def describe(index: int) -> str:
        file = int(np.searchsorted(file_starts, index, side="right")) - 1
        return f"{files[file].name} row {index - file_starts[file]}"

    labels, class_names = np.zeros(int(file_starts[-1]), np.int64), tuple[str, ...]()
    if label is not None:
        try:
            columns = [parquet.read_table(file, columns=[label]).column(0) for file in files]
        except (OSError, ValueError, LookupError) as error:
            raise InputError(f"expected a column {label!r} in {name}: {one_line(error)}") from error
        values = [value for column in columns for value in column.to_pylist()]
        labels, class_names = _classes(values, features.get(label, {}).get("names"), describe)
    own = [Path(os.path.relpath(file, folder)).as_posix() for file in files]
    return Pictures(name, class_names, labels, describe, fetch, stamp=lambda: stamp_of(folder, own))


def open_hugging_face(name: str, split: str) -> Pictures:
    """Pictures and labels of a Hugging Face dataset.

    Args:
        name: `hf:` and the dataset's name or the folder it was saved to.
        split: Which part, where it has parts.

    Raises:
        InputError: There is no such dataset or split, or its columns cannot be used.
    """
    datasets = require("datasets", "hub", name)
    where = name.removeprefix("hf:")
    folder = Path(where).expanduser()
    saved = any((folder / file).exists() for file in ("state.json", "dataset_dict.json"))
    try:
        table = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(where)
    # The library raises its own, its file system's and its network's exceptions.
    except Exception as error:
        raise InputError(
            f"expected a Hugging Face dataset, got {where}: {one_line(error)}"
        ) from error
    if isinstance(table, dict):
        parts = [split] if split in table else in_split(list(table), name, split)
        if len(parts) > 1:
            raise InputError(
                f"expected one {split!r} split in {name}, got {', '.join(parts)}; choose one"
            )
        table = table[parts[0]]
    else:
        require_whole(split, name, str(table.split))
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    pictures = [column for column, kind in kinds.items() if kind == "Image"]
    classes = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    image, label = _columns(name, list(kinds), pictures, classes)
    below = _picture_folders(datasets, folder)
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def describe(index: int) -> str:
        return f"{name} row {index}"

    labels, class_names = np.zeros(len(table), np.int64), tuple[str, ...]()
    if label is not None:
        names = getattr(table.features[label], "names", None)
        labels, class_names = _classes(list(table[label]), names, describe)

    def fetch(index: int) -> bytes:
        return _encoded(encoded[index][image], below)

    def stamp() -> str:
        return str(encoded._fingerprint)

    return Pictures(name, class_names, labels, describe, fetch, stamp=stamp)


def _columns(
    where: str, columns: Sequence[str], pictures: Sequence[str], classes: Sequence[str]
) -> tuple[str, str | None]:
    """The image and the label column of a table."""

    def choose(kind: str, preferred: Sequence[str], found: Sequence[str]) -> str | None:
        for name in preferred:
            if name in found:
                return name
        if len(found) > 1:
            raise InputError(
                f"expected one {kind} column in {where}, got {', '.join(found)}; "
                f"rename the one to use to {preferred[0]!r}"
            )
        return found[0] if found else None

    image = choose("image", ("image", "img"), pictures)
    if image is None:
        raise InputError(
            f"expected an image column (bytes, or a struct with bytes) in {where}, "
            f"got the columns {', '.join(columns)}"
        )
    others = [name for name in columns if name in ("label", "labels")]
    return image, choose("label", ("label", "labels"), [*others, *classes])


def _classes(
    values: Sequence[Any], names: Sequence[str] | None, describe: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class ids (N,) and class names of a label column; all -1 means unconditional."""
    if names is None and values and all(isinstance(value, str) for value in values):
        names = sorted(set(values), key=natural_key)
        ids = {text: number for number, text in enumerate(names)}
        values = [ids[value] for value in values]
    for row, value in enumerate(values):
        if not isinstance(value, int):
            raise InputError(f"{describe(row)}: expected an integer or text label, got {value!r}")
    labels = np.asarray(values, np.int64)
    if (labels == -1).all():
        return np.zeros_like(labels), ()
    num_classes = len(names) if names else int(labels.max()) + 1
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        row = int(outside[0])
        raise InputError(
            f"{describe(row)}: expected a label in 0..{num_classes - 1}, got {labels[row]}"
        )
    if names is None:
        used, rows = np.unique(labels, return_index=True)
        if len(used) < num_classes:
            gap = int(np.flatnonzero(used != np.arange(len(used)))[0])
            raise InputError(
                f"{describe(int(rows[gap]))}: expected labels without gaps, got {used[gap]} while "
                f"no row has {gap}; number the classes 0, 1, 2, ... or label them with text"
            )
        names = [str(number) for number in range(num_classes)]
    return labels, tuple(names)


def _picture_folders(datasets: Any, folder: Path) -> list[Path]:
    """Where the paths of a Hugging Face dataset may lead: its own folder, or what it downloaded."""
    hub = require("huggingface_hub.constants", "hub", "hf:")
    config = datasets.config
    downloads = [config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH, hub.HF_HUB_CACHE]
    return [*([folder] if folder.is_dir() else []), *map(Path, downloads)]


def _encoded(value: Any, below: Sequence[Path]) -> bytes:
    """Picture bytes of a table cell: bytes, or a struct of bytes and a path below a folder."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None and isinstance(value, dict) and value.get("path"):
        return read_below(below, value["path"])
    return data or b""


class _Cache:
    """The most recently used arrays, up to a number of bytes."""

    def __init__(self, load: Callable[[int], Any], limit_bytes: int) -> None:
        self._load, self._limit_bytes = load, limit_bytes
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, key: int) -> Any:
        with self._lock:
            if key not in self._held:
                self._held[key] = self._load(key)
                num_bytes = sum(array.nbytes for array in self._held.values())
                while len(self._held) > 1 and num_bytes > self._limit_bytes:
                    num_bytes -= self._held.popitem(last=False)[1].nbytes
            self._held.move_to_end(key)
            return self._held[key]
