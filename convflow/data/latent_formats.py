"""Latents as other programs store them, to and from stores.

`npy`: pairs `NAME_features/0.npy` (1, C, h, w) and `NAME_labels/0.npy` (1,) of fast-DiT, DiCo and
FCDM, one draw, shifted and scaled. `edm`: `dataset.json` and arrays (2C, h, w) of mean and
deviation, of EDM2 and REPA, a folder or a zip. `lightning`: safetensors shards with `latents`,
`latents_flip` and `labels` of LightningDiT. `mar`: `CLASS/NAME.npz` with `moments` and
`moments_flip` (2C, h, w), mean and logarithm of the variance, of MAR. `zarr`, `lmdb` and `pt`: see
`convflow.data.latent_archives`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from convflow.arrays import read_arrays
from convflow.data.foreign import (
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
from convflow.data.latent_archives import (
    read_lmdb,
    read_torch,
    read_zarr,
    write_lmdb,
    write_torch,
    write_zarr,
)
from convflow.data.latents import Latents
from convflow.data.source import natural_key
from convflow.storage import parse_json, write_text, writing_folder
from convflow.types import InputError


def read_pairs(path: Path) -> Foreign:
    """Return the latents of a folder with `NAME_features/` and `NAME_labels/`."""
    features, labels = (sorted(path.glob(f"*_{what}")) for what in ("features", "labels"))
    if len(features) != 1 or len(labels) != 1:
        raise unlike("npy", path, "one folder NAME_features and one NAME_labels")
    files = sorted((file.name for file in features[0].glob("*.npy")), key=natural_key)

    def records() -> Iterator[np.ndarray]:
        for file in files:
            yield _load(features[0] / file)[:1, None]

    ids = np.array([int(_load(labels[0] / file).reshape(())) for file in files], np.int64)
    return Foreign(stacked(records()), ids, numbered(ids), files, "sample", scaled=True)


def read_edm(path: Path) -> Foreign:
    """Return the latents of a folder or zip with `dataset.json`."""

    with explained("edm", path, "dataset.json and the arrays it names"):
        archive = None if path.is_dir() else zipfile.ZipFile(path)

        def read(name: str) -> bytes:
            return (path / name).read_bytes() if archive is None else archive.read(name)

        labels = parse_json(read("dataset.json"), f"{path}/dataset.json").get("labels") or []
        listed = sorted((str(name), int(label)) for name, label in labels)

    def records() -> Iterator[np.ndarray]:
        for name, _ in listed:
            with explained("edm", path, f"an array (2C, h, w) in {name}"):
                array = np.load(BytesIO(read(name)), allow_pickle=False)
                yield array.reshape(1, 2, -1, *array.shape[1:])

    ids = np.array([label for _, label in listed], np.int64)
    names = [name for name, _ in listed]
    return Foreign(stacked(records()), ids, numbered(ids), names, "moments")


def read_lightning(path: Path) -> Foreign:
    """Return the latents of a folder of safetensors shards."""
    files = sorted(path.glob("*.safetensors"))

    def part(file: Path) -> dict[str, np.ndarray]:
        with explained("lightning", file, "latents, latents_flip and labels"):
            found = load_file(file)
            return {name: found[name] for name in ("latents", "latents_flip", "labels")}

    def records() -> Iterator[np.ndarray]:
        for file in files:
            found = part(file)
            yield np.stack([found["latents"], found["latents_flip"]], 1)[:, :, None]

    counts = [part(file)["labels"].astype(np.int64) for file in files]
    if not counts:
        raise unlike("lightning", path, "files .safetensors")
    ids = np.concatenate(counts)
    names = [
        f"{file.stem}/{i}" for file, own in zip(files, counts, strict=True) for i in range(len(own))
    ]
    return Foreign(records(), ids, numbered(ids), names, "sample")


def read_mar(path: Path) -> Foreign:
    """Return the latents of a folder of class folders of .npz files."""
    files = sorted(path.glob("*/*.npz"), key=lambda file: natural_key(str(file)))
    if not files:
        raise unlike("mar", path, "folders of classes with .npz files")
    classes = sorted({file.parent.name for file in files}, key=natural_key)

    def records() -> Iterator[np.ndarray]:
        for file in files:
            with explained("mar", file, "moments and moments_flip (2C, h, w)"):
                found = read_arrays(file, ("moments", "moments_flip"))
                yield from_logs(np.stack([found["moments"], found["moments_flip"]]))

    ids = np.array([classes.index(file.parent.name) for file in files], np.int64)
    names = [f"{file.parent.name}/{file.name}" for file in files]
    return Foreign(stacked(records()), ids, tuple(classes), names, "moments")


READERS: dict[str, Callable[[Path], Foreign]] = {
    "npy": read_pairs,
    "edm": read_edm,
    "lightning": read_lightning,
    "mar": read_mar,
    "zarr": read_zarr,
    "lmdb": read_lmdb,
    "pt": read_torch,
}
MOMENTS, MIRRORED = ("edm", "mar", "lmdb", "pt"), ("lightning", "mar", "lmdb")
"""Formats of mean and deviation, the others of one draw; and formats with mirrored images."""


def export_latents(
    latents: Latents, kind: str, out: Path, scale: np.ndarray, shift: np.ndarray
) -> None:
    """Write a store as another program stores latents: whole, or not at all.

    Args:
        latents: of one size.
        kind: of `READERS`.
        out: a folder that is not there yet.
        scale: one number, or (C, 1, 1), of the latents that are stored scaled.
        shift: likewise.

    Raises:
        InputError: records that the format cannot hold, a folder that is there, or no package for
            the format.
    """
    index, moments, both = latents.index, kind in MOMENTS, kind in MIRRORED
    if len(latents.sizes) > 1 or (index.arrays == 2) != moments or both > index.flipped:
        wanted = "moments" if moments else "sample or mean"
        raise InputError(
            f"expected for {kind} a store of one size, with --records.contents {wanted}"
            f"{' and --data.flip true' if both else ''}, got {latents.name}; encode again"
        )
    blocks = _blocks(latents, both or (kind == "pt" and index.flipped))
    if not moments and kind != "lightning":
        blocks = (b._replace(records=(b.records - shift) * scale) for b in blocks)
    with writing_folder(out) as draft:
        _WRITERS[kind](draft, latents, blocks)


def _blocks(latents: Latents, both: bool) -> Iterator[Block]:
    for start in range(0, len(latents), PER_SHARD):
        rows = np.arange(start, min(start + PER_SHARD, len(latents)))
        views = [np.zeros(len(rows), np.bool_), np.ones(len(rows), np.bool_)][: 1 + both]
        records = [latents.batch(rows, view)[0].numpy().astype(np.float32) for view in views]
        yield Block(rows, np.stack(records, 1), latents.labels[rows])


def _write_pairs(draft: Path, _: Latents, blocks: Iterable[Block]) -> None:
    for block in blocks:
        for row, record, label in zip(*block, strict=True):
            _save(draft / f"latents_features/{row}.npy", record[0])
            _save(draft / f"latents_labels/{row}.npy", label[None])


def _write_edm(draft: Path, _: Latents, blocks: Iterable[Block]) -> None:
    listed: list[tuple[str, int]] = []
    for block in blocks:
        for row, record, label in zip(*block, strict=True):
            name = f"{row // 1000:05d}/img-mean-std-{row:08d}.npy"
            _save(draft / name, record[0].reshape(-1, *record.shape[-2:]))
            listed.append((name, int(label)))
    write_text(draft / "dataset.json", json.dumps({"labels": listed}))


def _write_lightning(draft: Path, _: Latents, blocks: Iterable[Block]) -> None:
    for number, block in enumerate(blocks):
        first, second = (np.ascontiguousarray(block.records[:, view, 0]) for view in (0, 1))
        arrays = {"latents": first, "latents_flip": second, "labels": block.labels}
        save_file(arrays, draft / f"latents_rank00_shard{number:03d}.safetensors")


def _write_mar(draft: Path, latents: Latents, blocks: Iterable[Block]) -> None:
    for block in blocks:
        for row, record, label in zip(*block, strict=True):
            place = draft / (latents.class_names[label] if latents.class_names else "all")
            place.mkdir(exist_ok=True)
            plain, mirrored = to_logs(record)
            np.savez(place / f"{row:08d}.npz", moments=plain, moments_flip=mirrored)


_WRITERS: dict[str, Callable[[Path, Latents, Iterable[Block]], None]] = {
    "npy": _write_pairs,
    "edm": _write_edm,
    "lightning": _write_lightning,
    "mar": _write_mar,
    "zarr": write_zarr,
    "lmdb": write_lmdb,
    "pt": write_torch,
}


def _load(path: Path) -> np.ndarray:
    with explained("npy", path, "an array"):
        return np.load(path, allow_pickle=False)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)
