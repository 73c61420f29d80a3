"""Rows of measurements as CSV files and as lines for people, with the same digits in both."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from convflow.storage import writing_file

Cells = dict[str, str]


def cells(row: Mapping[str, object]) -> Cells:
    """Return a row as text: four digits of every float."""
    return {
        name: f"{cell:.4g}" if isinstance(cell, float) else str(cell) for name, cell in row.items()
    }


def lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a headline and a line for each row, in columns; numbers stand to the right."""
    columns = [[name, *(row[name] for row in rows)] for name in rows[0]]
    shown = []
    for column in columns:
        width, right = max(map(len, column)), all(map(_is_number, column[1:]))
        shown.append([cell.rjust(width) if right else cell.ljust(width) for cell in column])
    return ["  ".join(parts).rstrip() for parts in zip(*shown, strict=True)]


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], notes: Mapping[str, object] | None = None
) -> None:
    """Replace the table at `path`: a line for each row, with its notes behind.

    Raises:
        InputError: it cannot be written; an old table is untouched.
    """
    notes = notes or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], *notes], lineterminator="\n")
        table.writeheader()
        table.writerows({**row, **notes} for row in rows)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
