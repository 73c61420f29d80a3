"""The settings of a part: read from JSON or Python, refused with the nearest or the wanted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from convflow.settings.fields import Positive
from convflow.settings.parts import Classes, Depth, Depths, Width, defaults, read_part
from convflow.types import InputError


@dataclass(frozen=True, kw_only=True)
class Config:
    inner: dict[str, Any]
    width: Width = 8
    depths: Depths = (1, 2)
    depth: Depth = 2
    num_classes: Classes = 0
    ratio: Positive = 2.0
    norm: Literal["rms", "layer"] = "rms"
    pad: bool = False


def test_a_part_is_read_with_its_defaults():
    config = read_part(Config, {"inner": {"a": 1}, "depths": [3], "ratio": 1}, "net")
    assert config == Config(inner={"a": 1}, depths=(3,), ratio=1.0)
    assert defaults(Config) == {
        **{key: value for key, value in dataclasses.asdict(config).items() if key != "depths"},
        "inner": dataclasses.MISSING,
        "depths": (1, 2),
        "ratio": 2.0,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widht": 3}, "net: unknown setting 'widht'; did you mean 'width'"),
        ({"width": 16.0}, "net: expected a whole number for width, got 16.0; change it"),
        ({"width": True}, "expected a whole number for width, got True"),
        ({"width": 0}, "expected a whole number of at least 1 for width, got 0"),
        ({"width": 2**25}, "expected a whole number of at most 16777216 for width, got 335544"),
        ({"depth": 10**7}, "expected a whole number of at most 256 for depth, got 10000000"),
        ({"depths": [1, 0]}, r"expected a whole number of at least 1 for depths, got \[1, 0\]"),
        ({"depths": [1] * 300}, "expected a list no longer than 256 for depths"),
        ({"depths": 3}, "expected a list for depths, got 3"),
        ({"num_classes": -1}, "expected a whole number of at least 0 for num_classes, got -1"),
        ({"ratio": float("nan")}, "expected a number above 0.0 for ratio, got nan"),
        ({"norm": "rns"}, "net: unknown norm 'rns'; did you mean 'rms'"),
        ({"pad": None}, "expected true or false for pad, got None"),
        ({"inner": 3}, "expected settings by name for inner, got 3"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        read_part(Config, {"inner": {}} | given, "net")


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="net: expected a value for inner, got none; give one"):
        read_part(Config, {}, "net")
