"""What images are compared with: statistics of real ones, kept in an .npz file.

The names are those of the reference files of Dhariwal and Nichol (2021): `mu` and `sigma` of the
pooled features, `mu_s` and `sigma_s` of the spatial ones. Ours add `features` of some images,
for precision and recall, and `about`, which says how the file was made; theirs hold images,
`arr_0`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from convflow.arrays import list_arrays, read_arrays
from convflow.storage import parse_json, writing_file
from convflow.types import InputError, Size, size_text

MANIFOLD_SIZE = 10_000
"""Images whose features are kept for precision, recall and their kin, as in the ADM suite."""

SUFFIXES = {"features": "", "spatial": "_s"}


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features, float64."""

    mean: Float64[Tensor, " F"]
    covariance: Float64[Tensor, "F F"]


@dataclass
class Reference:
    """Statistics of a set of images.

    Attributes:
        moments: by kind of feature, "features" and perhaps "spatial".
        manifold: (M, F) float32 features of some of the images; None when there are none.
        about: name, sha256, count, size, detector and so on, as far as known.
        has_images: whether the file it was read from holds images too.
    """

    moments: dict[str, Moments]
    manifold: Tensor | None
    about: dict[str, Any] = field(default_factory=dict)
    has_images: bool = False

    def widths(self) -> dict[str, int]:
        """Return how long features are, by kind of moments and for the "manifold"."""
        found = {kind: len(moments.mean) for kind, moments in self.moments.items()}
        return found if self.manifold is None else found | {"manifold": self.manifold.shape[1]}

    def save(self, path: Path) -> None:
        """Write an .npz file, whole or not at all; its parent folders are made.

        Raises:
            InputError: the disk is full or not writable.
        """
        arrays = {"about": np.array(json.dumps(self.about))}
        for kind, moments in self.moments.items():
            arrays[f"mu{SUFFIXES[kind]}"] = moments.mean.cpu().numpy()
            arrays[f"sigma{SUFFIXES[kind]}"] = moments.covariance.cpu().numpy()
        if self.manifold is not None:
            arrays["features"] = self.manifold.cpu().numpy()
        with writing_file(path) as draft:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]


def holds_statistics(path: Path) -> bool:
    """Return whether an .npz holds statistics rather than only images.

    Raises:
        InputError: no such file, or a damaged one.
    """
    return "mu" in list_arrays(path)


def read_reference(path: Path) -> Reference:
    """Return the statistics in an .npz of ours or of the ADM suite; `arr_0` stays unread.

    Raises:
        InputError: a damaged file, or arrays that do not fit each other.
    """
    names = [f"{part}{suffix}" for suffix in SUFFIXES.values() for part in ("mu", "sigma")]
    arrays, has_images = (
        read_arrays(path, [*names, "features", "about"]),
        "arr_0" in list_arrays(path),
    )
    about = _about(path, arrays["about"]) if "about" in arrays else None
    moments = {}
    for kind, suffix in SUFFIXES.items():
        if f"mu{suffix}" in arrays:
            moments[kind] = _moments(path, suffix, arrays)
    if "features" not in moments:
        raise InputError(f"{path}: expected mu and sigma, got neither; give a file of statistics")
    manifold = arrays.get("features")
    width = len(moments["features"].mean)
    if manifold is not None and (manifold.ndim != 2 or manifold.shape[1] != width):
        raise InputError(
            f"{path}: expected features (M, {width}), got {manifold.shape}; make the file again"
        )
    if about is None:
        with path.open("rb") as whole:
            digest = hashlib.file_digest(whole, "sha256").hexdigest()
        about = {"name": path.name, "sha256": digest, "file": "statistics made elsewhere"}
    kept = None if manifold is None else torch.from_numpy(manifold).float()
    return Reference(moments, kept, about, has_images)


def check_fits(
    reference: Reference, path: str, detector: dict[str, str], size: Size, channels: int
) -> None:
    """Raise InputError when statistics come from another detector, size or number of channels.

    A file of the ADM suite says neither; its features are those of Inception.
    """
    about = reference.about
    if about.get("channels", channels) != channels:
        raise InputError(
            f"expected a reference of images with {channels} channels like those to score, got "
            f"{path} with {about['channels']}; make one with --save-statistics and --channels"
        )
    if "size" in about:
        check_image_size(path, tuple(about["size"]), size)
    theirs = about.get("detector", {"name": "inception"})
    for key in theirs:
        if theirs[key] != detector.get(key):
            raise InputError(
                f"expected a reference made with the detector {detector['name']} ({key} "
                f"{detector.get(key)}), got {path} of {theirs['name']} ({key} {theirs[key]}); make "
                "one with --save-statistics, or choose the --detector that it was made with"
            )


def check_image_size(path: str, theirs: Size, ours: Size) -> None:
    """Raise InputError when a reference shows images of another size than those to score."""
    if theirs != ours:
        raise InputError(
            f"expected a reference of {size_text(ours)} like the images to score, got {path} "
            f"of {size_text(theirs)}; make one of that size with --save-statistics, or give "
            "--size"
        )


def _about(path: Path, text: np.ndarray) -> dict[str, Any]:
    """Return what a file of ours says about itself, or raise InputError."""
    about = parse_json(str(text).encode(errors="replace"), f"{path}: about")
    size, detector = about.get("size", [1, 1]), about.get("detector", {})
    texts = [about.get("name", ""), about.get("sha256", ""), *(detector or [0])]
    whole = isinstance(size, list) and len(size) in (2, 3) and {*map(type, size)} == {int}
    whole = whole and isinstance(about.get("clip", {}), dict)
    if not (whole and isinstance(detector, dict) and all(isinstance(text, str) for text in texts)):
        raise InputError(f"{path}: about is damaged; make the file again with --save-statistics")
    return about


def _moments(path: Path, suffix: str, arrays: dict[str, np.ndarray]) -> Moments:
    mean, covariance = arrays[f"mu{suffix}"], arrays.get(f"sigma{suffix}", np.empty(0))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise InputError(
            f"{path}: expected mu{suffix} (F,) and sigma{suffix} (F, F), got {mean.shape} and "
            f"{covariance.shape}; make the file again with --save-statistics"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path}: expected finite numbers, got NaN or infinity; make it again")
    return Moments(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())
