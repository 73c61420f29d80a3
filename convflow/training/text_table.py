"""Features of texts on disk: made once for each, in a run or beside the latents of a store.

A folder `texts` holds `texts.json`, which has the texts and what made the features, and an array
for tokens, mask and pooled features, whose row k is of text k. The empty text is among them.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from convflow.bar import Bar
from convflow.conditions.text import Text
from convflow.prompts import describe_cut
from convflow.settings.read import to_dict
from convflow.storage import begin_folder, end_folder, read_json, write_text
from convflow.texts import PretrainedText, TextEncoder
from convflow.types import InputError
from convflow.units import bytes_of

log = logging.getLogger("convflow")

TEXTS_FOLDER, TEXTS_INDEX = "texts", "texts.json"
AT_ONCE = 512
"""Texts whose features are made before they are written."""


class TextTable(NamedTuple):
    """Features of texts by row.

    Attributes:
        texts: by row.
        parts: tokens (N, L, E), mask (N, L) and pooled (N, P), which stay on disk.
        encoder: what made them, as settings.
    """

    texts: tuple[str, ...]
    parts: tuple[np.ndarray, ...]
    encoder: dict[str, Any]

    def take(self, rows: np.ndarray) -> Text:
        """Return the features of some texts as they are stored, on the CPU."""
        return Text(*(torch.from_numpy(np.array(part[rows])) for part in self.parts))


def make_table(parent: Path, texts: Sequence[str], encoder: TextEncoder) -> None:
    """Write the features of texts below a folder, unless they are there.

    Args:
        parent: a run or a store.
        texts: all different, the empty one among them.
        encoder: a frozen one; it is in memory as long as features are made.
    """
    folder, known = parent / TEXTS_FOLDER, {"encoder": _settings(encoder), "texts": list(texts)}
    if (folder / TEXTS_INDEX).is_file():
        if _without_place(read_json(folder / TEXTS_INDEX)) == _without_place(known):
            return
        shutil.rmtree(folder)
    if cut := describe_cut(encoder, texts):
        log.info(f"{cut} (--text.max-tokens)")
    draft, files = begin_folder(folder), list[np.ndarray]()
    shown = sys.stderr.isatty()
    with Bar(total=len(texts), desc="texts", unit="text", disable=not shown) as bar:
        for start in range(0, len(texts), AT_ONCE):
            some = texts[start : start + AT_ONCE]
            parts = [_stored(part, encoder) for part in tree_leaves(encoder.encode(some))]
            files = files or [_create(draft, n, part, len(texts)) for n, part in enumerate(parts)]
            for file, part in zip(files, parts, strict=True):
                file[start : start + len(some)] = part.numpy()
            bar.update(len(some))
    written = sum(file.nbytes for file in files)
    for file in files:
        file.flush()  # type: ignore[attr-defined]
    write_text(draft / TEXTS_INDEX, json.dumps(known))
    end_folder(draft, folder)
    log.info(f"features of {len(texts):,} texts take {bytes_of(written)} in {folder}")


def open_table(parent: Path) -> TextTable | None:
    """Return the features of texts below a folder, None where there are none.

    Raises:
        InputError: damaged files.
    """
    folder = parent / TEXTS_FOLDER
    if not (folder / TEXTS_INDEX).is_file():
        return None
    known = read_json(folder / TEXTS_INDEX)
    try:
        names = [folder / f"part{number}.npy" for number in range(len(Text._fields))]
        parts = tuple(np.load(name, mmap_mode="r", allow_pickle=False) for name in names)
        table = TextTable(tuple(known["texts"]), parts, dict(known["encoder"]))
        if any(len(part) != len(table.texts) for part in parts):
            raise ValueError("it is cut short")
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged ({error}); remove it and begin again") from error
    return table


def check_alike(tables: Sequence[TextTable], folders: Sequence[Path]) -> None:
    """Raise InputError unless one text encoder has made the features of all stores."""
    for table, folder in zip(tables, folders, strict=True):
        ours, theirs = ({**each.encoder, "encoder": ""} for each in (tables[0], table))
        if ours != theirs:
            raise InputError(
                f"expected features of captions by one text encoder in all stores, got others in "
                f"{folder} than in {folders[0]}; encode the captions of one of them again"
            )


def know_encoder(encoder: PretrainedText, table: TextTable, where: str) -> PretrainedText:
    """Return a text encoder with what a store knows of it, whose weights are then not asked for.

    Args:
        encoder: that the user names, or none.
        table: of the store.
        where: the store, for messages.

    Raises:
        InputError: features of another encoder.
    """
    theirs = table.encoder
    for name in ("max_tokens", "dtype", "sha256"):
        ours = getattr(encoder, name)
        usual = getattr(PretrainedText, name)
        if ours not in (usual, theirs[name]):
            raise InputError(
                f"--text.{name.replace('_', '-')}: expected {theirs[name]} as in the store "
                f"{where}, got {ours}; leave it out"
            )
    known = {name: theirs[name] for name in ("max_tokens", "dtype", "sha256", "width", "pooled")}
    return PretrainedText(encoder.encoder or theirs["encoder"], **known)


def _stored(part: Tensor, encoder: TextEncoder) -> Tensor:
    return part.to(encoder.stored) if part.is_floating_point() else part


def _create(draft: Path, number: int, part: Tensor, count: int) -> np.ndarray:
    first = part.numpy()
    return np.lib.format.open_memmap(
        draft / f"part{number}.npy", mode="w+", dtype=first.dtype, shape=(count, *first.shape[1:])
    )


def _without_place(known: dict[str, Any]) -> dict[str, Any]:
    """Return what a table says of itself, but for where its encoder lies."""
    return {**known, "encoder": {**dict(known.get("encoder") or {}), "encoder": ""}}


def _settings(encoder: TextEncoder) -> dict[str, Any]:
    """Return what features depend on beside the texts, as JSON has it."""
    return json.loads(json.dumps(to_dict(encoder)))
