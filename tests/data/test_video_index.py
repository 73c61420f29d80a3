"""The index of videos: it is remembered, and a bad file, old or new, does no harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convflow.data import video_index
from convflow.data.timeline import Timeline
from convflow.data.video_index import Video, index_videos
from convflow.types import InputError
from convflow.videos import write_video
from tests.data.films import make_film, numbered, numbers

VIDEOS = (Video("a.mp4"), Video("b.webm"), Video("c.gif"), Video("d", ("000000.png", "000001.png")))
MARKS = np.arange(1, len(VIDEOS) + 1, dtype=np.uint64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    make_film(made / "a.mp4", numbered(8))
    make_film(made / "b.webm", numbered(7), codec="libvpx")
    write_video(made / "c.gif", numbered(6)[[0, 1, 1, 2, 3, 4, 5]], rate=8)
    write_video(made / "d", numbered(2), rate=8)
    return made


def same(one: Timeline | str, other: Timeline | str) -> bool:
    assert isinstance(one, Timeline)
    assert isinstance(other, Timeline)
    assert type(one.stamps) is type(other.stamps)
    return list(one.stamps) == list(other.stamps) and one[1:] == other[1:]


def test_every_kind_is_indexed_and_read(folder):
    timelines = index_videos(folder, VIDEOS, MARKS)
    for video, timeline, count in zip(VIDEOS, timelines, (8, 7, 6, 2), strict=True):
        assert isinstance(timeline, Timeline)
        assert len(timeline.stamps) == count
        assert numbers(video.read(folder, timeline, range(count))) == list(range(count))


def test_what_was_indexed_is_remembered(folder, tmp_path, monkeypatch):
    memory, steps = tmp_path / "memory" / "index.npz", list[tuple[int, int]]()
    first = index_videos(folder, VIDEOS, MARKS, memory, progress=lambda *done: steps.append(done))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    monkeypatch.setattr(Video, "inspect", lambda *_: pytest.fail("is indexed again"))
    again = index_videos(folder, VIDEOS, MARKS, memory)
    assert all(map(same, first, again))
    # Another part of the same folder forgets nothing.
    monkeypatch.undo()
    index_videos(folder, VIDEOS[:1], np.array([9], np.uint64), memory)
    monkeypatch.setattr(Video, "inspect", lambda *_: pytest.fail("is indexed again"))
    assert all(map(same, first, index_videos(folder, VIDEOS, MARKS, memory)))


def test_a_file_that_changed_is_indexed_again(folder, tmp_path):
    memory = tmp_path / "index.npz"
    index_videos(folder, VIDEOS, MARKS, memory)
    make_film(folder / "a.mp4", numbered(3))
    [changed, *_] = index_videos(folder, VIDEOS, MARKS + np.uint64([9, 0, 0, 0]), memory)
    assert isinstance(changed, Timeline)
    assert len(changed.stamps) == 3


def test_a_bad_file_is_named_each_time(folder, tmp_path):
    (folder / "b.webm").write_bytes(b"none")
    (folder / "c.gif").write_bytes(b"GIF89a")
    memory = tmp_path / "index.npz"
    for _ in range(2):
        found = index_videos(folder, VIDEOS, MARKS, memory)
        assert [type(each) for each in found] == [Timeline, str, str, Timeline]
        assert str(found[1]).startswith("expected a readable video, got")
        assert str(found[2]).startswith("expected a readable video, got")
    with pytest.raises(InputError, match="expected a readable video, got"):
        VIDEOS[2].read(folder, found[0], [0])


@pytest.mark.parametrize("damage", ["cut", "other", "table"])
def test_a_damaged_memory_is_made_anew(folder, tmp_path, damage):
    memory = tmp_path / "index.npz"
    first = index_videos(folder, VIDEOS, MARKS, memory)
    if damage == "cut":
        memory.write_bytes(memory.read_bytes()[:-30])
    elif damage == "other":
        np.savez(memory, a=np.zeros(3))
    else:
        with np.load(memory) as found:
            arrays = dict(found)
        arrays["table"][:, 0] = 2**40
        np.savez(memory, **arrays)
    assert all(map(same, first, index_videos(folder, VIDEOS, MARKS, memory)))
    assert video_index._remembered(memory).keys() == set(MARKS.tolist())


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    found = index_videos(folder, VIDEOS, MARKS, tmp_path / "file" / "index.npz")
    assert all(isinstance(each, Timeline) for each in found)
