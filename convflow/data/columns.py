"""What tables of images have in common: which rows, which columns, and an image's cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convflow.data.captions import Captions, caption_text, find_caption_column
from convflow.data.class_ids import (
    Choice,
    LabelSet,
    choose_column,
    find_column,
    from_values,
    not_used,
    unconditional,
)
from convflow.data.files import read_below
from convflow.data.splits import (
    ALL,
    canonical,
    choose,
    find_split_column,
    require_unsplit,
)
from convflow.types import InputError


def choose_rows(
    columns: Sequence[str],
    values: Callable[[str], Sequence[Any]],
    where: str,
    split: str,
    own: str | None,
) -> tuple[np.ndarray | None, str | None, tuple[str, ...]]:
    """Rows of the split and the column that says so, None where none does, and sentences.

    Raises:
        InputError: There is no such split.
    """
    found = find_split_column(columns, values)
    if found is None or (own and canonical(split) not in (*found[1], ALL)):
        require_unsplit(split, where, own)
        return None, None, ()
    column, kinds = found
    wanted, notes = choose(kinds, where, split)
    said = tuple(f"{note}, by column `{column}`" for note in notes)
    return np.flatnonzero([kind in wanted for kind in kinds]), column, said


def image_column(
    where: str, types: Mapping[str, str], image_columns: Sequence[str], choice: Choice
) -> str:
    """The column with the images, among those that may hold some; `types` is by column."""
    if choice.image_column:
        name = choose_column("image", list(types), choice.image_column, where)
        if name not in image_columns:
            raise InputError(
                f"image-column: expected a column of images, got {name}; {where} has "
                f"images in {', '.join(image_columns) or 'no column'}"
            )
        return name
    for name in ("image", "img"):
        if name in image_columns:
            return name
    if len(image_columns) > 1:
        raise InputError(
            f"expected one image column in {where}, got {', '.join(image_columns)}; choose one as "
            f"image-column, such as {image_columns[0]}"
        )
    if not image_columns:
        raise InputError(
            f"expected an image column (bytes, or a struct with bytes) in {where}, "
            f"got the columns {', '.join(f'{name} ({kind})' for name, kind in types.items())}; "
            "save the images as PNG or JPEG, one in each row"
        )
    return image_columns[0]


class ColumnTable(NamedTuple):
    """What labels are found in."""

    name: str
    num_rows: int
    columns: Sequence[str]
    """All but those of images."""
    classes: Sequence[str]
    """Those whose type says that they are labels."""
    num_words: Callable[[str], int]
    values: Callable[[str], Sequence[Any]]
    names: Callable[[str], Sequence[str] | None]
    describe: Callable[[int], str]
    texts: Sequence[str] = ()
    """Those of text."""

    def captions(self, choice: Choice) -> Captions | None:
        """Captions from the column that the user names, or from the one there is."""
        others = [column for column in self.columns if column != choice.label_column]
        column = find_caption_column(others, choice.caption_column, self.name, self.texts)
        if column is None:
            return None
        cells = cache(partial(self.values, column))
        return Captions(
            lambda index: caption_text(cells()[index]), f"captions from column `{column}`"
        )

    def labels(self, choice: Choice) -> LabelSet:
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
            said: tuple[str, ...] = ()
        else:
            label, said = find_column(
                self.columns, self.classes, self.num_words, self.num_rows, self.name
            )
        others = [column for column in self.columns if column != label]
        told = find_caption_column(others, choice.caption_column, self.name, self.texts)
        left = not_used(self.columns, label, told)
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
        return found._replace(notes=(*found.notes, *said, *left))


def encoded_bytes(value: Any, below: Sequence[Path]) -> bytes:
    """Image bytes of a table cell: bytes, or a struct of bytes and a path below a folder."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None and isinstance(value, dict) and value.get("path"):
        return read_below(below, value["path"])
    return data or b""
