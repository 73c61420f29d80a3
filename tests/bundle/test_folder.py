"""A model folder: found in a run or a checkpoint, described, and read."""

import json
import shutil

import pytest

from convflow.bundle.folder import find_weights
from convflow.bundle.run import folder_of
from convflow.codecs import LatentCodec
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.types import InputError
from tests.autoencoder import save_autoencoder
from tests.cases import TINY


def make(run, step):
    folder = folder_of(run, step)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    return folder


def test_a_checkpoint_without_its_network_is_named(tmp_path):
    make(tmp_path, 2)
    folder = make(tmp_path, 3)
    for place in (tmp_path, folder):
        with pytest.raises(InputError, match=f"a network in {folder}/ema, found .*; move {folder}"):
            find_weights(place, "ema")


def test_a_newer_checkpoint_without_its_state_is_passed_over_with_a_line(tmp_path, caplog):
    good, newer = make(tmp_path, 2), make(tmp_path, 3)
    for folder in (good, newer):
        (folder / "ema").mkdir(exist_ok=True)
        (folder / "ema" / "config.json").write_text("{}")
    (newer / "state.json").unlink()
    assert find_weights(tmp_path, "ema") == good / "ema"
    assert f"{newer} has no state.json and is passed over" in caplog.text


def test_a_model_folder_finds_its_autoencoder(tmp_path, monkeypatch):
    """Beside it, in it after a move of both, and elsewhere by an absolute path."""
    pytest.importorskip("diffusers")
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(project)
    save_autoencoder(project / "vae")
    model = create_model("flowdcn", **TINY | {"in_channels": 4})
    pipe = Pipeline(model, LatentCodec("vae", 0.5), (16, 16))
    for folder, stored in ((project / "model", "vae"), (tmp_path / "far", str(project / "vae"))):
        pipe.save_pretrained(folder)
        assert json.loads((folder / "pipeline.json").read_text())["codec"]["autoencoder"] == stored
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder in (project / "model", tmp_path / "far"):
        found = Pipeline.from_pretrained(folder)
        assert found.codec.autoencoder == str(project / "vae")
    save_autoencoder(tmp_path / "elsewhere/vae")  # another
    found = Pipeline.from_pretrained(project / "model").codec.autoencoder
    assert found == str(project / "vae")
    shutil.rmtree(tmp_path / "elsewhere/vae")
    shutil.move(project / "model", tmp_path / "elsewhere/moved")
    with pytest.raises(InputError, match="found nothing at 'vae', expected an auto"):
        Pipeline.from_pretrained("moved")
    shutil.move(project / "vae", tmp_path / "elsewhere/moved/vae")
    moved = Pipeline.from_pretrained("moved").codec.autoencoder
    assert moved == str(tmp_path / "elsewhere/moved/vae")
