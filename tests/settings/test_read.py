"""Nested dicts: read, flattened, compared and shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from convflow.settings.fields import Classes, Count, Depth, Depths, Pixels, Positive, Width
from convflow.settings.read import check_fields, defaults, differences, flatten, read, show, to_dict
from convflow.types import InputError


@dataclass(frozen=True)
class Grid:
    size: Pixels = (8, 8)
    num: Count = 1

    def __post_init__(self):
        if self.num == 13:
            raise InputError("expected luck, got 13; take 12")


@dataclass(frozen=True)
class Made:
    size: tuple[int, ...]
    share: Positive

    def __post_init__(self):
        check_fields(self, "made-")


def test_what_is_made_in_python_has_the_types_of_its_annotations():
    made = Made([np.int64(2), 3], np.float32(0.5))
    assert made == Made((2, 3), 0.5)
    assert {type(made.size), type(made.size[0]), type(made.share)} == {tuple, int, float}
    assert hash(made)
    with pytest.raises(InputError, match="made-share: expected a number above 0, got '-1'"):
        Made((), -1)


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


@dataclass(frozen=True, kw_only=True)
class Net:
    inner: dict[str, Any]
    width: Width = 8
    depths: Depths = (1, 2)
    depth: Depth = 2
    num_classes: Classes = 0
    ratio: Positive = 2.0
    norm: Literal["rms", "layer"] = "rms"
    pad: bool = False


def test_settings_of_a_network_are_read_with_its_defaults():
    net = read({"inner": {"a": 1}, "depths": [3], "ratio": 1}, Net, place="net.")
    assert net == Net(inner={"a": 1}, depths=(3,), ratio=1.0)
    assert defaults(Net) == {
        **{key: value for key, value in dataclasses.asdict(net).items() if key != "depths"},
        "inner": dataclasses.MISSING,
        "depths": (1, 2),
        "ratio": 2.0,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widht": 3}, "net: unknown setting 'widht'; did you mean 'width'"),
        ({"width": 16.0}, r"net\.width: expected a whole number, got '16.0'; change it"),
        ({"width": True}, "width: expected a whole number, got 'True'"),
        ({"width": 0}, "width: expected a whole number of at least 1, got '0'"),
        ({"width": 2**25}, "width: expected a whole number of at most 16777216, got '335544"),
        ({"depth": 10**7}, "depth: expected a whole number of at most 256, got '10000000'"),
        ({"depths": [1, 0]}, "depths: expected a whole number of at least 1, got '1,0'"),
        ({"depths": [1] * 300}, "depths: expected a list with a length of at most 256"),
        ({"depths": 3}, "depths: expected several numbers such as 2,2, got '3'"),
        ({"num_classes": -1}, "num_classes: expected a whole number of at least 0, got '-1'"),
        ({"ratio": float("nan")}, "ratio: expected a number above 0, got 'nan'"),
        ({"ratio": float("inf")}, "ratio: expected a finite number, got 'inf'"),
        ({"norm": "rns"}, "norm: expected rms or layer, got 'rns'"),
        ({"pad": None}, "pad: expected true or false, got 'None'"),
        ({"inner": 3}, "inner: expected settings by name, got '3'"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        read({"inner": {}} | given, Net, place="net.")


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="net: expected a value for inner, got none"):
        read({}, Net, place="net.")
