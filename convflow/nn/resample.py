"""Between resolutions: halving, doubling, and the U of three levels made of them.

Pixel shuffle: Shi et al. 2016, eq. 4. The U: Ai et al. 2025 (arXiv 2505.11196), figure 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convflow.nn.conv import Conv
from convflow.nn.dense import create_linear
from convflow.nn.embed import LabelEmbedding, TimeEmbedding, Times
from convflow.nn.norm import residual
from convflow.types import InputError

LevelVectors = tuple[Float[Tensor, "B _"], ...]
"""The `Condition` of each level of a network, the finest first."""

NUM_STAGES = 5


def shuffle_down(
    x: Float[Tensor, "*B H W C"], factor: int = 2
) -> Float[Tensor, "*B H//{factor} W//{factor} C*{factor}**2"]:
    """Return squares of `factor` by `factor` cells as channels, as `F.pixel_unshuffle` does."""
    *batch, height, width, channels = x.shape
    rows, columns = height // factor, width // factor
    cells = x.reshape(*batch, rows, factor, columns, factor, channels)
    order = cells.transpose(-4, -3).movedim(-1, -3)
    return order.reshape(*batch, rows, columns, factor**2 * channels)


def shuffle_up(
    x: Float[Tensor, "*B H W C"], factor: int = 2
) -> Float[Tensor, "*B H*{factor} W*{factor} C//{factor}**2"]:
    """Return groups of channels as squares of `factor` by `factor` cells; undoes `shuffle_down`."""
    *batch, height, width, channels = x.shape
    cells = x.reshape(*batch, height, width, channels // factor**2, factor, factor)
    fine = cells.movedim(-3, -1).transpose(-4, -3)
    return fine.reshape(*batch, factor * height, factor * width, channels // factor**2)


class Downsample(nn.Module):
    """Half the height and width, twice the channels: a 3x3 convolution, then `shuffle_down`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv(width, width // 2, bias=False)

    def forward(self, x: Float[Tensor, "B *F H W D"]) -> Float[Tensor, "B *F H//2 W//2 2*D"]:
        """Return the coarser features."""
        return shuffle_down(self.conv(x))


class Upsample(nn.Module):
    """Twice the height and width, half the channels: a 3x3 convolution, then `shuffle_up`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv(width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "B *F H W D"]) -> Float[Tensor, "B *F 2*H 2*W D//2"]:
        """Return the finer features."""
        return shuffle_up(self.conv(x))


class Join(nn.Module):
    """Bring features and those of an earlier stage together: concatenate, then a linear layer."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.linear = create_linear(2 * in_width, out_width)

    def forward(
        self, x: Float[Tensor, "B *F H W D"], skipped: Float[Tensor, "B *F H W D"]
    ) -> Float[Tensor, "B *F H W E"]:
        """Return the joined features."""
        return self.linear(torch.cat([x, skipped], dim=-1))


class Hourglass(nn.Module):
    """Five stages of blocks: down over three levels, and up again, with two skips.

    Level k has `width * 2**k` channels at `1 / 2**k` of the height and width. Each stage upward
    joins what comes from below with the output of the stage opposite.

    Args:
        block: makes the block for a number of channels; called as `block(x, c)`.
        width: channels D of the finest level, an even number.
        depths: number of blocks in each of the five stages.
        out_width: channels of the last stage: D, or 2D, which then sees the condition of level 1.
    """

    def __init__(
        self,
        block: Callable[[int], nn.Module],
        width: int,
        depths: Sequence[int],
        out_width: int,
    ) -> None:
        super().__init__()
        if len(depths) != NUM_STAGES or min(depths) < 1 or width < 2 or width % 2:
            raise InputError(
                f"expected an even width and {NUM_STAGES} depths of at least 1, two stages down, "
                f"the middle and two up, got width {width} and depths {list(depths)}"
            )
        near, mid, far = widths = self.widths_of(width)
        stages = (near, mid, far, mid, out_width)
        self.levels = [widths.index(channels) for channels in stages]
        self.stages = nn.ModuleList(
            nn.ModuleList(block(channels) for _ in range(depth))
            for channels, depth in zip(stages, depths, strict=True)
        )
        self.down = nn.ModuleList([Downsample(near), Downsample(mid)])
        self.up = nn.ModuleList([Upsample(far), Upsample(mid)])
        self.join = nn.ModuleList([Join(mid, mid), Join(near, out_width)])

    def joints(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return each layer between two stages, and the block that follows."""
        stages: Any = self.stages
        downward = [(layer, stages[k + 1][0]) for k, layer in enumerate(self.down)]
        upward = [
            (layer, stages[k + 3][0])
            for layers in (self.up, self.join)
            for k, layer in enumerate(layers)
        ]
        return [*downward, *upward]

    @staticmethod
    def widths_of(width: int) -> tuple[int, int, int]:
        """Return the channels of the three levels."""
        return width, 2 * width, 4 * width

    def forward(
        self, x: Float[Tensor, "B *F H W D"], c: LevelVectors
    ) -> Float[Tensor, "B *F H W E"]:
        """Return refined features; height and width are multiples of 4."""
        near = self._run(0, x, c)
        mid = self._run(1, self.down[0](near), c)
        far = self._run(2, self.down[1](mid), c)
        mid = self._run(3, self.join[0](self.up[0](far), mid), c)
        return self._run(4, self.join[1](self.up[1](mid), near), c)

    def _run(self, stage: int, x: Tensor, c: LevelVectors) -> Tensor:
        x = residual(x)
        for block in self.stages[stage]:  # type: ignore[attr-defined]
            x = block(x, c[self.levels[stage]])
        return x


class Levels(nn.ModuleList):
    """One module for each level, all shown the same: a vector of each, the finest level first.

    Args:
        make: makes the module for a number of channels.
        widths: channels of the levels.
    """

    def __init__(self, make: Callable[[int], nn.Module], widths: Sequence[int]) -> None:
        super().__init__(make(width) for width in widths)

    def forward(self, x: Tensor) -> LevelVectors:
        """Return what the modules make of `x`, times (B,) or labels (B,)."""
        return tuple(module(x) for module in self)


class LevelConditions(nn.Module):
    """Time and label embeddings of their own for each level, added: one vector per level.

    All levels see the same labels, so that a dropped label is dropped everywhere at once.

    Args:
        num_classes: of the labels.
        widths: channels of the levels.
        time_scale: of the time embeddings.
    """

    def __init__(self, num_classes: int, widths: Sequence[int], time_scale: float = 1.0) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.time = Levels(partial(TimeEmbedding, scale=time_scale), widths)
        self.label = Levels(partial(LabelEmbedding, num_classes), widths)

    def forward(self, t: Times, y: Int[Tensor, " B"]) -> LevelVectors:
        """Return the condition vectors of time and label, the finest level first."""
        return tuple(map(torch.add, self.time(t), self.label(y)))


def mirror(x: Float[Tensor, "B C *F H W"], multiple: int) -> Float[Tensor, "B C *F H2 W2"]:
    """Return `x` grown right and below to multiples of `multiple`, by its mirror image.

    A mirrored image keeps the strength of its noise and has no edge where it was grown. Sides
    shorter than what is missing are mirrored to and fro.
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        if missing := -side % multiple:
            period = max(2 * side - 2, 1)
            index = torch.arange(side + missing, device=x.device) % period
            x = x.index_select(axis, torch.minimum(index, period - index))
    return x
