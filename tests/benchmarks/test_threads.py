"""One thread stands beside all of them, and both give the same images."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

from benchmarks import harness
from benchmarks.samplers import threads
from convflow.types import Disagreement


def test_both_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(threads, "NETWORKS", {"tiny": threads.NETWORKS["tiny"]})
    monkeypatch.setattr(threads, "BATCHES", {"tiny": (2,)})
    monkeypatch.setattr(sys, "argv", ["threads.py", "--rounds", "1", "--beside", "1", "--dirty"])
    threads.main()
    with (tmp_path / "threads_cpu.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["rival"] for row in rows] == ["one thread", "all threads"]
    assert all(row["beside"] == "1" for row in rows)


def test_other_pictures_have_no_speed():
    class Other:
        def read(self, indices):
            return torch.rand(len(indices))

    with pytest.raises(Disagreement, match="the same images"):
        threads.set_up(Other(), (2, 1, 8, 8), "2 steps")
