"""Videos as files and sheets: what is written is what a reader of the format gives back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from convflow import videos
from convflow.types import InputError
from convflow.videos import sheet, tile_videos, write_video

av = pytest.importorskip("av")

ENCODED = [".mp4", ".webm"]
PICTURES = [".gif", ".webp", ""]


def made_frames(count: int = 6, height: int = 32, width: int = 48, channels: int = 3) -> np.ndarray:
    """Smooth frames (F, H, W, C) that all differ."""
    t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (count, height, width)), indexing="ij")
    planes = [x * (1 - t), y, t * y][:channels]
    return np.rint(np.stack(planes, -1) * 255).astype(np.uint8)


def read_back(path: Path) -> tuple[np.ndarray, list[float]]:
    """Frames (F, H, W, 3) of a file and when each begins in seconds, by another reader than ours"""
    if path.is_dir():
        pages = [Image.open(file).convert("RGB") for file in sorted(path.iterdir())]
        return np.stack([np.asarray(page) for page in pages]), []
    if path.suffix in ENCODED:
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
            return np.stack([f.to_ndarray(format="rgb24") for f in frames]), [
                f.time for f in frames
            ]
    with Image.open(path) as image:
        pages, times = [], [0.0]
        for page in ImageSequence.Iterator(image):
            pages.append(np.asarray(page.convert("RGB")))
            times.append(times[-1] + page.info["duration"] / 1000)
    return np.stack(pages), times[:-1]


@pytest.mark.parametrize("ending", ENCODED + PICTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_video_is_what_was_written(tmp_path, ending, channels):
    frames, path = made_frames(channels=channels), tmp_path / f"video{ending}"
    write_video(path, frames, rate=8)
    found, times = read_back(path)
    wanted = np.broadcast_to(frames, (*frames.shape[:3], 3)).astype(int)
    assert found.shape == wanted.shape
    error = np.abs(found - wanted)
    exact = ending in (".webp", "") or (ending == ".gif" and channels == 1)
    assert error.max() == 0 if exact else (error.mean() < 5 and error.max() < 30)
    if times:
        assert times == pytest.approx([i / 8 for i in range(6)], abs=0.006)
    assert not list(tmp_path.glob(".writing*"))


@pytest.mark.parametrize("ending", ENCODED)
def test_grey_levels_survive_coding(tmp_path, ending):
    levels = np.array([0, 1, 64, 128, 200, 254, 255], np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (7, 16, 16, 3)).copy()
    write_video(tmp_path / f"grey{ending}", frames, rate=1)
    found, _ = read_back(tmp_path / f"grey{ending}")
    assert np.abs(found.astype(int) - frames).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (33, 16)])
def test_odd_sizes(tmp_path, height, width):
    frames = made_frames(3, height, width)
    for ending in ENCODED + PICTURES:
        path = tmp_path / f"odd{ending}"
        write_video(path, frames, rate=8)
        found, _ = read_back(path)
        if ending == ".mp4":
            assert found.shape == (3, height + height % 2, width + width % 2, 3)
        else:
            assert found.shape[1:3] == (height, width)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_an_equal_frame_lasts_longer(tmp_path, ending):
    frames = made_frames(3)[[0, 0, 0, 1, 2, 2]]
    path = tmp_path / f"still{ending}"
    write_video(path, frames, rate=10)
    found, times = read_back(path)
    assert len(found) == 3
    assert times == pytest.approx([0, 0.3, 0.4])


def test_times_do_not_drift(tmp_path):
    frames = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    write_video(tmp_path / "long.gif", frames, rate=30)
    _, times = read_back(tmp_path / "long.gif")
    assert times == pytest.approx([i / 30 for i in range(60)], abs=0.00501)


def test_a_gif_of_few_colours_keeps_them(tmp_path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[:, :, 8:] = (200, 30, 90)
    for i in range(4):
        frames[i, i] = (0, 255, 0)
    write_video(tmp_path / "few.gif", frames, rate=4)
    assert np.abs(read_back(tmp_path / "few.gif")[0].astype(int) - frames).max() <= 4


@pytest.mark.parametrize("ending", [*ENCODED, ".gif", ".webp"])
def test_the_same_frames_are_the_same_bytes(tmp_path, ending):
    one, two = tmp_path / f"1{ending}", tmp_path / f"2{ending}"
    for path in (one, two):
        write_video(path, made_frames(), rate=8)
    assert one.read_bytes() == two.read_bytes()


def test_an_old_file_is_replaced_and_an_old_folder_is_not(tmp_path):
    for path in (tmp_path / "a.gif", tmp_path / "a.mp4"):
        path.write_bytes(b"old")
        write_video(path, made_frames(), rate=8)
        assert len(read_back(path)[0]) == 6
    (tmp_path / "frames").mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_video(tmp_path / "frames", made_frames(), rate=8)


def test_an_error_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_video(path, made_frames(), rate=8)
    before = path.read_bytes()
    monkeypatch.setattr(av.VideoFrame, "from_ndarray", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_video(path, made_frames(), rate=8)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_without_av_pictures_are_written_and_mp4_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for ending in PICTURES:
        write_video(tmp_path / f"video{ending}", made_frames(), rate=8)
    for ending in ENCODED:
        with pytest.raises(InputError, match=r"package av.*pip install convflow\[video\]"):
            write_video(tmp_path / f"video{ending}", made_frames(), rate=8)


@pytest.mark.parametrize(
    ("name", "frames", "rate", "message"),
    [
        ("a.png", made_frames(), 8, r"\*.mp4, .*without an ending, got 'a.png'"),
        ("a.gif", made_frames()[0], 8, "expected frames"),
        ("a.gif", made_frames()[:0], 8, "at least one"),
        ("a.gif", made_frames().astype(float), 8, "of float64"),
        ("a.gif", made_frames(channels=2), 8, "1 or 3 channels"),
        ("a.gif", made_frames(), 51, "0.1 to 50 frames a second"),
        ("a.mp4", made_frames(), 0, "0.1 to 240 frames a second"),
        ("a.mp4", made_frames(), float("nan"), "got nan"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, frames, rate, message):
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / name, frames, rate)
    assert not list(tmp_path.iterdir())


def test_every_ending_is_described():
    said = write_video.__doc__
    assert all(f"`{ending}`" in said for ending in videos._WRITERS if ending)


def as_batch(*each: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(each)).permute(0, 4, 1, 2, 3)


def test_a_sheet_has_a_row_for_each_video():
    one, two = made_frames(5, 4, 6), made_frames(5, 4, 6)[::-1]
    page = np.asarray(sheet(as_batch(one, two), gap=0))
    assert page.shape == (8, 30, 3)
    for i in range(5):
        assert np.array_equal(page[:4, 6 * i : 6 * i + 6], one[i])
        assert np.array_equal(page[4:, 6 * i : 6 * i + 6], two[i])


@pytest.mark.parametrize(
    ("wanted", "chosen"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (9, range(5))]
)
def test_a_sheet_shows_some_frames(wanted, chosen):
    frames = made_frames(5, 4, 6)
    page = np.asarray(sheet(as_batch(frames), num_frames=wanted, gap=0))
    assert np.array_equal(page, np.concatenate([frames[i] for i in chosen], 1))


def test_videos_in_rows_are_one_video():
    one, two = made_frames(3, 4, 6, 1), made_frames(3, 4, 6, 1)[::-1]
    both = tile_videos(as_batch(one, two), columns=2, gap=0)
    assert np.array_equal(both, np.concatenate([one, two], 2))
