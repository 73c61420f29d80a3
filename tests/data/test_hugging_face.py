"""Hugging Face datasets give images and labels like folders and tables."""

import sys

import pytest
from PIL import Image

from convflow.data.hugging_face import open_hugging_face
from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import labels_of, levels, png

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [Image.new("L", (5, 4), i) for i in range(4)], "label": [0, 1, 1, 0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=table, test=table.select([3, 1])).save_to_disk(tmp_path / "parts")
    table.save_to_disk(tmp_path / "whole")
    return tmp_path


def test_hugging_face(saved):
    source = open_source(f"hf:{saved / 'whole'}")
    assert source.class_names == ("cat", "dog")
    assert labels_of(source) == [0, 1, 1, 0]
    assert levels(source) == [0, 1, 2, 3]
    part = open_hugging_face(f"hf:{saved / 'parts'}", "test")
    assert part.notes == (
        "split test of train, test",
        "labels from column `label`: 2 classes, cat, dog",
    )
    assert (levels(part), labels_of(part)) == ([3, 1], [0, 1])
    with pytest.raises(InputError, match="'validation' split"):
        open_source(f"hf:{saved / 'parts'}", split="validation")
    with pytest.raises(InputError, match="write hf:"):
        open_source(str(saved / "whole"))


def test_a_column_of_splits_of_a_hugging_face_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("L", (5, 4), i) for i in range(4)]
    columns = {"image": pictures, "subset": ["val", "dev", "train", "test"], "label": list("aabb")}
    features = datasets.Features(
        {"image": datasets.Image(), "subset": datasets.Value("string"),
         "label": datasets.Value("string")}
    )  # fmt: skip
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "x")
    source = open_source(f"hf:{tmp_path / 'x'}", "validation")
    assert (levels(source), source.class_names) == ([0, 1], ("a",))
    assert source.notes[0] == "split validation of train, validation, test, by column `subset`"
    assert levels(open_source(f"hf:{tmp_path / 'x'}")) == [2]


def test_hugging_face_of_a_flat_folder_with_splits(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for part, count in (("train", 2), ("test", 3)):
        (tmp_path / "flat" / part).mkdir(parents=True)
        for i in range(count):
            (tmp_path / f"flat/{part}/{i}.png").write_bytes(png(i))
    source, plain = open_source(f"hf:{tmp_path / 'flat'}"), open_source(str(tmp_path / "flat"))
    assert (
        (levels(source), source.class_names) == (levels(plain), plain.class_names) == ([0, 1], ())
    )
    assert len(open_source(f"hf:{tmp_path / 'flat'}", "all")) == 5


def test_paths_of_a_hugging_face_dataset(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "own/cat").mkdir(parents=True)
    (tmp_path / "own/cat/a.png").write_bytes(png(7))
    source = open_source(f"hf:{tmp_path / 'own'}")
    assert levels(source) == [7]
    (tmp_path / "b.png").write_bytes(png(8))
    (tmp_path / "own/cat/a.png").unlink()
    (tmp_path / "own/cat/a.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(InputError, match="row 0: expected a path below"):
        source.read(0)


def test_hugging_face_refusals(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="expected a Hugging Face dataset") as caught:
        open_source(f"hf:{tmp_path / 'none'}")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install convflow\[hub\]"):
        open_source("hf:any")
