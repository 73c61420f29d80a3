"""Where pictures come from: the digits, a folder, a zip, parquet files or a Hugging Face dataset.

Every kind ends as the same small record, `Pictures`: labels known at once, pixels fetched when
they are asked for. Opening reads names and labels only.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from convflow.types import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What parts of a dataset are called on disk, and the part each name means."""

# Named, so that bytes from a stranger never reach a decoder that starts programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_CACHED_PARQUET_BYTES = 256 * 2**20


class Source(Protocol):
    """Labelled pictures by index.

    `class_names` is empty for unconditional data, and `label` is then 0 everywhere, which is
    "no label" because `num_classes` is 0 too.
    """

    name: str
    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def label(self, index: int) -> int:
        """Class of the picture, in [0, len(class_names))."""
        ...

    def item_name(self, index: int) -> str:
        """File name or table row of the picture, for messages."""
        ...

    def read(self, index: int) -> Image.Image | np.ndarray:
        """The decoded picture as stored; raises InputError naming it if it cannot be read."""
        ...


@dataclass
class Pictures:
    """The Source behind every kind of data.

    Args:
        name: What the user gave.
        class_names: Names by class id; empty for unconditional data.
        labels: (N,) int64 class ids.
        describe: Index to the item's name.
        fetch: Index to the encoded bytes, or to a picture where nothing is encoded.
        num_ignored: Files passed over because they are no pictures.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    describe: Callable[[int], str]
    fetch: Callable[[int], bytes | Image.Image]
    num_ignored: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """Class of the picture, in [0, len(class_names)); 0 for unconditional data."""
        return int(self.labels[index])

    def item_name(self, index: int) -> str:
        """File name or table row of the picture, for messages."""
        return self.describe(int(index))

    def read(self, index: int) -> Image.Image:
        """The picture, wholly decoded.

        Raises:
            InputError: It is missing, empty, truncated or no picture; the message names it.
        """
        try:
            data = self.fetch(int(index))
            if isinstance(data, Image.Image):
                return data
            picture = Image.open(BytesIO(data), formats=_FORMATS)
            picture.load()
            return picture
        except UnidentifiedImageError as error:
            got = "bytes of no known picture format" if data else "an empty file"
            raise InputError(self._unreadable(index, got)) from error
        # Decoders raise nearly any exception on damaged bytes; each means "unreadable".
        except Exception as error:
            raise InputError(self._unreadable(index, _one_line(error))) from error

    def _unreadable(self, index: int, got: str) -> str:
        return f"{self.item_name(index)}: expected a readable picture, got {got}"


def open_source(path: str, *, split: str = "train") -> Source:
    """Pictures and labels from whatever `path` names.

    Args:
        path: `digits` (the 1,797 8x8 digits of scikit-learn); a folder of class folders; a flat
            folder (unconditional); a zip of either; a parquet file or a folder of them;
            `hf:` and a Hugging Face dataset's name, or the folder it was saved to.
        split: Which part, where the data has parts (`train`, `validation`, `test`). Data without
            parts counts as `train`.

    Raises:
        InputError: Nothing usable is there; the message says what was expected.
    """
    if path == "digits":
        _require_whole(split, path)
        return _open_digits()
    if path.startswith("hf:"):
        return _open_hugging_face(path, split)
    place = Path(path).expanduser()
    if place.is_dir():
        return _open_folder(path, place, split)
    if not place.exists():
        raise InputError(f"expected data at {path}, got no such file or folder{_suggest(place)}")
    if place.suffix.lower() == ".parquet":
        _require_whole(split, path, _split_of(place.name))
        return _open_parquet(path, [place])
    if place.suffix.lower() == ".zip":
        return _open_zip(path, place, split)
    raise InputError(
        f"expected a folder, a .zip or a .parquet file, got the file {path}; "
        "put pictures into a folder and give the folder"
    )


def natural_key(text: str) -> tuple[list[Any], str]:
    """Sort key that counts: class2 comes before class10.

    >>> sorted(["class10", "class2"], key=natural_key)
    ['class2', 'class10']
    """
    parts: list[Any] = re.split(r"(\d+)", text.casefold())
    parts[1::2] = map(int, parts[1::2])
    return parts, text


def _open_digits() -> Pictures:
    table = _require("sklearn.datasets", "digits", "the digits").load_digits()
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
        tables = [file for file in files if file.lower().endswith(".parquet")]
        if tables:
            return _open_parquet(name, [folder / file for file in _in_split(tables, name, split)])
        if {"state.json", "dataset_dict.json"} & set(files):
            raise InputError(
                f"expected pictures in {name}, got a saved Hugging Face dataset; write hf:{name}"
            )
    return _from_files(name, files, split, lambda file: (folder / file).read_bytes())


def _open_zip(name: str, path: Path, split: str) -> Pictures:
    try:
        with zipfile.ZipFile(path) as archive:
            files = [info.filename for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise InputError(f"expected a zip archive, got {name}: {_one_line(error)}") from error
    files = [file for file in files if not re.search(r"(^|/)\.|^__MACOSX/", file)]
    # Zipping a folder puts the folder's own name before everything; that name is no class.
    tops = set(map(_top, files))
    root = f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""
    local = threading.local()

    def read(file: str) -> bytes:
        # A handle's position is shared by threads and by forked processes: one for each.
        if getattr(local, "process", None) != os.getpid():
            local.process, local.archive = os.getpid(), zipfile.ZipFile(path)
        return local.archive.read(root + file)

    return _from_files(name, [file.removeprefix(root) for file in files], split, read)


def _from_files(
    name: str, files: Sequence[str], split: str, read: Callable[[str], bytes]
) -> Pictures:
    pictures = sorted(file for file in files if _is_picture(file))
    num_ignored = len(files) - len(pictures)
    if not pictures:
        raise InputError(
            f"expected pictures ({' '.join(EXTENSIONS)}) in {name}, got none among "
            f"{len(files)} files; give a folder of pictures or of class folders"
        )
    tops, start = set(map(_top, pictures)), 0
    if tops <= SPLITS.keys():
        part = _in_split(sorted(tops), name, split)[0] + "/"
        pictures, start = [file for file in pictures if file.startswith(part)], len(part)
        tops = {_top(file[start:]) for file in pictures}
    else:
        _require_whole(split, name)
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
    return Pictures(
        name,
        class_names,
        labels,
        describe=pictures.__getitem__,
        fetch=lambda index: read(pictures[index]),
        num_ignored=num_ignored,
    )


def _open_parquet(name: str, files: Sequence[Path]) -> Pictures:
    parquet = _require("pyarrow.parquet", "parquet", name)
    try:
        schema = parquet.read_schema(files[0])
        layouts = [parquet.read_metadata(file) for file in files]
    except (OSError, ValueError) as error:
        raise InputError(f"expected parquet files, got {name}: {_one_line(error)}") from error
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
        (file, number)
        for file, layout in zip(files, layouts, strict=True)
        for number in range(layout.num_row_groups)
    ]
    sizes = [
        layout.row_group(g).num_rows for layout in layouts for g in range(layout.num_row_groups)
    ]
    group_starts = np.cumsum([0, *sizes])
    file_starts = np.cumsum([0, *(layout.num_rows for layout in layouts)])

    def load(group: int) -> Any:
        file, number = groups[group]
        with parquet.ParquetFile(file) as table:
            return table.read_row_group(number, columns=[image], use_threads=False).column(0)

    cache = _Cache(load, _CACHED_PARQUET_BYTES)

    def fetch(index: int) -> bytes:
        group = int(np.searchsorted(group_starts, index, side="right")) - 1
        return _encoded(cache[group][index - int(group_starts[group])].as_py())

    def describe(index: int) -> str:
        file = int(np.searchsorted(file_starts, index, side="right")) - 1
        return f"{files[file].name} row {index - file_starts[file]}"

    labels, class_names = np.zeros(int(file_starts[-1]), np.int64), tuple[str, ...]()
    if label is not None:
        columns = (parquet.read_table(file, columns=[label]).column(0) for file in files)
        values = [value for column in columns for value in column.to_pylist()]
        labels, class_names = _classes(values, features.get(label, {}).get("names"), describe)
    return Pictures(name, class_names, labels, describe, fetch)


def _open_hugging_face(name: str, split: str) -> Pictures:
    datasets = _require("datasets", "hub", name)
    where = name.removeprefix("hf:")
    folder = Path(where).expanduser()
    saved = any((folder / file).exists() for file in ("state.json", "dataset_dict.json"))
    try:
        table = datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(where)
    # The library raises its own, its file system's and its network's exceptions.
    except Exception as error:
        raise InputError(
            f"expected a Hugging Face dataset, got {where}: {_one_line(error)}"
        ) from error
    if isinstance(table, dict):
        table = table[_in_split(list(table), name, split)[0]]
    else:
        _require_whole(split, name, str(table.split))
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    pictures = [column for column, kind in kinds.items() if kind == "Image"]
    classes = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    image, label = _columns(name, list(kinds), pictures, classes)
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def describe(index: int) -> str:
        return f"{name} row {index}"

    labels, class_names = np.zeros(len(table), np.int64), tuple[str, ...]()
    if label is not None:
        names = getattr(table.features[label], "names", None)
        labels, class_names = _classes(list(table[label]), names, describe)
    return Pictures(name, class_names, labels, describe, lambda i: _encoded(encoded[i][image]))


def _walk(folder: Path) -> Iterator[str]:
    """Names of all files below, relative, with forward slashes, without hidden ones."""

    def stop(error: OSError) -> None:
        raise InputError(f"expected a readable folder, got {_one_line(error)}") from error

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


def _split_of(path: str) -> str | None:
    """The split that a file name, or else one of its folders, begins with."""
    for part in reversed(path.split("/")):
        match = re.match("train|val|test", part.lower())
        if match:
            return SPLITS[match.group()]
    return None


def _in_split(names: Sequence[str], where: str, split: str) -> list[str]:
    """Those of the sorted names that belong to the split; all where none names a split."""
    found = {name: _split_of(name) for name in names}
    if not any(found.values()):
        _require_whole(split, where)
        return list(names)
    chosen = [name for name in names if found[name] == SPLITS.get(split, split)]
    if not chosen:
        have = ", ".join(sorted({part for part in found.values() if part}))
        raise InputError(f"expected a {split!r} split in {where}, got {have}; choose one of those")
    return chosen


def _require_whole(split: str, where: str, own: str | None = None) -> None:
    """Data without parts is for training: scoring on it as "test" would hide a mistake."""
    if SPLITS.get(split, split) not in ("train", own):
        raise InputError(
            f"expected a {split!r} split in {where}, got data without splits; "
            "give the path of the pictures you mean, with split 'train'"
        )


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


def _encoded(value: Any) -> bytes:
    """Picture bytes of a table cell: bytes, or a struct of bytes and path."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None and isinstance(value, dict) and value.get("path"):
        return Path(value["path"]).read_bytes()
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
            self._held.move_to_end(key)
            while len(self._held) > 1 and self._num_bytes() > self._limit_bytes:
                self._held.popitem(last=False)
            return self._held[key]

    def _num_bytes(self) -> int:
        return sum(array.nbytes for array in self._held.values())


def _require(module: str, extra: str, what: str) -> Any:
    """A module of an optional dependency."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"expected the package {module.partition('.')[0]} for {what}, got none; "
            f"pip install convflow[{extra}]"
        ) from error


def _suggest(place: Path) -> str:
    """The nearest name that does exist, as the end of a message."""
    missing = place
    while not missing.parent.exists():
        missing = missing.parent
    near = {path.name: str(path) for path in missing.parent.iterdir() if path.name[0] != "."}
    if len(place.parts) == 1:
        near["digits"] = "digits"
    match = difflib.get_close_matches(missing.name, near, n=1)
    return f"; did you mean {near[match[0]]}?" if match else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
