"""Both trainings take their turns, and the second is watched."""

import csv
import json
import sys

import pytest

from benchmarks import harness
from benchmarks.models import watching


@pytest.mark.slow
def test_both_are_measured(monkeypatch, tmp_path):
    seen = []
    measure = watching.measure

    def spy(words, run, images):
        found = measure(words, run, images)
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        seen.append(any("validation_loss" in row for row in rows))
        return found

    monkeypatch.setattr(watching, "measure", spy)
    monkeypatch.setattr(
        watching,
        "VARIANTS",
        {
            name: [*words, "--monitor.validation.every", "50"]
            for name, words in watching.VARIANTS.items()
        },
    )
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    words = ["watching.py", "--rounds", "1", "--images", "1000", "--dirty"]
    monkeypatch.setattr(sys, "argv", words)
    watching.main()
    with (tmp_path / "watching_cpu.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["watching"] for row in rows] == ["off", "on"]
    assert seen == [False, True]
