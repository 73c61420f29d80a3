"""The images that a training was shown, and those that it held back, read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from convflow.codecs import Codec
from convflow.data.latents import Latents
from convflow.data.loader import Images
from convflow.storage import read_json
from convflow.training.config import DataConfig
from convflow.training.data import SELECTION_FILE, open_images, scan_images
from convflow.training.launch import read_run_config
from convflow.training.validation import hold_back
from convflow.types import InputError, Size


@dataclass(frozen=True)
class ShownImages:
    """The images of a training at one size.

    Attributes:
        path: where they are.
        shown: (N,) numbers of those that the training was shown.
        held: (M,) numbers of those that it held back; none where nothing tells.
        images: all of them, by these numbers.
        size: height and width in pixels.
        codec: of the model, which decodes those of a store.
    """

    path: str
    shown: np.ndarray
    held: np.ndarray
    images: Images | Latents
    size: Size
    codec: Codec

    def read(self, numbers: Sequence[int]) -> UInt8[Tensor, "B C H W"]:
        """Return images cut from the middle, on the CPU."""
        places = np.asarray(numbers, np.int64)
        pixels, _ = self.images.batch(places, size=self.size)
        if isinstance(self.images, Latents):
            device = getattr(self.codec, "device", None)
            return self.codec.decode(self.codec.latents(pixels.to(device))).cpu()
        return pixels

    def name(self, number: int) -> str:
        """Return the name of an image."""
        return self.images.item_name(number)


def find_run(model: Path) -> Path | None:
    """Return the run folder of a run or of a checkpoint in it, None for anything else."""
    for folder in (model, *model.resolve().parents[:3]) if model.exists() else ():
        path = folder / "config.json"
        if path.is_file() and (folder / "checkpoints").is_dir() and "optim" in read_json(path):
            return folder
    return None


def open_shown(
    model: Path,
    data: str | None,
    codec: Codec,
    channels: Literal[1, 3],
    size: Size,
    device: torch.device,
) -> ShownImages:
    """Return the images that a model was trained on.

    Args:
        model: a run, a checkpoint in it, or a model folder.
        data: where the images are; None for those of the run.
        codec: of the model.
        channels: of its images.
        size: height and width in pixels to bring them to.
        device: of the model.

    Raises:
        InputError: neither a run nor `data`, no images there, or a store of another size.
    """
    run = find_run(model)
    if run is None and data is None:
        raise InputError(
            f"--data: expected the training images of {model}, which is no run and names none; "
            "add --data PATH"
        )
    num_held, seed, kept = 0, 0, None
    config = DataConfig(path=data or "", size=size, channels=channels, check="some")
    if run is not None:
        found = read_run_config(run)
        config = replace(found.data, path=data or found.data.path)
        if data is None:
            num_held, seed = found.monitor.validation.num, found.seed
            kept = run / SELECTION_FILE
    images, _ = scan_images(open_images(config), config, kept, device)
    if isinstance(images, Latents):
        if size not in images.sizes:
            own = ", ".join(f"{height}x{width}" for height, width in images.sizes)
            raise InputError(
                f"--size: expected {own} as in the store {config.path}, got {size[0]}x{size[1]}; "
                "give that, or --data the images themselves"
            )
        fitting = np.flatnonzero((images.sides == size).all(1))
    else:  # each is read once, so none is kept
        images = Images(
            images.source,
            images.indices,
            channels=channels,
            size=size,
            cache_bytes=0,
            on_bad=config.on_bad,
        )
        fitting = np.arange(len(images))
    held = np.intersect1d(hold_back(len(images), num_held, seed), fitting)
    shown = np.setdiff1d(fitting, held, assume_unique=True)
    return ShownImages(config.path, shown, held, images, size, codec)
