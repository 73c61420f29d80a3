"""Pictures in tables: parquet files in the Hugging Face layout."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convflow.data.columns import Table, choose_rows, encoded_bytes, image_column
from convflow.data.files import check_shrinking
from convflow.data.labels import (
    AUTO,
    Choice,
    not_used,
)
from convflow.data.pictures import Pictures, one_line, require, stamp_of
from convflow.data.splits import some
from convflow.types import InputError

_CACHED_PARQUET_BYTES = 256 * 2**20


def open_parquet(
    name: str,
    files: Sequence[Path],
    choice: Choice = AUTO,
    notes: tuple[str, ...] = (),
    *,
    split: str = "train",
    own: str | None = None,
) -> Pictures:
    """Pictures and labels of parquet files, read one row group at a time.

    Neighbouring rows share a row group, so reading in random order is fast while the encoded
    pictures fit the cache of 256 MiB, and slow beyond it.

    Args:
        name: What the user gave.
        files: The files, in order; all with the columns of the first.
        choice: What the user says about labels and columns.
        notes: Sentences about the files, to which those about labels are added.
        split: Which rows, where a column says the split of each.
        own: The split that the names of the files say.

    Raises:
        InputError: The files, their columns or their labels cannot be used.
    """
    parquet = require("pyarrow.parquet", "parquet", name)
    for file in files:
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise InputError(f"expected a regular file, got {file}; give another place")
    try:
        schema = parquet.read_schema(files[0])
        layouts = [parquet.read_metadata(file) for file in files]
    except (OSError, ValueError) as error:
        raise InputError(f"expected parquet files, got {name}: {one_line(error)}") from error
    given = Path(name).expanduser()
    folder = given if given.is_dir() else files[0].parent
    features, *others = (
        _features((layout.metadata or {}).get(b"huggingface", b"{}"), name) for layout in layouts
    )
    types = {field.name: str(field.type) for field in schema}
    pictures = [
        column
        for column, kind in types.items()
        if kind in ("binary", "large_binary") or (kind.startswith("struct<") and "bytes:" in kind)
    ]
    classes = [column for column in types if features.get(column, {}).get("_type") == "ClassLabel"]
    image = image_column(name, types, pictures, choice)

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
            # Not its columns: to ask for one whose statistics are damaged ends the process.
            unpacked = table.metadata.row_group(number).total_byte_size
            check_shrinking(unpacked, file.stat().st_size)
            return table.read_row_group(number, columns=[image], use_threads=False).column(0)

    cache = _Cache(load, _CACHED_PARQUET_BYTES)

    def fetch(index: int) -> bytes:
        group = int(np.searchsorted(group_starts, index, side="right")) - 1
        cell = cache[group][index - int(group_starts[group])].as_py()
        return encoded_bytes(cell, [groups[group][0].parent, folder])

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

    def names(label: str) -> Sequence[str] | None:
        known = features.get(label, {}).get("names")
        for file, other in zip(files[1:], others, strict=True):
            if (got := other.get(label, {}).get("names")) != known:
                one, two = (some(found or ["no names"], 3) for found in (known, got))
                raise InputError(
                    f"expected the same classes in all tables of {name}, got {one} in "
                    f"{files[0].name} and {two} in {file.name}; give one of them, or pass "
                    "--data.labels none"
                )
        return known

    left = [column for column in types if column not in pictures]
    chosen, parted, said = choose_rows(left, cells, name, split, own)
    rows = np.arange(file_starts[-1]) if chosen is None else chosen

    def values(label: str) -> list[Any]:
        everything = cells(label)
        return [everything[row] for row in rows]

    found = Table(
        name,
        len(rows),
        [column for column in left if column != parted],
        classes,
        num_words,
        values,
        names,
        lambda index: describe(int(rows[index])),
    ).labels(choice)
    tables = [Path(os.path.relpath(file, folder)).as_posix() for file in files]
    return Pictures(
        name,
        found.class_names,
        found.ids,
        lambda index: describe(int(rows[index])),
        lambda index: fetch(int(rows[index])),
        notes=(*notes, *said, *found.notes, *not_used(pictures, image)),
        stamp=lambda: stamp_of(folder, tables),
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
