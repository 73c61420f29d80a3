"""Solvers, processes and codecs of a user: trained with, saved, resumed and sampled by commands."""

import json
import sys

import pytest

from convflow.cli.main import main

TINY = (
    "--batch-size 4 --monitor.num-samples 2 --monitor.tensorboard false --model.width 8 "
    "--model.depth 1 --model.num-groups 2 --model.patch-size 1 --sampling.steps 2 --device cpu "
    "--optim.schedule constant"
).split()

DOORS = {
    "sampling.solver": ("tests.extending.solver:Ralston", ["--sampling.last-step", "0.1"]),
    "process": ("tests.extending.process:Power", ["--process.power", "3"]),
    "codec": ("tests.extending.codec:Blocks", []),
}


@pytest.mark.parametrize("place", DOORS)
def test_a_part_of_a_user_is_trained_with_and_sampled(place, tmp_path, capsys, monkeypatch):
    name, words = DOORS[place]
    module, run = name.partition(":")[0], str(tmp_path / "run")
    train = ["train", "digits.flowdcn", "--run", run, *TINY, f"--{place}", name, *words]
    assert main([*train, "--help"]) == 0
    assert name in capsys.readouterr().out
    assert main([*train, "--images", "4"]) == 0
    stored = json.loads((tmp_path / "run/config.json").read_text())
    for key in place.split("."):
        stored = stored[key]
    assert stored["kind"] == name
    for word, value in zip(words[::2], words[1::2], strict=True):
        assert stored[word.rpartition(".")[2].replace("-", "_")] == float(value)

    # Another program, which has not imported the module: a file alone runs no code.
    monkeypatch.delitem(sys.modules, module)
    out = str(tmp_path / "out.png")
    sample = ["sample", run, "--num", "2", "--device", "cpu", "--out", out]
    assert main(sample) == 2
    assert f"--import {module}" in capsys.readouterr().err
    assert main([*sample, "--import", module]) == 0
    monkeypatch.delitem(sys.modules, module)
    assert main(["train", "--import", module, "--resume", run, "--images", "8"]) == 0
    assert main(["info", run]) == 0


def test_an_optimizer_of_a_user_trains_and_is_not_needed_to_sample(tmp_path, capsys, monkeypatch):
    name, run, out = "tests.extending.optimizer:SGD", str(tmp_path / "run"), str(tmp_path / "a.png")
    train = ["train", "digits.flowdcn", "--run", run, *TINY, "--optim.kind", name, "--images", "4"]
    assert main([*train, "--optim.momentum", "0.8"]) == 0
    stored = json.loads((tmp_path / "run/config.json").read_text())["optim"]
    assert (stored["kind"], stored["momentum"], stored["lr"]) == (name, 0.8, 2e-3)
    monkeypatch.delitem(sys.modules, "tests.extending.optimizer")
    assert main(["sample", run, "--num", "2", "--device", "cpu", "--out", out]) == 0
    assert main(["train", "--resume", run, "--images", "8"]) == 2
    assert "--import tests.extending.optimizer" in capsys.readouterr().err
    module = ["--import", "tests.extending.optimizer"]
    assert main(["train", *module, "--resume", run, "--images", "8"]) == 0


def test_a_solver_of_a_user_samples_any_model(tmp_path, capsys):
    run, name = str(tmp_path / "run"), DOORS["sampling.solver"][0]
    assert main(["train", "digits.flowdcn", "--run", run, *TINY, "--images", "4"]) == 0
    sample = ["sample", run, "--num", "2", "--device", "cpu", "--out", str(tmp_path / "out.png")]
    assert main([*sample, "--solver", name, "--steps", "3"]) == 0
    assert main([*sample, "--solver", name, "--eta", "1"]) == 2
    assert f"the solver {name} has no eta" in capsys.readouterr().err
    assert main(["sample", run, "--import", "tests.extending.none"]) == 2
    assert "that Python can import, got none" in capsys.readouterr().err
