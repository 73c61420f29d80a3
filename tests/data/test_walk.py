"""Every image is found once, however many links lead to it."""

import os
import zipfile
from pathlib import Path

import pytest

from convflow.data.check import check_images
from convflow.data.sources import open_source
from convflow.types import InputError
from tests.data.made import labelled, level, link, refuse, save

CIFAR = Path(__file__).resolve().parents[3] / "shared/data/cifar10"


def test_links_into_a_store_of_names_without_endings(tmp_path):
    save(tmp_path / "blobs/one.png")
    (tmp_path / "blobs/one.png").rename(tmp_path / "blobs/one")
    (tmp_path / "snapshots/cat").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (tmp_path / "snapshots/cat" / name).symlink_to("../../blobs/one")
    source = open_source(str(tmp_path))
    assert [source.item_name(i) for i in range(len(source))] == ["snapshots/cat/a.png"]
    assert source.class_names == ("cat",)


def test_folders_with_nothing_in_them_are_said(tmp_path):
    save(tmp_path / "x/cat/a.png")
    (tmp_path / "x/dog").mkdir()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x/cat/a.png", "x/cat/a.png")
        archive.writestr("x/dog/", "")
        archive.writestr("x/cat/", "")
    for place in ("x", "x.zip"):
        source = open_source(str(tmp_path / place))
        assert source.class_names == ("cat",)
        assert any(note.startswith("1 folder is empty: ") for note in source.notes)
    os.mkfifo(tmp_path / "pipe.zip")
    refuse(tmp_path / "pipe.zip", "regular file")


def test_a_link_to_a_parent_is_not_followed_for_ever(classes):
    (classes / "class2/loop").symlink_to(classes)
    assert len(open_source(str(classes))) == 3


def test_every_file_is_visited_once(tmp_path):
    save(tmp_path / "store/far.png", 3)
    data = tmp_path / "data"
    for number, name in enumerate("xy"):
        save(data / name / "0.png", number)
        (data / name / "a_ring").symlink_to(f"../{'yx'[number]}")
        (data / name / "b_ring").symlink_to("..")
    (data / "x/again.png").symlink_to("../y/0.png")
    (data / "x/far.png").symlink_to("../../store/far.png")
    (data / "y/far.png").symlink_to("../../store/far.png")
    (data / "x/gone.png").symlink_to("nowhere.png")
    (data / "x/self.png").symlink_to("self.png")
    (data / "y/hard.png").hardlink_to(data / "y/0.png")
    source = open_source(str(data))
    wanted = {"x/0.png": 0, "x/far.png": 3, "y/0.png": 1, "y/hard.png": 1}
    broken = {"x/gone.png", "x/self.png"}
    items = {source.item_name(i): i for i in range(len(source))}
    assert items.keys() == wanted.keys() | broken
    assert {name: level(source, items[name]) for name in wanted} == wanted
    assert all(source.class_names[source.label(i)] == name[0] for name, i in items.items())
    assert source.notes[-1].startswith("6 links lead to what is there already and is read once: ")
    report, _ = check_images(source, channels=1, size=(4, 6), on_bad="skip", memory=tmp_path / "m")
    assert {name for name, _ in report.unreadable} == broken
    with pytest.raises(InputError, match=r"^x/gone.png: expected a readable image, got .*No such"):
        source.read(items["x/gone.png"])


def test_linked_class_folders_are_followed(classes, tmp_path):
    (tmp_path / "links").mkdir()
    for name in ("class2", "class10"):
        (tmp_path / "links" / name).symlink_to(classes / name)
    assert labelled(open_source(str(tmp_path / "links"))) == labelled(open_source(str(classes)))


def test_links_to_what_is_no_picture_by_its_name(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        save(tmp_path / f"{name}.png", number)
        (tmp_path / "data/store").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").rename(tmp_path / f"data/store/ab{number}")
        link(tmp_path / f"data/{name}/0.png", tmp_path / f"data/store/ab{number}")
    (tmp_path / "data/store/rows").write_text("file_name,label\ncat/0.png,p\ndog/0.png,q\n")
    source = open_source(str(tmp_path / "data"))
    assert labelled(source) == {"cat/0.png": "cat", "dog/0.png": "dog"}
    assert not any("link" in note for note in source.notes)
    link(tmp_path / "data/metadata.csv", tmp_path / "data/store/rows")
    assert open_source(str(tmp_path / "data")).class_names == ("p", "q")


@pytest.mark.parametrize("top", ["", "images/", "images/a/"])
def test_links_in_class_folders_give_the_classes_of_plain_pictures(tmp_path, top):
    for number in range(4):
        save(tmp_path / f"{top}{number}.png", number)
        link(
            tmp_path / ("cat", "dog")[number % 2] / f"{number}.png",
            tmp_path / f"{top}{number}.png",
        )
    source = open_source(str(tmp_path))
    wanted = {"cat/0.png": "cat", "cat/2.png": "cat", "dog/1.png": "dog", "dog/3.png": "dog"}
    assert labelled(source) == wanted
    said = f"4 images are read as links name them: cat/0.png for {top}0.png"
    assert source.notes[-1] == said
    save(tmp_path / f"{top}4.png")
    refuse(tmp_path, f"{top}0.png linked as cat/0.png, but {top}4.png in 0 folders of links")
    (tmp_path / f"{top}4.png").unlink()
    link(tmp_path / "cat/1.png", tmp_path / f"{top}1.png")
    refuse(tmp_path, f"{top}1.png in 2 folders of links")


def test_a_folder_of_links_to_all_pictures_hides_no_class(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / name / f"{name}.png")
        link(tmp_path / "all" / f"{name}.png", tmp_path / name / f"{name}.png")
    assert labelled(open_source(str(tmp_path))) == {"cat/cat.png": "cat", "dog/dog.png": "dog"}
