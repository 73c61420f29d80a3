"""Runs with objectives: resumed bit for bit, on two processes as on one, and refused by name."""

import json

import pytest
import torch

from benchmarks.reliability import kills
from convflow.training import checkpoint, launch
from convflow.training.overrides import describe_options
from convflow.types import InputError
from tests.objectives.encoder import BACKBONES, NAME
from tests.objectives.shared_steps import ALONE, aligned, settings
from tests.parallel.test_fsdp import assert_regrouped, metrics_of
from tests.two_processes import start_many


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Images, and a run of one process with every objective."""
    place = tmp_path_factory.mktemp("shared")
    kills.make_pictures(place / "data")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert launch.train(settings(place / "data", f"{aligned()} {ALONE}"), place / "one")
    torch.set_num_threads(before)
    return place


def test_every_term_is_logged_until_it_ends(shared):
    lines = [line for line in metrics_of(shared / "one") if "loss" in line]
    terms = {
        "process.loss", "repa.negative_cosine", "irepa.negative_cosine", "u_repa.negative_cosine",
        "u_repa.manifold", "sra.smooth_l1", "dispersive.closeness", "contrastive.negative_error",
        "direction.direction",
    }  # fmt: skip
    weights = {"repa": 0.5, "u_repa": 0.5, "dispersive": 0.5, "contrastive": 0.1, "direction": 0.2}
    for number, line in enumerate(lines):
        faded = {"irepa": (1.0, 1.0, 0.5, 0.0)[number]}
        expected = terms - ({"irepa.negative_cosine"} if number == 3 else set())
        assert {name for name in line if "." in name} == expected
        factors = weights | faded
        whole = sum(line[name] * factors.get(name.split(".")[0], 1.0) for name in expected)
        assert line["loss"] == pytest.approx(whole, rel=1e-4)


def test_a_run_in_parts_ends_with_the_same_bits(shared, tmp_path):
    for images in (10, 20):
        words = f"{aligned()} {ALONE} --images {images}"
        assert launch.train(settings(shared / "data", words), tmp_path / "run")
    assert kills.differences(shared / "one", tmp_path / "run") == []
    assert (checkpoint.folder_of(tmp_path / "run", 4) / checkpoint.OBJECTIVES_FILE).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("more", [ALONE, "--process meanflow --objectives.dispersive.block 1"])
@pytest.mark.parametrize("family", BACKBONES)
def test_every_network_in_parts_ends_with_the_same_bits(family, more, tmp_path):
    data = kills.make_pictures(tmp_path / "data")
    words = f"{aligned(family)} {more}"
    for run, lengths in (("whole", [20]), ("parts", [10, 20])):
        for images in lengths:
            config = settings(data, f"{words} --images {images}", family)
            assert launch.train(config, tmp_path / run)
    assert kills.differences(tmp_path / "whole", tmp_path / "parts") == []


def start_two(shared, part):
    """What each of two processes printed."""
    words = ["-m", "tests.objectives.shared_steps", str(shared), part]
    answers = start_many(2, words, 120, **kills.BYTECODE)
    assert [code for code, _, _ in answers] == [0, 0], answers
    return [[json.loads(line) for line in said.splitlines()] for _, said, _ in answers]


@pytest.mark.slow
def test_two_processes_train_as_one_with_each_engine(shared):
    assert start_two(shared, "equal") == [[True, True]] * 2
    for engine in ("ddp", "fsdp"):
        assert_regrouped(shared / "one", shared / engine)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["2", "3"])
def test_a_process_that_fails_is_not_waited_for(shared, part):
    (first,), (second,) = start_two(shared, part)
    assert second == "MemoryError: too much"
    assert "rank 1 stopped" in first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{ALONE} --micro-batch 2", "expected none with the objective dispersive, which compares"),
        ("--objectives.repa.encoder gone.py:create", "expected a Python file at gone.py"),
        ("--objectives.sra.block 9", "expected a block from 0 to 5, got 9"),
        ("--objectives.sra.beta -1", "--objectives.sra.beta: expected a number above 0, got '-1'"),
        ("--objectives.direction.over cells", "over: expected channels or image, got 'cells'"),
        ("--objectives.repa.weight 1", "expected --objectives.repa.encoder with this kind"),
        ("--process ddpm --process.variance small --objectives.direction.weight 1", "flow with"),
    ],
)
def test_what_does_not_fit_is_refused(shared, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        launch.train(settings(shared / "data", words), tmp_path / "run")


def test_help_shows_every_setting_of_each_objective(shared):
    words = f"--objectives.it.kind u-repa --objectives.it.encoder {NAME}"
    rows = {key: rest for key, *rest in describe_options(settings(shared / "data", words))}
    assert rows["objectives.it.encoder"][0] == NAME
    assert rows["objectives.it.weight"] == ["0.5", "factor in the loss; 0 leaves the objective out"]
    assert rows["objectives.it.manifold"][0] == "3.0"
    assert all(text for key, (_, text) in rows.items() if key.startswith("objectives."))
