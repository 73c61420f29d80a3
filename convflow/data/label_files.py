"""Labels from files beside the images: `dataset.json`, `metadata.csv`, `metadata.jsonl`.

The first is the layout of StyleGAN and EDM, the others are Hugging Face's.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from convflow.class_names import composed
from convflow.data.captions import caption_text, find_caption_column, is_caption
from convflow.data.class_ids import (
    Choice,
    LabelSet,
    choose_column,
    find_column,
    from_values,
    not_used,
    plain_column,
    unconditional,
)
from convflow.data.source import one_line
from convflow.data.splits import choose, find_split_column, some
from convflow.types import InputError

LABEL_FILES = ("dataset.json", "metadata.csv", "metadata.jsonl")
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "image_path")


class Listing(NamedTuple):
    """What one file says about the images in its folder and below."""

    file: str
    labels: dict[str, Any] | None
    """By path in Unicode's form NFC; None where it has none."""
    origin: str
    """What the labels are, such as "column `label` of metadata.csv"."""
    notes: tuple[str, ...] = ()
    final: bool = False
    """Whether having no labels means that there are no classes."""
    splits: dict[str, str] | None = None
    """The split by path in Unicode's form NFC; None where no column says one."""
    captions: dict[str, str] | None = None
    """Likewise; None where no column holds captions."""
    caption_column: str = ""


def is_label_file(file: str) -> bool:
    """Whether a file may say the labels of images, by its name."""
    return file.lower().endswith(LABEL_FILES) and file.rpartition("/")[2].lower() in LABEL_FILES


def read_listings(
    files: Iterable[str],
    image_files: Sequence[str],
    read: Callable[[str], bytes],
    choice: Choice,
    guess: bool = True,
) -> list[Listing]:
    """What the files of labels say that lie in the folders of the images or above.

    Args:
        files: Paths of all files with forward slashes.
        image_files: Paths of the images that are used.
        read: Path to bytes.
        choice: What the user says about labels and columns; labels are read where the source is
            `auto` or `table`, splits always.
        guess: Whether a column may be taken for labels that is not called like ones.

    Raises:
        InputError: A file is damaged, or says no labels in the way that is known.
    """
    folders = {image_file.rpartition("/")[0] for image_file in image_files}
    above = {"", *folders}
    for folder in folders:
        while folder := folder.rpartition("/")[0]:
            above.add(folder)
    found = sorted(f for f in files if is_label_file(f) and f.rpartition("/")[0] in above)
    if choice.source not in ("auto", "table"):
        found = [file for file in found if not file.lower().endswith(".json")]
    return [read_listing(file, read, choice, guess) for file in found]


def choose_listed(
    listings: Sequence[Listing], image_files: Sequence[str], where: str, split: str
) -> tuple[list[str], tuple[str, ...]] | None:
    """The images of a split by the nearest file that says splits, and sentences; None if none.

    Raises:
        InputError: There is no such split, or an image has none.
    """
    by_folder = {
        listing.file.rpartition("/")[0]: listing.splits for listing in listings if listing.splits
    }
    if not by_folder:
        return None
    kinds = [
        _nearest(image_file, by_folder).get(composed(image_file)) for image_file in image_files
    ]
    wanted, notes = choose(filter(None, kinds), where, split)
    missing = [
        image_file for image_file, kind in zip(image_files, kinds, strict=True) if kind is None
    ]
    if missing:
        notes += (f"{len(missing):,} images without a split are not taken: {some(missing)}",)
    return [file for file, kind in zip(image_files, kinds, strict=True) if kind in wanted], notes


def _nearest(image_file: str, by_folder: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the nearest folder above an image holds, nothing where none does."""
    folder = image_file.rpartition("/")[0]
    while folder and folder not in by_folder:
        folder = folder.rpartition("/")[0]
    return by_folder.get(folder, {})


def from_listings(
    listings: Sequence[Listing], image_files: Sequence[str], known: Iterable[str], where: str
) -> LabelSet | None:
    """Labels of the images, each from the nearest file above it; None where no file has any.

    Raises:
        InputError: An image has no label, or two files in one folder have labels.
    """
    by_folder: dict[str, Listing] = {}
    for listing in listings:
        folder = composed(listing.file.rpartition("/")[0])
        if listing.labels is not None and folder in by_folder:
            raise InputError(
                f"expected one file with labels in a folder, got {by_folder[folder].file} and "
                f"{listing.file}; remove one of them"
            )
        if listing.labels is not None:
            by_folder[folder] = listing
    if not by_folder:
        final = [listing for listing in listings if listing.final]
        if not final:
            return None
        return unconditional(len(image_files), f"{final[0].file} has no labels")
    known_labels = {folder: listing.labels or {} for folder, listing in by_folder.items()}
    values, missing = [], []
    for image_file in image_files:
        labels = _nearest(image_file, known_labels)
        if composed(image_file) not in labels:
            missing.append(image_file)
        values.append(labels.get(composed(image_file)))
    present = set(map(composed, known))
    origins = " and ".join(_few([listing.origin for listing in by_folder.values()]))
    if missing:
        named = [file for listing in by_folder.values() for file in listing.labels or ()]
        other = next((f", but one for {file}" for file in named if file not in present), "")
        raise InputError(
            f"expected a label for every image of {where} in {origins}, got none for "
            f"{missing[0]} ({len(missing):,} of {len(image_files):,} have none){other}; add them, "
            "or pass --data.labels folders or --data.labels none"
        )
    found = from_values(values, None, image_files.__getitem__, origins)
    lost = [file for at in by_folder.values() for file in at.labels or () if file not in present]
    word = "1 row names" if len(lost) == 1 else f"{len(lost):,} rows name"
    absent = [f"{word} no file that is there: {', '.join(_few(lost))}"] if lost else []
    return found._replace(notes=(*found.notes, *sentences(listings), *absent))


def sentences(listings: Sequence[Listing]) -> tuple[str, ...]:
    """What is to be said about the files, the first few of many alike."""
    return tuple(_few([note for listing in listings for note in listing.notes]))


def read_listing(
    file: str, read: Callable[[str], bytes], choice: Choice, guess: bool = True
) -> Listing:
    """Return what one file says about images; arguments as of `read_listings`."""
    try:
        text = read(file).decode("utf-8-sig")
        if file.lower().endswith(".json"):
            return _read_json(file, json.loads(text), choice)
        rows = _rows(file, text)
    except InputError:
        raise
    # Archives and parsers raise nearly any exception on damaged bytes.
    except Exception as error:
        if choice.source not in ("auto", "table"):
            return Listing(file, None, file)
        reason = "too many brackets" if isinstance(error, RecursionError) else one_line(error)
        raise InputError(
            f"expected a file of labels, got {file}: {reason}; mend it, or pass --data.labels "
            "folders or --data.labels none"
        ) from error
    return listing_of(file, rows, choice, guess)


def listed_files(file: str, read: Callable[[str], bytes], choice: Choice, folder: str) -> list[str]:
    """Return the files that the rows of a table name, each once, below the folder of the table.

    Args:
        file: The table's name.
        read: Its name to bytes.
        choice: What the user says about columns.
        folder: Where it lies; paths in it that begin anew may lead there alone.

    Raises:
        InputError: A damaged table, no column of files, or a path that leads elsewhere.
    """
    try:
        rows = _rows(file, read(file).decode("utf-8-sig"))
    except Exception as error:  # parsers raise nearly any exception on damaged bytes
        raise InputError(f"expected a table of images, got {file}: {one_line(error)}") from error
    column, shown = _file_column(file, rows, choice)
    if not column:
        raise InputError(
            f"expected a column file_name in {file}, got {shown}; name it with --data.image-column"
        )
    found = dict[str, None]()
    for number, row in enumerate(rows):
        path = str(row.get(column) or "").replace("\\", "/").removeprefix(f"{folder}/")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path[:1] in ("", "/") or ".." in parts:
            raise InputError(
                f"{file} row {number}: expected a file below {folder}, got {path or 'none'}; "
                "move the table to the images, or mend it"
            )
        found["/".join(parts)] = None
    return list(found)


def _read_json(file: str, tree: Any, choice: Choice) -> Listing:
    """Labels of `{"labels": [["00000/a.png", 0], ...]}`, or of a dict in place of the pairs."""
    if choice.label_column or choice.image_column:
        raise InputError(
            f"expected a file with columns, got {file}, which has none; leave the column out"
        )
    if not isinstance(tree, dict) or "labels" not in tree:
        return Listing(file, None, file, (f"{file} is not read: it has no entry 'labels'",))
    pairs = tree["labels"]
    if pairs is None:
        return Listing(file, None, file, final=True)
    pairs = list(pairs.items()) if isinstance(pairs, dict) else pairs
    if not isinstance(pairs, list) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in pairs
    ):
        raise InputError(
            f"expected pairs of a file and its label as 'labels' of {file}, got something else; "
            "mend it, or pass --data.labels folders or --data.labels none"
        )
    return Listing(file, _by_path(file, pairs), file)


def listing_of(
    file: str, rows: list[dict[str, Any]], choice: Choice, guess: bool = True
) -> Listing:
    """Return what rows with a column of files and a column of labels say, as `read_listings`."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path, shown = _file_column(file, rows, choice)
    if not path:
        return Listing(file, None, file, (f"{file} is not read: no file_name in {shown}",))
    others = [column for column in columns if column != path]
    parted = find_split_column(others, lambda column: [row.get(column) for row in rows])
    splits = None
    if parted:
        others.remove(parted[0])
        kinds = zip([row.get(path) for row in rows], parted[1], strict=True)
        splits = _by_path(file, list(kinds), "split")

    def num_words(column: str) -> int:
        words = [row.get(column) for row in rows]
        return len(set(words)) if all(isinstance(word, str) for word in words) else 0

    captions, told = _captions(file, path, rows, others, choice)
    plain = Listing(file, None, file, splits=splits, captions=captions, caption_column=told)
    if choice.source not in ("auto", "table"):
        return plain
    if choice.label_column:
        label: str | None = choose_column("label", columns, choice.label_column, file)
        said: tuple[str, ...] = ()
    else:
        label, said = find_column(others, (), num_words, len(rows), file, guess)
    left = tuple(f"{file}: {note}" for note in (*not_used(others, label, told), *said))
    if label is None:
        return plain._replace(notes=left)
    pairs = [(row.get(path), row.get(label)) for row in rows]
    origin = f"column `{label}` of {file}"
    return plain._replace(labels=_by_path(file, pairs), origin=origin, notes=left)


def _captions(
    file: str, path: str, rows: list[dict[str, Any]], others: Sequence[str], choice: Choice
) -> tuple[dict[str, str] | None, str]:
    """The captions by path, several one a line, and their column; None where there is none."""
    columns = [column for column in others if column != choice.label_column]
    texts = [name for name in columns if all(is_caption(row.get(name)) for row in rows)]
    column = find_caption_column(columns, choice.caption_column, file, texts)
    if column is None:
        return None, ""
    found = dict[str, str]()
    for row in rows:
        found.setdefault(_path(file, row.get(path)), caption_text(row.get(column)))
    return found, column


def _file_column(file: str, rows: list[dict[str, Any]], choice: Choice) -> tuple[str, str]:
    """The column of files, empty where none is known, and all columns for a message."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if choice.image_column:
        return choose_column("image", columns, choice.image_column, file), ""
    named = {plain_column(name): name for name in reversed(columns)}
    found = next((named[name] for name in _FILE_COLUMNS if name in named), "")
    return found, ", ".join(columns) or "nothing"


def _by_path(file: str, pairs: Sequence[Sequence[Any]], kind: str = "label") -> dict[str, Any]:
    """Labels by path from the top in Unicode's form NFC; names count from the file's folder."""
    labels = dict[str, Any]()
    for name, label in pairs:
        path = _path(file, name)
        if path in labels and labels[path] != label:
            raise InputError(
                f"expected one {kind} for {path} in {file}, got {labels[path]!r} and {label!r}; "
                "remove one"
            )
        labels[path] = label
    return labels


def _path(file: str, name: Any) -> str:
    """The path of an image from the top in Unicode's form NFC, by its name in a file of labels."""
    parts = (file.rpartition("/")[0], *str(name).replace("\\", "/").split("/"))
    return composed("/".join([part for part in parts if part not in ("", ".")]))


def _few(names: Sequence[str]) -> list[str]:
    return [*names[:3], f"{len(names) - 3:,} more"] if len(names) > 3 else list(names)


def _rows(file: str, text: str) -> list[dict[str, Any]]:
    return _json_rows(text) if file.lower().endswith(".jsonl") else _csv_rows(text)


def _csv_rows(text: str) -> list[dict[str, Any]]:
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns, rows = list[str](), list[dict[str, Any]]()
    for cells in reader:
        if not columns:
            columns = [name.strip() for name in cells]
            if twice := [name for name in columns if columns.count(name) > 1]:
                raise ValueError(f"two columns are called {twice[0]!r}")
        elif len(cells) > len(columns):
            raise ValueError(
                f"line {reader.line_num} has {len(cells)} cells, the header has {len(columns)}"
            )
        elif cells:
            texts = (cell.strip() or None for cell in cells)
            rows.append(dict(zip(columns, texts, strict=False)))
    return rows


def _json_rows(text: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object in braces")
    return rows
