"""Latents as other programs store them, to and from stores.

`npy`: pairs `NAME_features/0.npy` (1, C, h, w) and `NAME_labels/0.npy` (1,) of fast-DiT, DiCo and
FCDM, one draw, shifted and scaled. `edm`: `dataset.json` and arrays (2C, h, w) of mean and
deviation, of EDM2 and REPA, a folder or a zip. `lightning`: safetensors shards with `latents`,
`latents_flip` and `labels` of LightningDiT. `mar`: `CLASS/NAME.npz` with `moments` and
`moments_flip` (2C, h, w), mean and logarithm of the variance, of MAR.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from convflow.arrays import read_arrays
from convflow.data.latents import Latents
from convflow.data.source import natural_key, one_line
from convflow.data.store import Contents
from convflow.storage import parse_json, write_text, writing_folder
from convflow.types import InputError

PER_SHARD = 2048
LOWEST, HIGHEST = -30.0, 20.0
"""Bounds of a logarithm of the variance, as diffusers has them."""


class Foreign(NamedTuple):
    """Latents of another program.

    Attributes:
        records: arrays (n, F, M, C, h, w), to be read once.
        labels: (N,) class ids.
        class_names: by class id; empty where nothing has a label.
        names: of the images.
        contents: of the records.
        scaled: whether they are shifted and scaled.
    """

    records: Iterable[np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]
    names: Sequence[str]
    contents: Contents
    scaled: bool = False

    def shards(self, dtype: str, scale: np.ndarray, shift: np.ndarray) -> Iterator[np.ndarray]:
        """Yield records (n, F, M, C, h, w), neither shifted nor scaled.

        Args:
            dtype: float16 or float32.
            scale: one number, or (C, 1, 1).
            shift: likewise.
        """
        for records in self.records:
            yield (records / scale + shift if self.scaled else records).astype(dtype)


def _stacked(records: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield records (F, M, C, h, w) as shards of many."""
    left = iter(records)
    while some := list(islice(left, PER_SHARD)):
        if len({record.shape for record in some}) > 1:
            raise InputError("expected latents of one size, got several; encode them by size")
        yield np.stack(some)


def read_pairs(path: Path) -> Foreign:
    """Return the latents of a folder with `NAME_features/` and `NAME_labels/`."""
    features, labels = (sorted(path.glob(f"*_{what}")) for what in ("features", "labels"))
    if len(features) != 1 or len(labels) != 1:
        raise _unlike("npy", path, "one folder NAME_features and one NAME_labels")
    files = sorted((file.name for file in features[0].glob("*.npy")), key=natural_key)

    def records() -> Iterator[np.ndarray]:
        for file in files:
            yield _load(features[0] / file)[:1, None]

    ids = np.array([int(_load(labels[0] / file).reshape(())) for file in files], np.int64)
    return Foreign(_stacked(records()), ids, _numbered(ids), files, "sample", scaled=True)


def read_edm(path: Path) -> Foreign:
    """Return the latents of a folder or zip with `dataset.json`."""

    with _explained("edm", path, "dataset.json and the arrays it names"):
        archive = None if path.is_dir() else zipfile.ZipFile(path)

        def read(name: str) -> bytes:
            return (path / name).read_bytes() if archive is None else archive.read(name)

        labels = parse_json(read("dataset.json"), f"{path}/dataset.json").get("labels") or []
        listed = sorted((str(name), int(label)) for name, label in labels)

    def records() -> Iterator[np.ndarray]:
        for name, _ in listed:
            with _explained("edm", path, f"an array (2C, h, w) in {name}"):
                array = np.load(BytesIO(read(name)), allow_pickle=False)
                yield array.reshape(1, 2, -1, *array.shape[1:])

    ids = np.array([label for _, label in listed], np.int64)
    names = [name for name, _ in listed]
    return Foreign(_stacked(records()), ids, _numbered(ids), names, "moments")


def read_lightning(path: Path) -> Foreign:
    """Return the latents of a folder of safetensors shards."""
    files = sorted(path.glob("*.safetensors"))

    def part(file: Path) -> dict[str, np.ndarray]:
        with _explained("lightning", file, "latents, latents_flip and labels"):
            found = load_file(file)
            return {name: found[name] for name in ("latents", "latents_flip", "labels")}

    def records() -> Iterator[np.ndarray]:
        for file in files:
            found = part(file)
            yield np.stack([found["latents"], found["latents_flip"]], 1)[:, :, None]

    counts = [part(file)["labels"].astype(np.int64) for file in files]
    if not counts:
        raise _unlike("lightning", path, "files .safetensors")
    ids = np.concatenate(counts)
    names = [
        f"{file.stem}/{i}" for file, own in zip(files, counts, strict=True) for i in range(len(own))
    ]
    return Foreign(records(), ids, _numbered(ids), names, "sample")


def read_mar(path: Path) -> Foreign:
    """Return the latents of a folder of class folders of .npz files."""
    files = sorted(path.glob("*/*.npz"), key=lambda file: natural_key(str(file)))
    if not files:
        raise _unlike("mar", path, "folders of classes with .npz files")
    classes = sorted({file.parent.name for file in files}, key=natural_key)

    def records() -> Iterator[np.ndarray]:
        for file in files:
            with _explained("mar", file, "moments and moments_flip (2C, h, w)"):
                found = read_arrays(file, ("moments", "moments_flip"))
                both = np.stack([found["moments"], found["moments_flip"]])
                mean, variance = np.split(both, 2, axis=1)
                deviation = np.exp(variance.clip(LOWEST, HIGHEST) / 2)
                yield np.stack([mean, deviation], 1)

    ids = np.array([classes.index(file.parent.name) for file in files], np.int64)
    names = [f"{file.parent.name}/{file.name}" for file in files]
    return Foreign(_stacked(records()), ids, tuple(classes), names, "moments")


READERS = {"npy": read_pairs, "edm": read_edm, "lightning": read_lightning, "mar": read_mar}


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
        InputError: records that the format cannot hold, or a folder that is there.
    """
    index, moments = latents.index, kind in ("edm", "mar")
    both = kind in ("lightning", "mar")
    if len(latents.sizes) > 1 or (index.arrays == 2) != moments or both > index.flipped:
        wanted = "moments" if moments else "sample or mean"
        raise InputError(
            f"expected for {kind} a store of one size, with --records.contents {wanted}"
            f"{' and --data.flip true' if both else ''}, got {latents.name}; encode again"
        )
    with writing_folder(out) as draft:
        listed: list[tuple[str, int]] = []
        for start in range(0, len(latents), PER_SHARD):
            rows = np.arange(start, min(start + PER_SHARD, len(latents)))
            views = [latents.batch(rows)[0].numpy().astype(np.float32)]
            if both:
                mirrored = np.ones(len(rows), np.bool_)
                views.append(latents.batch(rows, mirrored)[0].numpy().astype(np.float32))
            if kind == "lightning":
                first, second = (np.ascontiguousarray(view[:, 0]) for view in views)
                arrays: dict[str, np.ndarray] = {
                    "latents": first,
                    "latents_flip": second,
                    "labels": latents.labels[rows],
                }
                save_file(
                    arrays, draft / f"latents_rank00_shard{start // PER_SHARD:03d}.safetensors"
                )
                continue
            for row, record in zip(rows.tolist(), np.stack(views, 1), strict=True):
                listed.append(_WRITERS[kind](draft, latents, row, record, scale, shift))
        if kind == "edm":
            write_text(draft / "dataset.json", json.dumps({"labels": listed}))


Written = tuple[str, int]


def _write_pair(
    draft: Path,
    latents: Latents,
    row: int,
    record: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
) -> Written:
    name = f"{row}.npy"
    _save(draft / "latents_features" / name, (record[0] - shift) * scale)
    _save(draft / "latents_labels" / name, latents.labels[row : row + 1])
    return name, latents.label(row)


def _write_edm(draft: Path, latents: Latents, row: int, record: np.ndarray, *_: object) -> Written:
    name = f"{row // 1000:05d}/img-mean-std-{row:08d}.npy"
    _save(draft / name, record[0].reshape(-1, *record.shape[-2:]))
    return name, latents.label(row)


def _write_mar(draft: Path, latents: Latents, row: int, record: np.ndarray, *_: object) -> Written:
    label = latents.label(row)
    place = draft / (latents.class_names[label] if latents.class_names else "all")
    place.mkdir(exist_ok=True)
    logs = 2 * np.log(np.maximum(record[:, 1], 1e-8))
    plain, mirrored = np.concatenate([record[:, 0], logs], 1)
    np.savez(place / f"{row:08d}.npz", moments=plain, moments_flip=mirrored)
    return place.name, label


_WRITERS: dict[str, Callable[..., Written]] = {
    "npy": _write_pair,
    "edm": _write_edm,
    "mar": _write_mar,
}


def _numbered(ids: np.ndarray) -> tuple[str, ...]:
    return tuple(map(str, range(int(ids.max(initial=-1)) + 1)))


def _load(path: Path) -> np.ndarray:
    with _explained("npy", path, "an array"):
        return np.load(path, allow_pickle=False)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)


def _unlike(kind: str, path: Path, wanted: str, got: str = "none") -> InputError:
    return InputError(f"expected latents as of --format {kind} in {path} ({wanted}), got {got}")


@contextmanager
def _explained(kind: str, path: Path, wanted: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of zip, numpy or safetensors on damaged bytes
        raise _unlike(kind, path, wanted, one_line(error)[:100]) from error
