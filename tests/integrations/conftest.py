"""Tiny pipelines to export."""

from __future__ import annotations

from typing import Any

import pytest

from convflow.codecs import PixelCodec
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from tests.cases import MODELS, perturb

NAMES = ("cat", "dog", "a, b", "owl", "eel")


def pipeline(case: str = "dit", **settings: Any) -> Pipeline:
    """A pipeline of pixels whose network has one block in each stage; it speaks."""
    family, own = MODELS[case]
    few = {"depths": [1] * len(own["depths"])} if "depths" in own else {"depth": 1}
    changes = settings.pop("network", {})
    model = perturb(create_model(family, **own | few | changes).eval())
    names = NAMES if model.num_classes else ()
    unit = model.multiple
    return Pipeline(model, PixelCodec(), (3 * unit, 4 * unit), names, device="cpu", **settings)


@pytest.fixture
def pipe() -> Pipeline:
    """A pipeline of the smallest transformer."""
    return pipeline()
