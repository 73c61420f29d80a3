"""An objective of a user: trained, killed, gone on with, sampled, all from the command line."""

import json
import shutil
import sys

import pytest
import safetensors.torch

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.training import checkpoint

ALIGN = (
    "--objectives.align.kind tests.extending.align:Align --objectives.align.weight 0.5 "
    "--objectives.align.width 8 --device cpu --precision float32"
).split()


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Return a function that trains in a folder with the objective and more words."""
    data = kills.make_pictures(tmp_path_factory.mktemp("pictures"))
    words = ["pictures.flowdcn", "--data", str(data), *kills.SETTINGS, *ALIGN]
    return lambda run, *more: main(["train", *words, "--run", str(run), *more])


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """A run of four steps at once."""
    run = tmp_path_factory.mktemp("align") / "run"
    assert train(run, "--images", "32") == 0
    return run


def objectives(run, step=4):
    path = checkpoint.folder_of(run, step) / checkpoint.OBJECTIVES_FILE
    return safetensors.torch.load_file(path)


def test_its_parameters_are_trained_and_averaged_and_its_terms_logged(run, train, tmp_path):
    assert train(tmp_path / "run", "--images", "8") == 0
    first, last = objectives(tmp_path / "run", 1), objectives(run)
    assert not first["raw/align.project.weight"].equal(last["raw/align.project.weight"])
    assert not last["ema/align.project.weight"].equal(last["raw/align.project.weight"])
    assert first["raw/align.teacher.weight"].equal(last["raw/align.teacher.weight"])
    assert "ema/align.teacher.weight" not in last, "it is frozen"
    *_, line = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    names = {"step", "images", "gradient_norm", "learning_rate"}
    assert line.keys() == names | {"loss", "process.loss", "align.similarity"}
    terms = line["process.loss"] + 0.5 * line["align.similarity"]
    assert line["loss"] == pytest.approx(terms, rel=1e-5)
    assert -1 < line["align.similarity"] < 1


def test_a_run_in_parts_ends_with_the_same_bits(run, train, tmp_path):
    parts = tmp_path / "parts"
    for images in ("16", "32"):
        assert train(parts, "--images", images) == 0
    assert kills.differences(run, parts) == []
    assert (checkpoint.folder_of(parts, 4) / checkpoint.OBJECTIVES_FILE).is_file()


def test_a_checkpoint_with_what_is_frozen_stored_twice_is_read(run, train, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    folder = checkpoint.folder_of(copy, 4)
    tensors = objectives(copy)
    frozen = {n.replace("raw", "ema"): t.clone() for n, t in tensors.items() if "teacher" in n}
    safetensors.torch.save_file(tensors | frozen, folder / checkpoint.OBJECTIVES_FILE)
    assert train(copy, "--images", "40", "--checkpoint.verify", "false") == 0
    assert objectives(copy, 5).keys() == tensors.keys()


def test_it_is_sampled_as_any_model_is(run, tmp_path):
    grid = tmp_path / "grid.png"
    assert main(["sample", str(run), "--num", "2", "--device", "cpu", "--out", str(grid)]) == 0
    assert grid.is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--objectives.align.blok 1", "unknown setting 'blok'; did you mean 'block'"),
        ("--objectives.align.block 99", "expected a block from 0 to 0, got 99"),
        ("--objectives.align.weight -1", "--objectives.align.weight: expected a number of at le"),
        ("--objectives.align.width x", "tests.extending.align:Align cannot be built"),
        (
            "--objectives.align 1",
            "--objectives.align is a group; set one of its keys, such as --objectives.align.kind",
        ),
        ("--objectives.other.weight 1", "or package.module:Name, got None; add it, or name"),
        ("--objectives.align.kind tests.extending.align:Algin", "did you mean 'Align'?"),
    ],
)
def test_what_does_not_fit_is_refused(train, tmp_path, capsys, words, message):
    assert train(tmp_path / "run", *words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_another_weight_is_another_run(run, train, capsys):
    assert train(run, "--objectives.align.weight", "0") == 2
    assert "other settings: objectives.align.weight (0.5, now 0)" in capsys.readouterr().err


def test_a_file_alone_runs_no_code_of_a_user(run, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "tests.extending.align", raising=False)
    assert main(["train", "--resume", str(run)]) == 2
    assert "--import tests.extending.align" in capsys.readouterr().err
    assert "tests.extending.align" not in sys.modules
