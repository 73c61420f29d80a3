"""Every place images may come from, and every way it may be wrong."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from convflow.data.check import check_images
from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import level, refuse, save

CIFAR = Path(__file__).resolve().parents[3] / "shared/data/cifar10"


def test_digits():
    source = open_source("digits")
    assert (len(source), source.class_names) == (1797, tuple("0123456789"))
    pixels = np.asarray(source.read(0))
    assert (pixels.shape, pixels.dtype, pixels.max()) == ((8, 8), np.uint8, 239)
    assert source.label(0) == 0
    refuse("digits", "'test' split", split="test")


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refuse("digits", "pip install convflow[digits]")


def test_class_folders(classes):
    source = open_source(str(classes))
    assert source.class_names == ("class2", "class10")
    items = {source.item_name(i): (source.label(i), level(source, i)) for i in range(len(source))}
    assert items == {
        "class10/a.png": (1, 10),
        "class2/deep/er/b.PNG": (0, 20),
        "class2/c.JPeG": (0, 30),
    }
    assert source.notes == ("2 classes from folders: class2, class10", "1 file is not read: 1 txt")


def test_flat_folder_is_unconditional(tmp_path):
    for name in ("a.png", "b.webp", "c.bmp", "d.tif"):
        save(tmp_path / name)
    source = open_source(str(tmp_path))
    assert (len(source), source.class_names) == (4, ())
    assert [source.label(i) for i in range(4)] == [0] * 4


@pytest.mark.parametrize(
    ("split", "label", "found"), [("train", 1, 1), ("val", 0, 2), ("validation", 0, 2)]
)
def test_folder_of_splits(tmp_path, split, label, found):
    save(tmp_path / "Train/b/x.png", 1)
    save(tmp_path / "Train/a/y.png", 9)
    save(tmp_path / "val/a/x.png", 2)
    source = open_source(str(tmp_path), split=split)
    levels = {level(source, i): source.label(i) for i in range(len(source))}
    assert levels[found] == label
    refuse(tmp_path, "'test' split", "train, validation", split="test")


def test_mixed_folder_says_what_to_do(classes):
    save(classes / "loose.png")
    refuse(classes, "2 folders", "1 loose", "move")


def test_nothing_there(tmp_path):
    refuse("", "empty")
    refuse(tmp_path, "got none among 0 files")
    (tmp_path / "notes.txt").write_text("text")
    refuse(tmp_path, "got none among 1 files")
    refuse(tmp_path / "notes.txt", "a folder, a .zip, .tar, .parquet, .npz")
    (tmp_path / "fotos").mkdir()
    refuse(tmp_path / "photos", "no such file or folder", f"did you mean {tmp_path / 'fotos'}?")
    refuse("digit", "did you mean digits?")
    refuse("shape", "did you mean shapes?")
    refuse("shapes", "expected a split of shapes", "'all'", split="all")
    refuse(tmp_path / "notes.txt/inner", "no such file")


@pytest.mark.skipif(not CIFAR.exists(), reason="needs ../shared/data/cifar10")
def test_cifar10():
    source = open_source(str(CIFAR), split="test")
    assert (len(source), len(source.class_names)) == (10000, 10)
    assert np.bincount([source.label(i) for i in range(10000)]).tolist() == [1000] * 10
    assert source.item_name(1001) == "test.parquet row 1001"
    assert source.class_names[source.label(0)] == "truck"
    assert source.read(9999).size == (32, 32)
    assert len(open_source(str(CIFAR))) == 50000


def test_check_finds_classes_of_folder(classes):
    report, indices = check_images(open_source(str(classes)), channels=3, size=(4, 6))
    assert report.per_class == {"class2": 2, "class10": 1}
    assert indices.tolist() == [0, 1, 2]
    assert "2 classes from folders: class2, class10\n1 file is not read: 1 txt" in str(report)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_picture(classes):
    os.mkfifo(classes / "class2/pipe.png")
    source = open_source(str(classes))
    with pytest.raises(InputError, match=r"class2/pipe.png: .* got a named pipe"):
        source.read(3)
