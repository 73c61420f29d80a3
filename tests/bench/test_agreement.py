"""How far apart two results are, and what is said when it is too far."""

from __future__ import annotations

import math

import pytest
import torch

from convflow.bench.agreement import TOLERANCE, distance, require_agreement
from convflow.types import Disagreement

ONE = torch.tensor([3.0, 4.0])
ZERO = torch.zeros(2)


@pytest.mark.parametrize(
    ("actual", "expected", "found"),
    [
        (ONE, ONE, 0.0),
        (1.5 * ONE, ONE, 0.5),
        ([ONE, ZERO], [ONE, ONE], math.sqrt(0.5)),  # half of the squares are missed
        (ZERO, ZERO, 0.0),
        (ONE, ZERO, math.inf),
        (ONE, torch.ones(3), math.inf),
        ([ONE], [ONE, ONE], math.inf),
    ],
)
def test_the_distance_is_relative_and_over_all_tensors(actual, expected, found):
    assert distance(actual, expected) == pytest.approx(found)


def test_nan_is_no_agreement():
    assert math.isnan(distance(torch.tensor([math.nan, 1.0]), ONE))
    for actual, expected in ((ONE * math.nan, ONE), (ONE * math.nan, ZERO)):
        with pytest.raises(Disagreement, match="nan"):
            require_agreement("a and b", actual, expected, 1.0)


def test_the_limit_is_the_limit():
    limit = TOLERANCE[torch.float32]
    require_agreement("a and b", ONE * (1 + 0.4 * limit), ONE, limit)
    with pytest.raises(Disagreement, match=r"a and b: expected .* within 2e-06 .*, got 1\.\de-05"):
        require_agreement("a and b", ONE * (1 + 5 * limit), ONE, limit)
