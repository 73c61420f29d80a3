"""Every kind of source gives the pictures, labels and order of the same pictures in a folder."""

import json

import numpy as np
import pytest
import torch

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.data.captions import captions_of
from convflow.data.loader import Images, Order, batches
from convflow.data.sources import open_source
from tests.data.made import everywhere
from tests.two_processes import run_two

NAMES = (
    "zip EDM imagefolder texts CSV JSONL tar shards pattern parquet tables hf npz packed npy"
).split()
CAPTIONED = {*"imagefolder texts CSV JSONL shards pattern parquet tables hf npz".split()}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = kills.make_pictures(tmp_path_factory.mktemp("pets"))
    return {"folder": [folder]} | everywhere(folder, tmp_path_factory.mktemp("everywhere"))


def stream(given, share=slice(None), start=9):
    path, *words = given
    source = open_source(str(path), **dict(word.split("=") for word in words))
    images = Images(source, np.arange(len(source)), channels=1, size=(8, 8), cache_bytes=0)
    found = batches(images, Order(len(images), 5, True), start, 8, share=share)
    return source, [next(found) for _ in range(5)]


@pytest.fixture(scope="module")
def of_folder(places):
    return stream(places["folder"])


@pytest.mark.parametrize("name", NAMES)
def test_pictures_labels_and_order(places, of_folder, name):
    source, found = stream(places[name])
    folder, wanted = of_folder
    assert len(source) == 22
    if name not in ("EDM", "packed", "npy"):  # which hold numbers, and no labels
        assert source.class_names == folder.class_names
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert name == "npy" or torch.equal(one.labels, other.labels)
        assert np.array_equal(one.indices, other.indices)
    say = captions_of(source)
    assert (say is not None) is (name in CAPTIONED)
    if say is not None:
        shown = [source.class_names[source.label(i)] for i in range(22)]
        assert [say(i) for i in range(22)] == [f"a {name}" for name in shown]
        assert "captions from" in "".join(source.notes)
        assert not any("not used" in note or "not read" in note for note in source.notes)
    for rank in range(2):
        _, half = stream(places[name], slice(rank, None, 2))
        assert torch.equal(half[1].pixels, wanted[1].pixels[rank::2])
    assert torch.equal(stream(places[name], start=17)[1][0].pixels, wanted[1].pixels)


def words(places, kind, run):
    path, *columns = places[kind]
    options = [word.split("=") for word in columns]
    given = [word for key, to in options for word in (f"--data.{key.replace('_', '-')}", to)]
    always = [*kills.SETTINGS, "--precision", "float32", "--device", "cpu", "--seed", "3"]
    return [*always, "--run", str(run), "--data", str(path), *given]


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(places, tmp_path_factory):
    """The losses of a training on the folder, of two epochs and a bit."""
    run = tmp_path_factory.mktemp("run")
    main(["train", "pictures.flowdcn", *words(places, "folder", run), "--images", "48"])
    return losses(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "npy"])  # it has no labels
def test_a_training_that_stops_within_an_epoch_is_the_same(places, straight, name, tmp_path):
    for images in ("24", "48"):  # an epoch has 22
        given = [*words(places, name, tmp_path), "--images", images]
        assert main(["train", "pictures.flowdcn", *given]) == 0
    assert len(straight) == 6
    assert losses(tmp_path) == straight


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shards", "parquet"])
def test_two_processes_train_the_same(places, straight, name, tmp_path):
    given = [*words(places, name, tmp_path), "--images", "48"]
    run_two(["-m", "convflow", "train", "pictures.flowdcn", *given])
    assert losses(tmp_path) == pytest.approx(straight, rel=1e-4)
