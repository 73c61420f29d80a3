"""Codecs between uint8 images and model space; each owns its constants."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from convflow import autoencoders
from convflow.autoencoders import SD_SCALE, SD_VAE, LatentSpace, Numbers
from convflow.settings.fields import Positive, doc
from convflow.settings.kinds import Part, Table
from convflow.types import InputError, Size, in_cells, size_text

CHUNK_PIXELS = 2**20
"""Pixels that an autoencoder sees at once: 16 images of 256x256."""


class Codec(Part):
    """From uint8 images to model space and back; a frozen dataclass of its settings.

    Whatever else it needs, such as an autoencoder, it reads when it is first used, or in `open`.
    """

    @property
    def factor(self) -> int:
        """Pixels along a side of one cell of model space."""
        raise NotImplementedError

    @property
    def frame_factor(self) -> int:
        """Frames of one cell of model space, but for the first, which is one of its own."""
        return 1

    def cells(self, size: Size) -> Size:
        """Return the size in model space of images or videos of a size in pixels."""
        return in_cells(size, self.factor, self.frame_factor)

    def prepare(self, device: torch.device | None = None) -> Codec:
        """Return the codec ready but for what takes memory, which is read when it is needed."""
        return self

    def open(self, device: torch.device | None = None) -> Codec:
        """Return the codec ready for tensors on a device, that of the network."""
        return self

    @property
    def network(self) -> Any:
        """The network that encodes and decodes, a torch Module; None where there is none."""
        return None

    def with_constants(self, other: Codec) -> Codec:
        """Return the codec with the constants of another, of its kind, where it has none."""
        return self

    def channels(self, image_channels: int) -> int:
        """Return the channels of model space for images of so many, or raise InputError."""
        raise NotImplementedError

    def check_size(self, size: Size) -> None:
        """Raise InputError where images or videos of a size in pixels cannot be encoded."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor | None:
        """Return the random part of `encode` for a batch of `shape` in model space, if any."""
        return None

    def encode(
        self,
        images: UInt8[Tensor, "B K *size"],
        generator: torch.Generator | None = None,
        *,
        noise: Float[Tensor, "B C *cells"] | None = None,
    ) -> Float[Tensor, "B C *cells"]:
        """Return images of K channels in model space, h = H / factor and w = W / factor."""
        raise NotImplementedError

    def moments(self, images: UInt8[Tensor, "B K *size"]) -> Float[Tensor, "B M C *cells"]:
        """Return what `encode` makes of images before it draws, M = 1 or 2 arrays of each."""
        return self.encode(images)[:, None]

    def from_moments(
        self,
        moments: Float[Tensor, "B M C *cells"],
        noise: Float[Tensor, "B C *cells"] | None = None,
    ) -> Float[Tensor, "B C *cells"]:
        """Return in model space what `moments` gave, with the random part `noise` of `draw`."""
        return moments[:, 0].float()

    def latents(self, batch: Tensor, noise: Tensor | None = None) -> Float[Tensor, "B C *cells"]:
        """Return in model space images or videos, which are uint8, or moments, which are floats."""
        if batch.dtype == torch.uint8:
            return self.encode(batch, noise=noise)
        return self.from_moments(batch, noise)

    def decode(self, x: Float[Tensor, "B C *cells"]) -> UInt8[Tensor, "B K *size"]:
        """Return images; values out of range are clamped."""
        raise NotImplementedError


@dataclass(frozen=True)
class PixelCodec(Codec):
    """Model space is the pixels themselves, levels 0..255 mapped to [-1, 1]."""

    kind: ClassVar[str] = "pixel"
    factor: ClassVar[int] = 1

    def channels(self, image_channels: int) -> int:
        """Return the same number; 1 for grey and 3 for colour."""
        if image_channels not in (1, 3):
            raise InputError(f"expected grey or colour images, got {image_channels} channels")
        return image_channels

    def encode(
        self,
        images: UInt8[Tensor, "B C *size"],
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Float[Tensor, "B C *size"]:
        """Return float32 images in [-1, 1]; nothing is drawn, the mapping is exact."""
        return images.float() / 127.5 - 1

    def decode(self, x: Float[Tensor, "B C *size"]) -> UInt8[Tensor, "B C *size"]:
        """Return the nearest uint8 levels; values beyond [-1, 1] are clamped, NaN becomes 0."""
        return to_levels(x)


@dataclass(frozen=True)
class LatentCodec(Codec):
    """Model space is (latent - shift) scale, of the latents of a frozen autoencoder.

    The autoencoder is one of those of `convflow.autoencoders`. Where its encoder gives a normal
    distribution, `encode` draws from that. It is never trained and never stored with a model, its
    name is. `encode` and `decode` expect their tensors on its device. The shape of latents, and
    constants that are None here, are known without its weights, but for the constants of FLUX.2.
    """

    kind: ClassVar[str] = "latent"

    autoencoder: Annotated[
        str, doc("folder or Hub id of an autoencoder of diffusers, with safetensors")
    ] = SD_VAE
    scale: Annotated[
        Positive | tuple[Positive, ...] | None,
        doc(
            "factor, or one for each channel, that brings latents to unit variance; none = its own"
        ),
    ] = None
    shift: Annotated[
        float | tuple[float, ...] | None,
        doc("number, or one for each channel, taken from latents before; none = its own"),
    ] = None
    tiling: Annotated[
        bool, doc("encode and decode large images in tiles that overlap, which saves memory")
    ] = False
    precision: Annotated[
        Literal["float32", "float16", "bfloat16"], doc("arithmetic of the autoencoder")
    ] = "float32"

    @cached_property
    def space(self) -> LatentSpace:
        """What the autoencoder is like; InputError where that cannot be read."""
        return autoencoders.read_space(self.autoencoder)

    @property
    def constants(self) -> tuple[Numbers, Numbers]:
        """Scale and shift, those of the autoencoder where they are None.

        Raises:
            InputError: nothing tells the scale, or there is one number for each of other channels.
        """
        scale, shift = self.scale, self.shift
        if scale is None or shift is None:
            known = self.space
            own = (known.scale, known.shift)
            if known.kind == "AutoencoderKLFlux2":
                whole = self.precision == "float32"
                own = autoencoders.constants(
                    self.network if whole else autoencoders.load(self.autoencoder)
                )
            scale, shift = (a if b is None else b for a, b in zip(own, (scale, shift), strict=True))
        if scale is None or shift is None:
            raise InputError(
                f"--codec.scale: expected the scaling_factor of {self.autoencoder}, which its "
                f"config.json does not tell; give --codec.scale, {SD_SCALE} for Stable Diffusion's"
            )
        for name, value in (("scale", scale), ("shift", shift)):
            if isinstance(value, tuple) and len(value) != self.space.channels:
                raise InputError(
                    f"--codec.{name}: expected one number, or one for each of "
                    f"{self.space.channels} channels, got {len(value)}; give as many"
                )
        return scale, shift

    def with_constants(self, other: Codec) -> LatentCodec:
        """Return the codec with scale and shift of another where it has none."""
        scale = getattr(other, "scale", None) if self.scale is None else self.scale
        shift = getattr(other, "shift", None) if self.shift is None else self.shift
        return replace(self, scale=scale, shift=shift)

    @cached_property
    def network(self) -> Any:
        """The autoencoder, read when it is first asked for; InputError where that fails."""
        network = autoencoders.load(self.autoencoder, getattr(torch, self.precision))
        if self.tiling:
            try:
                network.enable_tiling()
            except (AttributeError, NotImplementedError) as error:  # of classes that cannot
                raise InputError(
                    f"--codec.tiling: expected false for the {self.space.kind} {self.autoencoder}, "
                    "which takes images whole; leave it out"
                ) from error
        return network.to(self.device)

    @property
    def device(self) -> torch.device | None:
        """Where the network is, or will be once it is read."""
        return vars(self).get("_device")

    def prepare(self, device: torch.device | None = None) -> LatentCodec:
        """Return the codec with its constants; its autoencoder is read to a device when needed."""
        scale, shift = self.constants
        codec = replace(self, scale=scale, shift=shift)
        vars(codec)["_device"] = device  # no setting
        return codec

    def open(self, device: torch.device | None = None) -> LatentCodec:
        """Return the codec with its autoencoder read and moved to a device.

        Raises:
            InputError: diffusers is missing, or there is no such autoencoder.
        """
        codec = self.prepare(device)
        codec.network.to(device)
        return codec

    @property
    def factor(self) -> int:
        """Pixels along a side of one cell of model space."""
        return self.space.factor

    @property
    def frame_factor(self) -> int:
        """Frames of one cell of model space, but for the first, which is one of its own."""
        return self.space.frame_factor

    def channels(self, image_channels: int) -> int:
        """Return the channels of the latents."""
        wanted = self.space.image_channels
        if image_channels != wanted:
            raise InputError(
                f"--data.channels: expected {wanted} as the autoencoder {self.autoencoder} has, "
                f"got {image_channels}; set it to {wanted}, images are converted"
            )
        return self.space.channels

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape"]:
        """Return the standard normal part of `encode`, on the generator's device."""
        return torch.randn(shape, generator=generator, device=generator.device)

    @torch.no_grad()
    def encode(
        self,
        images: UInt8[Tensor, "B K *size"],
        generator: torch.Generator | None = None,
        *,
        noise: Float[Tensor, "B C *cells"] | None = None,
    ) -> Float[Tensor, "B C *cells"]:
        """Return (mean + deviation noise - shift) scale of the latents' distribution.

        Args:
            images: height and width multiples of `factor`.
            generator: draws the noise for the whole batch at once, whatever the chunks.
            noise: given instead; with neither it is zero, and latents are their mean.

        Raises:
            InputError: a height or width that `factor` does not divide.
        """
        moments = self.moments(images)
        if noise is None and generator is not None:
            noise = self.draw(moments[:, 0].shape, generator)
        return self.from_moments(moments, noise)

    def moments(self, images: UInt8[Tensor, "B K *size"]) -> Float[Tensor, "B M C *cells"]:
        """Return mean and deviation of the latents, or latents alone, neither shifted nor scaled.

        Raises:
            InputError: a size that does not fit, as of `encode`.
        """
        size = tuple(images.shape[2:])
        if any(side % self.factor for side in size[-2:]):
            raise InputError(
                f"expected a height and width that are multiples of {self.factor}, got "
                f"{size_text(size[-2:])}; crop the images"
            )
        self.check_size(size)
        parts = images.split(max(1, CHUNK_PIXELS // math.prod(size)))
        network, space = self.network, self.space
        inputs = ((part.float() / 127.5 - 1).to(network.dtype) for part in parts)
        return torch.cat([autoencoders.encode(network, space, part) for part in inputs])

    def check_size(self, size: Size) -> None:
        """Raise InputError where the autoencoder takes other sizes or numbers of frames alone."""
        side, few = self.space.side, self.space.frame_step
        if any((count - 1) % few for count in size[:-2]):
            near = max(1, round((size[0] - 1) / few) * few + 1)
            raise InputError(
                f"expected a multiple of {few} frames and one more, as the autoencoder "
                f"{self.autoencoder} takes, got {size_text(size)}; choose {near} frames"
            )
        if side is not None and size[-2:] != (side, side):
            raise InputError(
                f"expected images of {side}x{side}, the only size that the autoencoder "
                f"{self.autoencoder} takes, got {size_text(size[-2:])}; choose that size"
            )

    def from_moments(
        self,
        moments: Float[Tensor, "B M C *cells"],
        noise: Float[Tensor, "B C *cells"] | None = None,
    ) -> Float[Tensor, "B C *cells"]:
        """Return (mean + deviation noise - shift) scale; moments of M = 1 have no deviation."""
        latents, *deviations = moments.float().unbind(1)
        if noise is not None and deviations:
            latents = latents + deviations[0] * noise.to(latents)
        scale, shift = self._numbers(latents)
        return (latents - shift) * scale

    def _numbers(self, x: Tensor) -> tuple[Any, Any]:
        """Return scale and shift, as tensors like `x` where each channel has its own."""
        scale, shift = (
            x.new_tensor(number).view(-1, *[1] * (x.ndim - 2))
            if isinstance(number, tuple)
            else number
            for number in self.constants
        )
        return scale, shift

    @torch.no_grad()
    def decode(self, x: Float[Tensor, "B C *cells"]) -> UInt8[Tensor, "B K *size"]:
        """Return the images or videos of latents, rounded to the nearest levels and clamped.

        Few are decoded at a time, videos one by one.
        """
        network, space = self.network, self.space
        frames = tuple((count - 1) * space.frame_factor + 1 for count in x.shape[2:-2])
        size = (*frames, x.shape[-2] * self.factor, x.shape[-1] * self.factor)
        self.check_size(size)
        scale, shift = self._numbers(x)
        latents = (x / scale + shift).to(network.dtype)
        parts = latents.split(max(1, CHUNK_PIXELS // math.prod(size)))
        return torch.cat(
            [PixelCodec().decode(autoencoders.decode(network, space, part)) for part in parts]
        )


CODECS: Table[type[Codec]] = Table(
    "codec", Codec, {cls.kind: cls for cls in (PixelCodec, LatentCodec)}
)
Codec.kinds = CODECS


def to_levels(x: Float[Tensor, "*N"]) -> UInt8[Tensor, "*N"]:
    """Return the nearest levels 0 to 255 of numbers in [-1, 1]; others are clamped, NaN is 0."""
    return (x.float() * 127.5 + 127.5).nan_to_num(0).clamp(0, 255).round().to(torch.uint8)


def image_channels(codec: Codec, channels: int) -> int | None:
    """Return 1 (grey) or 3 (colour), whichever has so many channels in model space, or None."""
    for image_channels in (3, 1):
        try:
            if codec.channels(image_channels) == channels:
                return image_channels
        except InputError:  # not one of this codec's
            continue
    return None
