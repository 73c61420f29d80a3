"""Which files belong to the split that is asked for: one rule for folders, archives and tables.

Folders are splits where all folders of a level are named like ones: `train` and `test`, `Training`
and `Testing`, `train2017` and `val2017`; on top, below folders around everything, or below folders
of classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from convflow.types import InputError

SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "trn": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}
"""What parts of a dataset are called on disk, and the part each name means."""

ALL = "all"
"""Asks for all parts together, but for the unlabeled one."""

_TAKE_ALL = ("take all of them for classes with --data.labels folders", "ask for the split 'all'")

SPLIT_COLUMNS = ("split", "subset", "partition")
"""What columns of splits are called, in small letters."""

_ORDER = ("train", "validation", "test", "unlabeled")
_WORD = re.compile(
    rf"(?<![^\W\d_])({'|'.join(sorted(SPLITS, key=len, reverse=True))})"
    r"(?=(set|data|images?|imgs?|pictures)?(?![^\W\d_]))",
    re.I,
)

Folders = tuple[str, ...]
"""A folder as the names on the way to it."""


class SplitFiles(NamedTuple):
    """The files of one split."""

    files: list[str]
    folders: list[Folders]
    """Of each file, without those around everything and without the split's own."""
    notes: tuple[str, ...] = ()


def choose_part(
    files: Sequence[str], where: str, split: str, labels: str = "auto", *, chosen: bool = False
) -> SplitFiles:
    """Those of the images that belong to the split; all of them where no folder is one.

    Args:
        files: Paths with forward slashes.
        where: What the user gave, for messages.
        split: A name in `SPLITS`, or `all`.
        labels: Where classes come from. `folders` takes folders for classes where only some are
            called like splits, and `none` takes them all where the split is `all`.
        chosen: Whether a table said which files belong to the split, so that no folder has to.

    Raises:
        InputError: There are splits but not this one, or only some of the folders are splits.
    """
    ways = {file.rpartition("/")[0] for file in files}
    folders = {way: tuple(way.split("/")) if way else () for way in ways}
    found = _level(set(folders.values()))
    if found is None:
        notes = _check(set(folders.values()), where, False, split, labels)
        require_unsplit(split, where, canonical(split) if chosen else None)
        rests, kept = folders, list(files)
    else:
        around, at = found
        kinds = {way: split_in(names[at]) or "" for way, names in folders.items()}
        wanted, notes = choose(kinds.values(), where, split)
        inside = _inside(folders.values(), at)
        rests = {
            way: names[around:at] + names[inside[names[: at + 1]] :]
            for way, names in folders.items()
            if kinds[way] in wanted
        }
        kept = [file for file in files if file.rpartition("/")[0] in rests]
        notes += _check(set(rests.values()), where, True, split, labels)
    skipped = _num_around(set(rests.values()))
    return SplitFiles(kept, [rests[file.rpartition("/")[0]][skipped:] for file in kept], notes)


def choose_tables(
    names: Sequence[str], where: str, split: str
) -> tuple[list[str], tuple[str, ...]]:
    """Those of the tables that belong to the split, and sentences; all where no name says one.

    Args:
        names: Paths of files or names of parts: `train-00000-of-00002.parquet`, `test`.
        where: What the user gave, for the message.
        split: A name in `SPLITS`, or `all`.

    Raises:
        InputError: There are splits but not this one, or only some of the tables have one.
    """
    kinds = {name: split_of(name) for name in names}
    if not any(kinds.values()):  # a word inside a name counts beside a name with another word
        inside = {name: split_in(name.rpartition("/")[2]) for name in names}
        kinds = inside if len({*inside.values()} - {None}) > 1 else kinds
    if not any(kinds.values()):
        return list(names), ()
    others = [name for name, kind in kinds.items() if kind is None]
    if others and split != ALL:
        have = ", ".join(name for name, kind in kinds.items() if kind)
        raise InputError(
            f"expected a split in the name of every table of {where}, got {have} beside "
            f"{some(others)}; give one of the files, or take all as the split 'all'"
        )
    wanted, notes = choose((kind for kind in kinds.values() if kind), where, split)
    return [name for name in names if kinds[name] in (*wanted, None)], notes


def find_split_column(
    columns: Iterable[str], values: Callable[[str], Iterable[Any]]
) -> tuple[str, list[str]] | None:
    """The column that says the split of each row, and the split of each; None if there is none.

    Raises:
        InputError: Only some of the rows have one.
    """
    for column in columns:
        if column.lower() in SPLIT_COLUMNS:
            words = list(values(column))
            kinds = [SPLITS.get(str(word).strip().lower(), "") for word in words]
            others = sorted(
                {str(word) for word, kind in zip(words, kinds, strict=True) if not kind}
            )
            if not others:
                return column, kinds
            if any(kinds):
                raise InputError(
                    f"expected a split such as train or test in every row of column `{column}`, "
                    f"got {some(others)}; mend them, or rename the column"
                )
    return None


def choose(kinds: Iterable[str], where: str, split: str) -> tuple[set[str], tuple[str, ...]]:
    """Which of the splits are meant, and what is to be said about it.

    Raises:
        InputError: It is not among them.
    """
    present = set(kinds)
    have = ", ".join([kind for kind in _ORDER if kind in present])
    wanted = present - {"unlabeled"} if split == ALL else present & {canonical(split)}
    if not wanted:
        raise InputError(f"expected a {split!r} split in {where}, got {have}; choose one of those")
    left = " without unlabeled" if split == ALL and "unlabeled" in present else ""
    return wanted, (f"split {canonical(split)} of {have}{left}",)


def canonical(split: str) -> str:
    """The name of a split in this library: `Val` becomes `validation`."""
    return SPLITS.get(split.lower(), split)


def only_splits(names: Sequence[str] | None) -> bool:
    """Whether classes are called as splits are: somebody took folders of splits for classes."""
    return bool(names) and all(name.lower() in SPLITS for name in names or ())


def split_in(name: str) -> str | None:
    """The split whose word stands in a name, such as `seg_train`, `trainA` or `test set`."""
    match = _WORD.search(_spaced(name))
    return SPLITS[match[1].lower()] if match else None


def split_of(path: str) -> str | None:
    """The split that a file name, or else one of its folders, begins with."""
    for part in reversed(path.split("/")):
        match = _WORD.match(_spaced(part))
        if match:
            return SPLITS[match[1].lower()]
    return None


def require_unsplit(split: str, where: str, own: str | None = None) -> None:
    """Accept data without parts as `train` alone: scored as "test" it would hide a mistake.

    Raises:
        InputError: `split` is neither `train` or `all` nor the data's `own` split.
    """
    if canonical(split) not in ("train", ALL, own):
        raise InputError(
            f"expected a {split!r} split in {where}, got data that is not split like that; "
            "give the path of the images themselves, and no split"
        )


def _level(folders: set[Folders]) -> tuple[int, int] | None:
    """How many folders are around everything, and at which depth all folders are splits."""
    around = 0
    while True:
        inside = _is_around(folders, around)
        for at in (around,) if inside else (around, around + 1):
            if all(len(names) > at for names in folders) and _all_splits({n[at] for n in folders}):
                return around, at
        if not inside:
            return None
        around += 1


def _all_splits(names: set[str]) -> bool:
    """Whether all names are splits, or say different ones in the same frame."""
    kinds, frames = set(map(split_in, names)), set(map(_frame, names))
    return all(map(_is_split, names)) or (None not in kinds and len(kinds) > 1 == len(frames))


def _is_split(name: str) -> bool:
    return name.lower() in SPLITS


def _frame(name: str) -> str:
    """What stands around the word of a split, without numbers: `seg*` of `seg_train 1`."""
    return re.sub(r"[^*\w]|[\d_]", "", _WORD.sub("*", _spaced(name), count=1)).lower()


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)


def _is_around(folders: set[Folders], depth: int) -> bool:
    """Whether there is one folder at this depth, which holds no image itself."""
    return (
        all(len(names) > depth + 1 for names in folders) and len({n[depth] for n in folders}) == 1
    )


def _num_around(folders: set[Folders]) -> int:
    """How many folders around everything hold nothing but folders."""
    depth = 0
    while _is_around(folders, depth):
        depth += 1
    return depth


def _inside(folders: Iterable[Folders], at: int) -> dict[Folders, int]:
    """At which depth the content of each split begins: `train/train` is a split unpacked twice."""
    below: dict[Folders, set[str]] = {}
    for names in folders:
        below.setdefault(names[: at + 1], set()).add("/".join(names[at + 1 : at + 2]).lower())
    return {names: at + 1 + (inner == {names[at].lower()}) for names, inner in below.items()}


def _check(
    folders: set[Folders], where: str, parted: bool, split: str, labels: str
) -> tuple[str, ...]:
    """Refuse folders that look like splits; a sentence about those that are classes."""
    clear = labels == "folders" or (labels == "none" and split == ALL)
    inner: dict[tuple[Folders, str], set[str]] = {}
    for names in folders:
        for depth, name in enumerate(names):
            if split_in(name):
                inner.setdefault((names[:depth], _frame(name)), set()).add(name)
    around, classes = _num_around(folders), list[str]()
    for (above, _), found in sorted(inner.items()):
        kinds, exact = set(map(split_in, found)), sorted(filter(_is_split, found))
        top = len(above) == around
        named = top and not parted and exact and kinds & {"train", "unlabeled"}
        if not clear and (named or (len(kinds) > 1 and (exact or "train" in kinds))):
            raise InputError(_unclear(folders, above, found, where, labels))
        classes += sorted(found) if top and labels != "none" else []
    if len(classes) < 2:
        return tuple(f"the folder {name} is taken for a class, not for a split" for name in classes)
    return (f"the folders {some(sorted(classes))} are taken for classes, not for splits",)


def _unclear(
    folders: set[Folders], above: Folders, found: set[str], where: str, labels: str
) -> str:
    depth = len(above)
    below = {names[depth:] for names in folders if names[:depth] == above}
    others = sorted({names[0] for names in below if names and names[0] not in found})
    if () in below:
        others.append("loose images")
    beside = f" beside {some(others)}" if others else ""
    first = sorted(found, key=lambda name: _ORDER.index(split_in(name) or "train"))
    inside = f" of {'/'.join(above)}" if above else ""
    return (
        f"expected either splits or classes as folders of {where}, got {', '.join(first)} (called "
        f"like splits){beside}{inside}; give one folder, such as {'/'.join((*above, first[0]))}, "
        f"or {_TAKE_ALL[labels == 'none']}"
    )


def some(names: Sequence[str], most: int = 4) -> str:
    """The first of the names, those with commas in quotes, and three dots where there are more."""
    quoted = [f'"{name}"' if "," in name else name for name in names[:most]]
    return ", ".join([*quoted, "..."] if len(names) > most else quoted)
