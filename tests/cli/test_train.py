"""`convflow train`: begin, go on, interrupt, and two processes that are as one."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import safetensors.torch

from benchmarks.reliability import kills
from convflow import recipes
from convflow.cli.main import main
from convflow.recipes import create_config
from convflow.training import checkpoint
from tests.tolerance import REGROUPED_LOSS, REGROUPED_WEIGHTS
from tests.two_processes import start_two


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return kills.make_pictures(tmp_path_factory.mktemp("pictures"))


def words(data, run, *more):
    return ["pictures.flowdcn", "--data", str(data), *kills.SETTINGS, "--run", str(run), *more]


def test_without_words_it_lists_the_recipes(capsys):
    assert main(["train"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in recipes.list_recipes())


def test_help_shows_the_network_that_is_asked_for(capsys):
    assert main(["train", "digits.flowdcn", "--model.name", "dico", "--help"]) == 0
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line]
    assert ["--model.name", "dico"] in shown
    assert ["--model.width", "128"] in shown
    assert "--model.depths" in dict(shown)
    assert "--model.num-groups" not in dict(shown)


def test_help_of_a_run_shows_its_own_values(tiny_run, capsys):
    assert main(["train", "--resume", str(tiny_run), "--help"]) == 0
    assert re.search(r"--batch-size +4 ", capsys.readouterr().out)


def test_the_folder_of_a_run_is_named_after_its_recipe(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = []
    monkeypatch.setattr(
        "convflow.training.launch.train",
        lambda config, run, **_: given.append((config, run)) or True,
    )
    assert main(["train", "digits.flowdcn"]) == 0
    assert [(config, str(run)) for config, run in given] == [
        (create_config("digits.flowdcn"), "runs/digits.flowdcn")
    ]
    assert list(tmp_path.iterdir()) == []


def test_begin_then_the_same_words_go_on_then_longer(data, tmp_path):
    run = tmp_path / "run"
    assert main(["train", *words(data, run, "--images", "16")]) == 0
    first = (run / "metrics.jsonl").read_text()
    assert main(["train", *words(data, run, "--images", "16")]) == 0
    assert (run / "metrics.jsonl").read_text() == first
    assert main(["train", "--resume", str(run), "--images", "32"]) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [8, 16, 24, 32]
    assert checkpoint.list_steps(run) == [2, 4]


def test_an_interrupted_training_says_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr("convflow.training.launch.train", lambda config, run, **_: False)
    assert main(["train", "digits.flowdcn", "--run", str(tmp_path)]) == 130


def test_lengths_by_time_and_by_passes(monkeypatch):
    given = []
    monkeypatch.setattr(
        "convflow.training.launch.train", lambda config, run, **more: given.append(more) or True
    )
    assert main(["train", "digits.flowdcn", "--minutes", "0.5", "--epochs=3"]) == 0
    assert main(["train", "digits.flowdcn", "--minutes=20", "--images", "1000"]) == 0
    lengths = [(more["minutes"], more["epochs"]) for more in given]
    assert lengths == [(0.5, 3.0), (20.0, None)]


def test_bad_weights_in_a_checkpoint_are_named_and_not_called_kept(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *words(data, run, "--images", "16")]) == 0
    path = checkpoint.folder_of(run, 2) / checkpoint.RAW_FILE
    good = path.read_bytes()
    weights = safetensors.torch.load(good)
    again = ["train", "--resume", str(run), "--images", "32"]
    answers = {
        1.0: (2, f"error: {path} is damaged: "),
        float("nan"): (2, f"error: {path} holds numbers that are not finite, first in blocks.0."),
        1e38: (1, "error: the loss or its gradient is not finite at step 3"),
    }
    for number, (code, message) in answers.items():
        weights["blocks.0.mlp.up.weight"][0, 0] = number
        safetensors.torch.save_file(weights, path)
        capsys.readouterr()
        skip = [] if number == 1 else ["--checkpoint.verify", "false"]
        assert main([*again, *skip]) == code
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(message)
        assert f"move {path.parents[1]} elsewhere" in error or "kept: no good" in error
        assert "optim.lr" not in error
    assert checkpoint.list_steps(run) == [2]
    path.write_bytes(good)
    assert main(again) == 0


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"} | kills.BYTECODE


@pytest.mark.slow
def test_ctrl_c_saves_and_going_on_ends_as_if_undisturbed(data, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    given = ["--images", "12000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "convflow", "train", *words(data, stopped, *given)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    path, end = stopped / "metrics.jsonl", time.monotonic() + 60
    while not (path.exists() and path.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == f"saved; go on with: convflow train --resume {stopped}"
    assert "Traceback" not in said
    (step,) = checkpoint.list_steps(stopped)
    images = str(8 * (step + 5))
    assert main(["train", "--resume", str(stopped), "--images", images]) == 0
    assert main(["train", *words(data, straight, "--images", images)]) == 0
    assert kills.differences(straight, stopped) == []


def together(arguments):
    """Train in two processes as torchrun does; exit codes and complaints."""
    more = {"NUMBA_NUM_THREADS": "1", **kills.BYTECODE}
    answers = start_two(["-m", "convflow", "train", *arguments], **more)
    return [code for code, _, _ in answers], [complained for _, _, complained in answers]


@pytest.mark.slow
def test_two_processes_are_as_one_with_the_same_batch(data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["--images", "63", "--batch-size", "7", "--micro-batch", "none"]
    more += ["--monitor.samples-minutes", "1e-9", "--monitor.samples-longest-minutes", "1e-9"]
    more += ["--monitor.validation", "5", "--monitor.validation.every", "3"]
    more += ["--monitor.score", str(data), "--monitor.score.num", "9", "--monitor.score.every", "9"]
    more += ["--monitor.score.detector", "tests.extending.detector:load", "--dropout", "0.1"]
    more += ["--ema.half-lives", "20", "--ema.sigma-rel", "0.05,0.1", "--ema.snapshots", "28"]
    more += ["--ema.snapshot-dtype", "float32"]
    exact = ["--precision", "float32", "--optim.lr", "1e-3", "--optim.warmup-images", "0"]
    codes, said = together(words(data, two, *more, *exact))
    assert codes == [0, 0], said
    assert said[1] == ""
    assert main(["train", *words(data, one, *more, *exact)]) == 0
    names = [sorted(p.name for p in run.rglob("*") if "pt_" not in p.name) for run in (one, two)]
    assert names[0] == names[1]
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (one, two)]
    assert len(lines[0]) == 9
    for single, double in (map(json.loads, pair) for pair in zip(*lines, strict=True)):
        scores = [row.pop("FD-9", None) for row in (single, double)]
        assert double == pytest.approx(single, rel=REGROUPED_LOSS)
    assert "validation_loss_ema" in single
    assert scores[1] == pytest.approx(scores[0], rel=0.01)  # pixels are rounded
    last = checkpoint.folder_of(one, 9).relative_to(one)
    files = [last / "raw/model.safetensors", last / "ema/model.safetensors"]
    files += [last / "averages.safetensors"]
    files += [path.relative_to(one) for path in (one / "averages").glob("*/*.safetensors")]
    assert len(files) == 3 + 3 * 2  # two averages after 28, 56 and 63 images
    for name in files:
        single, double = (safetensors.torch.load_file(run / name) for run in (one, two))
        assert single.keys() == double.keys()
        for key, tensor in single.items():
            moved = (double[key] - tensor).norm() / tensor.norm().clamp(min=1e-3)
            assert float(moved) < REGROUPED_WEIGHTS, key


@pytest.mark.slow
def test_two_processes_refuse_together(data, tmp_path):
    arguments = words(data, tmp_path / "run", "--batch-size", "1")
    codes, said = together(arguments)
    assert codes == [2, 2]
    assert all(text.count("error: ") == 1 and "Traceback" not in text for text in said)
    assert not (tmp_path / "run").exists()
