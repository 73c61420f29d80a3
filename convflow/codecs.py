"""Codecs between uint8 pictures and model space; each owns its constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class PixelCodec:
    """Model space is the pixels themselves, levels 0..255 mapped to [-1, 1]."""

    def encode(
        self, images: UInt8[Tensor, "B C H W"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Return float32 pictures in [-1, 1]; `generator` is unused, the mapping is exact."""
        return images.float() / 127.5 - 1

    def decode(self, x: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
        """Return the nearest uint8 levels; values beyond [-1, 1] are clamped, NaN becomes 0."""
        levels = (x.float() * 127.5 + 127.5).nan_to_num(0).clamp(0, 255)
        return levels.round().to(torch.uint8)
