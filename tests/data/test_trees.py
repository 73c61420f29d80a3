"""Which files of a folder or an archive are images of a split, and their labels."""

import json

import pytest

from convflow.data.check import check_images
from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import labelled, level, pack, refuse, save


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
        "captions from column `text` of test/metadata.csv",
    )
    assert [source.caption(i) for i in range(2)] == ["a dog", "a dog"]
    with pytest.raises(InputError, match="caption-column: unknown column 'txt'"):
        open_source(str(tmp_path), "test", caption_column="txt")


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
