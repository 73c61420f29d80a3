"""Which frames make up a clip: counted by hand on clocks of every kind."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convflow.data.timeline import Clips, Timeline, evenly, frames_of, num_clips, num_frames
from convflow.types import InputError


def steady(count: int, rate: int, denominator: int = 1) -> Timeline:
    """A video of an even rate, whose clock ticks once a frame."""
    return Timeline(range(count), count, Fraction(denominator, rate), 8, 8)


def rounded(count: int, rate: int, tick: int) -> Timeline:
    """A video whose times are rounded to a clock of `tick` ticks a second, half a tick up."""
    ends = [(2 * i * tick + rate) // (2 * rate) for i in range(count + 1)]
    return Timeline(evenly(ends[:-1]), ends[-1], Fraction(1, tick), 8, 8)


def test_even_numbers_are_a_range():
    assert evenly([3, 5, 7]) == range(3, 9, 2)
    assert evenly([4]) == range(4, 5)
    assert evenly([0, 1, 3]).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("count", "clips", "wanted"),
    [
        (16, Clips(16), 1),
        (31, Clips(16), 1),
        (32, Clips(16), 2),
        (31, Clips(16, stride=2), 1),
        (62, Clips(16, stride=2), 1),
        (63, Clips(16, stride=2), 2),
        (5, Clips(1), 5),
        (99, Clips(16, start="random"), 1),
    ],
)
def test_clips_do_not_overlap_and_fit(count, clips, wanted):
    film = steady(count, 24)
    assert num_clips(film, clips) == wanted
    shown = [frame for number in range(wanted) for frame in frames_of(film, clips, number)]
    assert len(set(shown)) == wanted * clips.frames
    assert max(shown) < count


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (Clips(17), "at least 17 frames for a clip of 17, got 16"),
        (Clips(9, stride=2), r"at least 17 frames for a clip of 9 \(stride 2\), got 16"),
        (Clips(8, fps=8), "at least 8 frames at 8 frames a second for a clip of 8, got 6"),
        (Clips(17, start="random"), "got 16"),
    ],
)
def test_a_video_that_is_too_short_says_by_how_much(clips, message):
    with pytest.raises(InputError, match=message):
        num_clips(steady(16, 24), clips)


@pytest.mark.parametrize(
    ("film", "fps", "wanted"),
    [
        (steady(24, 24), 8, [0, 3, 6, 9, 12, 15, 18, 21]),
        (steady(24, 24), 24, list(range(24))),
        (steady(4, 8), 16, [0, 0, 1, 1, 2, 2, 3, 3]),
        (steady(10, 10), 4, [0, 2, 5, 7]),
        (steady(30, 30_000, 1001), 30, list(range(30))),
        (rounded(30, 30, 1000), 30, list(range(30))),  # Matroska's clock
        (rounded(30, 30, 1000), 10, list(range(0, 30, 3))),
        (rounded(40, 16, 1000), 16, list(range(40))),
        (rounded(30, 30, 100), 30, list(range(30))),  # GIF's
        (rounded(24, 24, 100), 8, list(range(0, 24, 3))),
        # A still that lasts half a second, then four frames.
        (
            Timeline(np.array([0, 50, 60, 70, 80]), 90, Fraction(1, 100), 8, 8),
            10,
            [0] * 5 + [1, 2, 3, 4],
        ),
    ],
)
def test_another_rate_takes_what_is_on_screen(film, fps, wanted):
    clips = Clips(1, fps=fps)
    assert num_frames(film, clips) == len(wanted)
    assert frames_of(film, Clips(len(wanted), fps=fps)) == wanted


def test_pictures_of_a_folder_have_no_rate():
    film = Timeline(range(9), 9, Fraction(0), 8, 8)
    assert num_frames(film, Clips(4, fps=5)) == 9
    assert frames_of(film, Clips(4, fps=5), 1) == [4, 5, 6, 7]
    assert film.seconds == 0


@settings(max_examples=40)
@given(
    *(st.integers(1, 200), st.integers(1, 12), st.integers(1, 4)),
    *(st.sampled_from([0.0, 7.0, 24.0, 29.97]), st.floats(0, 1, exclude_max=True)),
)
def test_a_random_start_is_always_inside(count, frames, stride, fps, place):
    film, clips = steady(count, 24), Clips(frames, fps, stride, "random")
    if num_frames(film, clips) < clips.span:
        with pytest.raises(InputError):
            num_clips(film, clips)
        return
    shown = frames_of(film, clips, place=place)
    assert len(shown) == frames
    assert 0 <= min(shown) <= max(shown) < count
    assert shown == sorted(shown)
    if not fps:
        assert {b - a for a, b in pairwise(shown)} <= {stride}


def test_random_starts_reach_both_ends():
    film, clips = steady(20, 24), Clips(16, start="random")
    starts = [frames_of(film, clips, place=place)[0] for place in np.linspace(0, 0.999, 50)]
    assert set(starts) == {0, 1, 2, 3, 4}
