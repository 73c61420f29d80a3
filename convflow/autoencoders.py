"""Published autoencoders of diffusers: the shape and the constants of their latents, and calls.

A model sees (latent - shift) scale. Scale and shift stand in the `config.json` of an autoencoder,
in the table below, or, of FLUX.2, in its weights; never are those of one taken for another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from convflow import hub
from convflow.settings.fields import Positive, Width
from convflow.storage import read_json
from convflow.types import InputError, check_name

SD_VAE = "stabilityai/sd-vae-ft-ema"
"""The autoencoder of DiT, SiT, DiCo and FlowDCN (Rombach et al. 2022, decoder fine-tuned)."""

SD_SCALE = 0.18215
"""Brings its latents to about unit variance; also what diffusers writes where nobody chose."""

Numbers = float | tuple[float, ...]
"""One for all channels, or one for each."""


@dataclass(frozen=True)
class LatentSpace:
    """What is known of an autoencoder without its weights.

    Attributes:
        kind: its class in diffusers.
        channels: of the latents as a model sees them.
        factor: pixels along a side of one cell.
        scale: factor after the shift; None where the weights hold it.
        shift: taken from the latents first.
        image_channels: of the images.
        patch: cells along a side that become the channels of one.
        frames: whether it takes videos; an image is one frame. The frames of a video go one by one
            through an autoencoder that does not.
        frame_factor: frames of one cell, but for the first, which is a cell of its own.
        frame_step: what the number of frames after the first is a multiple of; an even number of
            cells of CogVideoX comes back as more frames.
        side: pixels along the sides of the only images it takes; None for any.
        unit: whether it takes images in [0, 1], else in [-1, 1].
    """

    kind: str
    channels: int
    factor: int
    scale: Numbers | None
    shift: Numbers = 0.0
    image_channels: int = 3
    patch: int = 1
    frames: bool = False
    side: int | None = None
    unit: bool = False
    frame_factor: int = 1
    frame_step: int = 1


def _kl(channels: int, scale: float, shift: float = 0.0, factor: int = 8) -> LatentSpace:
    return LatentSpace("AutoencoderKL", channels, factor, scale, shift)


WAN_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
)
_WAN = LatentSpace(
    "AutoencoderKLWan",
    16,
    8,
    tuple(1 / s for s in WAN_STD),
    WAN_MEAN,
    frames=True,
    frame_factor=4,
    frame_step=4,
)

AUTOENCODERS: dict[str, LatentSpace] = {
    SD_VAE: _kl(4, SD_SCALE),
    "stabilityai/sd-vae-ft-mse": _kl(4, SD_SCALE),
    "stabilityai/sdxl-vae": _kl(4, 0.13025),
    "madebyollin/sdxl-vae-fp16-fix": _kl(4, 0.13025),
    "KBlueLeaf/EQ-SDXL-VAE": _kl(4, 0.127463, 0.864025),
    "stabilityai/stable-diffusion-3-medium-diffusers/vae": _kl(16, 1.5305, 0.0609),
    "black-forest-labs/FLUX.1-schnell/vae": _kl(16, 0.3611, 0.1159),
    "black-forest-labs/FLUX.1-dev/vae": _kl(16, 0.3611, 0.1159),
    "REPA-E/e2e-invae-hf": _kl(32, 0.3099, factor=16),
    **{
        f"black-forest-labs/{name}/vae": LatentSpace("AutoencoderKLFlux2", 128, 16, None, patch=2)
        for name in ("FLUX.2-dev", "FLUX.2-klein-4B")
    },
    **{
        f"mit-han-lab/dc-ae-{name}-diffusers": LatentSpace("AutoencoderDC", channels, factor, scale)
        for name, channels, factor, scale in (
            ("f32c32-in-1.0", 32, 32, 0.3189),
            ("f32c32-mix-1.0", 32, 32, 0.4552),
            ("f32c32-sana-1.0", 32, 32, 0.41407),
            ("f64c128-in-1.0", 128, 64, 0.2889),
            ("f64c128-mix-1.0", 128, 64, 0.4538),
            ("f128c512-in-1.0", 512, 128, 0.4883),
            ("f128c512-mix-1.0", 512, 128, 0.3620),
        )
    },
    **{
        f"madebyollin/{name}": LatentSpace("AutoencoderTiny", channels, 8, 1.0)
        for name, channels in (("taesd", 4), ("taesdxl", 4), ("taesd3", 16), ("taef1", 16))
    },
    "Qwen/Qwen-Image/vae": replace(_WAN, kind="AutoencoderKLQwenImage"),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers/vae": _WAN,
    "zai-org/CogVideoX-2b/vae": LatentSpace(
        "AutoencoderKLCogVideoX", 16, 8, 1.15258426, frames=True, frame_factor=4, frame_step=8
    ),
}
"""Autoencoders of the Hub, by repository and folder in it, whose `config.json` need not be read.

The constants are those of the repositories, of diffusers' scripts that converted the weights, or,
of REPA-E, of Speedrunning ImageNet Diffusion (SR-DiT, 2025).
"""

KINDS = (
    "AutoencoderKL",
    "AutoencoderKLFlux2",
    "AutoencoderDC",
    "AutoencoderTiny",
    "AutoencoderKLQwenImage",
    "AutoencoderKLWan",
    "AutoencoderKLCogVideoX",
    "AutoencoderKLHunyuanImage",
    "AutoencoderRAE",
)
"""Classes of diffusers that can be read."""

Widths = Annotated[tuple[Width, ...], Meta(min_length=1, max_length=16)]


@dataclass(frozen=True)
class _Config:
    """What `config.json` of any of them says, with the defaults of AutoencoderKL."""

    in_channels: Width = 3
    latent_channels: Width = 4
    block_out_channels: Widths = (64,)
    encoder_block_out_channels: Widths = (64,)
    scaling_factor: Positive | None = None
    shift_factor: float | None = None
    patch_size: Any = None
    z_dim: Width = 16
    dim_mult: Widths = (1, 2, 4, 4)
    scale_factor_spatial: Width | None = None
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    temporal_compression_ratio: Positive = 4.0
    latents_mean: Any = None
    latents_std: Any = None
    spatial_compression_ratio: Width = 32
    encoder_hidden_size: Width = 768
    encoder_patch_size: Width = 14
    encoder_input_size: Width = 224
    num_channels: Width = 3
    reshape_to_2d: bool = True

    def space(self, kind: str) -> LatentSpace:
        """Return what an autoencoder of some class of diffusers is like."""
        scale, shift = self.scaling_factor, self.shift_factor or 0.0
        blocks = self.block_out_channels
        if kind in ("AutoencoderDC", "AutoencoderTiny"):
            blocks = self.encoder_block_out_channels
        elif kind == "AutoencoderKL" and scale == SD_SCALE and self.latent_channels != 4:
            scale = None  # diffusers filled it in
        factor, images = 2 ** (len(blocks) - 1), self.in_channels
        if kind == "AutoencoderKLFlux2":
            patch, _ = msgspec.convert(self.patch_size or (2, 2), tuple[Width, Width])
            channels = self.latent_channels * patch**2
            return LatentSpace(kind, channels, factor * patch, None, 0.0, images, patch)
        if kind in ("AutoencoderKLQwenImage", "AutoencoderKLWan"):
            means = msgspec.convert(self.latents_mean, tuple[float, ...])
            stds = msgspec.convert(self.latents_std, tuple[Positive, ...])
            factor = self.scale_factor_spatial or 2 ** (len(self.dim_mult) - 1)
            inverse = tuple(1 / std for std in stds)
            few = 2 ** sum(self.temperal_downsample)
            space = LatentSpace(kind, self.z_dim, factor, inverse, means, frames=True)
            return replace(space, frame_factor=few, frame_step=few)
        if kind == "AutoencoderKLCogVideoX":
            few = int(self.temporal_compression_ratio)
            space = LatentSpace(kind, self.latent_channels, factor, scale, shift, images)
            return replace(space, frames=True, frame_factor=few, frame_step=2 * few)
        if kind == "AutoencoderKLHunyuanImage":
            factor = self.spatial_compression_ratio
        if kind == "AutoencoderRAE":
            return self._rae()
        return LatentSpace(kind, self.latent_channels, factor, scale, shift, images)

    def _rae(self) -> LatentSpace:
        """Return what a representation autoencoder is like, which normalises latents itself."""
        if not self.reshape_to_2d:
            raise InputError("its latents are no grid (reshape_to_2d is false)")
        factor = msgspec.convert(self.patch_size or 16, Width)
        side = factor * (self.encoder_input_size // self.encoder_patch_size)
        channels, images = self.encoder_hidden_size, self.num_channels
        return LatentSpace(
            "AutoencoderRAE", channels, factor, 1.0, 0.0, images, side=side, unit=True
        )


def read_space(name: str) -> LatentSpace:
    """Return what an autoencoder is like, without its weights.

    Args:
        name: a folder with `config.json`, or with `vae/config.json`; or a repository of the Hub,
            and a folder in it where the autoencoder does not lie at its top: `owner/name/vae`.

    Raises:
        InputError: no such autoencoder, one of an unknown class, or an unreadable `config.json`.
    """
    if (known := _published(name)) is not None:
        return AUTOENCODERS[known]
    try:
        tree = read_json(_find(name, "config.json") / "config.json")
        kind = tree.get("_class_name", KINDS[0])
        check_name("class of autoencoders", kind, KINDS)
        return msgspec.convert(tree, _Config).space(kind)
    except (InputError, msgspec.ValidationError) as error:
        raise _refused(name, error) from error


def load(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """Return an autoencoder of diffusers, frozen, its weights and arithmetic in `dtype`.

    Raises:
        InputError: diffusers is missing; no such autoencoder, or one without all its weights.
    """
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            "the codec latent needs the package diffusers, which is missing; "
            "pip install 'convflow[diffusers]'"
        ) from error
    kind = read_space(name).kind
    if kind == "AutoencoderRAE" and find_spec("transformers") is None:
        raise InputError(
            f"the {kind} {name} needs the package transformers, which is missing; "
            "pip install transformers"
        )
    folder = _find(name, "config.json", "*.safetensors")
    try:
        autoencoder, report = getattr(diffusers, kind).from_pretrained(
            folder,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            torch_dtype=dtype,
        )
    except Exception as error:  # of diffusers or of the file
        raise _refused(name, error) from error
    missing = [*report["missing_keys"], *report["mismatched_keys"]]
    if missing:  # diffusers would go on with random numbers in their place
        raise InputError(
            f"expected all weights of an {kind}, got {name!r} without {missing[0]}; give "
            "another with --codec.autoencoder"
        )
    return autoencoder.eval().requires_grad_(False)


@torch.no_grad()
def encode(
    network: Any, space: LatentSpace, images: Float[Tensor, "B K *size"]
) -> Float[Tensor, "B M C *cells"]:
    """Return mean and standard deviation of the latents, or the latents where nothing is drawn.

    Args:
        network: from `load`.
        space: of the same autoencoder.
        images: (B, K, H, W) or videos (B, K, F, H, W), in [-1, 1].
    """
    video = images.ndim == 5
    if video and not space.frames:
        each = encode(network, space, images.transpose(1, 2).flatten(0, 1))
        return each.unflatten(0, (len(images), -1)).movedim(1, 3)
    if space.unit:
        images = images / 2 + 0.5
    found = network.encode(images[:, :, None] if space.frames and not video else images)
    drawn = getattr(found, "latent_dist", None)
    moments = [found[0]] if drawn is None else [drawn.mean, drawn.std]
    if space.frames and not video:
        moments = [moment[:, :, 0] for moment in moments]
    return torch.stack([pixel_unshuffle(moment, space.patch) for moment in moments], 1).float()


@torch.no_grad()
def decode(
    network: Any, space: LatentSpace, latents: Float[Tensor, "B C *cells"]
) -> Float[Tensor, "B K *size"]:
    """Return images or videos in about [-1, 1] of latents, neither shifted nor scaled."""
    video = latents.ndim == 5
    if video and not space.frames:
        each = decode(network, space, latents.transpose(1, 2).flatten(0, 1))
        return each.unflatten(0, (len(latents), -1)).transpose(1, 2)
    z = pixel_shuffle(latents, space.patch)
    picture = space.frames and not video
    x = network.decode(z[:, :, None] if picture else z).sample
    x = x[:, :, 0] if picture else x
    return x * 2 - 1 if space.unit else x


def constants(network: Any) -> tuple[Numbers, Numbers]:
    """Return scale and shift of an autoencoder that keeps them among its weights: FLUX.2's."""
    norm = network.bn
    scale = (norm.running_var.double() + network.config.batch_norm_eps).rsqrt()
    return tuple(scale.tolist()), tuple(norm.running_mean.double().tolist())


def _published(name: str) -> str | None:
    """Return the key of a published autoencoder, whose repository alone may be named."""
    if Path(name).is_dir():
        return None
    return next((known for known in (name, f"{name}/vae") if known in AUTOENCODERS), None)


def _find(name: str, *patterns: str) -> Path:
    """Return the folder of an autoencoder, the files that fit `patterns` fetched from the Hub."""
    place = Path(name)
    if place.is_dir():
        inside = place / "vae"
        is_pipeline = not (place / "config.json").is_file() and (inside / "config.json").is_file()
        return inside if is_pipeline else place
    owner, _, rest = (_published(name) or name).partition("/")
    repository, _, folder = rest.partition("/")
    wanted = "an autoencoder of diffusers (--codec.autoencoder)"
    chosen = [f"{folder}/{pattern}" if folder else pattern for pattern in patterns]
    if folder and not hub.is_id(f"{owner}/{repository}"):
        raise hub.missing(name, wanted)
    return hub.download(f"{owner}/{repository}" if folder else name, chosen, wanted) / folder


def _refused(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"expected an autoencoder of diffusers, got {name!r} ({reason}); give another with "
        "--codec.autoencoder"
    )
