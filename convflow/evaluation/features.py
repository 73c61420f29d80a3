"""Features of many images, in parts on disk.

The parts make an evaluation restartable and let any number of processes share it: which images
make a part depends on their number alone, so the scores do not depend on who made which part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from convflow import distributed
from convflow.evaluation.detectors import Detector
from convflow.evaluation.image_sets import ImageSet, choose_indices
from convflow.evaluation.reference import MANIFOLD_SIZE, SUFFIXES, Moments, Reference
from convflow.evaluation.statistics import Statistics
from convflow.storage import hash_tensors, writing_file
from convflow.types import InputError, Progress


@dataclass(frozen=True)
class Features:
    """Features of `num` images in a folder, in parts of `batch_size`."""

    folder: Path
    num: int
    batch_size: int

    def paths(self) -> list[Path]:
        """Return the files of all parts in order."""
        return [part_path(self.folder, start) for start in range(0, self.num, self.batch_size)]

    def widths(self) -> dict[str, int]:
        """Return which features there are, and how many numbers of each an image has."""
        with safetensors.safe_open(self.paths()[0], "pt") as part:
            kinds = sorted(set(part.keys()) - {"digests", "pixels"})
            return {kind: part.get_slice(kind).get_shape()[1] for kind in kinds}

    def read(self, kind: str) -> Iterator[Tensor]:
        """Give one kind of feature, or the "pixels" or "digests", part by part."""
        for path in self.paths():
            with safetensors.safe_open(path, "pt") as part:
                yield part.get_tensor(kind)

    def stack(self, kind: str) -> Float[Tensor, "N F"]:
        """Return one kind of feature of all images."""
        return torch.cat(list(self.read(kind)))

    def moments(self, kind: str) -> Moments:
        """Return mean and covariance of one kind of feature."""
        statistics: Statistics | None = None
        for features in self.read(kind):
            statistics = statistics or Statistics(features.shape[1])
            statistics.update(features)
        assert statistics is not None
        return Moments(statistics.mean, statistics.covariance)

    def sha256(self) -> str:
        """Return a hash of all images in their order, whatever the size of the parts."""
        whole = hashlib.sha256()
        for digests in self.read("digests"):
            whole.update(digests.numpy().tobytes())
        return whole.hexdigest()

    def summarise(self, about: dict[str, Any]) -> Reference:
        """Return the statistics that other images can be compared with."""
        kinds = self.widths()
        chosen = choose_indices(self.num, min(self.num, MANIFOLD_SIZE), 0, "features")
        rows, starts = [], range(0, self.num, self.batch_size)
        for start, features in zip(starts, self.read("features"), strict=True):
            low, high = np.searchsorted(chosen, (start, start + self.batch_size))
            rows.append(features[torch.from_numpy(chosen[low:high] - start)])
        return Reference(
            {kind: self.moments(kind) for kind in SUFFIXES if kind in kinds},
            torch.cat(rows),
            {**about, "count": self.num, "sha256": self.sha256()},
        )


def part_path(folder: Path, start: int) -> Path:
    """Return the file of the part that begins with image `start`."""
    return folder / f"part_{start:09d}.safetensors"


def extract(
    images: ImageSet,
    num: int,
    detector: Detector,
    folder: Path,
    *,
    batch_size: int,
    device: torch.device,
    kinds: Sequence[str] | None = None,
    keep_pixels: bool = False,
    progress: Progress | None = None,
) -> Features:
    """Bring the features of images 0..num-1 to a folder, sharing the work with all processes.

    Parts that are there already are kept: those of samples as they are, those of given images
    if they show the same pixels still.

    Args:
        images: what to read.
        num: how many of them.
        detector: from images to features.
        folder: of the parts; all processes must see it.
        batch_size: images in a part, and at once.
        device: where the detector is.
        kinds: the features wanted; None for all that the detector gives.
        keep_pixels: keep the images themselves too.
        progress: told of every image that this process has done.

    Raises:
        InputError: unreadable images, a detector that fails, a full disk, or a folder that
            other processes do not see.
    """
    report = progress or (lambda count: None)
    with distributed.all_or_none(device):
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, num, batch_size)
        for start in starts[distributed.rank() :: distributed.world_size()]:
            indices, path = range(start, min(start + batch_size, num)), part_path(folder, start)
            known = _digests_in(path)
            if known is not None and images.reproducible:
                report(len(indices))
                continue
            pixels = images.read(indices, report)
            digests = digest(pixels)
            if known is not None and known.equal(digests):
                continue
            found = detector(pixels.to(device))
            part = {kind: found[kind] for kind in kinds or found if kind in found}
            _write(path, part | {"digests": digests} | ({"pixels": pixels} if keep_pixels else {}))
    distributed.barrier()
    features = Features(folder, num, batch_size)
    missing = [path for path in features.paths() if not path.is_file()]
    if missing:
        raise InputError(
            f"expected {missing[0]} from another process, found none; give --out on a disk that "
            "all processes share"
        )
    return features


def _write(path: Path, part: dict[str, Tensor]) -> None:
    # Views of each other must not stay so in a file.
    part = {n: t.cpu().clone(memory_format=torch.contiguous_format) for n, t in part.items()}
    with writing_file(path) as draft:
        safetensors.torch.save_file(part, draft, {"sha256": hash_tensors(part)})


def digest(pixels: UInt8[Tensor, "B C *size"]) -> UInt8[Tensor, "B 32"]:
    """Return the SHA-256 of each image's size and bytes, (C, H, W) in order."""
    rows = []
    for image in pixels.contiguous().numpy():
        hashed = hashlib.sha256(repr(image.shape).encode())
        hashed.update(image.tobytes())
        rows.append(np.frombuffer(hashed.digest(), np.uint8))
    return torch.from_numpy(np.stack(rows))


def _digests_in(path: Path) -> Tensor | None:
    """Return the digests in a part that is as it was written; None where it must be made again."""
    try:
        with safetensors.safe_open(path, "pt") as part:
            tensors = {kind: part.get_tensor(kind) for kind in part.keys()}  # noqa: SIM118
            written = (part.metadata() or {}).get("sha256")
    except (safetensors.SafetensorError, OSError, ValueError):
        return None
    return tensors["digests"] if hash_tensors(tensors) == written else None
