"""Published weights as models to sample from: files, folders of diffusers, releases by name."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from convflow import hub
from convflow.bundle.config import PipelineConfig
from convflow.bundle.diffusers_models import (
    describe_transformer,
    find_transformer,
    read_transformer,
)
from convflow.bundle.released import DIFFUSERS, PROTOCOLS, RELEASES, find_release
from convflow.class_names import imagenet_classes
from convflow.codecs import Codec, LatentCodec, PixelCodec
from convflow.hub import WEIGHTS
from convflow.models.backbone import Backbone
from convflow.models.convert import read_official
from convflow.models.published import find_file
from convflow.models.stored import is_exported
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

    The file may be on the Hub, as owner/name/FILE. A folder of our own, and `model.safetensors` in
    it, is none.
    """
    path = Path(what)
    if find_transformer(what) is not None:
        return True
    if not path.exists():
        return find_release(str(what)) is not None or _hub_file(str(what)) is not None
    if path.is_dir():
        return find_file(path) != path and not is_exported(path)
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
        what: the name of a release, a file of weights, a folder of diffusers; or one of both on the
            Hub, as owner/name/FILE or owner/name.
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
    if (found := find_transformer(what)) is not None:
        config = describe_transformer(found)
        log.info(f"{what}: {found.architecture} of diffusers; {config.process.kind}")
        return PublishedModel(found.folder, config, read_transformer(found))
    name, place, release = str(what), Path(what), None
    if not place.exists() and _on_hub(name):
        release = RELEASES.get(find_release(name) or "")
        place, family = fetch(name), family or (release and release.family)
    official = read_official(place, family, **options)
    model, settings = official.model, official.model.settings
    codec = _codec(model.in_channels, autoencoder, None if release else place)
    pixels = release.pixels if release else _pixels(place, official.cells, codec)
    kind = str(settings["family"])
    process, sampling = PROTOCOLS[kind]
    if isinstance(process, DDPM) and not model.learned_variance:
        process = DDPM("small")
    classes = imagenet_classes()
    config = PipelineConfig(
        size=read_value(size or (pixels, pixels), Pixels, "size"),
        class_names=tuple(classes.values()) if model.num_classes == len(classes) else (),
        sampling=sampling,
        codec=codec,
        process=process,
    )
    height, width = config.size
    named = official.size if official.size.startswith(kind) else f"{kind} of no published size"
    log.info(f"{what}: {named}{official.said}; {process.kind}, {height}x{width} pixels")
    return PublishedModel(place, config, model)


def _hub_file(name: str) -> tuple[str, str] | None:
    """Return the repository and the file of a name such as owner/name/weights.pt."""
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    found = f"{owner}/{repository}"
    return (found, file) if Path(file).suffix in WEIGHTS and hub.is_id(found) else None


def _on_hub(name: str) -> tuple[str, Sequence[str]] | None:
    """Return the repository of what a name means there, and patterns of its files."""
    if known := find_release(name):
        return RELEASES[known].hub, RELEASES[known].files
    if found := _hub_file(name):
        return found[0], [found[1]]
    return (name, DIFFUSERS) if hub.is_id(name) else None


def fetch(name: str) -> Path:
    """Return the file or folder of weights on the Hub, downloaded unless it is there already.

    A broken download goes on where it stopped. The content is compared with the checksum of the
    Hub.

    Args:
        name: of a release, a repository with a DiT of diffusers, or a file in a repository.

    Raises:
        InputError: an unknown place, no way to it, no such file there, or a damaged file.
    """
    repository, patterns = _on_hub(name) or ("", ())
    advice = "download the weights and give their path: convflow sample FILE"
    if not repository:
        raise InputError(
            f"{name}: expected weights with a known place on the Hugging Face Hub, got some "
            f"without; {advice}"
        )
    _say_licence(repository)
    diffusers = tuple(patterns) == DIFFUSERS
    what, wanted = ("folder", "transformer/*") if diffusers else ("file", patterns[0])
    for pattern in patterns:
        try:
            folder = hub.download(repository, [pattern, "transformer/config.json"], "weights")
        except InputError as error:
            reason = str(error).partition("(")[2].rpartition(")")[0]
            raise InputError(
                f"{name}: {repository} on the Hugging Face Hub cannot be reached ({reason}); "
                f"check the connection, or {hub.fetching(repository, wanted)}, and give that "
                f"{what}: convflow sample {'FOLDER' if diffusers else 'FILE'}"
            ) from error
        if files := sorted(folder.glob(pattern)):
            for file in files:
                _check_sum(file)
            return folder if pattern in DIFFUSERS else _only(files, name)
    raise InputError(
        f"{name}: expected a file {' or '.join(patterns)} in {repository} on the Hugging Face Hub, "
        f"found none; {advice}"
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
def _say_licence(repository: str) -> None:
    """Say once that a licence forbids commercial use."""
    for release in RELEASES.values():
        if release.hub == repository and not release.commercial:
            log.info(f"{repository}: the licence {release.licence} forbids commercial use")


def _pixels(place: Path, cells: int | None, codec: Codec) -> int:
    """Return the side of a network's images: by stored positions, or the file's name, else 256."""
    if cells is not None:
        return codec.factor * cells
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
