"""Long numbers: no two rows of them share a state."""

import itertools

import pytest

from convflow.seeds import long_sequence


def state(*numbers: int) -> int:
    return int(long_sequence(*numbers).generate_state(1, "uint64")[0])


def test_every_row_of_numbers_has_a_state_of_its_own():
    values = [0, 1, 33, 2**32, 2**32 + 1, 2**64, 2**160]
    rows = [row for count in range(1, 4) for row in itertools.product(values, repeat=count)]
    assert len({state(*row) for row in rows}) == len(rows)


def test_a_number_below_zero_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        state(2**40, -1)
