"""Pieces of videos: the same of every frame, some frames in a row; and what is no video."""

import numpy as np
import pytest

from convflow.data.images import cover, crop
from convflow.data.loader import Images
from convflow.data.moving import DrawnMotions
from convflow.data.pieces import as_uint8, cut, kept
from convflow.types import InputError

VIDEO = np.random.default_rng(0).integers(0, 256, (7, 20, 30, 3), np.uint8)


@pytest.mark.parametrize("place", [None, [0.0, 0.99, 0.0, 0.99]])
def test_frames_are_cut_alike_and_in_a_row(place):
    size = (4, 10, 10)
    piece = cut(kept(VIDEO, size, (1.0, 1.0)), size, (1.0, 1.0), place)
    start = 1 if place is None else 3
    frames = VIDEO[start : start + 4]
    where = None if place is None else place[:2]
    expected = [crop(cover(frame, (10, 10)), (10, 10), where) for frame in frames]
    assert np.array_equal(piece, expected)


def test_only_the_middle_is_kept_where_nothing_else_is_shown():
    assert kept(VIDEO, (4, 20, 30), None).shape == (4, 20, 30, 3)
    assert kept(VIDEO, (4, 20, 30), (0.5, 1.0)).shape == (7, 20, 30, 3)


def test_videos_become_grey_or_colour():
    grey = as_uint8(VIDEO, 1, (7, 20, 30))
    assert grey.shape == (7, 20, 30, 1)
    assert np.array_equal(as_uint8(grey, 3, (7, 20, 30))[..., 1:2], grey)
    assert np.array_equal(as_uint8(VIDEO / 255.0, 3, (7, 20, 30)), VIDEO)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_uint8(VIDEO, 3, (20, 30)), "expected an image for the size 20x30, got a video"),
        (lambda: as_uint8(VIDEO[0], 3, (1, 20, 30)), "expected a video for the size 1x20x30"),
        (lambda: kept(VIDEO, (8, 20, 30), None), "at least 8 frames, got one of 7"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_loader_gives_videos():
    source = DrawnMotions("test")
    images = Images(source, np.arange(6), channels=3, size=(4, 16, 16))
    flips = np.array([False, True])
    pixels, labels = images.batch(np.array([2, 3]), flips)
    assert (tuple(pixels.shape), labels.tolist()) == ((2, 3, 4, 16, 16), [2, 3])
    drawn = [source.draw(i, (4, 16, 16)) for i in (2, 3)]
    assert np.array_equal(pixels[0].movedim(0, -1), drawn[0])
    assert np.array_equal(pixels[1].movedim(0, -1), drawn[1][:, :, ::-1])
    assert images.batch(np.array([2]), size=(6, 8, 8))[0].shape == (1, 3, 6, 8, 8)
