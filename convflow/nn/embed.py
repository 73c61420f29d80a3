"""Embeddings of pictures, times, labels and positions (Peebles & Xie 2023, section 3).

Rotary positions: Su et al. 2021 (arXiv 2104.09864), eq. 34, here along two axes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from convflow.nn.norm import Modulation, modulate, widen

FREQUENCIES = 256
MAX_PERIOD = 10_000.0


class TimeEmbedding(nn.Module):
    """Cosines then sines of `t` at 128 geometric frequencies, through a two-layer SiLU network.

    Args:
        width: channels of the embedding.
        hidden: channels between the two layers; by default as many.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = nn.Linear(FREQUENCIES, hidden or width)
        self.out = nn.Linear(hidden or width, width)
        for layer in (self.hidden, self.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Embed `t` in the process's own units; angles are formed in float32."""
        half = FREQUENCIES // 2
        index = torch.arange(half, device=t.device, dtype=torch.float32)
        angles = t.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) / half * index)
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


class PatchEmbedding(nn.Conv2d):
    """Cut a picture into square patches and map each to a feature vector, channels last."""

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__(in_channels, width, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.weight.view(width, -1))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """Return one vector per patch, rows first; the patch must divide both sides."""
        return super().forward(x).permute(0, 2, 3, 1).contiguous()


def unpatchify(
    patches: Float[Tensor, "B h w P"], patch_size: int, channels: int
) -> Float[Tensor, "B C H W"]:
    """Put patches back on the picture: P holds (row, column, channel), channel fastest."""
    batch, rows, columns, _ = patches.shape
    grid = patches.reshape(batch, rows, columns, patch_size, patch_size, channels)
    picture = grid.permute(0, 5, 1, 3, 2, 4)
    return picture.reshape(batch, channels, rows * patch_size, columns * patch_size)


class PatchHead(nn.Module):
    """Norm, modulate and project features to the patches of a prediction; zero at first."""

    def __init__(self, width: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.width, self.patch_size, self.out_channels = width, patch_size, out_channels
        self.modulation = Modulation(width, 2)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.out = nn.Linear(width, patch_size**2 * out_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Float[Tensor, "B h w D"], c: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the prediction at full resolution."""
        shift, scale = self.modulation(c)
        patches = self.out(modulate(self.norm(x), shift, scale))
        return unpatchify(patches, self.patch_size, self.out_channels)


def sincos_positions(
    rows: int, columns: int, width: int, like: Tensor
) -> Float[Tensor, "rows columns {width}"]:
    """Return the fixed embedding of every cell of a grid: its column, then its row.

    Each takes half of the channels: sines, then cosines, of `position * 10000**(-k / (width / 4))`
    for k = 0 .. width / 4 - 1. On a square grid these are the tables stored in published weights.

    Args:
        rows: height of the grid, in cells.
        columns: width of the grid, in cells.
        width: channels, a multiple of 4.
        like: a tensor whose device is used, and whose float64 is kept; float32 otherwise.
    """
    along_x, along_y = (
        torch.cat([angles.sin(), angles.cos()], dim=-1)
        for angles in (_angles(columns, width // 4, like), _angles(rows, width // 4, like))
    )
    return _on_grid(along_x, along_y)


def rotary_positions(
    rows: int, columns: int, width: int, like: Tensor
) -> Float[Tensor, "2 rows columns {width//2}"]:
    """Return cosines and sines of the angles by which `rotate` turns the channels of each cell.

    The first half of the angles grows with the column, the second with the row, at `width / 4`
    geometric frequencies each; the arguments are those of `sincos_positions`.
    """
    count = width // 4
    angles = _on_grid(_angles(columns, count, like), _angles(rows, count, like))
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "*N D"], rotation: Float[Tensor, "2 *M D//2"]) -> Float[Tensor, "*N D"]:
    """Turn channels k and k + D / 2 as one point in the plane, by the angles of `rotation`.

    Dot products of rotated vectors depend on the offset between their positions alone. `rotation`
    broadcasts over the leading axes; the turn is made in float32.
    """
    first, second = widen(x).chunk(2, dim=-1)
    cosines, sines = rotation
    turned = [first * cosines - second * sines, first * sines + second * cosines]
    return torch.cat(turned, dim=-1).to(x.dtype)


def _angles(length: int, count: int, like: Tensor) -> Float[Tensor, "length count"]:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    index = torch.arange(count, device=like.device, dtype=dtype)
    positions = torch.arange(length, device=like.device, dtype=dtype)
    return positions[:, None] * torch.exp(-math.log(MAX_PERIOD) / count * index)


def _on_grid(along_x: Tensor, along_y: Tensor) -> Float[Tensor, "rows columns C"]:
    rows, columns = along_y.shape[0], along_x.shape[0]  # `len` would fix them in an export
    return torch.cat(
        [along_x.expand(rows, -1, -1), along_y[:, None].expand(-1, columns, -1)], dim=-1
    )
