"""Processes that share a network train as one does, and hold a share of it each."""

import json
import re
import shutil

import pytest
import safetensors.torch
import torch

from benchmarks.reliability import kills
from convflow.bundle import weights
from convflow.bundle.averages import list_snapshots
from convflow.models.zoo import load_model
from convflow.parallel.shards import Shards, shard_folder
from convflow.training import checkpoint, launch
from tests.parallel.sharded import LOSSES, MODELS, scoring, settings
from tests.tolerance import REGROUPED_LOSS, REGROUPED_WEIGHTS
from tests.two_processes import start_many

PARTS = {
    "raw": checkpoint.RAW_FILE,
    "ema": checkpoint.EMA_FILE,
    "optimizer": checkpoint.OPTIMIZER_FILE,
    "objectives": checkpoint.OBJECTIVES_FILE,
    "averages": checkpoint.AVERAGES_FILE,
}


def start(num, shared, part):
    """What each process printed."""
    words = ["-m", "tests.parallel.sharded", str(shared), part]
    answers = start_many(num, words, 120, **kills.BYTECODE)
    assert [code for code, _, _ in answers] == [0] * num, answers
    return [[json.loads(line) for line in said.splitlines()] for _, said, _ in answers]


def tensors_of(run):
    folder = checkpoint.folder_of(run, checkpoint.list_steps(run)[-1])
    found = {}
    for part, file in PARTS.items():
        if (cut := folder / shard_folder(file)).is_dir():
            shards = Shards(cut)
            found[part] = shards.read([*shards.shapes])
        elif (folder / file).is_file():
            found[part] = safetensors.torch.load_file(folder / file)
    return {f"{part}/{n}": tensor for part, held in found.items() for n, tensor in held.items()}


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
    made = []
    for run in ("sit", "from-3", "to-ddp"):  # snapshots in shards and whole
        assert [snapshot.images for snapshot in list_snapshots(shared / run)] == [24, 48]
        weights.export_average(shared / run, shared / f"{run}-made", 0.12)
        made.append(load_model(shared / f"{run}-made").state_dict())
    for name, expected in made[0].items():
        for other in made[1:]:  # float16
            torch.testing.assert_close(other[name], expected, rtol=4e-3, atol=1e-5)
    straight, halves = tensors_of(shared / "straight"), tensors_of(shared / "halves")
    assert all(torch.equal(straight[name], halves[name]) for name in straight)
    assert metrics_of(shared / "straight") == metrics_of(shared / "halves")
    assert first[6].startswith("InputError: rank 1 stopped; see its message")
    assert second[6].startswith("InputError: odd/1.png: damaged; replace it; saved before: ")
    assert checkpoint.list_steps(shared / "batch")[-1] > 0
    assert second[7] == "MemoryError: too much"
    assert first[7].startswith("InputError: rank 1 stopped (")
    assert first[8] == second[8] == 1
    shutil.copytree(shared / "halves", shared / "single")
    assert launch.train(settings(shared / "data", "sit", "--images 56"), shared / "single")


@pytest.mark.slow
def test_a_full_disk_on_one_process_ends_all_and_loses_nothing(shared):
    first, second = start(2, shared, "disk")
    for place, run in enumerate(("full", "full-later")):
        assert "rank 1 stopped; see its message" in first[place]
        assert re.match(r"InputError: could not write .*: No space left on device", second[place])
        folder = shared / run / "checkpoints"
        assert checkpoint.list_steps(shared / run) == [0, 1]
        assert list(folder.glob(".writing-*")) == []
        assert launch.train(settings(shared / "data", "sit"), shared / run)
        assert_regrouped(shared / "sit", shared / run)
    assert first[2] is second[2] is True
    assert_regrouped(shared / "sit", shared / "compiled")


@pytest.mark.slow
def test_four_processes_hold_two_copies_in_two_shards(shared):
    answers = start(4, shared, "hybrid")
    assert [said[0] for said in answers] == [True] * 4
    assert all("without a weight in two places" in said[1] for said in answers)
    assert_regrouped(shared / "sit", shared / "hybrid")
    folder = checkpoint.folder_of(shared / "hybrid", 6) / "shards/raw"
    assert sorted(path.name[:11] for path in folder.iterdir()) == ["shard-00001", "shard-00002"]


@pytest.mark.slow
def test_scores_are_those_of_one_process_and_a_signal_to_another_ends_them(shared):
    data = shared / "data"
    assert launch.train(settings(data, "sit", scoring(data)), shared / "scored-1")
    first, second = start(2, shared, "score")
    assert first == second == [True, False, 1]
    one, two = (
        [row["FD-70"] for row in metrics_of(shared / run) if "FD-70" in row]
        for run in ("scored-1", "scored")
    )
    assert len(one) == 2
    assert two == pytest.approx(one, rel=0.01)
    assert list((shared / "stopped/scores").iterdir()) == []
    assert checkpoint.list_steps(shared / "stopped")[-1] == 3
