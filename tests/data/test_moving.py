"""Drawn videos: the same at every size, on known paths inside the frame."""

import numpy as np
import pytest

from convflow.data.moving import MOVING_RADII, NEAR_END, DrawnMotions
from convflow.data.shapes import SHAPES, draw_design
from convflow.data.sources import open_source
from convflow.types import InputError


def test_a_video_is_a_function_of_split_number_and_size():
    source = open_source("moving")
    assert (len(source), source.class_names[4], source.label(10)) == (20_000, "ring", 4)
    video = source.draw(7, (6, 20, 24))
    assert (video.shape, video.dtype) == ((6, 20, 24, 3), np.uint8)
    assert np.array_equal(DrawnMotions().draw(7, (6, 20, 24)), video)
    assert not np.array_equal(DrawnMotions("test").draw(7, (6, 20, 24)), video)
    assert source.read(7).shape == (16, 32, 32, 3)
    assert open_source("moving", labels="none").class_names == ()


def test_frame_k_shows_the_time_at_its_middle():
    source = DrawnMotions("validation")
    motion = source.motion(3)
    video = source.draw(3, (4, 32, 32))
    assert np.array_equal(video[1], draw_design(motion.at(0.375), (32, 32)))
    # Half as many frames show the times between.
    assert source.draw(3, (8, 32, 32)).shape[0] == 8


def test_objects_move_within_the_frame():
    source = DrawnMotions("test")
    for index in range(50):
        motion = source.motion(index)
        assert MOVING_RADII[0] <= motion.object.radius <= MOVING_RADII[1]
        assert motion.object.label == index % len(SHAPES)
        places = np.array([motion.place(time) for time in np.linspace(0, 1, 9)])
        assert places.min() >= 0
        assert places.max() <= 1
        assert np.abs(places[-1] - places[0]).max() >= 1 - 2 * NEAR_END


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DrawnMotions("tset"), "expected a split of moving"),
        (lambda: DrawnMotions().draw(20_000, (4, 8, 8)), "got 20000; choose less"),
        (lambda: DrawnMotions().draw(0, (8, 8)), "frames, height and width such as 16x32x32"),
        (lambda: DrawnMotions().draw(0, (0, 8, 8)), "frames, height and width such as 16x32x32"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
