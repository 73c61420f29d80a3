"""Every kind of source gives the pictures, labels and order of the same pictures in a folder."""

import json

import numpy as np
import pytest
import torch

from benchmarks.reliability import kills
from convflow.data.loader import Images, Order, batches
from convflow.data.sources import open_source
from tests.data.made import everywhere
from tests.two_processes import run_two

NAMES = "zip EDM imagefolder CSV JSONL tar shards pattern parquet tables hf npz packed npy".split()


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


@pytest.mark.parametrize("name", NAMES)
def test_pictures_labels_and_order(places, name):
    source, found = stream(places[name])
    folder, wanted = stream(places["folder"])
    assert len(source) == 22
    if name not in ("EDM", "packed", "npy"):  # which hold numbers, and no labels
        assert source.class_names == folder.class_names
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert name == "npy" or torch.equal(one.labels, other.labels)
        assert np.array_equal(one.indices, other.indices)
    for rank in range(2):
        _, half = stream(places[name], slice(rank, None, 2))
        assert torch.equal(half[1].pixels, wanted[1].pixels[rank::2])
    assert torch.equal(stream(places[name], start=17)[1][0].pixels, wanted[1].pixels)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_training_is_the_same(places, name, tmp_path):
    """Straight, after a stop in the middle of an epoch, and on two processes."""

    def words(kind, *more):
        path, *columns = places[kind]
        options = [word.split("=") for word in columns]
        given = [word for k, v in options for word in (f"--data.{k.replace('_', '-')}", v)]
        given += ["--data.labels", "none"] if name == "npy" else []
        run = ["--run", str(tmp_path / kind), "--data", str(path)]
        always = [*kills.SETTINGS, "--precision", "float32", "--device", "cpu", "--seed", "3"]
        return ["-m", "convflow", "train", "pictures.flowdcn", *always, *run, *given, *more]

    def lines(kind):
        text = (tmp_path / kind / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    kills.start(words("folder", "--images", "48")[3:]).communicate()
    kills.start(words(name, "--images", "24")[3:]).communicate()  # an epoch has 22
    kills.start(words(name, "--images", "48")[3:]).communicate()
    assert len(lines(name)) == 6
    assert lines(name) == lines("folder")
    (tmp_path / name).rename(tmp_path / "straight")
    run_two(words(name, "--images", "48"))
    for one, other in zip(lines(name), lines("folder"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
