"""Objectives are shown what they want, and no more."""

from types import SimpleNamespace

import pytest
import torch

from convflow.codecs import PixelCodec
from convflow.training.draws import Draws
from convflow.training.inputs import inputs_of


@pytest.mark.parametrize("wanted", ["pixels", "average", "compares", "none"])
def test_what_is_wanted_is_there(wanted):
    model = SimpleNamespace(features_after="features after")
    trainer = SimpleNamespace(
        losses=SimpleNamespace(
            wants_pixels=wanted == "pixels",
            wants_average=wanted == "average",
            compares=["it"] * (wanted == "compares"),
        ),
        codec=PixelCodec(),
        device=torch.device("cpu"),
        images_seen=24,
        ema=SimpleNamespace(model=model),
        told_size=lambda model, data: (model, data.shape),
        own_rows=lambda total: slice(0, total, 2),
    )
    draws = Draws(it=torch.arange(5), other=None)
    draws.total = 5
    mine = draws.rows(slice(1, 3))
    assert mine["it"].tolist() == [1, 2]
    assert (mine["other"], mine.total) == (None, 5)
    images = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    found = inputs_of(trainer, images, torch.tensor([0, 1]), mine, None)
    assert found.data.equal(PixelCodec().latents(images, None))
    assert found.images_seen == 24
    assert (found.pixels is images) == (wanted == "pixels")
    assert (found.average == (model, found.data.shape)) == (wanted == "average")
    assert (found.average_features == "features after") == (wanted == "average")
    assert found.places == (slice(0, 5, 2) if wanted == "compares" else slice(None))
    assert found.whole(images).equal(images), "of one process"
