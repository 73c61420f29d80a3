"""Inception v3 as FID uses it: the TensorFlow network of 2015-12-05.

Szegedy et al. 2016, "Rethinking the Inception Architecture"; Heusel et al. 2017, "GANs Trained by
a Two Time-Scale Update Rule". It differs from other Inception v3 in three places: average pools
leave the padding out of the mean, the last block pools by maximum, and there are 1008 classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from convflow.evaluation.resize import resize_as_tensorflow, to_colour

SIDE = 299
NUM_CLASSES = 1008


class ConvRow(NamedTuple):
    """A row of the tables below: a convolution with batch normalisation and ReLU."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


Step = ConvRow | tuple[ConvRow, ConvRow] | str
"""A convolution, two of the same input side by side, or a pool: "average", "maximum", "halve"."""

Branches = list[list[Step]]
"""The branches of a block, in the order in which their outputs are concatenated."""


def _35(pool: int) -> Branches:
    return [
        [ConvRow("branch1x1", 64)],
        [ConvRow("branch5x5_1", 48), ConvRow("branch5x5_2", 64, (5, 5))],
        [
            ConvRow("branch3x3dbl_1", 64),
            ConvRow("branch3x3dbl_2", 96, (3, 3)),
            ConvRow("branch3x3dbl_3", 96, (3, 3)),
        ],
        ["average", ConvRow("branch_pool", pool)],
    ]


def _17(width: int) -> Branches:
    return [
        [ConvRow("branch1x1", 192)],
        [
            ConvRow("branch7x7_1", width),
            ConvRow("branch7x7_2", width, (1, 7)),
            ConvRow("branch7x7_3", 192, (7, 1)),
        ],
        [
            ConvRow("branch7x7dbl_1", width),
            ConvRow("branch7x7dbl_2", width, (7, 1)),
            ConvRow("branch7x7dbl_3", width, (1, 7)),
            ConvRow("branch7x7dbl_4", width, (7, 1)),
            ConvRow("branch7x7dbl_5", 192, (1, 7)),
        ],
        ["average", ConvRow("branch_pool", 192)],
    ]


def _8(pool: str) -> Branches:
    return [
        [ConvRow("branch1x1", 320)],
        [
            ConvRow("branch3x3_1", 384),
            (ConvRow("branch3x3_2a", 384, (1, 3)), ConvRow("branch3x3_2b", 384, (3, 1))),
        ],
        [
            ConvRow("branch3x3dbl_1", 448),
            ConvRow("branch3x3dbl_2", 384, (3, 3)),
            (ConvRow("branch3x3dbl_3a", 384, (1, 3)), ConvRow("branch3x3dbl_3b", 384, (3, 1))),
        ],
        [pool, ConvRow("branch_pool", 192)],
    ]


STEM: list[Step] = [
    ConvRow("Conv2d_1a_3x3", 32, (3, 3), stride=2, padded=False),
    ConvRow("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    ConvRow("Conv2d_2b_3x3", 64, (3, 3)),
    "halve",
    ConvRow("Conv2d_3b_1x1", 80),
    ConvRow("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    "halve",
]

BLOCKS: dict[str, Branches] = {
    "Mixed_5b": _35(32),
    "Mixed_5c": _35(64),
    "Mixed_5d": _35(64),
    "Mixed_6a": [
        [ConvRow("branch3x3", 384, (3, 3), stride=2, padded=False)],
        [
            ConvRow("branch3x3dbl_1", 64),
            ConvRow("branch3x3dbl_2", 96, (3, 3)),
            ConvRow("branch3x3dbl_3", 96, (3, 3), stride=2, padded=False),
        ],
        ["halve"],
    ],
    "Mixed_6b": _17(128),
    "Mixed_6c": _17(160),
    "Mixed_6d": _17(160),
    "Mixed_6e": _17(192),
    "Mixed_7a": [
        [ConvRow("branch3x3_1", 192), ConvRow("branch3x3_2", 320, (3, 3), stride=2, padded=False)],
        [
            ConvRow("branch7x7x3_1", 192),
            ConvRow("branch7x7x3_2", 192, (1, 7)),
            ConvRow("branch7x7x3_3", 192, (7, 1)),
            ConvRow("branch7x7x3_4", 192, (3, 3), stride=2, padded=False),
        ],
        ["halve"],
    ],
    "Mixed_7b": _8("average"),
    "Mixed_7c": _8("maximum"),
}


class _Unit(nn.Module):
    def __init__(self, in_channels: int, row: ConvRow) -> None:
        super().__init__()
        padding = (row.kernel[0] // 2, row.kernel[1] // 2) if row.padded else 0
        self.conv = nn.Conv2d(in_channels, row.width, row.kernel, row.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(row.width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _add(parent: nn.Module, steps: list[Step], channels: int) -> int:
    """Give `parent` the convolutions of a chain; return the channels that come out."""
    for step in steps:
        if isinstance(step, str):
            continue
        rows = [step] if isinstance(step, ConvRow) else list(step)
        for row in rows:
            parent.add_module(row.name, _Unit(channels, row))
        channels = sum(row.width for row in rows)
    return channels


def _run(parent: nn.Module, step: Step, x: Tensor) -> Tensor:
    match step:
        case "average":
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        case "maximum":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        case "halve":
            return F.max_pool2d(x, 3, stride=2)
        case ConvRow(name=name):
            return parent.get_submodule(name)(x)
    return torch.cat([_run(parent, row, x) for row in step if isinstance(row, ConvRow)], dim=1)


class InceptionFID(nn.Module):
    """The network behind FID, sFID and the Inception Score, from uint8 images to features.

    Images are resized to 299x299 as TensorFlow 1 did and become (x - 128) / 128. The state dict
    has the published layout of `pt_inception-2015-12-05-6726825d.pth`.

    Examples:
        >>> network = InceptionFID().eval()
        >>> out = network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        >>> {name: tuple(tensor.shape) for name, tensor in out.items()}
        {'features': (1, 2048), 'spatial': (1, 2023), 'logits': (1, 1008)}
    """

    def __init__(self) -> None:
        super().__init__()
        channels = _add(self, STEM, 3)
        for name, branches in BLOCKS.items():
            block = nn.Module()
            channels = sum(
                channels if steps == ["halve"] else _add(block, steps, channels)
                for steps in branches
            )
            self.add_module(name, block)
        self.fc = nn.Linear(channels, NUM_CLASSES)

    def forward(self, images: UInt8[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B F"]]:
        """Return what FID, sFID and the Inception Score take.

        Args:
            images: RGB or grey (C = 1) images in 0..255, of any size.

        Returns:
            "features" (B, 2048), pooled, at least 0; "spatial" (B, 2023), for sFID, the first
            seven channels of the 1x1 branch of Mixed_6d in the order H, W, C; "logits" (B, 1008)
            without bias, as the Inception Score of ADM takes them.

        Raises:
            InputError: other images.
        """
        everything = self.every_depth(images)
        return {name: everything[name] for name in ("features", "spatial", "logits")}

    def every_depth(self, images: UInt8[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B F"]]:
        """Return the outputs of `forward` and those at the other published depths.

        Beside these: "64", "192" and "768", the pooled outputs of the first pool, the second pool
        and Mixed_6e, named by their channels; and "biased_logits" (B, 1008), with the bias.
        """
        x = to_colour(images).to(self.fc.weight.dtype)
        x = (resize_as_tensorflow(x, (SIDE, SIDE)) - 128) / 128
        out = {}
        for step in STEM:
            x = _run(self, step, x)
            if step == "halve":
                out[str(x.shape[1])] = x.mean((2, 3))
        for name, branches in BLOCKS.items():
            block, parts = self.get_submodule(name), []
            for steps in branches:
                y = x
                for step in steps:
                    y = _run(block, step, y)
                parts.append(y)
            x = torch.cat(parts, dim=1)
            if name == "Mixed_6d":
                out["spatial"] = parts[0][:, :7].permute(0, 2, 3, 1).flatten(1)
            if name == "Mixed_6e":
                out["768"] = x.mean((2, 3))
        out["features"] = x.mean((2, 3))
        out["logits"] = F.linear(out["features"], self.fc.weight)
        out["biased_logits"] = out["logits"] + self.fc.bias
        return out
