"""Every place images may come from, and every way it may be wrong."""

import json
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from convflow.data.check import check_images
from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import labelled, level, pack, refuse, save

CIFAR = Path(__file__).resolve().parents[3] / "shared/data/cifar10"


def test_a_zip_of_macos_says_the_names_of_its_folder(tmp_path):
    save(tmp_path / "caf\u00e9/a.png")
    save(tmp_path / "dog/@eaDir/b.png/THUMB.jpg")  # a disk station's thumbnail
    save(tmp_path / "dog/b.png")
    save(tmp_path / "__MACOSX/dog/b.png")
    files = sorted(file for file in tmp_path.rglob("*") if file.is_file())
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in files:
            name = file.relative_to(tmp_path).as_posix().replace("\u00e9", "XY")
            archive.writestr(name, file.read_bytes())
    content = (tmp_path / "x.zip").read_bytes()
    for name, char in (("utf8", "\u00e9".encode()), ("cp1252", b"\xe9\x80")):
        (tmp_path / f"{name}.zip").write_bytes(content.replace(b"XY", char))
    folder = open_source(str(tmp_path))
    assert (len(folder), folder.class_names) == (2, ("caf\u00e9", "dog"))
    source = open_source(str(tmp_path / "utf8.zip"))
    assert (len(source), source.class_names) == (2, folder.class_names)
    assert not any("UTF-8" in note for note in source.notes)
    odd = open_source(str(tmp_path / "cp1252.zip"))
    assert any("names are not in UTF-8" in note for note in odd.notes)


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
    refuse(tmp_path / "notes.txt", "a folder, a .zip or a .parquet file")
    (tmp_path / "fotos").mkdir()
    refuse(tmp_path / "photos", "no such file or folder", f"did you mean {tmp_path / 'fotos'}?")
    refuse("digit", "did you mean digits?")
    refuse("shape", "did you mean shapes?")
    refuse("shapes", "expected a split of shapes", "'all'", split="all")
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
    assert source.notes == folder.notes
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


@pytest.mark.parametrize(("byte", "value"), [(6, 200), (46, 200)])  # version, a name in UTF-8
def test_damaged_zip(classes, tmp_path, byte, value):
    data = bytearray(pack(tmp_path / "x.zip", classes).read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + byte], data[entry + 9] = value, 8
    (tmp_path / "x.zip").write_bytes(data)
    refuse(tmp_path / "x.zip", "expected a zip archive")


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
    report, indices = check_images(open_source(str(classes)), channels=3, size=(4, 6))
    assert report.per_class == {"class2": 2, "class10": 1}
    assert indices.tolist() == [0, 1, 2]
    assert "2 classes from folders: class2, class10\n1 file is not read: 1 txt" in str(report)


def test_splits_are_alike_in_folder_and_zip(tmp_path):
    folder = tmp_path / "mri"
    for number, part in enumerate(("Training", "Testing")):
        for name in ("glioma", "pituitary"):
            save(folder / part / name / "0.png", number)
    for place in (folder, pack(tmp_path / "a.zip", folder), pack(tmp_path / "b.zip", folder, "m/")):
        for number, (split, part) in enumerate({"train": "Training", "test": "Testing"}.items()):
            source = open_source(str(place), split)
            names = {f"{part}/glioma/0.png": "glioma", f"{part}/pituitary/0.png": "pituitary"}
            assert labelled(source) == names
            assert level(source, 0) == number
            assert source.notes == (
                f"split {split} of train, test",
                "2 classes from folders: glioma, pituitary",
            )
        everything = open_source(str(place), "all")
        assert (len(everything), everything.class_names) == (4, ("glioma", "pituitary"))


@pytest.mark.parametrize("wrapped", [False, True])
def test_one_folder_around_everything(tmp_path, wrapped):
    folder = tmp_path / "data"
    names = ("cats", "dogs") if wrapped else ("cats",)
    for name in names:
        save(folder / ("images" if wrapped else "") / name / "0.png")
    (folder / "readme.txt").write_text("beside the folder")
    zips = pack(tmp_path / "a.zip", folder), pack(tmp_path / "b.zip", folder, "data/")
    for place in (folder, *zips):
        assert open_source(str(place)).class_names == names


def test_a_flat_folder_in_a_zip_of_its_name_has_no_class(tmp_path):
    save(tmp_path / "data/0.png")
    path = pack(tmp_path / "data.zip", tmp_path / "data", "Data/")
    assert labelled(open_source(str(path))) == {"0.png": ""}
    assert labelled(open_source(str(path.rename(tmp_path / "x.zip")))) == {"0.png": "Data"}


def test_a_zip_from_windows(classes, tmp_path):
    path = pack(tmp_path / "pets.zip", classes, sep="\\")
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = "class2\\"
        archive.writestr(info, b"")
    source = open_source(str(path))
    assert labelled(source) == labelled(open_source(str(classes)))
    assert [level(source, i) for i in range(3)] == [10, 30, 20]


def test_strange_names_in_a_zip(tmp_path):
    save(tmp_path / "x.png", 7)
    data = (tmp_path / "x.png").read_bytes()
    names = ["../cats/0.png", "/cats/1.png", "C:\\dogs\\0.png", "./dogs//1.png"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(info, data)
    source = open_source(str(tmp_path / "x.zip"))
    wanted = {
        "cats/0.png": "cats",
        "cats/1.png": "cats",
        "dogs/0.png": "dogs",
        "dogs/1.png": "dogs",
    }
    assert labelled(source) == wanted
    assert {level(source, i) for i in range(4)} == {7}
    assert source.notes[-1] == "a name is there several times, the last is read: dogs/1.png"


def test_labels_of_dataset_json(tmp_path):
    folder, labels = tmp_path / "edm", {"00000/a": 0, "00000/b": 1, "00001/c": 1, "00001/d": 0}
    for name in labels:
        save(folder / f"{name}.png")
    pairs = [[f"{name}.png", label] for name, label in labels.items()]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    for place in (folder, pack(tmp_path / "a.zip", folder), pack(tmp_path / "b.zip", folder, "x/")):
        source = open_source(str(place))
        assert [source.label(i) for i in range(4)] == [0, 1, 1, 0]
        assert "dataset.json: 2 classes, 0, 1" in source.notes[0]
        assert len(source.notes) == 1
        assert open_source(str(place), labels="folders").class_names == ("00000", "00001")


def test_labels_of_metadata_in_each_split(tmp_path):
    for part, names in {"train": ["cat", "dog"], "test": ["dog", "dog"]}.items():
        rows = "".join(f"{i}.png,{name},a {name}\n" for i, name in enumerate(names))
        for i in range(2):
            save(tmp_path / part / f"{i}.png")
        (tmp_path / part / "metadata.csv").write_text(f"file_name,species,text\n{rows}")
    assert labelled(open_source(str(tmp_path))) == {"train/0.png": "cat", "train/1.png": "dog"}
    source = open_source(str(tmp_path), "test")
    assert labelled(source) == {"test/0.png": "dog", "test/1.png": "dog"}
    assert source.notes == (
        "split test of train, test",
        "labels from column `species` of test/metadata.csv: 1 class, dog",
        "test/metadata.csv: columns not used: text",
    )


def test_names_of_files_are_offered(tmp_path):
    for name in ("cat_0", "cat_1", "big dog (3)"):
        save(tmp_path / f"{name}.png")
    source = open_source(str(tmp_path))
    assert source.notes == (
        "no classes: the model will be unconditional (no class folders)",
        "file names look like classes (big dog, cat); --data.labels names takes them",
    )
    wanted = {"big dog (3).png": "big dog", "cat_0.png": "cat", "cat_1.png": "cat"}
    assert labelled(open_source(str(tmp_path), labels="names")) == wanted
    save(tmp_path / "other.png")
    assert len(open_source(str(tmp_path)).notes) == 1
    refuse(tmp_path, "names such as cat_0.png", "got other.png", labels="names")


def test_how_labels_may_be_asked_for(classes):
    source = open_source(str(classes), labels="none")
    assert (len(source), source.class_names, source.label(0)) == (3, (), 0)
    save(classes / "loose.png")
    assert len(open_source(str(classes), labels="none")) == 4
    refuse(classes, "dataset.json, metadata.csv or metadata.jsonl", labels="table")
    (classes / "class2/metadata.csv").write_text("name,species")
    refuse(classes, "a file with labels", label_column="species")
    refuse(classes, "leave the column out", labels="folders", label_column="species")
    refuse(classes, "did you mean 'folders'", labels="folder")
    refuse("digits", "with digits", labels="table")
    for name in ("digits", "shapes"):
        source = open_source(name, labels="none")
        assert (source.class_names, source.label(1)) == ((), 0)
        assert not check_images(source, channels=1, size=(8, 8))[0].per_class
    refuse(classes, "got class2/metadata.csv is not read: no file_name", labels="table")


def test_files_that_are_not_read_are_counted_by_ending(classes, tmp_path):
    for name in ("a.csv", "b.CSV", "c.heic", "LICENSE"):
        (classes / name).write_text("text")
    assert open_source(str(classes)).notes[1:] == (
        "1 image is in an unsupported format: 1 heic; convert it to PNG or JPEG",
        "4 files are not read: 2 csv, 1 without an ending, 1 txt",
    )
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a.heic").write_text("text")
    refuse(tmp_path / "new", "got none among 1 files: 1 image is in an unsupported format: 1 heic")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_picture(classes):
    os.mkfifo(classes / "class2/pipe.png")
    source = open_source(str(classes))
    with pytest.raises(InputError, match=r"class2/pipe.png: .* got a named pipe"):
        source.read(3)


def test_a_column_of_other_words_leaves_class_folders(tmp_path):
    for name in ("cat", "dog"):
        for number in range(2):
            save(tmp_path / name / f"{number}.png")
    rows = [f"{name}/{i}.png,{'xy'[i]}" for name in ("cat", "dog") for i in range(2)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,colour", *rows]))
    source = open_source(str(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert "would take classes from colour of metadata.csv" in source.notes[-1]
    assert open_source(str(tmp_path), label_column="colour").class_names == ("x", "y")
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,species", *rows]))
    assert open_source(str(tmp_path)).class_names == ("x", "y")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_column_of_splits_chooses_pictures(tmp_path, kind):
    parts = {"a/0.png": "train", "a/1.png": "test", "b/2.png": "train", "b/3.png": "test"}
    for file in [*parts, "b/4.png"]:
        save(tmp_path / "data" / file)
    table = {
        "csv": "\n".join(["file_name,split", *(f"{file},{part}" for file, part in parts.items())]),
        "jsonl": "\n".join(json.dumps({"file_name": f, "split": p}) for f, p in parts.items()),
    }
    (tmp_path / f"data/metadata.{kind}").write_text(table[kind])
    for place in (tmp_path / "data", pack(tmp_path / "x.zip", tmp_path / "data")):
        for split in ("train", "test"):
            source = open_source(str(place), split)
            assert labelled(source) == {f: f[0] for f, part in parts.items() if part == split}
            assert source.notes[:2] == (
                f"split {split} of train, test",
                "1 images without a split are not taken: b/4.png",
            )
            assert len(open_source(str(place), split, labels="none")) == 2
        assert len(open_source(str(place), "all")) == 4
        refuse(place, "'validation' split", "train, test", split="validation")
