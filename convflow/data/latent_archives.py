"""Latents in Zarr, in LMDB, and in a .pt file for each image, to and from stores.

`zarr`: a group with an array (N, C, h, w) of one draw, shifted and scaled, and one (N,) of class
ids, whatever they are called; `features` and `labels` are written, as FCDM calls its pairs.
`lmdb`: a value for each image, an .npz or a pickle of `moments`, `moments_flip` (2C, h, w) and
`label`, mean and logarithm of the variance, as MAR's caches, in the natural order of their keys.
`pt`: `CLASS/NAME.pt` with `mean` and `logvar`, each (C, h, w), or (2, C, h, w) with that of the
mirrored image, as FlowDCN's cache.

What those programs call their entries was not seen: names other than these are refused.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convflow.data.foreign import (
    HIGHEST,
    LOWEST,
    PER_SHARD,
    Block,
    Foreign,
    explained,
    from_logs,
    numbered,
    stacked,
    to_logs,
    unlike,
)
from convflow.data.latents import Latents
from convflow.data.source import natural_key
from convflow.storage import read_weights
from convflow.types import InputError

LARGEST_MAP = 2**44
"""Bytes of address space for an LMDB that is written; the file takes what it needs."""


def read_zarr(path: Path) -> Foreign:
    """Return the latents of a group of arrays."""
    zarr = _package("zarr")
    wanted = "an array (N, C, h, w) of numbers and one (N,) of class ids"
    with explained("zarr", path, wanted):
        arrays = dict(zarr.open_group(str(path), mode="r").arrays())
    features = [each for each in arrays.values() if each.ndim == 4 and each.dtype.kind == "f"]
    labels = [each for each in arrays.values() if each.ndim == 1 and each.dtype.kind in "iu"]
    if len(features) != 1 or len(labels) != 1 or features[0].shape[0] != labels[0].size:
        shown = ", ".join(f"{name} {each.dtype} {each.shape}" for name, each in arrays.items())
        raise unlike("zarr", path, wanted, shown or "no arrays")
    (pixels,), ids = features, np.asarray(labels[0][:], np.int64)

    def records() -> Iterator[np.ndarray]:
        for start in range(0, len(ids), PER_SHARD):
            with explained("zarr", path, "whole chunks"):
                yield np.asarray(pixels[start : start + PER_SHARD])[:, None, None]

    names = [f"image {i}" for i in range(len(ids))]
    return Foreign(records(), ids, numbered(ids), names, "sample", scaled=True)


def write_zarr(draft: Path, latents: Latents, blocks: Iterable[Block]) -> None:
    """Write blocks of one draw, shifted and scaled, as a group of two arrays."""
    group = _package("zarr").open_group(str(draft), mode="w")
    height, width = (side // latents.index.factor for side in latents.sizes[0])
    one = (latents.index.channels, height, width)
    chunk = min(256, len(latents))
    features = group.create_array(
        "features", shape=(len(latents), *one), chunks=(chunk, *one), dtype="float32"
    )
    labels = group.create_array("labels", shape=(len(latents),), chunks=(len(latents),), dtype="i8")
    labels[:] = latents.labels
    for block in blocks:
        features[block.rows[0] : block.rows[-1] + 1] = block.records[:, 0, 0]


def read_lmdb(path: Path) -> Foreign:
    """Return the moments of an LMDB, a folder or one file."""
    lmdb = _package("lmdb")
    wanted = "for each image moments and moments_flip (2C, h, w), and a label"
    if not path.exists():  # lmdb would make it
        raise unlike("lmdb", path, wanted)

    def values(keys: Sequence[bytes] | None = None) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
        with (
            lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as opened,
            opened.begin() as transaction,
        ):
            for key in keys or (key for key, _ in filter(_is_image, transaction.cursor())):
                with explained("lmdb", path, f"{wanted} in {_name(key)}"):
                    yield key, _unpacked(transaction.get(key))

    def records() -> Iterator[np.ndarray]:
        for key, found in values(keys):
            with explained("lmdb", path, f"{wanted} in {_name(key)}"):
                both = [np.asarray(found[name]) for name in ("moments", "moments_flip")]
                yield from_logs(np.stack(both).astype(np.float32))

    with explained("lmdb", path, wanted):
        labels = {key: int(found["label"]) for key, found in values()}
    keys = sorted(labels, key=lambda key: natural_key(_name(key)))
    if not keys:
        raise unlike("lmdb", path, wanted, "no images")
    ids = np.array([labels[key] for key in keys], np.int64)
    return Foreign(stacked(records()), ids, numbered(ids), [_name(key) for key in keys], "moments")


def write_lmdb(draft: Path, latents: Latents, blocks: Iterable[Block]) -> None:
    """Write blocks of moments of both views as an LMDB of .npz values."""
    with _package("lmdb").open(str(draft), map_size=LARGEST_MAP) as opened:
        for block in blocks:
            with opened.begin(write=True) as transaction:
                for row, record, label in zip(*block, strict=True):
                    plain, mirrored = to_logs(record)
                    content = io.BytesIO()
                    np.savez(content, moments=plain, moments_flip=mirrored, label=label)
                    transaction.put(f"{row:08d}".encode(), content.getvalue())
        with opened.begin(write=True) as transaction:
            transaction.put(b"__len__", str(len(latents)).encode())
    (draft / "lock.mdb").unlink(missing_ok=True)


def read_torch(path: Path) -> Foreign:
    """Return the moments of class folders of .pt files."""
    files = sorted(path.glob("*/*.pt"), key=lambda file: natural_key(str(file)))
    wanted = "mean and logvar, (C, h, w) or (2, C, h, w)"
    if not files:
        raise unlike("pt", path, "folders of classes with .pt files")
    classes = sorted({file.parent.name for file in files}, key=natural_key)

    def records() -> Iterator[np.ndarray]:
        for file in files:
            found = read_weights(file)
            with explained("pt", file, wanted):
                mean, logs = (torch.as_tensor(found[name]).float() for name in ("mean", "logvar"))
                deviation = (logs.clamp(LOWEST, HIGHEST) / 2).exp()
                record = torch.stack([mean, deviation], -4)
                if record.ndim not in (4, 5) or (record.ndim == 5 and len(record) > 2):
                    raise unlike("pt", file, wanted, f"{tuple(mean.shape)}")
                yield record.reshape(-1, *record.shape[-4:]).numpy()

    ids = np.array([classes.index(file.parent.name) for file in files], np.int64)
    names = [f"{file.parent.name}/{file.name}" for file in files]
    return Foreign(stacked(records()), ids, tuple(classes), names, "moments")


def write_torch(draft: Path, latents: Latents, blocks: Iterable[Block]) -> None:
    """Write blocks of moments as a .pt file for each image."""
    for block in blocks:
        for row, record, label in zip(*block, strict=True):
            place = draft / (latents.class_names[label] if latents.class_names else "all")
            place.mkdir(exist_ok=True)
            mean, logs = (torch.from_numpy(each) for each in np.split(to_logs(record), 2, -3))
            torch.save({"mean": mean.clone(), "logvar": logs.clone()}, place / f"{row:08d}.pt")


def _name(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def _is_image(entry: tuple[bytes, bytes]) -> bool:
    """Return whether an entry of an LMDB is an image, and not about all of them.

    A key with a digit is that of an image, one that begins with "_" is not. What any other key
    stands for shows in its value.
    """
    key, content = entry
    if key.startswith(b"_") or any(48 <= letter < 58 for letter in key):
        return not key.startswith(b"_")
    try:
        found = _unpacked(content)
        return isinstance(found, Mapping) and "label" in found
    except InputError:
        raise
    except Exception:  # nearly any, of a pickle that is none
        return False


class _Numbers(pickle.Unpickler):
    """A pickle of arrays and plain values; whatever else it names is refused, so no code runs."""

    KNOWN = {
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    } | {("numpy", "ndarray"), ("numpy", "dtype")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise InputError(
                f"expected a pickle of numbers alone, got one that wants {module}.{name}, and was "
                "refused; write the latents as .npz values"
            )
        return getattr(importlib.import_module(module), name)


def _unpacked(content: bytes) -> Mapping[str, Any]:
    """Return the entries of a value: of an .npz, or of a pickle of arrays."""
    if content[:2] == b"PK":
        arrays: Mapping[str, Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return arrays  # each is unpacked when it is asked for
    return _Numbers(io.BytesIO(content)).load()


def _package(name: str) -> Any:
    """Return an optional package, or raise InputError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"--format {name} needs the package {name}, which is missing; pip install {name}"
        ) from error
