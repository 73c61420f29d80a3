"""Layers by which images of several scales enter and leave one grid of features.

Per scale a stem and a head, its share of the condition, and the masks of scales that take no part:
Haji-Ali et al. 2025 (arXiv 2506.19839), section 3.4. Pixel shuffle: Shi et al. 2016, eq. 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from convflow.nn.conv import Conv
from convflow.nn.embed import unpatchify
from convflow.nn.norm import Modulation, WithText, add, modulate
from convflow.nn.resample import shuffle_down, shuffle_up
from convflow.processes.decomposition import mean_down, nearest_up

PyramidCondition = Tensor | WithText | tuple[Tensor | WithText, ...]
"""What the blocks are told: one condition, or one for each level of the network."""

Masked = TypeVar("Masked", Tensor, tuple[Tensor, ...], PyramidCondition)


class CoarseStem(nn.Conv2d):
    """A stem for images that are smaller than those of another stem, onto the same grid.

    With patches of p pixels there and images s = `downsampling` times smaller, the patch becomes
    p / gcd(p, s) pixels, and each of them s / gcd(p, s) cells along a side, by a pixel shuffle.
    Where s divides p this is a plain, smaller patch.

    Args:
        fine: the other stem: patches without overlap, or a 3x3 convolution (p = 1); of a
            convolution its channels, kernel and stride are asked for, which others may have too.
        downsampling: how many times smaller the images are.
    """

    def __init__(self, fine: Any, downsampling: int) -> None:
        patch, width, channels = fine.stride[0], fine.out_channels, fine.in_channels
        shared = math.gcd(patch, downsampling)
        self.patch_size, self.cells, self.width = patch // shared, downsampling // shared, width
        self.reach = fine.kernel_size[0] - patch
        """Pixels that the kernel is wider than the patch."""
        kernel = self.patch_size + self.reach
        super().__init__(
            channels, width * self.cells**2, kernel, stride=self.patch_size, padding=self.reach // 2
        )
        # Xavier's bound for one cell: the cells of a shuffle are so many maps side by side.
        fans = channels * kernel**2 + width * (self.reach + 1) ** 2
        nn.init.uniform_(self.weight, -((6 / fans) ** 0.5), (6 / fans) ** 0.5)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """Return features on the grid of the other stem, channels last."""
        return shuffle_up(super().forward(x).permute(0, 2, 3, 1).contiguous(), self.cells)


class CoarseHead(nn.Module):
    """The way back of a `CoarseStem`: norm, modulate, unshuffle and project; zero at first."""

    def __init__(self, width: int, stem: CoarseStem) -> None:
        super().__init__()
        self.patch_size, self.cells, self.channels = stem.patch_size, stem.cells, stem.in_channels
        self.modulation = Modulation(width, 2)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.out = Conv(width * self.cells**2, self.channels * self.patch_size**2, stem.reach + 1)
        nn.init.zeros_(self.out.weight)

    def forward(
        self, x: Float[Tensor, "B h w D"], c: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the prediction at the resolution of the scale."""
        shift, scale = self.modulation(c)
        cells = shuffle_down(modulate(self.norm(x), shift, scale), self.cells)
        return unpatchify(self.out(cells), self.patch_size, self.channels)


class RepeatStem(nn.Module):
    """A stem for images `factor` times larger, shown a small one with its cells repeated."""

    def __init__(self, stem: nn.Module, factor: int) -> None:
        super().__init__()
        self.stem, self.factor = stem, factor

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """Return features, channels last."""
        return self.stem(nearest_up(x, self.factor))


class MeanHead(nn.Module):
    """A head for images `factor` times larger, whose prediction is averaged down."""

    def __init__(self, head: nn.Module, factor: int) -> None:
        super().__init__()
        self.head, self.factor = head, factor

    def forward(
        self, x: Float[Tensor, "B h w D"], c: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the means of squares of `factor` by `factor` cells."""
        return mean_down(self.head(x, c), self.factor)


class StageEmbedding(nn.Embedding):
    """A vector for each stage, the number of the last scale that takes part; zero at first."""

    def __init__(self, num_stages: int, width: int) -> None:
        super().__init__(num_stages, width)
        nn.init.zeros_(self.weight)

    def forward(self, stage: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Look up stages in [0, num_stages)."""
        return super().forward(stage)


def masked(x: Masked, keep: Bool[Tensor, " B"] | None) -> Masked:
    """Return `x` with exact zeros in the samples that `keep` leaves out; None keeps all.

    Not a product, which would hand on what is infinite or not a number.
    """
    if keep is None:
        return x
    if isinstance(x, tuple):
        return tuple(masked(vector, keep) for vector in x)  # type: ignore[misc]
    return x.masked_fill(~keep.view(-1, *(1,) * (x.dim() - 1)), 0)


def add_conditions(conditions: Sequence[PyramidCondition]) -> PyramidCondition:
    """Return the sum of conditions that are all of one level, or all of several levels.

    Args:
        conditions: the first may come with a text, the others are vectors.
    """
    if isinstance(conditions[0], Tensor | WithText):
        return reduce(add, conditions)  # type: ignore[arg-type]
    return tuple(reduce(add, level) for level in zip(*conditions, strict=True))
