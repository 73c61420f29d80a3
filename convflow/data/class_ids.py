"""From folders, names, columns and tables of labels to class ids and class names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from convflow.class_names import composed
from convflow.data.source import natural_key
from convflow.data.splits import Folders, some, split_in
from convflow.types import InputError, unknown_name

LABEL_SOURCES = ("auto", "folders", "table", "names", "none")
"""Where labels may be asked for from."""

LABEL_COLUMNS = frozenset(
    "label labels label_name label_id label_text class classes class_name class_id class_label "
    "class_idx category categories category_name category_id target targets species breed "
    "fine_label coarse_label".split()
)
"""What columns of labels are called, in small letters."""

TEXT_COLUMNS = frozenset(
    "text texts caption captions prompt prompts description title url key id image_id hash md5 "
    "sha256 path file file_name filename image_path split subset partition license licence author "
    "photographer artist credit source camera date format mode language".split()
)
"""Columns of text that are no labels, however few different words they hold."""


class Choice(NamedTuple):
    """What the user says about labels."""

    source: str = "auto"
    """One of `LABEL_SOURCES`."""
    label_column: str = ""
    """Of a table; empty to find it."""
    image_column: str = ""
    """Of a table; empty to find it."""
    caption_column: str = ""
    """Of a table; empty to find it."""


AUTO = Choice()


class LabelSet(NamedTuple):
    """The class of each image."""

    ids: np.ndarray
    """(N,) int64."""
    class_names: tuple[str, ...]
    """By class id; none for unconditional data."""
    notes: tuple[str, ...]
    """Sentences about where they come from."""


def unconditional(count: int, reason: str = "") -> LabelSet:
    """No labels for `count` images, and why."""
    note = "no classes: the model will be unconditional" + (f" ({reason})" if reason else "")
    return LabelSet(np.zeros(count, np.int64), (), (note,))


def from_folders(folders: Sequence[Folders], where: str) -> LabelSet:
    """Classes by the first folder of each image; none where all images are in no folder.

    Raises:
        InputError: Some images are in folders and some are not.
    """
    tops = [names[0] if names else "" for names in folders]
    class_names = tuple(sorted(set(tops) - {""}, key=natural_key))
    loose = tops.count("")
    if not class_names:
        return unconditional(len(tops), "no class folders")
    if loose:
        raise InputError(
            f"expected class folders or loose images in {where}, got {len(class_names)} folders "
            f"with images beside {loose} loose images; move those into a class folder, or all "
            "images into one folder, or pass --data.labels none for no classes"
        )
    ids = {top: number for number, top in enumerate(class_names)}
    note = f"{_classes_word(len(class_names))} from folders: {some(class_names)}"
    found = np.array([ids[top] for top in tops], np.int64)
    return LabelSet(found, class_names, (note, *_alike(class_names)))


def prefix_of(file: str) -> str:
    """The name of a file up to its last number: `cat` of `a/cat_0.png`; empty where none is."""
    stem = file.rpartition("/")[2].rpartition(".")[0]
    prefix = re.sub(r"[\s_.\-(]*\d+\)?$", "", stem)
    return prefix if prefix != stem else ""


def from_names(files: Sequence[str], where: str) -> LabelSet:
    """Classes by the names of the files up to their last numbers.

    Raises:
        InputError: A file has no number at the end of its name, or nothing before it.
    """
    prefixes = [prefix_of(file) for file in files]
    if "" in prefixes:
        raise InputError(
            f"expected names such as cat_0.png in {where}, got {files[prefixes.index('')]}; rename "
            "it, or leave --data.labels names out"
        )
    class_names = tuple(sorted(set(prefixes), key=natural_key))
    ids = {prefix: number for number, prefix in enumerate(class_names)}
    note = f"{_classes_word(len(class_names))} from file names: {some(class_names)}"
    found = np.array([ids[prefix] for prefix in prefixes], np.int64)
    return LabelSet(found, class_names, (note, *_alike(class_names)))


def offer_names(files: Sequence[str]) -> tuple[str, ...]:
    """A sentence where all file names look like classes, several of each, or like splits."""
    prefixes = {prefix_of(file) for file in files}
    if len(splits := {split_in(prefix) or "" for prefix in prefixes}) > 1 and "" not in splits:
        return (f"file names look like splits ({some(sorted(splits))}); all files are taken",)
    if "" in prefixes or not 2 <= len(prefixes) <= max(2, len(files) // 2):
        return ()
    shown = some(sorted(prefixes, key=natural_key))
    return (f"file names look like classes ({shown}); --data.labels names takes them",)


def from_values(
    values: Sequence[Any],
    names: Sequence[str] | None,
    describe: Callable[[int], str],
    origin: str,
) -> LabelSet:
    """Classes by a value for each image: class ids, or text; all None or all -1 mean no class.

    Args:
        values: (N,) of one kind.
        names: Names by class id, where they are known.
        describe: Index to the item's name, for messages.
        origin: What the values are, such as "column `label`".

    Raises:
        InputError: A value that is no label; the message names the row.
    """
    missing = [row for row, value in enumerate(values) if value is None]
    if len(missing) == len(values) or all(value == -1 for value in values):
        return unconditional(len(values), f"{origin} has no labels")
    if missing:
        raise InputError(
            f"{describe(missing[0])}: expected a label, got none ({len(missing):,} of "
            f"{len(values):,} have none); give it one, or pass --data.labels none"
        )
    kind = str if names is None and isinstance(values[0], str) else int
    for row, value in enumerate(values):
        if not isinstance(value, kind):
            wanted = "a text label like the first" if kind is str else "an integer or text label"
            raise InputError(
                f"{describe(row)}: expected {wanted}, got {_short(value)}; mend it, or pass "
                "--data.labels none for no classes"
            )
    if kind is str:
        names = sorted(set(values), key=natural_key)
        ids = {text: number for number, text in enumerate(names)}
        values = [ids[value] for value in values]
    labels, said = _numbered(values, len(names) if names else None, describe)
    class_names = tuple(names or map(str, np.unique(values).tolist()))
    note = f"labels from {origin}: {_classes_word(len(class_names))}, {some(class_names)}"
    return LabelSet(labels, class_names, (note, *said, *_alike(class_names)))


def _numbered(
    values: Sequence[int], known: int | None, describe: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class ids (N,) int64, of `known` classes or of those there are, and sentences."""
    large = next((row for row, value in enumerate(values) if not -(2**31) <= value < 2**31), None)
    num_classes = known or max(values) + 1
    labels = np.array([-1] if large is not None else values, np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        row = int(outside[0]) if large is None else large
        raise InputError(
            f"{describe(row)}: expected a label in 0..{num_classes - 1}, got {values[row]}"
        )
    used, ids = np.unique(labels, return_inverse=True)
    if known is not None or len(used) == num_classes:
        return labels, ()
    gap = int(np.flatnonzero(used != np.arange(len(used)))[0])
    return ids, (f"labels have gaps, such as {gap}: the classes are those that an image has",)


def choose_column(kind: str, columns: Sequence[str], wanted: str, where: str) -> str:
    """The column that the user names.

    Raises:
        InputError: There is no such column; the message shows them.
    """
    if wanted not in columns:
        hint = unknown_name("column", wanted, columns)
        shown = "" if "choose from" in hint else f" ({where} has {', '.join(columns)})"
        raise InputError(f"{kind}-column: {hint}{shown}")
    return wanted


def find_column(
    columns: Sequence[str],
    classes: Sequence[str],
    num_words: Callable[[str], int],
    num_rows: int,
    where: str,
    guess: bool = True,
) -> tuple[str | None, tuple[str, ...]]:
    """The column of labels among some, by its type or its name, or the only one of few words.

    Returns it, or None, and a sentence where neither type nor name say that it holds labels.

    Args:
        columns: Those there are, but for images.
        classes: Those whose type says that they are labels.
        num_words: Returns how many different words a column of text holds; 0 for other columns.
        num_rows: Of the table.
        where: What they are columns of, for the message.
        guess: Whether a column of few words is taken; else it is only offered.

    Raises:
        InputError: There are several.
    """
    for name in ("label", "labels"):
        if name in columns:
            return name, ()
    found = [name for name in columns if name in classes or plain_column(name) in LABEL_COLUMNS]
    said: tuple[str, ...] = ()
    if not found:
        others = [name for name in columns if plain_column(name) not in TEXT_COLUMNS]
        found = [name for name in others if 2 <= num_words(name) <= num_rows // 2]
        if found and not guess:
            shown = f"{some(found)} of {where}"
            return None, (f"--data.label-column {found[0]} would take classes from {shown}",)
        said = ("the column is taken for labels because it alone is text of few words",)
    if len(found) > 1:
        raise InputError(
            f"expected one column of labels in {where}, got {', '.join(found)}; name one with "
            f"--data.label-column {found[0]}, or pass --data.labels none for no classes"
        )
    return (found[0], said) if found else (None, ())


def plain_column(column: str) -> str:
    """The name of a column in small letters with underscores: `file_name` of `FileName`."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)).strip("_").lower()


def not_used(columns: Sequence[str], *used: str | None) -> tuple[str, ...]:
    """A sentence about the columns that are left, if any are."""
    left = [name for name in columns if name not in used]
    return (f"columns not used: {some(left, 8)}",) if left else ()


def _alike(names: Sequence[str]) -> tuple[str, ...]:
    """A sentence about classes whose names look the same, if there are any."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(composed(name).strip().casefold(), []).append(name)
    alike = [name for group in groups.values() if len(group) > 1 for name in group]
    if not alike:
        return ()
    return (f"names of classes differ in case, spaces or Unicode form alone: {some(alike)}",)


def _classes_word(count: int) -> str:
    return f"{count:,} class" + "es" * (count != 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
