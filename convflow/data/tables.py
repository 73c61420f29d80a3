"""Images in tables: parquet files in the Hugging Face layout."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from convflow.data.class_ids import AUTO, Choice, not_used
from convflow.data.columns import ColumnTable, choose_rows, encoded_bytes, image_column
from convflow.data.files import check_shrinking
from convflow.data.source import Groups, Stamp, StoredSource, one_line, require, stamp_of
from convflow.data.splits import some
from convflow.types import InputError

_CACHED_PARQUET_BYTES = 256 * 2**20
_WINDOW_BYTES = _CACHED_PARQUET_BYTES // 2  # the rest is for the window before, and what is ahead


def open_parquet(
    name: str,
    files: Sequence[Path],
    choice: Choice = AUTO,
    notes: tuple[str, ...] = (),
    *,
    split: str = "train",
    own: str | None = None,
) -> StoredSource:
    """Images and labels of parquet files, read one row group at a time.

    Neighbouring rows share a row group, so reading in random order is fast while the encoded
    images fit the cache of 256 MiB. Beyond it a random image needs its whole row group, unless the
    order is a `GroupOrder`.

    Raises:
        InputError: The files, their columns or their labels cannot be used.
    """
    tables = _Tables(name, files)
    image = image_column(name, tables.types, tables.image_columns, choice)
    left = [column for column in tables.types if column not in tables.image_columns]
    chosen, parted, said = choose_rows(left, tables.cells, name, split, own)
    rows = np.arange(tables.num_rows) if chosen is None else chosen
    fetch = tables.fetcher(image)

    def values(label: str) -> list[Any]:
        everything = tables.cells(label)
        return [everything[row] for row in rows]

    def describe(index: int) -> str:
        return tables.describe(int(rows[index]))

    table = ColumnTable(
        name,
        len(rows),
        [column for column in left if column != parted],
        tables.classes,
        tables.num_words,
        values,
        tables.names,
        describe,
        [column for column, kind in tables.types.items() if "string" in kind],
    )
    found, captions = table.labels(choice), table.captions(choice)
    told = (captions.note,) if captions else ()
    paths = [Path(os.path.relpath(file, tables.folder)).as_posix() for file in files]
    return StoredSource(
        name,
        found.class_names,
        found.ids,
        describe,
        lambda index: fetch(int(rows[index])),
        notes=(*notes, *said, *found.notes, *told, *not_used(tables.image_columns, image)),
        stamp=lambda: Stamp(stamp_of(tables.folder, paths).text),
        groups=Groups(tables.group_of(rows), tables.window),
        caption=captions and captions.say,
    )


class _Tables:
    """Parquet files as one table, with the columns of the first.

    Attributes:
        types: The kind of every column, by name.
        image_columns: The columns that may hold images.
        classes: The columns whose type says that they are labels.
        folder: Where the files lie, and images that they name.

    Raises:
        InputError: The files cannot be read.
    """

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        self.name, self.files = name, files
        self._parquet = parquet = require("pyarrow.parquet", "parquet", name)
        for file in files:
            if file.exists() and not file.is_file():  # a pipe would be waited for
                raise InputError(f"expected a regular file, got {file}; give another place")
        try:
            schema = parquet.read_schema(files[0])
            self._layouts = [parquet.read_metadata(file) for file in files]
        except (OSError, ValueError) as error:
            raise InputError(f"expected parquet files, got {name}: {one_line(error)}") from error
        given = Path(name).expanduser()
        self.folder = given if given.is_dir() else files[0].parent
        notes = ((layout.metadata or {}).get(b"huggingface", b"{}") for layout in self._layouts)
        self._features = [_features(note, name) for note in notes]
        self.types = {field.name: str(field.type) for field in schema}
        self.image_columns = [
            column
            for column, kind in self.types.items()
            if kind in ("binary", "large_binary")
            or (kind.startswith("struct<") and "bytes:" in kind)
        ]
        first = self._features[0]
        self.classes = [c for c in self.types if first.get(c, {}).get("_type") == "ClassLabel"]
        self._starts = np.cumsum([0, *(layout.num_rows for layout in self._layouts)])
        self._groups = [
            (file, number, layout.row_group(number).num_rows)
            for file, layout in zip(files, self._layouts, strict=True)
            for number in range(layout.num_row_groups)
        ]
        self._group_starts = np.cumsum([0, *(rows for _, _, rows in self._groups)])

    @property
    def num_rows(self) -> int:
        """How many rows all files have."""
        return int(self._starts[-1])

    @property
    def window(self) -> int:
        """How many row groups of average size fit into half of the cache."""
        sizes = [
            layout.row_group(number).total_byte_size
            for layout in self._layouts
            for number in range(layout.num_row_groups)
        ]
        return max(1, _WINDOW_BYTES * len(sizes) // max(sum(sizes), 1))

    def group_of(self, rows: int | np.ndarray) -> np.ndarray:
        """The row group of each row, counted through all files."""
        return np.searchsorted(self._group_starts, rows, side="right") - 1

    def describe(self, row: int) -> str:
        """File and number of a row, for messages."""
        file = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self.files[file].name} row {row - self._starts[file]}"

    def cells(self, label: str, take: Callable[[Any], Any] = lambda column: column) -> list[Any]:
        """The values of a column, or what `take` makes of it in each file."""
        try:
            tables = [self._parquet.read_table(file, columns=[label]) for file in self.files]
            return [value for table in tables for value in take(table.column(0)).to_pylist()]
        except (OSError, ValueError, LookupError) as error:
            raise InputError(
                f"expected a column {label!r} in {self.name}: {one_line(error)}"
            ) from error

    def num_words(self, label: str) -> int:
        """How many different words a column of text has, 0 for others and with gaps."""
        text = ("string", "large_string", "dictionary<values=string")
        if not self.types[label].startswith(text):
            return 0
        words = set(self.cells(label, lambda column: column.unique()))
        return 0 if None in words else len(words)

    def names(self, label: str) -> Sequence[str] | None:
        """The classes that the type of a column names, the same in all files."""
        known, *others = (features.get(label, {}).get("names") for features in self._features)
        for file, got in zip(self.files[1:], others, strict=True):
            if got != known:
                one, two = (some(found or ["no names"], 3) for found in (known, got))
                raise InputError(
                    f"expected the same classes in all tables of {self.name}, got {one} in "
                    f"{self.files[0].name} and {two} in {file.name}; give one of them, or pass "
                    "--data.labels none"
                )
        return known

    def fetcher(self, image: str) -> Callable[[int], bytes]:
        """From a row to the encoded image in a column; groups of rows are cached."""

        def load(group: int) -> Any:
            file, number, _ = self._groups[group]
            with self._parquet.ParquetFile(file, memory_map=True) as table:
                # Not its columns: to ask for one whose statistics are damaged ends the process.
                unpacked = table.metadata.row_group(number).total_byte_size
                check_shrinking(unpacked, file.stat().st_size)
                return table.read_row_group(number, columns=[image], use_threads=False).column(0)

        cache = _Cache(load, _CACHED_PARQUET_BYTES)

        def fetch(row: int) -> bytes:
            group = int(self.group_of(row))
            cell = cache[group][row - int(self._group_starts[group])].as_py()
            return encoded_bytes(cell, [self._groups[group][0].parent, self.folder])

        return fetch


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
        self._held: OrderedDict[int, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, key: int) -> Any:
        with self._lock:
            mine = key not in self._held
            held = self._held.setdefault(key, Future())
            self._held.move_to_end(key)
        if mine:  # others may load other arrays meanwhile
            try:
                held.set_result(self._load(key))
            except BaseException as error:
                held.set_exception(error)
                with self._lock:
                    del self._held[key]
            self._forget()
        return held.result()

    def _forget(self) -> None:
        """Let go of what was used longest ago, but for the last, until the rest fits."""
        with self._lock:
            sizes = {
                k: held.result().nbytes
                for k, held in self._held.items()
                if held.done() and not held.exception()
            }
            num_bytes = sum(sizes.values())
            for key in [*sizes][:-1]:
                if num_bytes > self._limit_bytes:
                    num_bytes -= sizes[key]
                    del self._held[key]
