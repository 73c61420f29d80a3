"""Codecs between uint8 images and model space; each owns its constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from jaxtyping import Float, UInt8
from msgspec import Meta
from torch import Tensor

from convflow import hub
from convflow.settings.fields import Positive, doc
from convflow.settings.kinds import Part, Table
from convflow.storage import read_json
from convflow.types import InputError

SD_VAE = "stabilityai/sd-vae-ft-ema"
"""The autoencoder of DiT, SiT, DiCo and FlowDCN (Rombach et al. 2022, decoder fine-tuned)."""

SD_SCALE = 0.18215
"""Brings its latents to about unit variance; the default of diffusers too."""


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

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor | None:
        """Return the random part of `encode` for a batch of `shape` in model space, if any."""
        return None

    def encode(
        self,
        images: UInt8[Tensor, "B K H W"],
        generator: torch.Generator | None = None,
        *,
        noise: Float[Tensor, "B C h w"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """Return images of K channels in model space, h = H / factor and w = W / factor."""
        raise NotImplementedError

    def decode(self, x: Float[Tensor, "B C h w"]) -> UInt8[Tensor, "B K H W"]:
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
        images: UInt8[Tensor, "B C H W"],
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return float32 images in [-1, 1]; nothing is drawn, the mapping is exact."""
        return images.float() / 127.5 - 1

    def decode(self, x: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
        """Return the nearest uint8 levels; values beyond [-1, 1] are clamped, NaN becomes 0."""
        levels = (x.float() * 127.5 + 127.5).nan_to_num(0).clamp(0, 255)
        return levels.round().to(torch.uint8)


@dataclass(frozen=True)
class LatentCodec(Codec):
    """Model space is (latent - shift) scale, of the latents of a frozen autoencoder.

    The autoencoder is an `AutoencoderKL` of diffusers (Rombach et al. 2022): its encoder gives a
    normal distribution, from which `encode` draws. It is never trained and never stored with a
    model, its name is. `encode` and `decode` expect their tensors on its device. Its `config.json`
    alone tells the shape of latents, and the constants that are None here.
    """

    kind: ClassVar[str] = "latent"

    autoencoder: Annotated[
        str, doc("folder or Hub id of an AutoencoderKL of diffusers, with safetensors")
    ] = SD_VAE
    scale: Annotated[
        Positive | None,
        doc("factor that brings latents to unit variance; none = that of the autoencoder"),
    ] = None
    shift: Annotated[
        float | None,
        doc("number taken from latents before they are scaled; none = that of the autoencoder"),
    ] = None

    @cached_property
    def autoencoder_config(self) -> _AutoencoderConfig:
        """What the `config.json` of the autoencoder says; InputError where it cannot be read."""
        return _read_config(self.autoencoder)

    @property
    def constants(self) -> tuple[float, float]:
        """Scale and shift, those of the autoencoder where they are None."""
        config = self.autoencoder_config
        scale = config.scaling_factor if self.scale is None else self.scale
        return scale, (config.shift_factor or 0.0) if self.shift is None else self.shift

    def with_constants(self, other: Codec) -> LatentCodec:
        """Return the codec with scale and shift of another where it has none."""
        scale = getattr(other, "scale", None) if self.scale is None else self.scale
        shift = getattr(other, "shift", None) if self.shift is None else self.shift
        return replace(self, scale=scale, shift=shift)

    @cached_property
    def network(self) -> Any:
        """The autoencoder, read when it is first asked for; InputError where that fails."""
        return _load(self.autoencoder).eval().requires_grad_(False)

    def open(self, device: torch.device | None = None) -> LatentCodec:
        """Return the codec with its autoencoder read and moved to a device.

        Raises:
            InputError: diffusers is missing, or there is no such autoencoder.
        """
        scale, shift = self.constants
        codec = replace(self, scale=scale, shift=shift)
        codec.network.to(device)
        return codec

    @cached_property
    def factor(self) -> int:
        return 2 ** (len(self.autoencoder_config.block_out_channels) - 1)

    def channels(self, image_channels: int) -> int:
        wanted = self.autoencoder_config.in_channels
        if image_channels != wanted:
            raise InputError(
                f"--data.channels: expected {wanted} as the autoencoder {self.autoencoder} has, "
                f"got {image_channels}; set it to {wanted}, images are converted"
            )
        return self.autoencoder_config.latent_channels

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape"]:
        """Return the standard normal part of `encode`, on the generator's device."""
        return torch.randn(shape, generator=generator, device=generator.device)

    @torch.no_grad()
    def encode(
        self,
        images: UInt8[Tensor, "B K H W"],
        generator: torch.Generator | None = None,
        *,
        noise: Float[Tensor, "B C h w"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """Return (mean + deviation noise - shift) scale of the latents' distribution.

        Args:
            images: height and width multiples of `factor`.
            generator: draws the noise for the whole batch at once, whatever the chunks.
            noise: given instead; with neither it is zero, and latents are their mean.

        Raises:
            InputError: a height or width that `factor` does not divide.
        """
        height, width = images.shape[2:]
        if height % self.factor or width % self.factor:
            raise InputError(
                f"expected a height and width that are multiples of {self.factor}, got "
                f"{height}x{width}; crop the images"
            )
        found = [
            self.network.encode(part.to(self.network.dtype) / 127.5 - 1).latent_dist
            for part in images.split(max(1, CHUNK_PIXELS // (height * width)))
        ]
        latents = torch.cat([each.mean for each in found])
        if noise is None and generator is not None:
            noise = self.draw(latents.shape, generator)
        if noise is not None:
            latents = latents + torch.cat([each.std for each in found]) * noise.to(latents)
        scale, shift = self.constants
        return (latents - shift) * scale

    @torch.no_grad()
    def decode(self, x: Float[Tensor, "B C h w"]) -> UInt8[Tensor, "B K H W"]:
        """Return the images of latents, rounded to the nearest levels and clamped."""
        scale, shift = self.constants
        latents = (x / scale + shift).to(self.network.dtype)
        chunk = max(1, CHUNK_PIXELS // (self.factor**2 * x.shape[2] * x.shape[3]))
        parts = latents.split(chunk)
        return torch.cat([PixelCodec().decode(self.network.decode(p).sample) for p in parts])


@dataclass(frozen=True)
class _AutoencoderConfig:
    """What `config.json` of an `AutoencoderKL` says of its latents, with the defaults of diffusers.

    Every block but the last halves height and width.
    """

    in_channels: Annotated[int, Meta(ge=1)] = 3
    latent_channels: Annotated[int, Meta(ge=1)] = 4
    block_out_channels: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)] = (64,)
    scaling_factor: Annotated[float, Meta(gt=0)] = SD_SCALE
    shift_factor: float | None = None


KNOWN_AUTOENCODERS = {SD_VAE: _AutoencoderConfig(block_out_channels=(128, 256, 512, 512))}
"""Autoencoders of the Hub whose `config.json` need not be read."""

CODECS: Table[type[Codec]] = Table(
    "codec", Codec, {cls.kind: cls for cls in (PixelCodec, LatentCodec)}
)
Codec.kinds = CODECS


def image_channels(codec: Codec, channels: int) -> int | None:
    """Return 1 (grey) or 3 (colour), whichever has so many channels in model space, or None."""
    for image_channels in (3, 1):
        try:
            if codec.channels(image_channels) == channels:
                return image_channels
        except InputError:  # not one of this codec's
            continue
    return None


def _read_config(name: str) -> _AutoencoderConfig:
    """Return what the `config.json` of an autoencoder says, without its weights."""
    if name in KNOWN_AUTOENCODERS and not Path(name).is_dir():
        return KNOWN_AUTOENCODERS[name]
    path = _find(name, "config.json") / "config.json"
    try:
        return msgspec.convert(read_json(path), _AutoencoderConfig)
    except (InputError, msgspec.ValidationError) as error:
        raise _refused(name, error) from error


def _find(name: str, *patterns: str) -> Path:
    """Return the folder of an autoencoder, the files that fit `patterns` fetched from the Hub."""
    place = Path(name)
    wanted = "an autoencoder of diffusers (--codec.autoencoder)"
    return place if place.is_dir() else hub.download(name, patterns, wanted)


def _refused(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"expected an autoencoder of diffusers, got {name!r} ({reason}); give another with "
        "--codec.autoencoder"
    )


def _load(name: str) -> Any:
    """Return diffusers' AutoencoderKL of a folder or Hub id, complete, or raise InputError."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise InputError(
            "the codec latent needs the package diffusers, which is missing; "
            "pip install 'convflow[diffusers]'"
        ) from error
    folder = _find(name, "config.json", "*.safetensors")
    try:
        autoencoder, report = AutoencoderKL.from_pretrained(
            folder, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # of diffusers or of the file
        raise _refused(name, error) from error
    missing = [*report["missing_keys"], *report["mismatched_keys"]]
    if missing:  # diffusers would go on with random numbers in their place
        raise InputError(
            f"expected all weights of an AutoencoderKL, got {name!r} without {missing[0]}; give "
            "another with --codec.autoencoder"
        )
    return autoencoder
