"""Objectives are shown what they want, and images after their augmentation."""

from types import SimpleNamespace

import pytest
import torch

from convflow.codecs import Codec, PixelCodec
from convflow.data.augment import Strengths, draw_strengths
from convflow.training.augmentation import DRAWS, Augmentation
from convflow.training.config import DataConfig
from convflow.training.draws import Draws
from convflow.training.inputs import inputs_of
from tests.cases import build


class Halves(Codec):
    """A codec that wants uint8 images."""

    kind = "halves"
    factor = 1

    def encode(self, images, generator=None, *, noise=None):
        assert images.dtype == torch.uint8
        return images / 2


def shown(codec, strengths, wants_pixels=True, stored=False, images=None):
    network = build("dit")
    losses = SimpleNamespace(
        augmentation=Augmentation(network, DataConfig(augment=1.0), stored, 0),
        wants_pixels=wants_pixels,
        wants_average=False,
        compares=[],
    )
    device = torch.device("cpu")
    trainer = SimpleNamespace(
        losses=losses, codec=codec, device=device, images_seen=0, captions=None
    )
    if images is None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=generator)
    draws = Draws({} if strengths is None else {DRAWS: strengths})
    found = inputs_of(trainer, images, torch.zeros(3, dtype=torch.int64), draws, None)
    assert not draws
    return images, found


def strengths_of(*kinds) -> Strengths:
    return draw_strengths(3, 1.0, kinds, torch.Generator().manual_seed(1))


def test_pixels_are_neither_rounded_nor_cut_off_but_for_those_who_look_at_them():
    images, found = shown(PixelCodec(), strengths_of("brightness", "contrast"))
    assert found.data.abs().max() > 1
    assert found.told.shape == (3, 16)
    assert torch.equal(found.pixels, PixelCodec().decode(found.data))
    assert not torch.equal(found.pixels, images)


def test_an_autoencoder_is_given_images_of_bytes():
    images, found = shown(Halves(), strengths_of("hue"))
    assert torch.equal(found.data * 2, found.pixels)
    assert not torch.equal(found.pixels, images)
    images, found = shown(Halves(), None)  # as in the validation
    assert torch.equal(found.data * 2, images)
    assert found.told is None


def test_latents_of_a_store_move_by_whole_cells():
    latents = torch.randn(3, 2, 3, 8, 8)
    flip = draw_strengths(3, 0.0, (), torch.Generator())
    flip = flip._replace(flip=torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    _, found = shown(PixelCodec(), flip, False, True, latents)
    mean = latents[:, 0]
    assert torch.equal(found.data, torch.stack([mean[0].flip(2), mean[1], mean[2].flip(1)]))
    assert found.pixels is None


@pytest.mark.parametrize("wanted", ["pixels", "average", "compares", "none"])
def test_what_is_wanted_is_there(wanted):
    model = SimpleNamespace(features_after="features after")
    trainer = SimpleNamespace(
        losses=SimpleNamespace(
            augmentation=None,
            wants_pixels=wanted == "pixels",
            wants_average=wanted == "average",
            compares=["it"] * (wanted == "compares"),
        ),
        codec=PixelCodec(),
        device=torch.device("cpu"),
        images_seen=24,
        ema=SimpleNamespace(model=model),
        captions=None,
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
