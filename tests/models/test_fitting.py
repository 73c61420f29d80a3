"""What does not fit a network is refused with what would."""

import pytest

from convflow.models.fitting import check_ratio, check_size, outputs_per_channel
from convflow.types import InputError


def test_sizes_are_multiples_and_the_nearest_is_named():
    check_size((32, 48), 16)
    with pytest.raises(InputError, match=r"multiples of 16, got 33x48; the nearest .* is 32x48"):
        check_size((33, 48), 16)
    with pytest.raises(InputError, match="sides of at most 65536"):
        check_size((2**17, 16), 16)


def test_ratios_have_channels_and_half_of_them_has_one_use():
    check_ratio(0.5, 8)
    with pytest.raises(InputError, match="mlp_ratio above 0"):
        check_ratio(0.1, 8)
    assert [outputs_per_channel(*flags) for flags in ((False, False), (True, False))] == [1, 2]
    with pytest.raises(InputError, match="discard_half or learned_variance, got both"):
        outputs_per_channel(True, True)
