"""What pictures are compared with: statistics of real ones, kept in an .npz file.

The names are those of the reference files of Dhariwal and Nichol (2021): `mu` and `sigma` of the
pooled features, `mu_s` and `sigma_s` of the spatial ones. Ours add `features` of some pictures,
for precision and recall, and `about`, which says how the file was made; theirs hold pictures,
`arr_0`.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from convflow.data.pictures import one_line
from convflow.storage import writing_file
from convflow.types import InputError, Size

MANIFOLD_SIZE = 10_000
"""Pictures whose features are kept for precision, recall and their kin, as in the ADM suite."""

SUFFIXES = {"features": "", "spatial": "_s"}


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features, float64."""

    mean: Float64[Tensor, " F"]
    covariance: Float64[Tensor, "F F"]


@dataclass
class Reference:
    """Statistics of a set of pictures.

    Attributes:
        moments: by kind of feature, "features" and perhaps "spatial".
        manifold: (M, F) float32 features of some of the pictures; None when there are none.
        about: name, sha256, count, size, detector and so on, as far as known.
        has_pictures: whether the file it was read from holds pictures too.
    """

    moments: dict[str, Moments]
    manifold: Tensor | None
    about: dict[str, Any] = field(default_factory=dict)
    has_pictures: bool = False

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
    """Return whether an .npz holds statistics rather than only pictures.

    Raises:
        InputError: no such file, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return "mu.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            f"expected an .npz of statistics or pictures, got {path}: {reason}; check the path"
        ) from error


def read_reference(path: Path) -> Reference:
    """Return the statistics in an .npz of ours or of the ADM suite; `arr_0` stays unread.

    Raises:
        InputError: a damaged file, or arrays that do not fit each other.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != "arr_0"}
            has_pictures = "arr_0" in file.files
        about = json.loads(str(arrays["about"])) if "about" in arrays else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = one_line(error)
        raise InputError(f"{path} is damaged or no .npz file ({reason}); copy it again") from error
    moments = {}
    for kind, suffix in SUFFIXES.items():
        if f"mu{suffix}" in arrays:
            moments[kind] = _moments(path, suffix, arrays)
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
    return Reference(moments, kept, about, has_pictures)


def check_fits(
    reference: Reference, path: str, detector: dict[str, str], size: Size, channels: int
) -> None:
    """Raise InputError when statistics come from another detector, size or number of channels.

    A file of the ADM suite says neither; its features are those of Inception.
    """
    about = reference.about
    if about.get("channels", channels) != channels:
        raise InputError(
            f"expected a reference of pictures with {channels} channels like those to score, got "
            f"{path} with {about['channels']}; make one with --save-statistics and --channels"
        )
    if "size" in about:
        check_size(path, tuple(about["size"]), size)
    theirs = about.get("detector", {"name": "inception"})
    for key in theirs:
        if theirs[key] != detector.get(key):
            raise InputError(
                f"expected a reference made with the detector {detector['name']} ({key} "
                f"{detector.get(key)}), got {path} of {theirs['name']} ({key} {theirs[key]}); make "
                "one with --save-statistics, or choose the --detector that it was made with"
            )


def check_size(path: str, theirs: Size, ours: Size) -> None:
    """Raise InputError when a reference shows pictures of another size than those to score."""
    if theirs != ours:
        raise InputError(
            f"expected a reference of {ours[0]}x{ours[1]} like the pictures to score, got {path} "
            f"of {theirs[0]}x{theirs[1]}; make one of that size with --save-statistics, or give "
            "--size"
        )


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
