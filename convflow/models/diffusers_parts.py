"""The parts around the blocks of a transformer of diffusers, with time and sign as flows here.

A flow of diffusers counts the share of noise from 0 (data) to 1, times 1000, and predicts noise
minus data. Here time runs from 0 (noise) to 1 (data), and the velocity is data minus noise. Stems
and heads take images; layers inside are those of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from convflow.conditions.text import Text, Texts
from convflow.nn.embed import unpatchify
from convflow.nn.norm import WithText, residual
from convflow.types import InputError

Waves = Callable[[Tensor], Tensor]
"""From numbers (B,) to cosines and sines (B, 256) of their multiples."""

NOISE_SCALE = 1000.0
"""What a share of noise, and a scale of guidance, is multiplied by before it is embedded."""


class PackedStem(nn.Module):
    """Patches of an image, all pixels of a channel side by side, through a layer to features.

    Args:
        layer: linear, from the numbers of a patch to `width`.
        channels: of the image.
        width: of the features, D.
        patch_size: pixels along a side of a patch.
    """

    def __init__(self, layer: nn.Module, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.layer = layer
        self.in_channels, self.out_channels = channels, width
        self.kernel_size = self.stride = (patch_size, patch_size)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """Return one vector for each patch, rows first."""
        return self.layer(pixel_unshuffle(x, self.stride[0]).permute(0, 2, 3, 1).contiguous())


class ConvolvedStem(PackedStem):
    """Patches of an image through a convolution without overlap; arguments as of `PackedStem`."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """Return one vector for each patch, rows first."""
        return self.layer(x).permute(0, 2, 3, 1).contiguous()


class NoiseEmbedding(nn.Module):
    """An embedding of a flow's time, by layers that were trained on the share of noise.

    Args:
        waves: cosines and sines of a thousand times that share.
        layers: two linear layers.
        out: name of the second one in `layers`.
    """

    def __init__(self, waves: Waves, layers: nn.Module, out: str) -> None:
        super().__init__()
        self.waves, self.layers, self.last = waves, layers, out

    @property
    def out(self) -> nn.Linear:
        """The layer whose weights of zero make the embedding zero."""
        return self.layers.get_submodule(self.last)  # type: ignore[return-value]

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Embed times from 0 (noise) to 1 (data); angles are formed in float32 at least."""
        full = t.to(torch.promote_types(t.dtype, torch.float32))
        return self.layers(self.waves(NOISE_SCALE * (1 - full)).to(self.out.weight.dtype))


class PromptEmbedding(nn.Module):
    """What a network is told of a text, and of a scale of guidance where that is trained into it.

    Args:
        tokens: linear, from an encoder's features of a token to those that the blocks read.
        width: of the vector.
        pooled: from the features of the whole text to a vector; None where they are not read.
        widths: of an encoder's features of a token and of the whole text; of the latter also where
            they are given and not read.
        guidance: from `waves` to a vector; None where no scale is told.
        waves: cosines and sines of a thousand times the scale.
        scale: of guidance.
    """

    def __init__(
        self,
        tokens: nn.Linear,
        width: int,
        widths: tuple[int, int],
        pooled: nn.Module | None = None,
        guidance: nn.Module | None = None,
        waves: Waves | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.tokens, self.pooled, self.guidance = tokens, pooled, guidance
        self.width, self.widths, self.waves, self.scale = width, widths, waves, scale
        self.empty: Text | None = None
        self.find_empty: Callable[[], Text] | None = None
        """What makes the features of the empty text once they are asked for, if anything does."""

    def store_empty(self, length: int) -> None:
        """Make room for the features of the empty text, of so many tokens, among the weights."""
        width, pooled = self.widths
        self.register_buffer("empty_tokens", torch.zeros(1, length, width))
        self.register_buffer("empty_mask", torch.zeros(1, length, dtype=torch.bool))
        self.register_buffer("empty_pooled", torch.zeros(1, pooled))

    def know_empty(self, empty: Text) -> None:
        """Take the features of the empty text, one row, from the encoder."""
        stored = hasattr(self, "empty_tokens")
        for name, part in zip(Text._fields, empty, strict=True) if stored else ():
            getattr(self, f"empty_{name}").copy_(part)
        self.empty = None if stored else empty

    def null(self, cond: Text) -> Text:
        """Return as many times the empty text, or raise InputError where that is not known."""
        return self._texts().null(cond)

    def drop(self, cond: Text, mask: Bool[Tensor, " B"]) -> Text:
        """Return the texts, the empty one where the mask is set; as `null`."""
        if not self.knows_empty and not bool(mask.any()):
            return cond
        return self._texts().drop(cond, mask)

    @property
    def knows_empty(self) -> bool:
        """Whether it can be asked for the empty text."""
        known = (self.empty, self.find_empty, getattr(self, "empty_tokens", None))
        return any(each is not None for each in known)

    def _texts(self) -> Texts:
        if hasattr(self, "empty_tokens"):
            return Texts(Text(*(getattr(self, f"empty_{name}") for name in Text._fields)))
        if self.empty is None and self.find_empty is not None:
            self.empty = self.find_empty()
        if self.empty is None:
            raise InputError(
                "expected the features of the empty text, which guidance and dropped texts take, "
                "got none; give them to know_empty"
            )
        return Texts(self.empty)

    def forward(self, text: Any) -> WithText:
        """Return the condition of texts, without a time; InputError for class labels."""
        if not isinstance(text, Text):
            raise InputError(
                "expected the features of texts, as the network was trained with, got class "
                "labels; give images with captions, and the text encoders"
            )
        dtype = self.tokens.weight.dtype
        tokens = residual(self.tokens(text.tokens.to(dtype)))
        if self.pooled is None:
            vector = tokens.new_zeros(len(tokens), self.width)
        else:
            vector = self.pooled(text.pooled.to(dtype))
        if self.guidance is not None and self.waves is not None:
            told = tokens.new_full((len(tokens),), NOISE_SCALE * self.scale, dtype=torch.float32)
            vector = vector + self.guidance(self.waves(told).to(dtype))
        return WithText(vector, tokens, text.mask)


class NormedProjection(nn.Module):
    """A norm that a vector modulates, then a linear layer."""

    def __init__(self, norm: nn.Module, out: nn.Module) -> None:
        super().__init__()
        self.norm, self.out = norm, out

    def forward(self, tokens: Float[Tensor, "B N D"], c: Float[Tensor, "B D"]) -> Tensor:
        """Return the numbers of the patches, (B, N, P)."""
        return self.out(self.norm(tokens, c))


class VelocityHead(nn.Module):
    """The velocity of an image, from layers that predict noise minus data.

    Args:
        layers: called with tokens (B, N, D) and a vector (B, D).
        channels: of the image.
        width: of the features, D.
        patch_size: pixels along a side of a patch.
        packed: whether a patch has all pixels of a channel side by side, else the channels of a
            pixel.
    """

    def __init__(
        self, layers: nn.Module, channels: int, width: int, patch_size: int, packed: bool
    ) -> None:
        super().__init__()
        self.layers, self.channels, self.width = layers, channels, width
        self.patch_size, self.packed = patch_size, packed

    def forward(
        self, x: Float[Tensor, "B h w D"], c: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the prediction at full resolution, data minus noise."""
        patches = -self.layers(x.flatten(1, 2), c).unflatten(1, x.shape[1:3])
        if self.packed:
            return pixel_shuffle(patches.permute(0, 3, 1, 2), self.patch_size)
        return unpatchify(patches, self.patch_size, self.channels)


class PositionTable(nn.Module):
    """Positions of a square grid, of which smaller grids take the middle.

    Args:
        table: (1, side^2, D), rows first.
    """

    table: Float[Tensor, "1 N D"]

    def __init__(self, table: Float[Tensor, "1 N D"]) -> None:
        super().__init__()
        self.side = round(table.shape[1] ** 0.5)
        self.register_buffer("table", table)

    def forward(self, rows: int, columns: int) -> Float[Tensor, "1 h w D"]:
        """Return the positions of a grid of at most `side` rows and columns."""
        top, left = (self.side - rows) // 2, (self.side - columns) // 2
        grid = self.table.unflatten(1, (self.side, self.side))
        return grid[:, top : top + rows, left : left + columns]
