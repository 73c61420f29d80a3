"""Tables of the docs, made of those in `results`.

    python benchmarks/tables.py

A page has the marks `<!-- table NAME -->` and `<!-- end of table -->` on lines of their own. What
lies between them is written by this script, and a test holds it against the results.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = Path(__file__).resolve().parent / "results"
PLACE = re.compile(r"^(<!-- table (\w+) -->\n).*?^(<!-- end of table -->)$", re.M | re.S)
"""The place of a table: its first mark, its name, its last mark."""

MISSING = "*Not measured yet.*"

Row = Mapping[str, str]


class DocTable(NamedTuple):
    """A table of a page.

    Attributes:
        command: that measures it.
        rows: headings of the columns that name a row, with their columns of results. Results of
            one name, such as those of two seeds, share a row.
        cells: headings of the other columns, with their columns of results.
        last: a column of results of which the largest number counts alone, such as images seen. Of
            several draws of samples the first counts.
    """

    command: str
    rows: Mapping[str, str]
    cells: Mapping[str, str]
    last: str = ""


SCORES = {"FD": "FD", "KD": "KD", "precision": "precision", "recall": "recall"}
TABLES = {
    "objectives_cost": DocTable(
        "python benchmarks/quality/objectives.py cost",
        {"network": "network", "loss": "objective"},
        {"ms a step": "ms", "over plain": "over_plain", "peak MiB": "peak_mib",
         "more than plain, MiB": "more_mib"},
    ),
    "objectives": DocTable(
        "python benchmarks/quality/objectives.py quality",
        {"network and loss": "contender"},
        {"images seen": "images", "cosine": "cosine", **SCORES},
        last="images",
    ),
    "few_steps": DocTable(
        "python benchmarks/quality/few_steps.py",
        {"training": "contender", "sampling": "way"},
        {"images seen": "images", **SCORES},
        last="images",
    ),
    "average_scale": DocTable(
        "python benchmarks/quality/average_scale.py",
        {"time scale": "time_scale", "steps": "steps"},
        {"labels right": "right", "pixel FD": "pixel_fd", "last loss": "last_loss"},
    ),
}  # fmt: skip
"""By the name of their file in `results`."""


def main() -> None:
    """Write every table into its page."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (made := fill(text)) != text:
            page.write_text(made, encoding="utf-8")
            print(page.relative_to(DOCS.parent))


def fill(text: str, results: Path = RESULTS) -> str:
    """Return a page with its tables as the results have them."""

    def table(match: re.Match[str]) -> str:
        first, name, last = match.groups()
        path, lines = results / f"{name}.csv", [MISSING]
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                lines = list(table_of(TABLES[name], list(csv.DictReader(file)), path.name))
        return "\n".join([first, *lines, "", last])

    return PLACE.sub(table, text)


def table_of(table: DocTable, found: Sequence[Row], file: str) -> Iterator[str]:
    """Yield the lines of a table, and what it is of.

    Args:
        table: what it shows.
        found: the results.
        file: where they are, for the last line.
    """
    found = [row for row in found if row.get("draw", "") in ("", "0")]
    if table.last:
        most = max(int(row[table.last] or 0) for row in found)
        found = [row for row in found if row[table.last] in ("", str(most))]
    named: dict[tuple[str, ...], list[Row]] = {}
    for row in found:
        named.setdefault(tuple(row[column] for column in table.rows.values()), []).append(row)
    yield f"| {' | '.join([*table.rows, *table.cells])} |"
    yield "|---" * len([*table.rows, *table.cells]) + "|"
    for name, rows in named.items():
        cells = [", ".join(_different(rows, column)) for column in table.cells.values()]
        yield f"| {' | '.join([*map(_shown, name), *cells])} |"
    origins = " and ".join(dict.fromkeys(map(_origin, found)))
    yield ""
    yield f"*`{table.command}`, `benchmarks/results/{file}`; {origins}.*"


def _origin(row: Row) -> str:
    """Return the machine, the version of torch and the revision of a result."""
    threads = f"{row['threads']} thread{'s' * (row['threads'] != '1')}"
    return f"{row['cpu']}, {threads}, torch {row['torch']}, revision {row['revision']}"


def _different(rows: Sequence[Row], column: str) -> list[str]:
    """Return the values of a column, in order; one where all are the same, "-" where none is."""
    values = [row.get(column, "") for row in rows]
    values = values[:1] if len({*values}) == 1 else values
    return [_shown(value) for value in values]


def _shown(value: str) -> str:
    """Return a value as a page has it: large whole numbers with commas, "-" for nothing."""
    return f"{int(value):,}" if value.isdigit() else value or "-"


if __name__ == "__main__":
    main()
