"""Images of a Hugging Face dataset, by its name or from the folder that it was saved to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convflow.data.class_ids import AUTO, Choice, not_used
from convflow.data.columns import ColumnTable, choose_rows, encoded_bytes, image_column
from convflow.data.source import Stamp, StoredSource, one_line, require
from convflow.data.splits import (
    ALL,
    SPLIT_COLUMNS,
    canonical,
    choose_tables,
    only_splits,
)
from convflow.types import InputError


def open_hugging_face(name: str, split: str, choice: Choice = AUTO) -> StoredSource:
    """Images and labels of a Hugging Face dataset.

    Raises:
        InputError: There is no such dataset or split, or its columns cannot be used.
    """
    datasets = require("datasets", "hub", name)
    folder = Path(name.removeprefix("hf:")).expanduser()
    table = _load(datasets, name, folder)
    notes: tuple[str, ...] = ()
    if isinstance(table, dict):
        parts, notes = _parts(list(table), name, split)
        table = _joined(datasets, [table[part] for part in parts], name)
        own = canonical(split) if notes else None
    else:
        own = str(table.split) if table.split else None
    others = [column for column in table.features if column.lower() in SPLIT_COLUMNS]
    rows, parted, said = choose_rows(others, lambda column: table[column], name, split, own)
    if rows is not None:
        table, notes = table.select(rows).remove_columns([parted]), (*notes, *said)
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    image_columns = [column for column, kind in kinds.items() if kind == "Image"]
    image = image_column(name, kinds, image_columns, choice)
    below = _image_folders(datasets, folder)
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def names(label: str) -> Sequence[str] | None:
        return getattr(table.features[label], "names", None)

    def num_words(label: str) -> int:
        text = getattr(table.features[label], "dtype", "") in ("string", "large_string")
        words = table.unique(label) if text else []
        return 0 if None in words else len(words)

    columns = ColumnTable(
        name,
        len(table),
        [c for c in kinds if c not in image_columns and not only_splits(names(c))],
        [column for column, kind in kinds.items() if kind == "ClassLabel"],
        num_words,
        lambda label: list(table[label]),
        names,
        describe := f"{name} row {{}}".format,
        [column for column, feature in table.features.items() if _is_text(feature)],
    )
    found, captions = columns.labels(choice), columns.captions(choice)
    told = (captions.note,) if captions else ()
    return StoredSource(
        name,
        found.class_names,
        found.ids,
        describe,
        lambda index: encoded_bytes(encoded[index][image], below),
        (*notes, *found.notes, *told, *not_used(image_columns, image)),
        lambda: Stamp(str(encoded._fingerprint)),
        caption=captions and captions.say,
    )


def _is_text(feature: Any) -> bool:
    """Whether a column holds texts, or lists of texts."""
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "dtype", "") in ("string", "large_string")


def _load(datasets: Any, name: str, folder: Path) -> Any:
    """The dataset of a name, or the one that was saved to a folder: a table, or several by part."""
    where = name.removeprefix("hf:")
    if not where:
        raise InputError("expected the name of a Hugging Face dataset after hf:, got none")
    saved = any((folder / file).exists() for file in ("state.json", "dataset_dict.json"))
    try:
        return datasets.load_from_disk(str(folder)) if saved else datasets.load_dataset(where)
    # The library raises its own, its file system's and its network's exceptions.
    except Exception as error:
        raise InputError(
            f"expected a Hugging Face dataset, got {where}: {one_line(error)}"
        ) from error


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


def _image_folders(datasets: Any, folder: Path) -> list[Path]:
    """Where the paths of a Hugging Face dataset may lead: its own folder, or what it downloaded."""
    hub = require("huggingface_hub.constants", "hub", "hf:")
    config = datasets.config
    downloads = [config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH, hub.HF_HUB_CACHE]
    return [*([folder] if folder.is_dir() else []), *map(Path, downloads)]
