"""Published weights as models to sample from: files, folders of diffusers, releases by name."""

from __future__ import annotations

import hashlib
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from convflow import hub
from convflow.bundle.config import PipelineConfig
from convflow.bundle.released import PROTOCOLS, RELEASES, Release, find_release
from convflow.class_names import imagenet_classes
from convflow.codecs import Codec, LatentCodec, PixelCodec
from convflow.hub import WEIGHTS
from convflow.models.backbone import Backbone
from convflow.models.convert import read_official
from convflow.models.published import find_file
from convflow.processes.ddpm import DDPM
from convflow.settings.fields import Pixels
from convflow.settings.read import read_value
from convflow.types import InputError, Size

log = logging.getLogger("convflow")


class PublishedModel(NamedTuple):
    """A published network with all that a pipeline needs beside it."""

    place: Path
    """The file, or the folder of diffusers."""
    config: PipelineConfig
    model: Backbone


def is_published(what: str | Path) -> bool:
    """Return whether a name means published weights: a release, a file, or a folder of diffusers.

    A folder of our own, and `model.safetensors` in it, is none.
    """
    path = Path(what)
    if not path.exists():
        return find_release(str(what)) is not None
    if path.is_dir():
        return find_file(path) != path
    own = path.name == "model.safetensors" and (path.parent / "config.json").is_file()
    index = path.name.endswith(".safetensors.index.json")
    return not own and (index or path.suffix in WEIGHTS)


def read_published(
    what: str | Path,
    *,
    family: str | None = None,
    size: Size | None = None,
    autoencoder: str | None = None,
    **options: Any,
) -> PublishedModel:
    """Return a published network, and the process, codec, sampler and classes that belong to it.

    What was understood is logged in a line.

    Args:
        what: the name of a release, a file of weights, or a folder of diffusers.
        family: see `load_official`.
        size: of its images in pixels; by default that of the release, of the stored positions, or
            that in the name of the file, else 256x256.
        autoencoder: of its latents; by default that of the release, or in `vae` of a folder of
            diffusers, else that of Stable Diffusion.
        **options: further ones of `load_official`.

    Raises:
        InputError: nothing there, no way to the Hub, a damaged or unsafe file, or weights of none
            of the families.
    """
    place, release = Path(what), None
    if not place.exists() and (name := find_release(str(what))):
        release = RELEASES[name]
        place, family = fetch(name), family or release.family
    found = read_official(place, family, **options)
    model, settings = found.model, found.model.settings
    pixels = release.pixels if release else _pixels(place, found.cells)
    kind = str(settings["family"])
    process, sampling = PROTOCOLS[kind]
    if isinstance(process, DDPM) and not model.learned_variance:
        process = DDPM("small")
    classes = imagenet_classes()
    config = PipelineConfig(
        size=read_value(size or (pixels, pixels), Pixels, "size"),
        class_names=tuple(classes.values()) if model.num_classes == len(classes) else (),
        sampling=sampling,
        codec=_codec(model.in_channels, autoencoder, None if release else place),
        process=process,
    )
    height, width = config.size
    named = found.size if found.size.startswith(kind) else f"{kind} of no published size"
    log.info(f"{what}: {named}{found.said}; {process.kind}, {height}x{width} pixels")
    return PublishedModel(place, config, model)


def fetch(name: str) -> Path:
    """Return the file or folder of a release, downloaded from the Hub unless it is there already.

    A broken download goes on where it stopped. The content is compared with the checksum of the
    Hub.

    Raises:
        InputError: an unknown place, no way to it, no such file there, or a damaged file.
    """
    release = RELEASES[name]
    advice = f"download the weights and give their path: convflow sample FILE ({release.size})"
    if not release.hub:
        raise InputError(
            f"{name}: expected a release with a known place on the Hugging Face Hub, got one "
            f"without; {advice}"
        )
    _say_licence(release)
    for pattern in release.files:
        try:
            folder = hub.download(release.hub, [pattern, "transformer/config.json"], "weights")
        except InputError as error:
            reason = str(error).partition("(")[2].rpartition(")")[0]
            raise InputError(
                f"{name}: {release.hub} on the Hugging Face Hub cannot be reached ({reason}); "
                f"check the connection, or {advice}"
            ) from error
        if files := sorted(folder.glob(pattern)):
            for file in files:
                _check_sum(file)
            whole = (folder / "transformer").is_dir()
            return folder if whole else _only(files, name)
    raise InputError(
        f"{name}: expected a file {' or '.join(release.files)} in {release.hub} on the Hugging "
        f"Face Hub, found none; {advice}"
    )


def _only(files: list[Path], name: str) -> Path:
    """Return the one file of weights among several, or raise InputError."""
    weights = [file for file in files if file.suffix in WEIGHTS]
    if len(weights) != 1:
        said = ", ".join(file.name for file in files)
        raise InputError(f"{name}: expected one file of weights, got {said}; give one by its path")
    return weights[0]


def _check_sum(file: Path) -> None:
    """Raise InputError where a large file of the cache is not what its checksum says.

    The Hub's cache calls such a file by its SHA-256.
    """
    stored = file.resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", stored.name):
        return
    with stored.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != stored.name:
            raise InputError(
                f"{file} is damaged: expected the SHA-256 {stored.name}; delete {stored} and run "
                "the command again"
            )


@cache
def _say_licence(release: Release) -> None:
    """Say once that a licence forbids commercial use."""
    if not release.commercial:
        log.info(f"{release.hub}: the licence {release.licence} forbids commercial use")


def _pixels(place: Path, cells: int | None) -> int:
    """Return the side of a network's images: by stored positions, or the file's name, else 256."""
    if cells is not None:
        return 8 * cells
    return 512 if re.search(r"(?<!\d)512(?!\d)", place.name) else 256


def _codec(channels: int, autoencoder: str | None, place: Path | None) -> Codec:
    """Return the codec of a network: for latents of an autoencoder, unless it is for pixels."""
    if autoencoder is not None:
        return LatentCodec(autoencoder)
    for folder in (place, place.parent) if place is not None else ():
        if (folder / "vae" / "config.json").is_file():
            return LatentCodec(str(folder / "vae"))
    if channels in (1, 3):
        return PixelCodec()
    if channels != 4:
        raise InputError(
            f"{place}: expected a network of 4 channels, the latents of Stable Diffusion, or of 1 "
            f"or 3, got {channels}; say which autoencoder: convflow import --autoencoder"
        )
    return LatentCodec()
