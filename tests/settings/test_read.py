"""Nested dicts: read, flattened, compared and shown."""

from dataclasses import dataclass

import pytest

from convflow.settings.fields import Count, Pixels
from convflow.settings.read import differences, flatten, read, show, to_dict
from convflow.types import InputError


@dataclass(frozen=True)
class Grid:
    size: Pixels = (8, 8)
    num: Count = 1

    def __post_init__(self):
        if self.num == 13:
            raise InputError("expected luck, got 13; take 12")


def test_a_dataclass_there_and_back():
    grid = Grid((64, 48), 3)
    assert to_dict(grid) == {"size": [64, 48], "num": 3}
    assert read(to_dict(grid), Grid) == grid
    assert read({}, Grid) == Grid()


@pytest.mark.parametrize(
    ("tree", "error"),
    [
        ({"num": 13}, InputError),
        ({"num": "\ud800"}, InputError),
        ({"num": 0}, InputError),
        ({"num": "3"}, InputError),
    ],
)
def test_an_error_is_that_of_the_dataclass_or_names_the_place(tree, error):
    with pytest.raises(error, match=r"expected luck|write it in UTF-8|num: expected"):
        read(tree, Grid)


def test_differences_see_missing_keys_and_empty_groups():
    a = {"x": {"y": 1, "z": [2]}, "w": {"v": 3}, "t": 4}
    b = {"x": {"y": 1, "z": [3]}, "w": {}, "u": None, "t": 4}
    assert flatten(b) == {"x.y": 1, "x.z": [3], "w": {}, "u": None, "t": 4}
    assert differences(a, b) == {"x.z": ([2], [3]), "w.v": (3, None), "w": (None, {})}


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        ([64, 48], Pixels, "64x48"),
        ([0.9, 0.99], tuple[float, float], "0.9,0.99"),
        ([[32, 32], [64, 32]], None, "32x32,64x32"),
        (3, None, 3),
    ],
)
def test_sizes_and_other_numbers_are_shown_as_they_are_given(value, kind, shown):
    assert show(value, kind) == shown
