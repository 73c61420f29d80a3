"""Animated pictures and folders of frames: every frame, when it is shown, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convflow.data.animations import index_animation, index_frames, read_animation, read_frames
from convflow.data.timeline import Timeline
from convflow.types import InputError
from convflow.videos import write_video
from tests.data.films import HEIGHT, WIDTH, numbered, numbers


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_every_frame_is_read(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    write_video(path, numbered(12), rate=8)
    film = index_animation(path)
    assert (len(film.stamps), film.height, film.width) == (12, HEIGHT, WIDTH)
    assert film.seconds == 1.5
    assert numbers(read_animation(path, range(12))) == list(range(12))
    assert numbers(read_animation(path, [3, 3, 10])) == [3, 3, 10]
    if ending == ".webp":
        assert np.array_equal(read_animation(path, [4]), numbered(1, first=4))


def test_an_equal_frame_is_one_that_lasts_longer(tmp_path):
    write_video(tmp_path / "a.gif", numbered(3)[[0, 0, 0, 1, 2]], rate=10)
    film = index_animation(tmp_path / "a.gif")
    assert (list(film.stamps), film.end, film.tick) == ([0, 30, 40], 50, Fraction(1, 100))


def test_an_animated_png(tmp_path):
    pages = [Image.fromarray(frame) for frame in numbered(5)]
    path = tmp_path / "a.apng"
    pages[0].save(path, "PNG", save_all=True, append_images=pages[1:], duration=40)
    film = index_animation(path)
    assert (list(film.stamps), film.end) == ([0, 40, 80, 120, 160], 200)
    assert np.array_equal(read_animation(path, [0, 4]), numbered(5)[[0, 4]])


def test_a_picture_is_one_frame(tmp_path):
    Image.fromarray(numbered(1)[0]).save(tmp_path / "a.gif")
    film = index_animation(tmp_path / "a.gif")
    assert (list(film.stamps), film.end) == ([0], 10)


def test_what_is_transparent_lies_on_white(tmp_path):
    pages = [Image.new("RGBA", (8, 8), (0, 0, 255, 0)) for _ in range(2)]
    for number, page in enumerate(pages):
        page.paste((200, 0, 0, 255), (0, 0, 4, 4 + number))
    pages[0].save(tmp_path / "a.webp", save_all=True, append_images=pages[1:], lossless=True)
    found = read_animation(tmp_path / "a.webp", [0, 1])
    assert found[0, 0, 0].tolist() == [200, 0, 0]
    assert found[0, 4, 0].tolist() == found[1, 0, 7].tolist() == [255, 255, 255]
    assert found[1, 4, 0].tolist() == [200, 0, 0]


def test_a_gif_without_times_is_shown_as_players_do(tmp_path):
    pages = [Image.fromarray(frame) for frame in numbered(3)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    assert list(index_animation(tmp_path / "a.gif").stamps) == [0, 10, 20]


@pytest.mark.parametrize("part", [0, 20, 0.5])
def test_damaged_files_are_refused(tmp_path, part):
    path = tmp_path / "a.gif"
    write_video(path, numbered(12), rate=8)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if 0 < part < 1 else part])
    with pytest.raises(Exception, match=r"."):
        read_animation(path, range(len(index_animation(path).stamps)))


def made_folder(folder: Path, count: int = 6) -> list[str]:
    write_video(folder, numbered(count), rate=1)
    return sorted(file.name for file in folder.iterdir())


def test_a_folder_of_frames(tmp_path):
    files = made_folder(tmp_path / "clip")
    film = index_frames(tmp_path / "clip", files)
    assert film == Timeline(range(6), 6, Fraction(0), HEIGHT, WIDTH)
    assert np.array_equal(read_frames(tmp_path / "clip", files, [1, 5]), numbered(6)[[1, 5]])


def test_a_bad_frame_of_a_folder_is_named(tmp_path):
    files = made_folder(tmp_path / "clip")
    (tmp_path / "clip" / files[2]).write_bytes(b"none")
    Image.new("RGB", (5, 5)).save(tmp_path / "clip" / files[4])
    assert read_frames(tmp_path / "clip", files, [0, 1]).shape == (2, HEIGHT, WIDTH, 3)
    with pytest.raises(InputError, match=r"a readable frame 000002\.png, got"):
        read_frames(tmp_path / "clip", files, [1, 2])
    with pytest.raises(InputError, match=r"one size, got 000004\.png of 5x5 beside 16x48"):
        read_frames(tmp_path / "clip", files, [3, 4])


def test_too_many_pixels_are_refused(tmp_path):
    write_video(tmp_path / "a.gif", numbered(2), rate=8)
    files = made_folder(tmp_path / "clip")
    for read in (
        lambda: index_animation(tmp_path / "a.gif", 700),
        lambda: read_animation(tmp_path / "a.gif", [0], 700),
        lambda: index_frames(tmp_path / "clip", files, 700),
        lambda: read_frames(tmp_path / "clip", files, [0], 700),
    ):
        with pytest.raises(InputError, match="at most 700 pixels"):
            read()
