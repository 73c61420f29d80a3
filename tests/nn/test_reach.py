"""The schedule of the reach: its formula by hand, what it leaves alone, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.nn.reach import ReachSchedule
from convflow.types import InputError
from tests.tolerance import assert_close_rms

ALL = {"blocks": (0, 11)}


def at(t, ratio=(9.0, 9.0), depth=12, trained=6.0, **schedule):
    return ReachSchedule(**schedule).at(torch.tensor(t), ratio, trained, depth)


@pytest.mark.parametrize(
    ("t", "factor"), [(0.0, 2.0), (0.15, 1.75), (0.3, 1.5), (0.54, 1.1), (0.6, 1.0), (1.0, 1.0)]
)
def test_the_published_factor_falls_from_two_to_one(t, factor):
    """m(t) = 1 + (0.6 - t) / 0.6 before 0.6; blocks 5 to 7 of 12, 5 to 23 of 28."""
    for depth, last in ((12, 7), (28, 23)):
        reach = at(t, depth=depth)
        assert (reach.shape, reach.dtype) == ((depth, 2), torch.float32)
        expected = torch.full((depth, 2), 6.0)
        expected[5 : last + 1] *= factor
        assert_close_rms(reach, expected)


@pytest.mark.parametrize(
    ("ratio", "factors"),
    [
        ((1.0, 1.0), (1.0, 1.0)),
        ((1.5, 1.0), (1.5, 1.0)),
        ((1.25, 3.0), (1.25, 1.75)),
        ((0.5, 1.5), (1.0, 1.5)),
        ((0.25, 0.5), (1.0, 1.0)),
        ((math.inf, 2.0), (1.75, 1.75)),
    ],
)
def test_each_axis_is_capped_by_its_own_ratio(ratio, factors):
    assert_close_rms(at(0.15, ratio)[6], 6 * torch.tensor(factors))


def test_a_constant_form_holds_its_peak_within_its_times():
    schedule = {"form": "constant", "peak": 1.5, "times": (0.2, 0.7), **ALL}
    for t, factor in ((0.1, 1.0), (0.2, 1.5), (0.69, 1.5), (0.7, 1.0), (1.0, 1.0)):
        assert at(t, trained=2.0, **schedule).equal(torch.full((12, 2), 2 * factor)), t


def test_a_line_falls_between_other_times_from_another_peak():
    schedule = {"peak": 4.0, "times": (0.2, 0.6), **ALL}
    for t, factor in ((0.1, 1.0), (0.2, 4.0), (0.4, 2.5), (0.5, 1.75), (0.65, 1.0)):
        assert_close_rms(at(t, **schedule), torch.full((12, 2), 6 * factor))


def test_blocks_count_from_zero_with_both_ends():
    reach = at(0.0, (3.0, 3.0), depth=4, blocks=(1, 2))
    assert reach[:, 0].tolist() == [6.0, 12.0, 12.0, 6.0]
    assert at(0.0, depth=1, blocks=(0, 0)).tolist() == [[12.0, 12.0]]


def test_every_sample_has_the_reach_of_its_time():
    t = torch.tensor([0.0, 0.3, 0.9, 0.3], dtype=torch.float64)
    schedule = ReachSchedule()
    together = schedule.at(t, (2.0, 1.5), 6.0, 12)
    assert together.shape == (4, 12, 2)
    for row, moment in zip(together, t, strict=True):
        assert row.equal(schedule.at(moment, (2.0, 1.5), 6.0, 12))


@given(
    st.floats(0, 1), st.floats(0.1, 8), st.floats(0.1, 8), st.sampled_from(["linear", "constant"])
)
def test_it_is_never_below_the_trained_reach_nor_above_the_cap(t, wide, tall, form):
    reach = at(t, (wide, tall), trained=2.5, form=form, peak=5.0, **ALL)
    assert (reach >= 2.5).all()
    assert (reach <= 2.5 * torch.tensor([wide, tall]).clamp(1, 5) * (1 + 1e-6)).all()
    assert at(t, (1.0, 1.0), trained=2.5, form=form, **ALL).equal(torch.full((12, 2), 2.5))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"peak": 0.5}, "reach-peak: expected a number of at least 1, got '0.5'"),
        ({"peak": math.inf}, "reach-peak: expected a finite number"),
        ({"peak": math.nan}, "reach-peak: expected a number of at least 1, got 'nan'"),
        ({"peak": "2"}, "reach-peak: expected a number, got '2'"),
        ({"times": (0.6, 0.6)}, r"0 <= low < high <= 1, got \[0.6, 0.6\]"),
        ({"times": (-0.1, 0.6)}, "reach-times: expected a number of at least 0"),
        ({"times": (0.0, 1.5)}, "reach-times: expected a number of at most 1"),
        ({"times": (0.0, math.nan)}, "reach-times: expected a number"),
        ({"times": 0.6}, "reach-times: expected two numbers such as 0.5,2, got '0.6'"),
        ({"blocks": (3, 2)}, r"0 <= first <= last, got \[3, 2\]"),
        ({"blocks": (-1, 2)}, "reach-blocks: expected a whole number of at least 0"),
        ({"blocks": (0.5, 2)}, "reach-blocks: expected a whole number, got '0.5,2'"),
        ({"blocks": (1, 2, 3)}, "reach-blocks: expected two numbers such as 0.5,2, got '1,2,3'"),
        (
            {"form": "liner"},
            "reach-form: .* got 'liner'; did you mean 'linear'",
        ),
    ],
)
def test_impossible_schedules_are_refused(bad, message, unchecked):
    with pytest.raises(InputError, match=message):
        ReachSchedule(**bad)


def test_blocks_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="reach-blocks from 0 to 3, got 0,4"):
        at(0.0, depth=4, blocks=(0, 4))
    with pytest.raises(InputError, match="more than 9 blocks for the published"):
        at(0.0, depth=9)
    assert at(0.0, depth=10)[:, 0].tolist() == [6.0] * 5 + [12.0] + [6.0] * 4
    for ratio, trained in (((0.0, 1.0), 6.0), ((1.0, 1.0), 0.0)):
        with pytest.raises(InputError, match="ratios and a trained reach above 0"):
            at(0.0, ratio, trained=trained)
