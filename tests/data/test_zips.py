"""Images in zips, as other systems write them, and damaged."""

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from convflow.data.sources import open_source
from tests.data.made import labelled, level, pack, refuse, save


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
