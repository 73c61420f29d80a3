"""Rivals take turns, ratios are taken round by round, memory is what tensors held."""

import math
from statistics import median

import pytest
import torch

from convflow.bench import harness
from convflow.bench.harness import (
    BenchRow,
    Case,
    deciles,
    machine,
    measure,
    over_limits,
    peak_mib,
    unsteady,
)

CPU = torch.device("cpu")


def test_rivals_take_turns_and_ratios_are_of_their_round(monkeypatch):
    """Each has one call before the rounds; in a round it warms up for 20 ms, then one call counts.

    Ours needs 1, 2 and 4 seconds in them, the rival 10: ratios of 10, 5 and 2.5.
    """
    seen = []
    needs = {
        "ours": [99, 99, 1, 0.012, 0.009, 2, 99, 4],
        "rival": [99, 99, 10, 99, 10, 99, 10],
    }

    def set_up(shape, mode):
        return {name: lambda name=name: name for name in needs}

    def seconds(call, device):
        seen.append(call())
        return float(needs[seen[-1]].pop(0))

    monkeypatch.setattr(harness, "seconds", seconds)
    monkeypatch.setattr(harness, "peak_mib", lambda call, device: 1.5)
    ours, rival = measure(Case("case", set_up, [(2, 3)], ["forward"]), 3, CPU)
    usual, long = ["ours"] * 2 + ["rival"] * 2, ["ours"] * 3 + ["rival"] * 2
    assert seen == ["ours", "rival", *usual, *long, *usual]
    assert (ours.shape, ours.mode, ours.rival, ours.ratio) == ("2x3", "forward", "ours", 1)
    assert (ours.median_ms, rival.median_ms, rival.ratio) == (2000, 10_000, 5)
    assert rival.peak_mib == 1.5


@pytest.mark.parametrize("numbers", [[3.0], [1.0, 2.0], [5.0, 1.0, 2.0], [*map(float, range(11))]])
def test_deciles_lie_within_the_numbers(numbers):
    low, high = deciles(numbers)
    assert min(numbers) <= low <= median(numbers) <= high <= max(numbers)
    if len(numbers) == 11:
        assert (low, high) == (1, 9)


def test_memory_is_the_most_that_was_held_at_once():
    def call():
        first = torch.ones(2**20)  # 4 MiB
        del first
        pair = torch.ones(2**20), torch.ones(2**20)
        return len(pair)

    assert peak_mib(call, CPU) == pytest.approx(8, rel=0.01)


def test_a_limit_is_told_as_so_many_times():
    rows = [
        BenchRow("case", "1x2", "forward", rival, 1.0, 1.0, 1.0, ratio, math.nan)
        for rival, ratio in (("ours", 1.0), ("floor", 0.8), ("dit", 1.3))
    ]
    assert over_limits(rows, ["floor"]) == ["case, 1x2, forward: 1.25 times its floor"]


def test_times_that_vary_are_told_of():
    steady = BenchRow("case", "1x2", "forward", "ours", 1.0, 1.0, 1.4, 1.0, 0.0)
    busy = BenchRow("case", "1x2", "forward", "dit", 3.0, 1.0, 4.0, 3.0, 0.0)
    assert unsteady([steady]) == []
    (said,) = unsteady([steady, busy])
    assert said.startswith("times of dit vary from 1 to 4 ms")


def test_the_machine_is_described(monkeypatch):
    monkeypatch.setattr(harness, "library", lambda: {"convflow": "9.9", "commit": None})
    found = machine(CPU)
    assert found["torch"] == torch.__version__
    assert found["threads"] == str(torch.get_num_threads())
    assert (found["convflow"], found["revision"], found["gpu"]) == ("9.9", "", "")
    assert all(isinstance(text, str) for text in found.values())
