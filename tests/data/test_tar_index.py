"""The index of a tar: made once, made again for another tar, and never needed."""

import io
import logging
import os
import tarfile

import pytest

from convflow.data import tar_index
from convflow.data.sources import open_source
from convflow.data.tar_index import key_of, read_index, read_part
from convflow.types import InputError
from tests.data.made import level, png, tar


@pytest.fixture
def cache(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(tar_index, "assets", lambda kind: tmp_path / "cache")
    return tmp_path / "cache"


def same(one, other):
    return (one.names, one.places.tolist(), one.notes) == (
        other.names,
        other.places.tolist(),
        other.notes,
    )


def test_it_is_made_once_and_again_for_another_tar(tmp_path, cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "convflow")
    path = tar(tmp_path / "x.tar", a__b_png=png(1), a__b_cls=b" 7\n", c_txt=b"words")
    first = read_index(path)
    assert first.names == ["a/b.png", "a/b.cls", "c.txt"]
    assert first.notes == {"a/b": {"label": 7}}
    assert read_part(path, *first.places[0].tolist()) == png(1)
    assert read_part(path, *first.places[2].tolist(), 3) == b"wor"
    monkeypatch.setattr(tarfile, "open", None)  # it would fail now
    assert same(read_index(path), first)
    assert not caplog.messages
    monkeypatch.undo()
    monkeypatch.setattr(tar_index, "assets", lambda kind: cache)
    tar(path, d_png=png(2))
    os.utime(path, ns=(0, 10**18))
    assert read_index(path).names == ["d.png"]
    assert "is older than the tar or of another one, and is made again" in caplog.text
    (file,) = cache.iterdir()
    for content in (b"damaged", b"", file.read_bytes()[:-200]):
        file.write_bytes(content)
        assert read_index(path).names == ["d.png"]


def test_a_tar_of_the_size_and_time_of_the_one_before(tmp_path, cache):
    path = tar(tmp_path / "x.tar", a_png=png(1), b_png=png(2))
    os.utime(path, ns=(0, 10**18))
    assert read_index(path).names == ["a.png", "b.png"]
    other = tar(tmp_path / "y.tar", c_png=png(3), d_png=png(4))
    os.utime(other, ns=(0, 10**18))
    before, after = path.stat(), other.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    other.replace(path)
    assert read_index(path).names == ["c.png", "d.png"]


def test_images_of_a_tar_that_has_grown_since(tmp_path, cache):
    path = tar(tmp_path / "x.tar", cat__a_png=png(1))
    assert len(open_source(str(path))) == 1
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("cat/b.png")
        info.size = len(png(7))
        archive.addfile(info, io.BytesIO(png(7)))
    source = open_source(str(path))
    assert [level(source, i) for i in range(2)] == [1, 7]


def test_no_cache_is_no_trouble(tmp_path, monkeypatch):
    path = tar(tmp_path / "x.tar", a_png=png(1))
    for folder in (None, tmp_path / "missing"):
        monkeypatch.setattr(tar_index, "assets", lambda kind, folder=folder: folder)
        assert read_index(path).names == ["a.png"]


def test_links_and_names_that_lead_away(tmp_path, cache):
    (tmp_path / "a.png").write_bytes(png(1))
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/etc/passwd")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            archive.add(tmp_path / name, f"./../{name}")
        archive.add(tmp_path / "a.png", "__MACOSX/a.png")
    index = read_index(tmp_path / "x.tar")
    assert index.names == ["a.png", "b.png"]
    assert index.places[0].tolist() == index.places[1].tolist()


def test_a_tar_that_was_cut_since(tmp_path, cache):
    path = tar(tmp_path / "x.tar", a_png=png(1))
    place = read_index(path).places[0].tolist()
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(InputError, match=r"bytes in x.tar, got fewer; was it cut short\?"):
        read_part(path, *place)


def test_names_without_their_endings():
    assert [key_of(name) for name in ("a/b.seg.png", "a.b/c.png", "c", ".hidden")] == [
        "a/b",
        "a.b/c",
        "c",
        ".hidden",
    ]
