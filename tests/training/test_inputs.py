"""What objectives are shown of augmented images: pixels, latents and the pixels beside them."""

from types import SimpleNamespace

import torch

from convflow.codecs import Codec, PixelCodec
from convflow.data.augment import Strengths, draw_strengths
from convflow.training.augmentation import DRAWS, Augmentation
from convflow.training.config import DataConfig
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
    )
    trainer = SimpleNamespace(losses=losses, codec=codec, device=torch.device("cpu"))
    if images is None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=generator)
    draws = {} if strengths is None else {DRAWS: strengths}
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
