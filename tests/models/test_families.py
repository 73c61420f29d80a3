"""Families by name: what is built, and what is refused."""

from __future__ import annotations

import pytest

from convflow.models.families import BACKBONES, build
from convflow.types import InputError
from tests.cases import MODELS, TINY


def test_every_family_is_built_by_its_name():
    for family, settings in MODELS.values():
        model = build(family, settings)
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
        ("flowdcn", TINY | {"width": "wide"}, "flowdcn cannot be built from .*'wide'"),
    ],
)
def test_what_cannot_be_built_is_refused(family, settings, message, unchecked):
    with pytest.raises(InputError, match=message):
        build(family, settings)
