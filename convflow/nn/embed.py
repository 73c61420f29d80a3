"""Embeddings of images, times and labels (Peebles & Xie 2023, section 3)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convflow.nn.frames import by_frame, channels_last
from convflow.nn.linear import Linear
from convflow.nn.norm import Condition, Modulation, modulate
from convflow.types import InputError

Times = Float[Tensor, " B"] | Float[Tensor, "B 2"] | Float[Tensor, "B 3"]
"""A time of each sample, or two, or two and a scale of guidance."""

FREQUENCIES = 256
MAX_TIME_PERIOD = 10_000.0
GUIDANCE_SCALE = 10.0
"""What the logarithm of a scale of guidance, 0 to about 3, is multiplied by."""


class TimeEmbedding(nn.Module):
    """Cosines then sines of `t` at 128 geometric frequencies, through a two-layer SiLU network.

    Published networks see their time as it is, and their layers begin with a deviation of 0.02. The
    frequencies are made for steps 0 to 999. Of a flow's time, 0 to 1, such a network tells nearly
    nothing at first. Another scale than 1 is for new networks, and their layers begin as torch's.

    After `tell_span` it is told two times, and adds what a second such network says of the time
    between them. After `tell_guidance` it is told a scale of guidance too, and adds what a third
    one says of its logarithm. Both begin as nothing.

    Args:
        width: channels of the embedding.
        hidden: channels between the two layers; by default as many.
        spacing: frequency k is 10000^(-k / spacing).
        scale: what `t` is multiplied by.
    """

    def __init__(
        self,
        width: int,
        hidden: int | None = None,
        spacing: int = FREQUENCIES // 2,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.span: TimeEmbedding | None = None
        self.guide: TimeEmbedding | None = None
        self.spacing, self.scale = spacing, scale
        self.hidden = Linear(FREQUENCIES, hidden or width)
        self.out = Linear(hidden or width, width)
        for layer in (self.hidden, self.out) if scale == 1 else ():
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def tell_span(self) -> None:
        """Take two times from now on, (B, 2): of the embedding itself, and a later one."""
        self.span = self._another(self.scale)

    def tell_guidance(self) -> None:
        """Take (B, 3) from now on: two times, and a scale of guidance of at least 1.

        Raises:
            InputError: it takes one time.
        """
        if self.span is None:
            raise InputError(
                "expected second_time with told_guidance, which the process meanflow sets, got "
                "false; leave both out"
            )
        self.guide = self._another(GUIDANCE_SCALE)

    def _another(self, scale: float) -> TimeEmbedding:
        hidden, out = self.hidden.out_features, self.out.out_features
        another = TimeEmbedding(out, hidden, self.spacing, scale)
        nn.init.zeros_(another.out.weight)
        nn.init.zeros_(another.out.bias)
        return another

    def forward(self, t: Times) -> Float[Tensor, "B D"]:
        """Embed `t` in the process's own units; angles are formed in float32."""
        if self.span is not None:
            start, end, *guidance = t.unbind(1)
            found = self._embed(start) + self.span(end - start)
            return found if self.guide is None else found + self.guide(guidance[0].log())
        return self._embed(t)

    def _embed(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        half = FREQUENCIES // 2
        index = torch.arange(half, device=t.device, dtype=torch.float32)
        times = (self.scale * t.float())[:, None]
        angles = times * torch.exp(-math.log(MAX_TIME_PERIOD) / self.spacing * index)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.out(nn.functional.silu(self.hidden(waves.to(self.hidden.weight.dtype))))


class LabelEmbedding(nn.Embedding):
    """A table of `num_classes + 1` vectors; the last one stands for "no label"."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(num_classes + 1, width)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, y: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Look up labels in [0, num_classes], where `num_classes` means "no label"."""
        return super().forward(y)


class VectorEmbedding(Linear):
    """A matrix without bias that is zero at first: zeros always give zeros.

    Args:
        count: numbers of each sample.
        width: channels of the embedding.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width, bias=False)
        nn.init.zeros_(self.weight)


class PatchEmbedding(nn.Conv2d):
    """Cut an image into square patches and map each to a feature vector, channels last."""

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__(in_channels, width, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.weight.view(width, -1))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B C *F H W"]) -> Float[Tensor, "B *F h w D"]:
        """Return one vector per patch, rows first; the patch must divide both sides."""
        return channels_last(by_frame(super().forward, x)).contiguous()


def unpatchify(
    patches: Float[Tensor, "B *F h w P"], patch_size: int, channels: int
) -> Float[Tensor, "B C *F H W"]:
    """Put patches back on the image: P holds (row, column, channel), channel fastest."""
    *batch, rows, columns, _ = patches.shape
    grid = patches.reshape(*batch, rows, columns, patch_size, patch_size, channels)
    image = grid.movedim(-1, 1).transpose(-3, -2)
    sides = (rows * patch_size, columns * patch_size)
    return image.reshape(batch[0], channels, *batch[1:], *sides)


class PatchHead(nn.Module):
    """Norm, modulate and project features to the patches of a prediction; zero at first."""

    def __init__(self, width: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.width, self.patch_size, self.out_channels = width, patch_size, out_channels
        self.modulation = Modulation(width, 2)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.out = Linear(width, patch_size**2 * out_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "B *F h w D"], c: Condition) -> Float[Tensor, "B C *F H W"]:
        """Return the prediction at full resolution."""
        shift, scale = self.modulation(c)
        patches = self.out(modulate(self.norm(x), shift, scale))
        return unpatchify(patches, self.patch_size, self.out_channels)
