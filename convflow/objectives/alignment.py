"""Alignment of features with those of a frozen encoder: what REPA and its relatives share.

Yu et al. 2024 (REPA, arXiv 2410.06940).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from convflow.evaluation.detectors import Detector, open_detector
from convflow.models.backbone import Backbone
from convflow.nn.frames import per_frame
from convflow.objectives.objective import Inputs, Objective, Wants
from convflow.objectives.taps import aligned_block
from convflow.settings.fields import Count, Natural, doc
from convflow.types import InputError, Size

CPU = torch.device("cpu")
PROBE = 64
"""Pixels along a side of the blank image that tells how many features an encoder has."""

EncoderName = Annotated[
    str, doc("frozen network: dinov2, a .pt2 file, package.module:function or file.py:function")
]
EncoderWeights = Annotated[str, doc("file of the weights of dinov2, ViT-S, B or L of torch.hub")]
BlockChoice = Annotated[
    Natural | None,
    doc("block after which features are taken, from 0; none = at a third, of a U in its middle"),
]


@dataclass(frozen=True)
class EncoderSettings:
    """The settings that name a frozen encoder; each alignment adds its own.

    Attributes:
        encoder: as `open_detector`.
        encoder_weights: another file for a published network; "" for its own.
        encoder_width: features at each place; None for those of a blank image.
    """

    encoder: EncoderName = ""
    encoder_weights: EncoderWeights = ""
    encoder_width: Annotated[
        Count | None, doc("features of the encoder at each place; none = those of a blank image")
    ] = None


class Encoder:
    """A frozen network that gives features of clean images which keep their places.

    It is no module: checkpoints, averages and engines leave it alone, and a copy is itself. It
    moves to the device of the images.

    Args:
        name: as of `open_detector`. Code of the user must have run before.
        weights: another file for a published network; "" for its own.

    Raises:
        InputError: as `open_detector`, or a name that is empty.
    """

    def __init__(self, name: str, weights: str = "") -> None:
        if not name:
            raise InputError(
                "expected --objectives.NAME.encoder with this kind of objective, got none; give "
                "dinov2, a .pt2 file or file.py:function"
            )
        self.detector: Detector = open_detector(
            name, weights=weights or None, device=CPU, trusted=False
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        return self

    @property
    def checksum(self) -> UInt8[Tensor, " 32"]:
        """The SHA-256 of its weights and code."""
        return torch.tensor(list(bytes.fromhex(self.detector.sha256)), dtype=torch.uint8)

    def __call__(
        self, pixels: UInt8[Tensor, "B K *T H W"], grid: Size
    ) -> Float[Tensor, "B *T h w F"]:
        """Return features of images, or of each frame of videos, without gradients.

        They are on `grid` or one of the encoder's own.
        """
        if isinstance(network := self.detector.network, nn.Module):
            network.to(pixels.device)
        images = pixels if pixels.dim() == 4 else pixels.transpose(1, 2)
        return per_frame(partial(self.detector.maps, grid=(grid[-2], grid[-1])), images)

    def width(self) -> int:
        """Return how many features each place has, from a blank image in colour or grey."""
        try:
            blank = torch.zeros(1, 3, PROBE, PROBE, dtype=torch.uint8)
            return self(blank, (2, 2)).shape[-1]
        except InputError as error:
            try:
                return self(blank[:, :1], (2, 2)).shape[-1]
            except InputError:
                raise InputError(
                    f"{error}; if it takes images of one size alone, give encoder-width"
                ) from error


class Alignment(Objective):
    """Features of the network, projected, against those of an encoder of the clean image.

    A subclass says how features are projected and compared.

    Args:
        network: to be trained.
        settings: of the encoder.
        block: as `BlockChoice` says.
        create: makes the projector from the widths of the network's features and the encoder's.
    """

    checksum: Tensor

    def __init__(
        self,
        network: Backbone,
        settings: EncoderSettings,
        block: int | None,
        create: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        block = aligned_block(network) if block is None else block
        self.wants, self.block = Wants(features=(block,), pixels=True), block
        self.encoder = Encoder(settings.encoder, settings.encoder_weights)
        width = settings.encoder_width or self.encoder.width()
        self.project = create(network.feature_width(block), width)
        self.register_buffer("checksum", self.encoder.checksum)
        self.register_load_state_dict_pre_hook(_compare_encoders)

    def targets(self, batch: Inputs, grid: Size) -> Float[Tensor, "B *T h w F"]:
        """Return the encoder's features of the clean images, those of a store where it has them.

        Raises:
            InputError: videos of which a cell of model space is several frames.
        """
        if batch.encoded is not None:
            return batch.encoded
        assert batch.pixels is not None
        ours, shown = batch.features[self.block].shape[1:-3], batch.pixels.shape[2:-2]
        if ours != shown:
            raise InputError(
                "expected a cell for each frame with an objective that looks at the frames of "
                f"videos, got {ours[0]} cells of {shown[0]} frames; take an autoencoder of images, "
                "or leave the objective out"
            )
        return self.encoder(batch.pixels, grid)


def resample(features: Float[Tensor, "B *T h w F"], grid: Size) -> Float[Tensor, "B *T H W F"]:
    """Return features on another grid, interpolated bilinearly, with antialias where it shrinks."""
    sides = tuple(features.shape[-3:-1])
    if sides == tuple(grid):
        return features
    with torch.autocast(features.device.type, enabled=False):
        rows, columns = map(_interpolation, sides, grid)
        features = features.float()
        across = torch.einsum("...hwf,wv->...hvf", features, columns.to(features))
        return torch.einsum("...hvf,hu->...uvf", across, rows.to(features))


def negative_cosine(
    ours: Float[Tensor, "B *T h w F"], theirs: Float[Tensor, "B *T h w F"]
) -> Float[Tensor, " B"]:
    """Return minus the mean cosine between features at the same places, from -1 (best) to 1."""
    cosine = F.cosine_similarity(ours.float(), theirs.float(), dim=-1)  # float16 would give NaN
    return -cosine.flatten(1).mean(1)


def _interpolation(old: int, new: int) -> Float[Tensor, "{old} {new}"]:
    """Return the weights of linear interpolation along one axis, as `F.interpolate` has them."""
    impulses = torch.eye(old).view(1, 1, old, old)
    return F.interpolate(impulses, (old, new), mode="bilinear", antialias=True)[0, 0]


def _compare_encoders(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Refuse a checkpoint whose run had another encoder."""
    assert isinstance(module, Alignment)
    stored = state.get(f"{prefix}checksum")
    if stored is not None and not stored.cpu().equal(module.checksum.cpu()):
        raise InputError(
            f"expected the encoder that the run began with, got {module.encoder.detector.name} "
            "with other weights or code; give the file it had, or begin another run"
        )
