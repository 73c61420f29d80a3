"""Video files: every frame is found exactly, upright, in its colours, or the file is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convflow.data.timeline import Clips, frames_of, num_frames
from convflow.data.video_files import index_film, read_film
from convflow.types import InputError
from tests.data.films import HEIGHT, WIDTH, make_film, numbered, numbers, silence

av = pytest.importorskip("av")

COUNT = 24
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"g": "7", "bf": "2"}},
    "open.mkv": {"options": {"g": "7", "bf": "3", "x264-params": "open-gop=1"}},
    "refreshed.mp4": {"options": {"g": "7", "x264-params": "intra-refresh=1"}},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "9"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "9"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "6", "bf": "2"}},
    "h264.avi": {"options": {"g": "7", "bf": "2"}},
    "deep.mkv": {"form": "yuv420p10le", "options": {"g": "7"}},
    "argb.mov": {"codec": "qtrle", "form": "argb"},
    "sound.mp4": {"audio": True, "options": {"g": "7"}},
}


def made(folder: Path, name: str, count: int = COUNT, **more: Any) -> Path:
    options, frames = KINDS[name] | more, numbered(count)
    if options.get("form") == "argb":
        frames = np.concatenate([frames, np.full_like(frames[..., :1], 255)], -1)
    return make_film(folder / name, frames, **options)


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_is_that_of_a_full_decode(tmp_path, name):
    path = made(tmp_path, name)
    film = index_film(path)
    assert (len(film.stamps), film.height, film.width) == (COUNT, HEIGHT, WIDTH)
    assert film.seconds == pytest.approx(1, abs=0.002)
    whole = read_film(path, film, range(COUNT))
    assert numbers(whole) == list(range(COUNT))
    for wanted in ([0], [5], [6, 7, 8], [3, 3, 20], [13], [COUNT - 1]):
        assert np.array_equal(read_film(path, film, wanted), whole[wanted])
    ramp = np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None].astype(int)
    assert np.abs(whole[:, 12:13] - ramp).max() < 16


def test_a_rate_that_varies(tmp_path):
    stamps = np.cumsum([0, 20, 30, 90, 20, 200, 20, 20]).tolist()
    path = make_film(tmp_path / "a.mp4", numbered(8), stamps=stamps, options={"bf": "0"})
    film = index_film(path)
    seconds = (np.asarray(film.stamps) * film.tick).astype(float)
    assert seconds - seconds[0] == pytest.approx(np.array(stamps) / 1000)
    clips = Clips(num_frames(film, Clips(1, fps=50)), fps=50)
    shown = numbers(read_film(path, film, frames_of(film, clips)))
    ends = [*stamps[1:], stamps[-1] + 20]
    assert shown[: ends[-2] // 20] == [
        next(i for i, end in enumerate(ends) if 20 * k < end) for k in range(ends[-2] // 20)
    ]


TURNS = {
    "none": ((1, 0, 0, 1), lambda pixels: pixels),
    "clockwise": ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),
    "half": ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
    "counter": ((0, -1, 1, 0), lambda pixels: np.rot90(pixels)),
    "mirrored": ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
}
"""The four numbers (a, b, c, d) of a display matrix, x' = a x + c y and y' = b x + d y."""


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_video_is_upright(tmp_path, turn):
    (a, b, c, d), expected = TURNS[turn]
    frames = numbered(2, first=5)
    plain = make_film(tmp_path / "plain.mp4", frames)
    whole = read_film(plain, index_film(plain), [0, 1])
    unit = 2**16
    matrix = [a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 2**30]
    path = make_film(tmp_path / "turned.mp4", frames, matrix=matrix)
    film = index_film(path)
    wanted = np.stack([expected(frame) for frame in whole])
    assert np.array_equal(read_film(path, film, [0, 1]), wanted)
    assert (film.height, film.width) == wanted.shape[1:3]


def test_what_is_transparent_lies_on_white(tmp_path):
    frames = np.zeros((2, 16, 16, 4), np.uint8)
    frames[:, :8] = (200, 0, 0, 255)
    path = make_film(tmp_path / "a.mov", frames, codec="qtrle", form="argb")
    found = read_film(path, index_film(path), [0, 1])
    assert found[:, :8].reshape(-1, 3).tolist() == [[200, 0, 0]] * (2 * 8 * 16)
    assert (found[:, 8:] == 255).all()


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p", "yuvj420p", "yuv420p10le"])
def test_levels(tmp_path, form):
    frames = np.full((2, 16, 16, 3), 0, np.uint8)
    frames[0], frames[1] = 64, 250
    path = make_film(tmp_path / "a.mkv", frames, form=form, options={"crf": "1"})
    film = index_film(path)
    assert np.abs(read_film(path, film, [0, 1]).astype(int) - frames).max() <= 3


def test_the_colours_of_our_own_files_come_back(tmp_path):
    from convflow.videos import write_video

    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[0], frames[1], frames[2] = (220, 30, 40), (20, 180, 60), (40, 50, 200)
    for name in ("a.mp4", "a.webm"):
        write_video(tmp_path / name, frames, rate=3)
        path = tmp_path / name
        film = index_film(path)
        assert np.abs(read_film(path, film, range(3)).astype(int) - frames).max() <= 4
        assert film.seconds == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize(("height", "width"), [(17, 33), (1, 1), (240, 10)])
def test_odd_sizes(tmp_path, height, width):
    frames = np.full((3, height, width, 3), 100, np.uint8)
    path = make_film(tmp_path / "a.webm", frames, codec="libvpx-vp9")
    film = index_film(path)
    assert (film.height, film.width) == (height, width)
    assert read_film(path, film, [2]).shape == (1, height, width, 3)


def noisy(path: Path, **options: Any) -> bytes:
    """A file with enough bytes to damage."""
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 32, WIDTH, 3), np.uint8)
    make_film(path, np.concatenate([numbered(COUNT), noise], 1), **options)
    return path.read_bytes()


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    for name in ("a.mkv", "a.mp4"):
        path = tmp_path / name
        more = {"container": {"movflags": "faststart"}} if name == "a.mp4" else {}
        content = noisy(path, options={"g": "7"}, **more)
        path.write_bytes(content[: len(content) * 6 // 10])
        with pytest.raises(InputError, match=r"cut off after 0\.[456]"):
            index_film(path)


def test_a_file_that_is_broken_in_the_middle_says_where(tmp_path):
    path = tmp_path / "a.webm"
    fast = {"g": "9", "deadline": "realtime", "cpu-used": "8"}
    content = bytearray(noisy(path, codec="libvpx-vp9", options=fast))
    film = index_film(path)
    whole = read_film(path, film, range(COUNT))
    with av.open(str(path)) as container:
        packet = bytes(list(container.demux(video=0))[11])
    at = content.index(packet)
    content[at : at + 60] = bytes(60)
    path.write_bytes(content)
    assert len(index_film(path).stamps) == COUNT
    assert np.array_equal(read_film(path, film, [0]), whole[:1])
    assert np.array_equal(read_film(path, film, [20, 21]), whole[20:22])
    bad = [i for i in range(COUNT) if not readable(path, film, i)]
    assert bad
    assert bad == list(range(bad[0], bad[-1] + 1))
    with pytest.raises(InputError, match=f"frames {bad[0]} to {bad[-1]} of {COUNT}"):
        read_film(path, film, [bad[0], bad[-1]])


def readable(path: Path, film: Any, number: int) -> bool:
    try:
        read_film(path, film, [number])
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"no video at all" * 99, "expected a readable video, got Invalid data"),
        (None, "got a file with audio alone"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, content, message):
    path = tmp_path / "a.mp4"
    if content is None:
        with av.open(str(path), "w") as container:
            silence(container)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        index_film(path)


def test_a_missing_file_and_too_many_pixels(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        index_film(tmp_path / "a.mp4")
    path = make_film(tmp_path / "b.mp4", numbered(2))
    with pytest.raises(InputError, match="at most 700 pixels"):
        index_film(path, max_pixels=700)
    film = index_film(path)
    with pytest.raises(InputError, match="at most 700 pixels"):
        read_film(path, film, [0], max_pixels=700)


def test_without_av_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install convflow\[video\]"):
        index_film(tmp_path / "a.mp4")
