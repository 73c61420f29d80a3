"""Ranges of numbers, as msgspec reads them."""

import msgspec
import pytest

from convflow.settings import fields


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (fields.Count, (1, 2**53), (0, 2**53 + 1)),
        (fields.Natural, (0, 2**53), (-1, 2**53 + 1)),
        (fields.Factor, (2, 3), (1, 2.5)),
        (fields.Fraction, (0.0, 1.0), (-0.1, 1.1)),
        (fields.Share, (0.1, 1.0), (0.0, 1.1)),
        (fields.Momentum, (0.0, 0.9), (-0.1, 1.0)),
        (fields.NotNegative, (0.0, 9.0), (-0.1,)),
        (fields.Positive, (0.1, 9.0), (0.0,)),
        (fields.Pixels, ((1, 9), (9, 9, 9)), ((0, 9), (9,), (9, 9, 9, 9))),
    ],
)
def test_ranges(kind, inside, outside):
    for value in inside:
        assert msgspec.convert(value, kind) == value
    for value in outside:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, kind)


def test_help_stands_in_the_annotation():
    assert fields.doc("how many").description == "how many"
