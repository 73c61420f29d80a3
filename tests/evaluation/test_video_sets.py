"""Scores of videos: whole ones and frame by frame, and references that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from convflow.cli.evaluate import main
from convflow.data.timeline import Clips
from convflow.evaluation.card import read_card
from convflow.evaluation.detectors import Detector
from convflow.evaluation.image_sets import open_image_set
from convflow.evaluation.reference import read_reference
from convflow.evaluation.video_sets import FrameImages, clip_entry, scored_as, title_prefix
from convflow.types import InputError
from convflow.videos import write_video
from tests.extending import detector, video_detector

SIZE = (4, 8, 8)
ROOT = Path(__file__).parents[1] / "extending"
IMAGES, VIDEOS = (f"{ROOT / name}.py:load" for name in ("detector", "video_detector"))


def made_videos(count: int, seed: int = 0, speed: int = 1) -> np.ndarray:
    """Videos (N, F, H, W, 3) of a bright bar that moves down, over noise."""
    rng = np.random.default_rng(seed)
    videos = rng.integers(0, 60, (count, *SIZE, 3), np.uint8)
    for video, start in zip(videos, rng.integers(0, 8, count), strict=True):
        for frame in range(SIZE[0]):
            video[frame, (start + speed * frame) % 8] = 220
    return videos


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Folders of videos: two of moving bars, one of the same bars at rest."""
    place = tmp_path_factory.mktemp("videos")
    for name, seed, speed in (("real", 0, 1), ("like", 1, 1), ("still", 1, 0)):
        (place / name).mkdir()
        for i, video in enumerate(made_videos(24, seed, speed)):
            write_video(place / name / f"{i}.webp", video, rate=8)
    return place


def test_a_set_of_videos(folders):
    videos = open_image_set(str(folders / "real"), size=SIZE)
    assert (len(videos), videos.size) == (24, SIZE)
    batch = videos.read([3, 0])
    assert batch.shape == (2, 3, *SIZE)
    names = sorted(range(24), key=str)
    assert np.array_equal(batch[1].permute(1, 2, 3, 0).numpy(), made_videos(24)[names[0]])
    assert title_prefix(videos) == "video-"
    assert clip_entry(videos)["clip"] == {
        "frames": 4,
        "scored": "whole videos",
        "stride": 1,
        "fps": None,
    }
    slow = open_image_set(str(folders / "real"), size=(2, 8, 8), clips=Clips(1, fps=4))
    assert torch.equal(slow.read([3])[0], batch[0][:, ::2])
    assert clip_entry(slow)["clip"]["fps"] == 4
    assert clip_entry(open_image_set("shapes", num=6)) == {}


def test_drawn_videos_are_a_set_too():
    videos = open_image_set("moving", size=SIZE, num=6)
    assert videos.read([0, 5]).shape == (2, 3, *SIZE)


def test_frames_of_videos_are_images(folders):
    videos = open_image_set(str(folders / "real"), size=SIZE)
    frames, seen = FrameImages(videos, 2), []
    assert (len(frames), frames.size) == (48, (8, 8))
    batch = frames.read([0, 1, 7], seen.append)
    assert sum(seen) == 3
    whole = videos.read([0, 3])
    assert torch.equal(batch, torch.stack([whole[0][:, 0], whole[0][:, 3], whole[1][:, 3]]))
    assert clip_entry(frames)["clip"]["scored"] == "2 frames of each"
    assert title_prefix(frames) == "frame-"


def test_what_a_detector_is_given(folders):
    videos = open_image_set(str(folders / "real"), size=SIZE)
    published = scored_as(videos, "inception")
    assert isinstance(published, FrameImages)
    assert published.each == 4
    assert scored_as(videos, VIDEOS) is videos
    assert isinstance(scored_as(videos, VIDEOS, 3), FrameImages)
    images = open_image_set("shapes", num=6)
    assert scored_as(images, "inception") is images
    with pytest.raises(InputError, match="expected videos, got images of 32x32"):
        scored_as(images, "inception", 3)
    with pytest.raises(InputError, match="expected 1 to 4 frames of each video, got 5"):
        scored_as(videos, "inception", 5)


def test_a_published_detector_takes_no_whole_videos():
    with pytest.raises(InputError, match=r"expected uint8 images \(B, C, H, W\)"):
        Detector("inception", "00", "none", detector.load())(torch.zeros(2, 3, *SIZE).byte())
    found = Detector("own", "00", "none", video_detector.load())(torch.zeros(2, 3, *SIZE).byte())
    assert found["features"].shape == (2, 32)


def scored(folders: Path, name: str, out: Path, *more: str) -> dict:
    words = ["--reference", str(folders / "real"), "--size", "4x8x8", "--device", "cpu"]
    assert main([str(folders / name), *words, "--out", str(out), "--metrics", "fid", *more]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_motion_shows_in_videos_and_not_in_frames(folders, tmp_path):
    found = {}
    for name in ("like", "still"):
        whole = scored(folders, name, tmp_path / f"{name}.json", "--detector", VIDEOS)
        single = scored(
            folders, name, tmp_path / f"{name}-frames.json", "--detector", IMAGES, "--frames", "4"
        )
        assert list(whole["scores"]) == ["video-FD-24"]
        assert list(single["scores"]) == ["frame-FD-96"]
        assert whole["pictures"]["size"] == [4, 8, 8]
        assert whole["pictures"]["clip"] == whole["reference"]["clip"]
        assert single["pictures"]["clip"]["scored"] == "4 frames of each"
        found[name] = (whole["scores"]["video-FD-24"], single["scores"]["frame-FD-96"])
    assert found["still"][0] > 10 * found["like"][0]
    assert found["still"][1] < 2 * found["like"][1] + 1
    card = read_card(tmp_path / "like.json")
    assert card.direction("video-FD-24") == "lower is better"


def test_statistics_say_frames_and_rate(folders, tmp_path):
    path = tmp_path / "real.npz"
    words = ["--detector", VIDEOS, "--device", "cpu"]
    kept = [*words, "--size", "2x8x8", "--fps", "4"]
    assert main([str(folders / "real"), *kept, "--save-statistics", str(path)]) == 0
    about = read_reference(path).about
    assert about["size"] == [2, 8, 8]
    assert about["clip"] == {"frames": 2, "scored": "whole videos", "stride": 1, "fps": 4.0}
    against = [str(folders / "like"), "--reference", str(path)]
    assert main([*against, *kept, "--out", str(tmp_path / "a.json")]) == 0
    for other, message in (
        (["--size", "4x8x8"], "frames 4 like what is scored, got .* with 2"),
        (["--size", "2x8x8", "--fps", "8"], "fps 8.0 like what is scored, got .* with 4.0"),
        (["--size", "2x8x8", "--fps", "4", "--stride", "2"], "stride 2 .* with 1"),
        (["--size", "2x8x8", "--fps", "4", "--frames", "2"], "scored 2 frames of each"),
        (["--size", "8x8", "--frames", "2"], "--frames: expected videos"),
        (["--size", "8x8", "--fps", "2"], "--fps: expected videos"),
    ):
        with pytest.raises(InputError, match=message):
            main([*against, *words, *other, "--out", str(tmp_path / "b.json")])
    assert not list(tmp_path.glob("b.json*"))
