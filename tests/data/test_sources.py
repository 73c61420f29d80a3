"""Every place pictures may come from, and every way it may be wrong."""

import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convflow.data.check import check
from convflow.data.sources import open_source
from convflow.types import InputError

CIFAR = Path(__file__).resolve().parents[3] / "shared/data/cifar10"


def save(path, level=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (level, level, level)).save(path, **options)


@pytest.fixture
def classes(tmp_path):
    folder = tmp_path / "pets"
    save(folder / "class10/a.png", 10)
    save(folder / "class2/deep/er/b.PNG", 20)
    save(folder / "class2/c.JPeG", 30)
    save(folder / "class2/.hidden.png")
    save(folder / ".cache/d.png")
    (folder / "class2/notes.txt").write_text("not a picture")
    return folder


def level(source, index):
    return int(np.asarray(source.read(index)).reshape(-1)[0])


def refuse(path, *words, split="train"):
    with pytest.raises(InputError) as caught:
        open_source(str(path), split=split)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("expected")
    for word in words:
        assert word in message, message


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
    assert source.num_ignored == 1


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


def test_a_link_to_a_parent_is_not_followed_for_ever(classes):
    (classes / "class2/loop").symlink_to(classes)
    assert len(open_source(str(classes))) == 3


def test_mixed_folder_says_what_to_do(classes):
    save(classes / "loose.png")
    refuse(classes, "2 folders", "1 loose", "move")


def test_nothing_there(tmp_path):
    refuse("", "empty")
    refuse(tmp_path, "got none among 0 files")
    (tmp_path / "notes.txt").write_text("text")
    refuse(tmp_path, "got none among 1 files")
    refuse(tmp_path / "notes.txt", "a folder, a .zip or a .parquet file")
    (tmp_path / "fotos").mkdir()
    refuse(tmp_path / "photos", "no such file or folder", f"did you mean {tmp_path / 'fotos'}?")
    refuse("digit", "did you mean digits?")
    refuse("shape", "did you mean shapes?")
    refuse("shapes", "expected a split of shapes", "'dev'", split="dev")
    refuse(tmp_path / "notes.txt/inner", "no such file")


@pytest.mark.parametrize("root", ["", "pets/"])
def test_zip_is_like_its_folder(classes, tmp_path, root):
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/pets/class2/._c.JPeG", b"")
        for file in classes.rglob("*"):
            archive.write(file, root + file.relative_to(classes).as_posix())
    source, folder = open_source(str(path)), open_source(str(classes))
    assert source.class_names == folder.class_names
    assert source.num_ignored == folder.num_ignored
    assert [*map(source.item_name, range(3))] == [*map(folder.item_name, range(3))]
    wanted = [level(folder, i) for i in range(3)] * 50
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: level(source, i % 3), range(150))) == wanted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_zip_is_reopened_after_a_fork(classes, tmp_path, monkeypatch):
    path, opened, kind = tmp_path / "pets.zip", [], zipfile.ZipFile
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(classes / "class10/a.png", "a.png")
    monkeypatch.setattr(zipfile, "ZipFile", lambda at: opened.append(os.getpid()) or kind(at))
    source = open_source(str(path))
    for _ in range(3):
        assert level(source, 0) == 10
    assert opened == [os.getpid()] * 2  # for the names, and for this thread
    child = os.fork()
    if child == 0:
        os._exit(0 if level(source, 0) == 10 and opened[-1] == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_broken_zip(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    refuse(tmp_path / "x.zip", "expected a zip archive")


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
    report, indices = check(open_source(str(classes)), channels=3, size=(4, 6))
    assert report.per_class == {"class2": 2, "class10": 1}
    assert indices.tolist() == [0, 1, 2]
    assert "1 files that are no pictures" in str(report)
