"""Clips of videos: counted, labelled and read alike from files and folders of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from convflow.data.check import check_images
from convflow.data.class_ids import Choice
from convflow.data.clips import StoredClips, open_clips
from convflow.data.loader import Images, Order
from convflow.data.source import holds_videos
from convflow.data.sources import open_source
from convflow.data.timeline import Clips
from convflow.types import InputError
from convflow.videos import write_video
from tests.data.films import HEIGHT, WIDTH, make_film, numbered, numbers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes: 20 frames as .mp4 and 9 as .gif, 12 in a folder."""
    made = tmp_path / "data"
    for name in ("jump", "run"):
        (made / name).mkdir(parents=True)
    make_film(made / "jump" / "a.mp4", numbered(20), options={"g": "5"})
    write_video(made / "run" / "c.gif", numbered(9), rate=12)
    write_video(made / "run" / "b", numbered(12), rate=8)
    return made


def test_clips_of_every_kind_by_class(folder):
    source = open_clips(str(folder), Clips(4))
    assert source.class_names == ("jump", "run")
    assert holds_videos(source)
    names = [source.item_name(i) for i in range(len(source))]
    assert names == [
        *(f"jump/a.mp4 from frame {i}" for i in (0, 4, 8, 12, 16)),
        *(f"run/b from frame {i}" for i in (0, 4, 8)),
        *(f"run/c.gif from frame {i}" for i in (0, 4)),
    ]
    assert [source.label(i) for i in range(len(source))] == [0] * 5 + [1] * 5
    for i, name in enumerate(names):
        clip, first = source.read(i), int(name.split()[-1])
        assert (clip.shape, clip.dtype) == ((4, HEIGHT, WIDTH, 3), np.uint8)
        assert numbers(clip) == list(range(first, first + 4))
        assert source.header(i) == ("video", (HEIGHT, WIDTH))
    assert "2 video files and 1 folder of frames, in clips of 4 frames" in source.notes


def test_rate_and_stride(folder):
    [clip] = [open_clips(str(folder / "jump"), Clips(5, fps=8)).read(0)]
    assert numbers(clip) == [0, 3, 6, 9, 12]
    source = open_clips(str(folder / "jump"), Clips(4, stride=2))
    assert [numbers(source.read(i)) for i in range(len(source))] == [[0, 2, 4, 6], [8, 10, 12, 14]]
    [first] = [open_clips(str(folder / "run" / "c.gif"), Clips(4, fps=6)).read(0)]
    assert numbers(first) == [0, 2, 4, 6]


def test_one_file(folder):
    source = open_clips(str(folder / "jump" / "a.mp4"), Clips(20))
    assert (len(source), source.class_names) == (1, ())
    assert source.item_name(0) == "a.mp4"
    assert numbers(source.read(0)) == list(range(20))


def test_frames_in_the_folder_itself(folder):
    source = open_clips(str(folder / "run" / "b"), Clips(12))
    assert numbers(source.read(0)) == list(range(12))


def test_frames_count_as_people_do(tmp_path):
    folder = tmp_path / "data" / "clip"
    write_video(folder, numbered(12), rate=8)
    for file in folder.iterdir():
        file.rename(folder / f"frame{int(file.stem)}.png")
    assert numbers(open_clips(str(tmp_path / "data"), Clips(12)).read(0)) == list(range(12))


def test_captions_splits_and_pictures_beside(folder):
    for split, kept in (("train", "jump"), ("test", "run")):
        (folder / split).mkdir()
        (folder / kept).rename(folder / split / kept)
    (folder / "train" / "jump" / "a.txt").write_text("a disc jumps", encoding="utf-8")
    (folder / "train" / "jump" / "a.jpg").write_bytes(b"a picture of it")
    source = open_clips(str(folder), Clips(10), "train", Choice("none"))
    assert len(source) == 2
    assert source.caption is not None
    assert [source.caption(i) for i in range(2)] == ["a disc jumps"] * 2
    assert any("1 jpg" in note for note in source.notes)
    assert len(open_clips(str(folder), Clips(9), "test")) == 2


def test_a_table_names_labels(folder):
    lines = ["file_name,label", "jump/a.mp4,fast", "run/c.gif,slow", "run/b,slow"]
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    source = open_clips(str(folder), Clips(9))
    assert source.class_names == ("fast", "slow")
    assert {source.item_name(i).split()[0]: source.label(i) for i in range(len(source))} == {
        "jump/a.mp4": 0,
        "run/b": 1,
        "run/c.gif": 1,
    }


def test_a_bad_or_short_video_is_one_bad_item(folder):
    (folder / "run" / "d.webm").write_bytes(b"none")
    source = open_clips(str(folder), Clips(10))
    names = [source.item_name(i) for i in range(len(source))]
    assert names[-2:] == ["run/c.gif", "run/d.webm"]
    for name, reason in (("c.gif", "at least 10 frames"), ("d.webm", "a readable video")):
        with pytest.raises(InputError, match=rf"^run/{name}: expected {reason}.*, got"):
            source.read(names.index(f"run/{name}"))
    options = {"channels": 3, "size": (10, HEIGHT, WIDTH)}
    with pytest.raises(InputError, match=r"run/c\.gif: expected at least 10 frames"):
        check_images(source, on_bad="stop", **options)
    report, good = check_images(source, on_bad="skip", **options)
    assert [name for name, _ in report.unreadable] == ["run/c.gif", "run/d.webm"]
    assert good.tolist() == [0, 1, 2]
    assert (report.modes, report.sizes[0]) == ({"video": 3}, (HEIGHT, WIDTH))


def test_a_look_is_remembered_by_clip(folder, tmp_path, monkeypatch):
    options = {"channels": 3, "size": (4, HEIGHT, WIDTH), "memory": tmp_path / "looks"}
    check_images(open_clips(str(folder), Clips(4)), **options)
    monkeypatch.setattr(StoredClips, "read", lambda *_: pytest.fail("is read again"))
    report, _ = check_images(open_clips(str(folder), Clips(4)), **options)
    assert report.count == 10
    with pytest.raises(pytest.fail.Exception):
        check_images(open_clips(str(folder), Clips(4, stride=2)), **options)


def test_the_stamp_changes_with_a_file(folder):
    before = open_clips(str(folder), Clips(4)).stamp()
    same = open_clips(str(folder), Clips(4)).stamp()
    assert before.text == same.text
    assert np.array_equal(before.marks, same.marks)
    assert len(set(before.marks.tolist())) == 10
    make_film(folder / "jump" / "a.mp4", numbered(21), options={"g": "5"})
    after = open_clips(str(folder), Clips(4)).stamp()
    assert after.text != before.text
    assert (after.marks[5:] == before.marks[5:]).all()
    assert not (after.marks[:5] == before.marks[:5]).any()


@pytest.mark.parametrize("crop", [None, (1.0, 1.0)])
def test_random_starts_depend_on_seed_and_place_alone(folder, crop):
    source = open_clips(str(folder), Clips(4, start="random"))
    assert len(source) == 3
    images = Images(source, np.arange(3), channels=3, size=(4, HEIGHT, WIDTH), crop=crop)
    order = Order(3, seed=1, flip=False, crop=True)
    shown = []
    for epoch in range(8):
        rows = order.rows(3 * epoch, 3)
        pixels, _ = images.batch(rows.indices, None, rows.crops)
        firsts = [numbers(video.permute(1, 2, 3, 0).numpy())[0] for video in pixels]
        shown.append(dict(zip(rows.indices.tolist(), firsts, strict=True)))
    for index, latest in enumerate((16, 8, 5)):
        starts = {epoch[index] for epoch in shown}
        assert len(starts) > 2
        assert max(starts) <= latest
    rows = order.rows(9, 3)
    again = Images(source, np.arange(3), channels=3, size=(4, HEIGHT, WIDTH), crop=crop)
    pixels, _ = again.batch(rows.indices, None, rows.crops)
    firsts = [numbers(video.permute(1, 2, 3, 0).numpy())[0] for video in pixels]
    assert dict(zip(rows.indices.tolist(), firsts, strict=True)) == shown[3]


def test_without_a_place_a_random_clip_is_from_the_middle(folder):
    source = open_clips(str(folder), Clips(4, start="random"))
    assert numbers(source.read(0)) == [8, 9, 10, 11]


def test_batches_of_windows_are_kept(folder, monkeypatch):
    source = open_clips(str(folder), Clips(4))
    images = Images(source, np.arange(len(source)), channels=1, size=(4, 8, 24))
    first, labels = images.batch(np.array([0, 5]))
    assert first.shape == (2, 1, 4, 8, 24)
    assert labels.tolist() == [0, 1]
    monkeypatch.setattr(StoredClips, "read", lambda *_, **__: pytest.fail("is read again"))
    assert torch.equal(images.batch(np.array([0, 5]))[0], first)


def test_open_source_tells_videos_from_images(folder, tmp_path):
    assert isinstance(open_source(str(folder), clips=Clips(4)), StoredClips)
    assert not isinstance(open_source("moving", clips=Clips(4)), StoredClips)
    for path in (folder / "jump", folder / "jump" / "a.mp4"):
        with pytest.raises(InputError, match="give a size of three sides, such as 16x64x64"):
            open_source(str(path))
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"a folder of videos, or a video .* unpack it"):
        open_source(str(tmp_path / "a.zip"), clips=Clips(4))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"folders of frames in .* got none among 0 files"):
        open_source(str(tmp_path / "none"), clips=Clips(4))
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(str(tmp_path / "nowhere"), clips=Clips(4))
