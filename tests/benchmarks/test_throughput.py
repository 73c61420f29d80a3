"""What a GPU cannot hold is halved, and a network that fails leaves the others their rows."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

from benchmarks import harness
from benchmarks.models import throughput
from convflow.bench import models, utilisation
from convflow.models.zoo import create_model
from tests.cases import TINY_DICO, TINY_DIT

LATENTS = {"in_channels": 4, "num_classes": 1000}
TINY = {"dico-xl": ("dico", TINY_DICO | LATENTS), "dit-xl/2": ("dit", TINY_DIT | LATENTS)}


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Run it on tiny networks: return its exit code and rows."""
    monkeypatch.setattr(
        models, "create_model", lambda name: create_model(*TINY[name][:1], **TINY[name][1])
    )
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(throughput, "choose_device", lambda: torch.device("cpu"))
    monkeypatch.setitem(utilisation.SIDES, True, 64)

    def run(words):
        given = ["throughput.py", *words.split(), "--rounds", "1", "--table", "tiny", "--dirty"]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as stop:
            throughput.main()
        with (tmp_path / "tiny.csv").open(newline="") as file:
            return bool(stop.value.code), [*csv.DictReader(file)]

    return run


@pytest.mark.slow
def test_xl_in_bfloat16_beside_dit_in_both(table, capsys):
    words = "--models dico-xl --sizes 32 --batch 2 --modes forward --compile none"
    failed, rows = table(f"{words} --precision bfloat16 --float32-rival dico-xl")
    lines = ["eager", "floor", "product limit", "dit-xl/2", "dit-xl/2 float32"]
    assert [row["rival"] for row in rows] == [*lines, "dit-xl/2 float32 product limit"]
    assert {row["precision"] for row in rows} == {"bfloat16"}
    assert ["flash" in row["attention"] for row in rows] == [False] * 3 + [True] + [False] * 2
    assert all(float(row["utilisation"]) > 0 for row in rows)
    assert not failed
    assert "times its product limit" in capsys.readouterr().out


@pytest.mark.slow
def test_what_does_not_fit_is_halved(table, monkeypatch, capsys):
    honest = models.prepare_model

    def prepare(name, shape, modes, setting):
        if shape[0] > 2 or shape[1] > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(name, shape, modes, setting)

    monkeypatch.setattr(models, "prepare_model", prepare)
    failed, rows = table("--models dico-xl --sizes 32 64 --batch 8 --modes training --compile none")
    assert {row["shape"] for row in rows} == {"2x32x32"}
    out = capsys.readouterr().out
    sentences = [f"dico-xl, training: {n}x32x32 does not fit into memory" for n in (8, 4)]
    assert [line for line in out.splitlines() if "32x32 does not fit" in line] == sentences
    assert "dico-xl, training: 1x64x64 does not fit" in out
    assert not failed


def test_a_failure_is_told_and_the_others_go_on(table, monkeypatch, capsys):
    honest = models.prepare_model

    def prepare(name, shape, modes, setting):
        if modes == ["training"]:
            raise RuntimeError("no such kernel")
        return honest(name, shape, modes, setting)

    monkeypatch.setattr(models, "prepare_model", prepare)
    failed, rows = table(
        "--models dico-xl --sizes 32 --batch 1 --modes training forward --compile none"
    )
    assert failed
    assert {row["mode"] for row in rows} == {"forward"}
    assert "dico-xl, training: RuntimeError: no such kernel" in capsys.readouterr().out
