"""Pictures in tables: parquet files in the Hugging Face layout, and Hugging Face datasets."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convflow.data.files import check_shrinking, read_below
from convflow.data.labels import (
    AUTO,
    Choice,
    Labels,
    choose_column,
    find_column,
    from_values,
    not_used,
    unconditional,
)
from convflow.data.pictures import Pictures, one_line, require, stamp_of
from convflow.data.splits import ALL, choose_tables, only_splits, require_whole
from convflow.types import InputError

_CACHED_PARQUET_BYTES = 256 * 2**20


def open_parquet(
    name: str, files: Sequence[Path], choice: Choice = AUTO, notes: tuple[str, ...] = ()
) -> Pictures:
    """Pictures and labels of parquet files, read one row group at a time.

    Neighbouring rows share a row group, so reading in random order is fast while the encoded
    pictures fit the cache of 256 MiB, and slow beyond it.

    Args:
        name: What the user gave.
        files: The files, in order; all with the columns of the first.
        choice: What the user says about labels and columns.
        notes: Sentences about the files, to which those about labels are added.

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
    features = _features((schema.metadata or {}).get(b"huggingface", b"{}"), name)
    types = {field.name: str(field.type) for field in schema}
    pictures = [
        column
        for column, kind in types.items()
        if kind in ("binary", "large_binary") or (kind.startswith("struct<") and "bytes:" in kind)
    ]
    classes = [column for column in types if features.get(column, {}).get("_type") == "ClassLabel"]
    image = _image_column(name, list(types), pictures, choice)

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
                min(sum(part.total_compressed_size for part in parts), file.stat().st_size),
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

    def cells(label: str, take: Callable[[Any], Any] = lambda column: column) -> list[Any]:
        try:
            columns = [parquet.read_table(file, columns=[label]).column(0) for file in files]
            return [value for column in columns for value in take(column).to_pylist()]
        except (OSError, ValueError, LookupError) as error:
            raise InputError(f"expected a column {label!r} in {name}: {one_line(error)}") from error

    def num_words(label: str) -> int:
        if not types[label].startswith(("string", "large_string", "dictionary<values=string")):
            return 0
        words = set(cells(label, lambda column: column.unique()))
        return 0 if None in words else len(words)

    found = _Table(
        name,
        int(file_starts[-1]),
        [column for column in types if column not in pictures],
        classes,
        num_words,
        cells,
        lambda label: features.get(label, {}).get("names"),
        describe,
    ).labels(choice)
    own = [Path(os.path.relpath(file, folder)).as_posix() for file in files]
    return Pictures(
        name,
        found.class_names,
        found.ids,
        describe,
        fetch,
        notes=(*notes, *found.notes),
        stamp=lambda: stamp_of(folder, own),
    )


def _features(note: bytes, where: str) -> dict[str, dict[str, Any]]:
    """What Hugging Face's note in a parquet file says of each column, such as names of classes."""
    try:
        features = json.loads(note).get("info", {}).get("features", {})
        found = {column: kind for column, kind in features.items() if isinstance(kind, dict)}
        for kind in found.values():
            "".join(kind.get("names") or ())
        return found
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"expected a note about the columns in {where}, got a damaged one; copy the file again"
        ) from error


def open_hugging_face(name: str, split: str, choice: Choice = AUTO) -> Pictures:
    """Pictures and labels of a Hugging Face dataset.

    Args:
        name: `hf:` and the dataset's name or the folder it was saved to.
        split: Which part, where it has parts.
        choice: What the user says about labels and columns.

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
    notes: tuple[str, ...] = ()
    if isinstance(table, dict):
        parts, notes = _parts(list(table), name, split)
        table = _joined(datasets, [table[part] for part in parts], name)
    else:
        require_whole(split, name, str(table.split))
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    pictures = [column for column, kind in kinds.items() if kind == "Image"]
    image = _image_column(name, list(kinds), pictures, choice)
    below = _picture_folders(datasets, folder)
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def describe(index: int) -> str:
        return f"{name} row {index}"

    def names(label: str) -> Sequence[str] | None:
        return getattr(table.features[label], "names", None)

    def num_words(label: str) -> int:
        text = getattr(table.features[label], "dtype", "") in ("string", "large_string")
        words = table.unique(label) if text else []
        return 0 if None in words else len(words)

    found = _Table(
        name,
        len(table),
        [c for c in kinds if c not in pictures and not only_splits(names(c))],
        [column for column, kind in kinds.items() if kind == "ClassLabel"],
        num_words,
        lambda label: list(table[label]),
        names,
        describe,
    ).labels(choice)

    def fetch(index: int) -> bytes:
        return _encoded(encoded[index][image], below)

    def stamp() -> str:
        return str(encoded._fingerprint)

    notes = (*notes, *found.notes)
    return Pictures(name, found.class_names, found.ids, describe, fetch, notes, stamp)


def _joined(datasets: Any, tables: Sequence[Any], where: str) -> Any:
    """Several parts of a dataset as one."""
    try:
        return datasets.concatenate_datasets(tables) if len(tables) > 1 else tables[0]
    except ValueError as error:
        raise InputError(
            f"expected splits of {where} with the same columns, got {one_line(error)}; choose one"
        ) from error


def _parts(names: Sequence[str], where: str, split: str) -> tuple[list[str], tuple[str, ...]]:
    """The parts of a dataset that are meant, all of them for `all`, and what is said about it."""
    if split in names:
        return [split], (f"split {split} of {', '.join(names)}",)
    parts, notes = choose_tables(names, where, split)
    if len(parts) > 1 and split != ALL:
        raise InputError(
            f"expected one {split!r} split in {where}, got {', '.join(parts)}; choose one"
        )
    return parts, notes


def _image_column(
    where: str, columns: Sequence[str], pictures: Sequence[str], choice: Choice
) -> str:
    """The column with the pictures, among those that may hold some."""
    if choice.image_column:
        name = choose_column("image", columns, choice.image_column, where)
        if name not in pictures:
            raise InputError(
                f"--data.image-column: expected a column of pictures, got {name}; {where} has "
                f"pictures in {', '.join(pictures) or 'no column'}"
            )
        return name
    for name in ("image", "img"):
        if name in pictures:
            return name
    if len(pictures) > 1:
        raise InputError(
            f"expected one image column in {where}, got {', '.join(pictures)}; name one with "
            f"--data.image-column {pictures[0]} (to score them: --image-column)"
        )
    if not pictures:
        raise InputError(
            f"expected an image column (bytes, or a struct with bytes) in {where}, "
            f"got the columns {', '.join(columns)}"
        )
    return pictures[0]


class _Table(NamedTuple):
    """What labels are found in."""

    name: str
    num_rows: int
    columns: Sequence[str]
    """All but those of pictures."""
    classes: Sequence[str]
    """Those whose type says that they are labels."""
    num_words: Callable[[str], int]
    values: Callable[[str], Sequence[Any]]
    names: Callable[[str], Sequence[str] | None]
    describe: Callable[[int], str]

    def labels(self, choice: Choice) -> Labels:
        """Labels from the column that the user names, or from the one there is."""
        if choice.source in ("folders", "names"):
            raise InputError(
                f"--data.labels: expected auto, table or none for the table {self.name}, got "
                f"{choice.source}; change it"
            )
        if choice.source == "none":
            return unconditional(self.num_rows, "as --data.labels none says")
        if choice.label_column:
            label: str | None = choose_column("label", self.columns, choice.label_column, self.name)
        else:
            label = find_column(
                self.columns, self.classes, self.num_words, self.num_rows, self.name
            )
        left = not_used(self.columns, label)
        if label is None:
            found = unconditional(self.num_rows, "no column is known to hold labels")
            if choice.source == "table":
                raise InputError(
                    f"expected a column of labels in {self.name}, got {', '.join(self.columns)}; "
                    "name one with --data.label-column"
                )
        else:
            found = from_values(
                self.values(label), self.names(label), self.describe, f"column `{label}`"
            )
        return found._replace(notes=(*found.notes, *left))


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
