"""Checks that several networks have."""

import pytest
from convflow.models.checks import check_ratio, check_size, outputs_per_channel

from convflow.types import InputError


def test_sides_are_multiples_and_the_nearest_is_named():
    check_size(8, 12, 4)
    for wrong in ((9, 12), (0, 4), (2**17, 4)):
        with pytest.raises(InputError, match="expected"):
            check_size(*wrong, 4)
    with pytest.raises(InputError, match="the nearest that works is 8x12"):
        check_size(9, 12, 4)


def test_heads_have_twice_the_channels_for_one_reason():
    assert [outputs_per_channel(False, False), outputs_per_channel(True, False)] == [1, 2]
    with pytest.raises(InputError, match="got both"):
        outputs_per_channel(True, True)


@pytest.mark.parametrize("ratio", [0, 1e-3, float("inf")])
def test_ratios_leave_channels(ratio):
    check_ratio(2.0, 16)
    with pytest.raises(InputError, match="mlp_ratio"):
        check_ratio(ratio, 16)
