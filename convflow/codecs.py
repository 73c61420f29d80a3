"""Codecs between uint8 pictures and model space; each owns its constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import msgspec
import torch
from jaxtyping import Float, UInt8
from msgspec import Meta
from torch import Tensor

from convflow import hub
from convflow.storage import read_json
from convflow.types import InputError, unknown_name

SD_VAE = "stabilityai/sd-vae-ft-ema"
"""The autoencoder of DiT, SiT, DiCo and FlowDCN (Rombach et al. 2022, decoder fine-tuned)."""

SD_SCALE = 0.18215
"""Brings its latents to about unit variance; the default of diffusers too."""

META = torch.device("meta")
"""A codec on this device knows the shape of model space and holds no weights."""

CHUNK_PIXELS = 2**20
"""Pixels that an autoencoder sees at once: 16 pictures of 256x256."""


@runtime_checkable  # for the shape checks in tests
class Codec(Protocol):
    """From uint8 pictures to model space and back."""

    @property
    def factor(self) -> int:
        """Pixels along a side of one cell of model space."""

    @property
    def settings(self) -> dict[str, Any]:
        """What `create_codec` makes this codec from, as JSON has it."""

    def channels(self, image_channels: int) -> int:
        """Return the channels of model space for pictures of so many, or raise InputError."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor | None:
        """Return the random part of `encode` for a batch of `shape` in model space, if any."""

    def encode(
        self,
        images: UInt8[Tensor, "B K H W"],
        generator: torch.Generator | None = None,
        *,
        noise: Float[Tensor, "B C h w"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """Return pictures of K channels in model space, h = H / factor and w = W / factor."""

    def decode(self, x: Float[Tensor, "B C h w"]) -> UInt8[Tensor, "B K H W"]:
        """Return pictures; values out of range are clamped."""


@dataclass(frozen=True)
class PixelCodec:
    """Model space is the pixels themselves, levels 0..255 mapped to [-1, 1]."""

    factor: ClassVar[int] = 1

    @property
    def settings(self) -> dict[str, Any]:
        """The kind alone."""
        return {"kind": "pixel"}

    def channels(self, image_channels: int) -> int:
        """Return the same number; 1 for grey and 3 for colour."""
        if image_channels not in (1, 3):
            raise InputError(f"expected grey or colour pictures, got {image_channels} channels")
        return image_channels

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        """Return None and leave the generator alone: the mapping is exact."""

    def encode(
        self,
        images: UInt8[Tensor, "B C H W"],
        generator: torch.Generator | None = None,
        *,
        noise: Tensor | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return float32 pictures in [-1, 1]; nothing is drawn, the mapping is exact."""
        return images.float() / 127.5 - 1

    def decode(self, x: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
        """Return the nearest uint8 levels; values beyond [-1, 1] are clamped, NaN becomes 0."""
        levels = (x.float() * 127.5 + 127.5).nan_to_num(0).clamp(0, 255)
        return levels.round().to(torch.uint8)


class LatentCodec:
    """Model space is (latent - shift) scale, of the latents of a frozen autoencoder.

    The autoencoder is an `AutoencoderKL` of diffusers (Rombach et al. 2022): its encoder gives a
    normal distribution, from which `encode` draws. It is never trained and never stored with a
    model, its name is.

    Args:
        autoencoder: a folder, or a Hub id "who/what", with `config.json` and safetensors.
        scale: multiplies latents; None is the `scaling_factor` of `config.json`.
        shift: taken from them before; None is the `shift_factor` of `config.json`.
        device: where the autoencoder runs, that of the network; `encode` and `decode` expect
            their tensors there. On `META` only `config.json` is read, and neither of them works.

    Raises:
        InputError: diffusers is missing, or there is no such autoencoder.
    """

    def __init__(
        self,
        autoencoder: str = SD_VAE,
        scale: float | None = None,
        shift: float | None = None,
        device: torch.device | None = None,
    ) -> None:
        if device != META:
            self.autoencoder: Any = _load(autoencoder).to(device).eval().requires_grad_(False)
        self.name, self.known = autoencoder, _read_config(autoencoder)
        self.factor = 2 ** (len(self.known.block_out_channels) - 1)
        self.scale = self.known.scaling_factor if scale is None else scale
        self.shift = (self.known.shift_factor or 0.0) if shift is None else shift

    @property
    def settings(self) -> dict[str, Any]:
        """Kind, name and constants."""
        scale, shift = self.scale, self.shift
        return {"kind": "latent", "autoencoder": self.name, "scale": scale, "shift": shift}

    def channels(self, image_channels: int) -> int:
        """Return the channels of the latents."""
        wanted = self.known.in_channels
        if image_channels != wanted:
            raise InputError(
                f"--data.channels: expected {wanted} as the autoencoder {self.name} has, got "
                f"{image_channels}; set it to {wanted}, pictures are converted"
            )
        return self.known.latent_channels

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
                f"{height}x{width}; crop the pictures"
            )
        found = [
            self.autoencoder.encode(part.to(self.autoencoder.dtype) / 127.5 - 1).latent_dist
            for part in images.split(max(1, CHUNK_PIXELS // (height * width)))
        ]
        latents = torch.cat([each.mean for each in found])
        if noise is None and generator is not None:
            noise = self.draw(latents.shape, generator)
        if noise is not None:
            latents = latents + torch.cat([each.std for each in found]) * noise.to(latents)
        return (latents - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, x: Float[Tensor, "B C h w"]) -> UInt8[Tensor, "B K H W"]:
        """Return the pictures of latents, rounded to the nearest levels and clamped."""
        latents = (x / self.scale + self.shift).to(self.autoencoder.dtype)
        chunk = max(1, CHUNK_PIXELS // (self.factor**2 * x.shape[2] * x.shape[3]))
        parts = latents.split(chunk)
        return torch.cat([PixelCodec().decode(self.autoencoder.decode(p).sample) for p in parts])


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


KNOWN = {SD_VAE: _AutoencoderConfig(block_out_channels=(128, 256, 512, 512))}
"""Autoencoders of the Hub whose `config.json` need not be read."""

KINDS = ("pixel", "latent")


def create_codec(settings: Mapping[str, Any], device: torch.device | None = None) -> Codec:
    """Return a codec from its `kind` and settings.

    Args:
        settings: `kind`, and the arguments of `LatentCodec`; with the kind "pixel" they may stand
            there too, as in a complete configuration, as long as they have their defaults.
        device: of the network; `META` for the shape of model space alone.

    Raises:
        InputError: an unknown kind, settings that it does not have, or a missing autoencoder.
    """
    own = dict(settings)
    kind = own.pop("kind", "pixel")
    if kind not in KINDS:
        raise InputError(unknown_name("codec", kind, KINDS))
    if kind == "latent":
        return LatentCodec(**own, device=device)
    # Up to version 0.2 the constants of SD's autoencoder were the defaults.
    unused = {"autoencoder": (SD_VAE,), "scale": (None, SD_SCALE), "shift": (None, 0.0)}
    for name, values in unused.items():
        if own.get(name, values[0]) not in values:
            raise InputError(
                f"the codec pixel has no {name}, got {own[name]}; leave it out, or choose the "
                "codec latent"
            )
    return PixelCodec()


def picture_channels(codec: Codec, channels: int) -> int | None:
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
    if name in KNOWN and not Path(name).is_dir():
        return KNOWN[name]
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
