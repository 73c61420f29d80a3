"""Processes that share a network train as one does, and hold a share of it each."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from benchmarks.reliability import kills
from convflow.training import checkpoint, launch
from tests.parallel.sharded import LOSSES, MODELS, settings
from tests.tolerance import REGROUPED_LOSS, REGROUPED_WEIGHTS
from tests.two_processes import start_many

PARTS = {
    "raw": checkpoint.RAW_FILE,
    "ema": checkpoint.EMA_FILE,
    "optimizer": checkpoint.OPTIMIZER_FILE,
    "objectives": checkpoint.OBJECTIVES_FILE,
}


def start(num, shared, part):
    """What each process printed."""
    words = ["-m", "tests.parallel.sharded", str(shared), part]
    answers = start_many(num, words, 120, **kills.BYTECODE)
    assert [code for code, _, _ in answers] == [0] * num, answers
    return [[json.loads(line) for line in said.splitlines()] for _, said, _ in answers]


def tensors_of(run):
    folder = checkpoint.folder_of(run, checkpoint.list_steps(run)[-1])
    return {
        f"{part}/{name}": tensor
        for part, file in PARTS.items()
        if (folder / file).is_file()
        for name, tensor in safetensors.torch.load_file(folder / file).items()
    }


def metrics_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_regrouped(one, other, limit=REGROUPED_WEIGHTS):
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    for part in PARTS:
        own = [name for name in first if name.startswith(f"{part}/")]
        if not own:
            continue
        expected = torch.cat([first[name].flatten().double() for name in own])
        got = torch.cat([second[name].flatten().double() for name in own])
        assert (got - expected).norm() <= limit * expected.norm(), part
    for mine, theirs in zip(metrics_of(one), metrics_of(other), strict=True):
        assert mine == pytest.approx(theirs, rel=max(limit, REGROUPED_LOSS))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Images, and a run of one process for each network."""
    place = tmp_path_factory.mktemp("shared")
    kills.make_pictures(place / "data")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in MODELS:
        config = settings(place / "data", name, LOSSES if name == "flowdcn" else "")
        assert launch.train(config, place / name)
    torch.set_num_threads(before)
    return place


@pytest.mark.slow
def test_three_processes_train_as_one_and_hold_a_third_each(shared):
    answers = start(3, shared, "equal")
    *trained, copies, diverged, _, _, _ = answers[0]
    assert trained == [True] * 4
    assert "expected a number that divides 3 processes, got 2; choose 1 or 3" in copies
    assert diverged.startswith("Diverged: the loss or its gradient is not finite at step 3")
    assert "first in embed_patches (PatchEmbedding)" in diverged
    for name in MODELS:
        assert_regrouped(shared / name, shared / f"{name}-3")
        assert len(list((shared / f"{name}-3/samples").glob("*_ema.png"))) > 1
    assert_regrouped(shared / "sit", shared / "half", limit=0.05)
    assert len({json.dumps(answer[-2]) for answer in answers}) == 1  # norms agree to the last bit
    for group in ("weights", "average", "moments"):
        held, whole = zip(*(answer[-3][group] for answer in answers), strict=True)
        assert sum(held) == whole[0]
        assert max(held) < 0.5 * whole[0]  # of few rows the last process has none
    assert {answer[-1] for answer in answers} == {1}


@pytest.mark.slow
def test_runs_go_on_with_other_numbers_and_engines(shared):
    config = settings(shared / "data", "sit", "--images 24")
    for run in ("from-1", "to-ddp"):
        assert launch.train(config, shared / run)
    assert all(said[:-1] for said in start(3, shared, "half"))
    first, second = start(2, shared, "resume")
    assert first[:6] == second[:6] == [True] * 6
    for run in ("from-3", "from-1", "to-ddp"):
        assert_regrouped(shared / "sit", shared / run)
    straight, halves = tensors_of(shared / "straight"), tensors_of(shared / "halves")
    assert all(torch.equal(straight[name], halves[name]) for name in straight)
    assert metrics_of(shared / "straight") == metrics_of(shared / "halves")
    assert first[6].startswith("InputError: rank 1 stopped; see its message")
    assert second[6].startswith("InputError: odd/1.png: damaged; replace it; saved before: ")
    assert checkpoint.list_steps(shared / "batch")[-1] > 0
    assert second[7] == "MemoryError: too much"
    assert first[7].startswith("InputError: another process stopped")
    assert first[8] == second[8] == 1
    shutil.copytree(shared / "halves", shared / "single")
    assert launch.train(settings(shared / "data", "sit", "--images 56"), shared / "single")
