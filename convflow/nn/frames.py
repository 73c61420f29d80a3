"""Layers of pictures on videos, frame by frame, and a convolution along time.

Features of pictures are (B, H, W, D) and those of videos (B, F, H, W, D); a layer that looks at one
picture sees the frames as more pictures. The split of a convolution over space and time into one
over space and one over time is that of Tran et al. 2018 (arXiv 1711.11248), section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

Temporal = Literal["none", "conv"]
"""Whether a convolutional network is of pictures, or of videos with convolutions along time."""

FRAMES = 3
"""Frames that a convolution along time sees at once."""


def per_frame(layer: Callable[[Tensor], Tensor], x: Num[Tensor, "B *F P Q R"]) -> Tensor:
    """Return what a layer of pictures, or of features of pictures, makes of each frame.

    Args:
        layer: takes four axes, the batch first, and keeps the first.
        x: a batch of pictures, or of videos with their frames after the batch.
    """
    if x.dim() == 4:
        return layer(x)
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def by_frame(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "B C *F H W"]) -> Tensor:
    """Return what a layer of pictures makes of each frame, channels first before and after."""
    if x.dim() == 4:
        return layer(x)
    return per_frame(layer, x.transpose(1, 2)).transpose(1, 2)


def channels_last(x: Float[Tensor, "B C *F H W"]) -> Float[Tensor, "B *F H W C"]:
    """Return pictures or videos with their channels after all other axes."""
    return x.movedim(1, -1)


def channels_first(x: Float[Tensor, "B *F H W C"]) -> Float[Tensor, "B C *F H W"]:
    """Return pictures or videos with their channels after the batch, in memory too."""
    return x.movedim(-1, 1).contiguous()


class TemporalConv(nn.Conv1d):
    """A convolution along time, each channel of each position by itself; a new one changes nothing.

    It is the (3, 1, 1) half of a convolution over space and time. The middle of a new kernel is 1
    and all else 0, so that each frame is at first what the layers before made of it.

    Args:
        width: feature channels D.
        frames: frames of the kernel, an odd number.
    """

    def __init__(self, width: int, frames: int = FRAMES) -> None:
        super().__init__(width, width, frames, padding=frames // 2, groups=width)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.weight[:, 0, frames // 2] = 1

    def forward(self, x: Float[Tensor, "B F H W D"]) -> Float[Tensor, "B F H W D"]:
        """Return the filtered features; before and after the video everything counts zero."""
        # Shifted sums: torch's grouped convolutions would copy the features to another layout.
        count, reach = x.shape[1], self.weight.shape[2] // 2
        taps = self.weight[:, 0].to(x.dtype)
        out = torch.addcmul(self.bias.to(x.dtype), x, taps[:, reach])  # type: ignore[union-attr]
        padded = nn.functional.pad(x, (0, 0, 0, 0, 0, 0, reach, reach))
        for by in range(1, reach + 1):
            for tap in (reach + by, reach - by):
                out = torch.addcmul(out, padded[:, tap : tap + count], taps[:, tap])
        return out


def create_temporal(temporal: Temporal, width: int) -> nn.Module:
    """Return what a block of a convolutional network does along time: nothing for pictures."""
    return TemporalConv(width) if temporal == "conv" else nn.Identity()


def more_frames(x: Float[Tensor, "B *f H W C"], factor: int) -> Float[Tensor, "B *F H W D"]:
    """Return groups of channels as so many frames: F = f factor, D = C / factor."""
    if factor == 1:
        return x
    parts = x.unflatten(-1, (factor, -1))
    return parts.movedim(-2, 2).flatten(1, 2)


def fewer_frames(x: Float[Tensor, "B *F H W D"], factor: int) -> Float[Tensor, "B *f H W C"]:
    """Return groups of `factor` frames as channels; undoes `more_frames`."""
    if factor == 1:
        return x
    return x.unflatten(1, (-1, factor)).movedim(2, -2).flatten(-2)
