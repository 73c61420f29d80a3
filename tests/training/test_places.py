"""Paths in runs and model folders work from any working directory, and after a move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from convflow.autoencoders import SD_VAE
from convflow.cli.main import main
from convflow.pipeline import Pipeline
from convflow.training import checkpoint
from tests.autoencoder import save_autoencoder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with images, where one works at first."""
    home = tmp_path / "project"
    (home / "pets/cats").mkdir(parents=True)
    for number in range(4):
        Image.new("L", (8, 8), 60 * number).save(home / f"pets/cats/{number}.png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(home)
    return home


WORDS = (
    "--data.size 8x8 --data.channels 1 --batch-size 2 --monitor.num-samples 1 --device cpu "
    "--monitor.tensorboard false --sampling.steps 1 --optim.schedule constant "
    "--model.width 16 --model.depth 1 --model.num-groups 2 --model.patch-size 1"
).split()


@pytest.mark.parametrize("run", ["runs/a", "{}/far/a"])
def test_a_run_goes_on_from_another_working_directory(run, project, tmp_path, monkeypatch, caplog):
    """Whether it lies in the folder where it was started or not, by --resume and by its words."""
    run = run.format(tmp_path)
    (project / SD_VAE).mkdir(parents=True)  # of no meaning to pixels
    train = ["train", "pictures.flowdcn", *WORDS, "--data", "pets", "--run", run, "--images"]
    assert main([*train, "2"]) == 0
    assert main([*train, "4"]) == 0
    place = project / run
    before = json.loads((place / "config.json").read_text())
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", str(place), "--images", "6"]) == 0
    assert checkpoint.list_steps(place) == [1, 2, 3]
    stored = json.loads((place / "config.json").read_text())
    assert stored["data"] == before["data"]
    absolute = ["--data", str(project / "pets"), "--run", str(place), "--images", "8"]
    assert main(["train", "pictures.flowdcn", *WORDS, *absolute]) == 0


@pytest.fixture
def other(project, tmp_path, monkeypatch):
    """A run in the project, and a working directory that has other images of the same name."""
    run = project / "runs/a"
    words = ["--data", "pets", "--run", str(run), "--images", "2"]
    assert main(["train", "pictures.flowdcn", *WORDS, *words]) == 0
    (tmp_path / "b/pets/dogs").mkdir(parents=True)
    for number in range(4):
        Image.new("L", (8, 8), 9 * number).save(tmp_path / f"b/pets/dogs/{number}.png")
    monkeypatch.chdir(tmp_path / "b")
    return run


def test_a_run_keeps_its_data_where_others_have_the_name(other, project, tmp_path, caplog, capsys):
    before = (other / "config.json").read_text()
    resume = ["train", "--resume", str(other), "--images"]
    with caplog.at_level("INFO", "convflow"):
        assert main([*resume, "4"]) == 0
    assert f"pets is {project / 'pets'}" in caplog.text
    now = json.loads((other / "config.json").read_text())
    assert now == json.loads(before) | {"images": 4}
    keys = [json.loads(line)["key"] for line in (other / "changes.jsonl").read_text().splitlines()]
    assert keys == ["images"]
    assert main([*resume, "6", "--data", "pets"]) == 2  # given now, and meant here
    assert f"in {tmp_path / 'b/pets'}" in capsys.readouterr().err


def test_settings_of_a_run_lead_to_its_data(other, project):
    assert main(["train", "--init", str(other), "--run", "new", "--images", "2"]) == 0
    assert json.loads(Path("new/config.json").read_text())["data"]["path"] == str(project / "pets")


def test_a_checkpoint_stores_its_autoencoder_as_its_run_does(project, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    save_autoencoder(project / "vae")
    for run, stored in (("runs/a", "vae"), (str(tmp_path / "far/a"), str(project / "vae"))):
        given = ["--data", "pets", "--run", run, "--codec", "latent", "--codec.autoencoder", "vae"]
        words = [*WORDS, "--data.channels", "3", *given, "--images"]
        assert main(["train", "pictures.flowdcn", *words, "2"]) == 0
        with monkeypatch.context() as moved:
            moved.chdir(tmp_path / "elsewhere")
            assert main(["train", "--resume", str(project / run), "--images", "4"]) == 0
            found = Pipeline.from_pretrained(project / run).codec.autoencoder
        assert found == str(project / "vae")
        for step in (1, 2):
            file = checkpoint.folder_of(Path(run), step) / "ema/pipeline.json"
            assert json.loads(file.read_text())["codec"]["autoencoder"] == stored


def test_a_new_run_takes_its_data_from_the_working_directory_alone(project, capsys):
    (project / "inner").mkdir()
    assert main(["train", "pictures.flowdcn", *WORDS, "--data", "etc", "--run", "runs/b"]) == 2
    assert "expected data at etc, got no such file" in capsys.readouterr().err
