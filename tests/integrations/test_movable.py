"""Files of a model that lead nowhere else, and settings without the user's paths."""

import json

import pytest

import convflow
from convflow.integrations.movable import (
    export_safetensors,
    without_paths,
    write_movable,
)
from convflow.pipeline import Pipeline
from convflow.types import InputError
from tests.autoencoder import save_autoencoder
from tests.integrations.models import create_pipe


def test_weights_and_settings_alone(tmp_path):
    pipe = create_pipe("dico")
    export_safetensors(pipe, tmp_path / "bare")
    assert {p.name for p in (tmp_path / "bare").iterdir()} == {"config.json", "model.safetensors"}
    assert convflow.load_model(tmp_path / "bare").settings == pipe.model.settings
    with pytest.raises(InputError, match="it exists already"):
        export_safetensors(pipe, tmp_path / "bare")


def test_a_local_autoencoder_goes_along(tmp_path):
    from convflow.integrations.movable import copy_autoencoder, write_network

    pipe = create_pipe("flowdcn", autoencoder=save_autoencoder(tmp_path / "far/vae"))
    (tmp_path / "out").mkdir()
    write_network(pipe, tmp_path / "out")
    write_movable(pipe, tmp_path / "out", copy_autoencoder(pipe, tmp_path / "out", "autoencoder"))
    told = json.loads((tmp_path / "out/pipeline.json").read_text())
    assert told["codec"]["autoencoder"] == "autoencoder"
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "far").rename(tmp_path / "gone")
    again = Pipeline.from_pretrained(tmp_path / "moved", device="cpu")
    assert again(["cat"], num=1).images[0].size == (32, 64)


def test_absolute_paths_are_cut():
    tree = {"a": "/home/ann/pets", "b": ["~/x/y/", r"C:\data\z", "relative/p"], "c": 1, "d": ""}
    cut = {"a": "pets", "b": ["y", "z", "relative/p"], "c": 1, "d": ""}
    assert without_paths(tree) == cut


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("file:///home/ann/pets", "pets"),
        (r"\\server\share\pets", "pets"),
        ("../../ann/pets", "pets"),
        ("data/../../ann/pets", "pets"),
        ("/home/ann/a.tar, /home/bob/b.tar", "a.tar,b.tar"),
        ("/home/ann/{000..003}.tar", "{000..003}.tar"),
        ("cat, dog", "cat, dog"),
        ("hf://owner/name", "hf://owner/name"),
        ("pets-{000..003}.tar", "pets-{000..003}.tar"),
    ],
)
def test_no_way_of_writing_a_path_tells_where_it_was(text, cut):
    assert without_paths({"a": [text]}) == {"a": [cut]}
