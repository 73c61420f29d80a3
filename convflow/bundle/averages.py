"""Averages of the weights beside the usual one: those that a run keeps, and any other afterwards.

A power-function average gives the weights after n of N images a share that grows as n^exponent. Its
width is `sigma_rel`, the standard deviation of that share over N. From a few that were stored while
a run went on, any other is a weighted sum (Karras et al. 2024, arXiv 2312.02696, section 3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from convflow.parallel.shards import DTYPE_NAMES, Shards, shard_folder
from convflow.settings.fields import NARROWEST, WIDEST
from convflow.storage import check_sums, read_json
from convflow.types import InputError

AVERAGES_FILE = "averages.safetensors"
"""The file of a checkpoint with the averages that a run keeps beside `ema`."""
SNAPSHOTS = "averages"
"""The folder of a run with snapshots of its power-function averages."""
SNAPSHOT_FILE = "snapshot.json"


def exponent_of(sigma_rel: float) -> float:
    """Return the exponent of the power-function average of a relative width.

    The width is sqrt(g + 1) / ((g + 2) sqrt(g + 3)) for the exponent g, which is the largest root
    of a cubic.

    Examples:
        >>> round(exponent_of(0.05), 2), round(exponent_of(0.1), 2)
        (16.97, 6.94)
    """
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(max(roots.real))


class Profile(NamedTuple):
    """The shares of a power-function average of the first N images: (g + 1) n^g / N^(g + 1)."""

    exponent: float
    images: int

    def product(self, other: Profile) -> float:
        """Return the integral of the product of two profiles over all images."""
        early, late = sorted((self, other), key=lambda profile: profile.images)
        scale = (early.exponent + 1) * (late.exponent + 1)
        scale /= early.exponent + late.exponent + 1
        return scale * (early.images / late.images) ** late.exponent / late.images


def combine(stored: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """Return the factors of stored averages whose sum is nearest to another, and what is left.

    Least squares over the profiles, with factors that sum to 1, so that weights keep their size.

    Returns:
        The factors, and the norm of the difference of the profiles over that of the wanted one.
    """
    count = len(stored)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = [[a.product(b) * wanted.images for b in stored] for a in stored]
    system[count, count] = 0
    aim = np.array([*(a.product(wanted) * wanted.images for a in stored), 1.0])
    factors = np.linalg.lstsq(system, aim, rcond=1e-13)[0][:count]
    own = wanted.product(wanted) * wanted.images
    rest = factors @ system[:count, :count] @ factors - 2 * factors @ aim[:count] + own
    return factors, math.sqrt(max(rest, 0) / own)


class Snapshot(NamedTuple):
    """The power-function averages of a run at one moment, on the disk."""

    folder: Path
    images: int
    sigma_rel: tuple[float, ...]
    dtype: str
    state: dict[str, Any]
    """The content of its file, with a checksum of each other file."""

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(known["bytes"] for known in self.state["files"].values())


def list_snapshots(run: Path) -> list[Snapshot]:
    """Return the complete snapshots of a run, oldest first."""
    found = []
    for path in sorted((run / SNAPSHOTS).glob(f"images_*/{SNAPSHOT_FILE}")):
        state = read_json(path)
        try:
            widths = tuple(float(width) for width in state["sigma_rel"])
            sizes = [int(known["bytes"]) for known in state["files"].values()]
            found.append(
                Snapshot(path.parent, int(state["images"]), widths, str(state["dtype"]), state)
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is damaged; remove the folder {path.parent}") from error
        if not sizes or found[-1].images < 1 or not all(0 < s <= WIDEST for s in widths):
            raise InputError(f"{path} is damaged; remove the folder {path.parent}")
    return sorted(found, key=lambda snapshot: snapshot.images)


def snapshot_folder(run: Path, images: int) -> Path:
    """Return where the snapshot after so many images lies."""
    return run / SNAPSHOTS / f"images_{images:012d}"


def file_of(sigma_rel: float) -> str:
    """Return the name of the file of one average in a snapshot."""
    return f"sigma-{sigma_rel}.safetensors"


MOST_LEFT = 0.25
"""Of a profile, in norm, that an average may lack."""


class PowerSum:
    """The weighted sum of the stored averages of a run that comes nearest to a power-function one.

    Args:
        run: a run folder with snapshots.
        sigma_rel: the width that is wanted.
        images: the moment that is wanted; None for that of the newest snapshot.

    Attributes:
        images: the moment.
        rest: what is left of the profile, see `combine`.
        shapes: tensors without numbers, by name.

    Raises:
        InputError: no snapshots, or damaged ones; a width or a moment out of range, or one that
            the snapshots do not come near to.
    """

    def __init__(self, run: Path, sigma_rel: float, images: int | None = None) -> None:
        snapshots = list_snapshots(run)
        if not snapshots:
            raise InputError(
                f"expected snapshots of averages in {run / SNAPSHOTS}, found none; train with "
                "--ema.sigma-rel 0.05,0.1 --ema.snapshots IMAGES"
            )
        check_width(sigma_rel)
        last = snapshots[-1].images
        self.images = last if images is None else images
        if not 0 < self.images <= last:
            raise InputError(
                f"--images: expected at most the {last:,} images of the newest snapshot, got "
                f"{self.images:,}; choose fewer"
            )
        pairs = [(snapshot, width) for snapshot in snapshots for width in snapshot.sigma_rel]
        profiles = [Profile(exponent_of(width), snapshot.images) for snapshot, width in pairs]
        wanted = Profile(exponent_of(sigma_rel), self.images)
        factors, self.rest = combine(profiles, wanted)
        if self.rest > MOST_LEFT:
            raise InputError(
                f"--sigma-rel: expected an average that the {len(snapshots)} snapshots of {run} "
                f"can form, got {sigma_rel:g} at {self.images:,} images, whose shares would differ "
                f"by {self.rest:.0%}; choose a width near those that are kept and a moment of a "
                "snapshot, or train with more snapshots"
            )
        for snapshot in snapshots:
            check_sums(snapshot.folder, snapshot.state, snapshot.state["files"])
        self.parts = [
            (float(factor), open_stored(snapshot.folder, file_of(width)))
            for factor, (snapshot, width) in zip(factors, pairs, strict=True)
        ]
        self.snapshots = len(snapshots)
        self.shapes = {
            name: torch.empty(tensor.shape, device="meta")
            for name, tensor in self.parts[0][1].shapes().items()
        }

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return the sums of some tensors, in float32."""
        sums = {name: torch.zeros(self.shapes[name].shape, dtype=torch.float64) for name in names}
        for factor, part in self.parts:
            for name, tensor in part.read(names).items():
                sums[name] += factor * tensor.double()
        return {name: tensor.float() for name, tensor in sums.items()}


class StoredTensors(NamedTuple):
    """Tensors on the disk: a file, or the shards for it."""

    path: Path
    shards: Shards | None

    def shapes(self) -> dict[str, Tensor]:
        """Return tensors without numbers, by name."""
        if self.shards is not None:
            return self.shards.shapes
        dtypes = {name: dtype for dtype, name in DTYPE_NAMES.items()}
        with safe_open(self.path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: torch.empty(s.get_shape(), dtype=dtypes[s.get_dtype()], device="meta")
                for name, s in slices.items()
            }

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return some of the tensors."""
        if self.shards is not None:
            return self.shards.read(names)
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}


def open_stored(folder: Path, name: str) -> StoredTensors:
    """Return the tensors of a file, or of the shards that stand for it."""
    shards = folder / shard_folder(name)
    return StoredTensors(folder / name, Shards(shards) if shards.is_dir() else None)


def check_width(sigma_rel: float) -> None:
    """Raise InputError unless a power-function average can have this relative width."""
    if not NARROWEST <= sigma_rel <= WIDEST:
        raise InputError(
            f"--sigma-rel: expected a relative width from {NARROWEST} to {WIDEST}, got "
            f"{sigma_rel}; try 0.05 to 0.2"
        )


def is_kept(weights: str) -> bool:
    """Return whether a name such as "ema-0.05" or "ema-50000" is that of an average of a run."""
    return re.fullmatch(r"ema-[\d.]+", weights) is not None


def take_kept(model: nn.Module, checkpoint: Path, weights: str) -> None:
    """Put one of the averages that a run keeps into its network.

    Args:
        model: the network, with its usual average.
        checkpoint: of the run.
        weights: the name of the average, such as "ema-0.05".

    Raises:
        InputError: the checkpoint has none of this name; the message has those there are.
    """
    stored = open_stored(checkpoint, AVERAGES_FILE)
    whole = stored.path.is_file()
    if whole and (checkpoint / "state.json").is_file():
        check_sums(checkpoint, read_json(checkpoint / "state.json"), [AVERAGES_FILE])
    known = [*stored.shapes()] if whole or stored.shards is not None else []
    names = [name for name in known if name.startswith(f"{weights}/")]
    own = {
        name.partition("/")[2]: tensor
        for name, tensor in (stored.read(names) if names else {}).items()
    }
    if not own:
        kinds = ["ema", "raw", *sorted({name.partition("/")[0] for name in known})]
        raise InputError(
            f"expected weights among {', '.join(kinds)} in {checkpoint}, got {weights}; choose one"
        )
    if others := model.load_state_dict(own, strict=False).unexpected_keys:
        raise InputError(
            f"expected weights of this network in {checkpoint / AVERAGES_FILE}, got {others[0]}; "
            "restore the file"
        )


def describe_averages(run: Path, checkpoint: Path) -> dict[str, Any]:
    """Return the names of the averages in a checkpoint, and what snapshots of them a run has."""
    described: dict[str, Any] = {}
    stored = open_stored(checkpoint, AVERAGES_FILE)
    if stored.shards is not None or stored.path.is_file():
        described["kept"] = sorted({name.partition("/")[0] for name in stored.shapes()})
    if snapshots := list_snapshots(run):
        first, last = snapshots[0], snapshots[-1]
        described |= {
            "snapshots": len(snapshots),
            "from images": first.images,
            "to images": last.images,
            "sigma_rel": list(last.sigma_rel),
            "dtype": last.dtype,
            "bytes": sum(snapshot.size for snapshot in snapshots),
        }
    return described
