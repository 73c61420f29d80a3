"""Rows as files and as lines: the same digits in both."""

from __future__ import annotations

import csv
import errno

import pytest

from convflow.bench import table
from convflow.types import InputError

ROWS = [
    {"rival": "deform_sample", "ms": 2.70712345, "calls": 20},
    {"rival": "a, b", "ms": 41.95, "calls": 3},
]


def test_four_digits_of_floats_and_all_of_the_rest():
    assert table.cells(ROWS[0]) == {"rival": "deform_sample", "ms": "2.707", "calls": "20"}


def test_columns_stand_below_each_other():
    head, *rest = table.lines([table.cells(row) for row in ROWS])
    assert rest == ["deform_sample  2.707     20", "a, b           41.95      3"]
    assert head == "rival             ms  calls"


def test_a_file_holds_rows_and_notes(tmp_path):
    path = tmp_path / "new/table.csv"
    table.write_csv(path, [table.cells(row) for row in ROWS], {"cpu": "x"})
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [table.cells(row) | {"cpu": "x"} for row in ROWS]


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    path.write_text("precious")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    with pytest.raises(InputError, match="No space left"):
        table.write_csv(path, ROWS)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
