"""Features of a frozen encoder beside stored latents, so that alignment needs no encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from convflow.data.latents import Latents
from convflow.data.store import FeatureIndex
from convflow.objectives.alignment import Alignment, Encoder, EncoderName, EncoderWeights
from convflow.settings.fields import Pixels, doc
from convflow.training.config import TrainConfig
from convflow.training.step import Losses
from convflow.types import InputError, Size


@dataclass(frozen=True)
class FeatureConfig:
    """Which features a store holds beside its latents."""

    encoder: EncoderName = ""
    weights: EncoderWeights = ""
    grids: Annotated[
        tuple[Pixels, ...],
        doc("rows x columns asked of the encoder, for each size; none = half those of the latents"),
    ] = ()
    dtype: Annotated[Literal["float16", "float32"], doc("type of the features")] = "float16"


class FeatureMaker:
    """Makes what a store holds of an encoder's features.

    Args:
        config: which features.
        sizes: heights and widths of the images in pixels.
        factor: pixels along a side of a cell.
        channels: of the images.
        device: where the encoder runs.

    Attributes:
        index: what the store says of them.

    Raises:
        InputError: no such encoder, or images that it does not take.
    """

    def __init__(
        self,
        config: FeatureConfig,
        sizes: tuple[Size, ...],
        factor: int,
        channels: int,
        device: torch.device,
    ) -> None:
        self.encoder, self.dtype = Encoder(config.encoder, config.weights), config.dtype
        if config.grids and len(config.grids) != len(sizes):
            raise InputError(
                f"--features.grids: expected one for each of {len(sizes)} sizes, got "
                f"{len(config.grids)}; give as many, or leave it out"
            )
        halves = [(max(h // factor // 2, 1), max(w // factor // 2, 1)) for h, w in sizes]
        self.asked = config.grids or halves
        shapes = []
        for number, size in enumerate(sizes):
            blank = torch.zeros(1, channels, *size, dtype=torch.uint8, device=device)
            shapes.append(self(number, blank).shape[1:])
        self.index = FeatureIndex(
            encoder=config.encoder,
            sha256=self.encoder.detector.sha256,
            width=shapes[0][2],
            dtype=config.dtype,
            grids=tuple((rows, columns) for rows, columns, _ in shapes),
        )

    def __call__(self, size: int, pixels: UInt8[Tensor, "B C H W"]) -> np.ndarray:
        """Return the features (B, h, w, E) of images of the size of a number."""
        found = self.encoder(pixels, self.asked[size]).to(getattr(torch, self.dtype))
        if not bool(found.isfinite().all()):
            raise InputError(
                f"expected finite features of {self.encoder.detector.name} in {self.dtype}, got "
                "others; give --features.dtype float32"
            )
        return found.cpu().numpy()


def use_features(config: TrainConfig, losses: Losses, images: Latents) -> None:
    """Let a store give the features that objectives want, or raise InputError where it has others.

    Args:
        config: the complete settings.
        losses: whose objectives want pixels.
        images: the store.
    """
    for name, objective in losses.objectives.items():
        if not objective.wants.pixels:  # type: ignore[union-attr]
            continue
        place, known = f"--objectives.{name.replace('_', '-')}", images.index.features
        if not isinstance(objective, Alignment) or known is None:
            raise InputError(
                f"{place}: expected images, or a store with features of its encoder, got "
                f"{config.data.path} without; give --data the images themselves, or encode them "
                "again with --features ENCODER"
            )
        if known.sha256 != objective.encoder.detector.sha256:
            raise InputError(
                f"{place}.encoder: expected {known.encoder} as in the store {config.data.path}, "
                f"got {objective.encoder.detector.name} with other weights or code; give the "
                "store's, or encode the images again"
            )
        if config.data.augment:
            raise InputError(
                f"--data.augment: expected 0 with features of a store, which are of images as "
                f"they are, got {config.data.augment:g}; leave it out, or leave out {place}"
            )
        images.with_features = True
