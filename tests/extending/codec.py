"""A codec of a user: each cell holds four pixels."""

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from convflow.codecs import Codec, PixelCodec


@dataclass(frozen=True)
class Blocks(Codec):
    """Model space has half the side and four times the channels of images."""

    factor: ClassVar[int] = 2

    def channels(self, image_channels):
        """Return the channels of model space."""
        return 4 * image_channels

    def encode(self, images, generator=None, *, noise=None):
        """Return images in model space."""
        return pixel_unshuffle(PixelCodec().encode(images), 2)

    def decode(self, x):
        """Return images."""
        return PixelCodec().decode(pixel_shuffle(x, 2))
