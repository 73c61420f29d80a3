"""DINOv2 as FD-DINOv2 uses it: a vision transformer whose class token describes an image.

Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision"; the image is
prepared as in Stein et al. 2023, "Exposing Flaws of Generative Model Evaluation Metrics".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from convflow.evaluation.resize import resize_as_pillow, resize_in_8_bits, to_colour
from convflow.types import InputError

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEAD_WIDTH = 64
"""Channels of one attention head, in every published size."""
GRID_OFFSET = 0.1
"""What the released code adds to the grid before it interpolates the position embedding."""


class DINOv2(nn.Module):
    """A DINOv2 transformer, from uint8 images to its class token.

    The state dict has the published layout of `dinov2_vitl14_pretrain.pth` (torch.hub), which the
    default arguments fit.

    Args:
        width: channels of a token.
        depth: transformer blocks.
        heads: attention heads, of `width / heads` channels each.
        patch_size: side of a patch, in pixels.
        image_size: side of the pretraining images, in pixels; sets the position embedding's grid.
        eight_bit: resize images in 8 bits, the default of the code of Stein et al.; otherwise
            without rounding, which is that code's option of a clean resize.

    Raises:
        InputError: `heads` does not divide `width`, or `patch_size` not `image_size`.
    """

    def __init__(
        self,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        patch_size: int = 14,
        image_size: int = 518,
        eight_bit: bool = False,
    ) -> None:
        super().__init__()
        if width % heads or image_size % patch_size:
            raise InputError(
                f"expected heads that divide width and patch_size that divides image_size, got "
                f"{heads} and {width}, {patch_size} and {image_size}; take those of the weights"
            )
        self.patch_size, self.grid = patch_size, image_size // patch_size
        self.eight_bit = eight_bit
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # published, used in training only
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, width, patch_size, stride=patch_size)}
        )
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @classmethod
    def fitting(cls, weights: Mapping[str, Tensor], eight_bit: bool = False) -> DINOv2:
        """Return a network of the sizes of published weights (ViT-S, B or L), not filled yet.

        `eight_bit` is the network's own.

        Raises:
            InputError: no DINOv2 weights, or the SwiGLU layers of ViT-g.
        """
        if "blocks.0.mlp.w12.weight" in weights:
            raise InputError(
                "expected DINOv2 weights with GELU layers (ViT-S, B or L), got SwiGLU layers "
                "(ViT-g); use dinov2_vitl14_pretrain.pth, which FD-DINOv2 is defined with"
            )
        try:
            (_, tokens, width), patch = (
                weights["pos_embed"].shape,
                weights["patch_embed.proj.weight"].shape[-1],
            )
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(
                f"expected DINOv2 weights in the torch.hub layout, got none ({error}); "
                "use dinov2_vitl14_pretrain.pth"
            ) from error
        found = [int(match[1]) for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))]
        grid = round((tokens - 1) ** 0.5)
        heads = width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 1
        return cls(width, 1 + max(found, default=-1), heads, patch, grid * patch, eight_bit)

    def forward(self, images: UInt8[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B D"]]:
        """Return {"features": (B, D)}, the class token behind the last normalisation.

        Args:
            images: RGB or grey (C = 1) images in 0..255, of any size.

        Raises:
            InputError: other images.
        """
        return {"features": self.encode(self.prepare(images))}

    def maps(
        self, images: UInt8[Tensor, "B C H W"], grid: tuple[int, int]
    ) -> Float[Tensor, "B D h w"]:
        """Return the tokens of patches behind the last normalisation, on a grid of (h, w) patches.

        Images are resized to `patch_size` pixels for each patch. For a grid of 16x16 and patches of
        14 pixels that is 224x224, as REPA prepares images of 256x256 (Yu et al. 2024).

        Raises:
            InputError: other images.
        """
        height, width = (side * self.patch_size for side in grid)
        tokens = self.norm(self.tokens(self.prepare(images, (height, width)))[:, 1:])
        return tokens.transpose(1, 2).unflatten(2, grid)

    def prepare(
        self, images: UInt8[Tensor, "B C H W"], size: tuple[int, int] = (SIDE, SIDE)
    ) -> Float[Tensor, "B 3 h w"]:
        """Return images resized to `size` and normalised by ImageNet's mean and deviation.

        Pillow's bicubic filter resizes them, in 8 bits or without rounding and clamped to 0..255.

        Raises:
            InputError: other images.
        """
        dtype, images = self.norm.weight.dtype, to_colour(images)
        if self.eight_bit:
            x = resize_in_8_bits(images, size).to(dtype)
        else:
            x = resize_as_pillow(images.to(dtype), size).clamp(0, 255)
        mean, std = (
            torch.tensor(row, dtype=dtype).view(3, 1, 1).to(x.device) for row in (MEAN, STD)
        )
        return (x / 255 - mean) / std

    def encode(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Return the class token of normalised images; the patch size divides H and W."""
        return self.norm(self.tokens(x)[:, 0])

    def tokens(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Return all tokens behind the last block, the class token first."""
        patches = self.patch_embed["proj"](x)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + self.positions(patches.shape[-2], patches.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def positions(self, height: int, width: int) -> Float[Tensor, "1 N D"]:
        """Return the position embedding for a grid of patches, the class token's first.

        Another grid than that of pretraining is sampled bicubically without antialias. As in the
        released code, the scale is (height + 0.1) / grid, so that the 0.1 moves every position.
        """
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        plane = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        scale = [(side + GRID_OFFSET) / self.grid for side in (height, width)]
        plane = F.interpolate(plane, scale_factor=scale, mode="bicubic", align_corners=False)
        assert plane.shape[2:] == (height, width)
        return torch.cat([self.pos_embed[:, :1], plane.flatten(2).transpose(1, 2)], dim=1)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width, heads), _MLP(width)
        self.ls1, self.ls2 = _LayerScale(width), _LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))
