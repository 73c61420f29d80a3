"""The network alone is called as the loop calls it, and what differs has no speed."""

from __future__ import annotations

import csv
import sys
from functools import partial

import pytest
import torch

from benchmarks import harness
from benchmarks.samplers import network_share
from convflow.bench import models, utilisation
from convflow.types import Disagreement
from tests.cases import TINY_DIT


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Run it on a tiny network: return its rows."""
    monkeypatch.setattr(network_share, "NAME", "sit")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(network_share, "choose_device", lambda: torch.device("cpu"))
    monkeypatch.setitem(utilisation.SIDES, True, 64)
    monkeypatch.setattr(network_share, "SETTINGS", TINY_DIT | {"in_channels": 4})

    def run(words):
        given = ["network_share.py", "--size", "32", "--batch", "3", *words.split(), "--dirty"]
        monkeypatch.setattr(sys, "argv", given)
        network_share.main()
        with (tmp_path / "network_share_cpu.csv").open(newline="") as file:
            return [*csv.DictReader(file)]

    return run


def test_sampling_stands_beside_as_many_calls_of_the_network(table, monkeypatch):
    counts = {}
    honest = network_share.set_up

    def set_up(samples, inputs, *more):
        calls = honest(samples, inputs, *more)
        assert [len(x) for x, *_ in inputs] == [6] * 6  # twice the batch; the first step has two
        for name in (network_share.SAMPLING, network_share.NETWORK):
            seen = counts[name] = list[torch.Tensor]()
            keep = partial(lambda to, _, given, out: to.append(out), seen)
            hook = samples.model.register_forward_hook(keep)
            calls[name]()
            hook.remove()
        return calls

    monkeypatch.setattr(network_share, "set_up", set_up)
    rows = table("--steps 5 --rounds 1 --variants eager --precision float32")
    assert [row["rival"] for row in rows] == ["sampling", "network alone", "product limit"]
    assert {row["shape"] for row in rows} == {"3x4x4x4"}
    for one, other in zip(*counts.values(), strict=True):
        assert one.equal(other)
    outside = 1 - float(rows[1]["ratio"])
    assert float(rows[0]["outside"]) == pytest.approx(outside, abs=1e-3)


def test_a_variant_that_differs_is_found(table, monkeypatch):
    variants = {"wrong": lambda model: models.perturb(model, 0.05) and None}
    monkeypatch.setattr(network_share, "VARIANTS", variants)
    with pytest.raises(Disagreement, match="sit and itself wrong: expected the same numbers"):
        table("--steps 2 --variants wrong --precision float32")
