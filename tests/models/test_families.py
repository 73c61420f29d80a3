"""Families by name: what is built, and what is refused."""

from __future__ import annotations

import pytest

from convflow.models.families import BACKBONES, PRETRAINED, build
from convflow.models.zoo import FAMILIES
from convflow.settings.read import defaults
from convflow.types import InputError
from tests.cases import MODELS, TINY


def test_every_family_is_built_by_its_name():
    for family, settings in MODELS.values():
        model = build(family, settings, BACKBONES)
        assert type(model) is BACKBONES[family]
        assert settings.items() <= model.settings.items()
    assert all(cls.family == name for name, cls in BACKBONES.items())


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("flowdnc", {}, "unknown model family 'flowdnc'; did you mean 'flowdcn'"),
        (None, {}, "unknown model family None"),
        (["dit"], {}, "unknown model family"),
        ("dit", {"widht": 3}, "dit: unknown setting 'widht'; did you mean 'width'"),
        ("flowdcn", TINY | {"width": "wide"}, "width: expected a whole number, got 'wide'"),
        ("flowdcn", TINY | {"width": 16.0}, r"width: expected a whole number, got '16\.0'"),
        ("flowdcn", TINY | {"depth": True}, "depth: expected a whole number, got 'True'"),
        (
            "flowdcn",
            TINY | {"width": 10**9},
            "width: expected a whole number of at most 16777216, got '100",
        ),
        (
            "flowdcn",
            TINY | {"depth": 10**7},
            "depth: expected a whole number of at most 256, got '10000000'",
        ),
        ("dico", {"depths": [1] * 1000}, "depths: expected a list with a length of at most 256"),
        ("flowdcn", TINY | {"width": 2**20}, r"at most 100,000,000,000 parameters, got "),
    ],
)
def test_what_cannot_be_built_is_refused(family, settings, message, unchecked):
    with pytest.raises(InputError, match=message):
        build(family, settings, BACKBONES)


SWITCHES = [
    (family, name)
    for family, network in FAMILIES.items()
    for name, default in defaults(network.Config).items()
    if isinstance(default, bool)
]


@pytest.mark.parametrize(("family", "name"), SWITCHES)
@pytest.mark.parametrize("value", ["no", 1, None])
def test_a_switch_of_any_network_is_true_or_false(family, name, value, unchecked):
    settings = {"backbone": {"family": "dit"}} if family == "pyramid" else {}
    message = f"{family}.{name}: expected true or false, got '{value}'"
    with pytest.raises(InputError, match=message):
        build(family, settings | {name: value}, FAMILIES)
    assert {family for family, _ in SWITCHES} == FAMILIES.keys() - PRETRAINED.keys()
