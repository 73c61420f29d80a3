"""A store of latents: shards of fixed-size records in .npy files, tables of items, and an index.

A record holds an image's latents (F, M, C, h, w), or a video's (F, M, C, f, h, w), as the
autoencoder gives them, neither shifted nor scaled: F = 2 where a mirrored image follows the plain
one, M = 2 for mean and standard deviation.
`store.json` is written last: a folder without it is no store yet.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from convflow import __version__
from convflow.settings.fields import Count, Natural, Width, doc
from convflow.settings.read import read, to_dict
from convflow.storage import checksum, read_json, write_text, writing_file
from convflow.types import InputError, in_cells

INDEX = "store.json"
PLAN = "encoding.json"
"""What an unfinished store is to hold."""
STORE_FORMAT = 1
LABELS, NAMES, PLACES = "labels.npy", "names.npy", "places.npy"
"""Tables of items in the order of the data: class ids, names, and places in the shards."""
CAPTIONS, CAPTION_ENDS = "captions.npy", "caption_ends.npy"
"""All captions one after another in UTF-8, and where each ends; missing where there are none."""

Contents = Literal["moments", "mean", "sample"]
Sizes = tuple[tuple[Width, ...], ...]


@dataclass(frozen=True)
class RecordConfig:
    """What a store keeps of each image."""

    contents: Annotated[
        Contents,
        doc("moments = mean and deviation, drawn from in training; mean; sample = one draw"),
    ] = "moments"
    dtype: Annotated[Literal["float16", "float32"], doc("type of the numbers")] = "float16"
    shard: Annotated[Count, doc("images in a shard; a kill loses the running one")] = 2048


@dataclass(frozen=True)
class ShardFile:
    """A file of records, all of one size."""

    file: str
    size: Natural
    """Place of the size in `sizes`."""
    count: Count
    bytes: Count
    sha256: str


@dataclass(frozen=True)
class FeatureIndex:
    """What a store says of the features of an encoder that it holds beside the latents."""

    encoder: str
    sha256: str
    """Of the encoder's weights and code."""
    width: Width
    """Features E at each place."""
    dtype: Literal["float16", "float32"]
    grids: Sizes
    """Rows and columns for each of the sizes."""


@dataclass(frozen=True)
class StoreIndex:
    """What `store.json` says."""

    codec: dict[str, Any]
    """Settings of the codec, the autoencoder as found from the store's folder."""
    codec_sha256: str | None
    """Of the weights of the autoencoder."""
    records: RecordConfig
    arrays: Width
    """Arrays M of a record and its mirror image: 2 with a standard deviation."""
    flipped: bool
    channels: Width
    """Of model space."""
    image_channels: Width
    factor: Width
    """Pixels along a side of a cell."""
    sizes: Sizes
    """Heights and widths of the images in pixels, of videos frames before them."""
    class_names: tuple[str, ...]
    count: Count
    fingerprint: str
    """Of the items, as of `Images`."""
    images: str
    """What was encoded."""
    shards: tuple[ShardFile, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of each channel, as the autoencoder gives it."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Of the tables, and of the files of features."""
    features: FeatureIndex | None = None
    frame_factor: Width = 1
    """Frames of a cell, but for the first, which is one of its own."""
    format: Annotated[int, Meta(ge=1)] = STORE_FORMAT
    version: str = __version__

    def record(self, size: int) -> tuple[int, ...]:
        """Return the shape (F, M, C, h, w) of the records of a size, or (F, M, C, f, h, w)."""
        cells = in_cells(self.sizes[size], self.factor, self.frame_factor)
        return (1 + self.flipped, self.arrays, self.channels, *cells)

    def feature(self, size: int) -> tuple[int, ...]:
        """Return the shape (F, h, w, E) of the features of an image of a size."""
        assert self.features is not None
        return (1 + self.flipped, *self.features.grids[size], self.features.width)

    def bytes_each(self, size: int) -> int:
        """Return the bytes of an image of a size: those of its record and of its features."""
        found = math.prod(self.record(size)) * self.dtype.itemsize
        if self.features is not None:
            found += math.prod(self.feature(size)) * np.dtype(self.features.dtype).itemsize
        return found

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers, in the byte order of the files."""
        return np.dtype(self.records.dtype).newbyteorder("<")


def read_index(folder: Path) -> StoreIndex:
    """Return what a store's `store.json` says; InputError where it is damaged or of the future."""
    path = folder / INDEX
    if not path.is_file() and (folder / PLAN).is_file():
        raise InputError(
            f"expected a whole store of latents, got the unfinished {folder}; repeat the command "
            "convflow encode that began it"
        )
    tree = read_json(path)
    if isinstance(found := tree.get("format"), int) and found > STORE_FORMAT:
        raise InputError(
            f"expected a store of format {STORE_FORMAT}, got {found} in {folder}; update convflow"
        )
    try:
        return msgspec.convert(tree, StoreIndex)
    except msgspec.ValidationError as error:
        raise InputError(f"{path} is damaged ({error}); copy it again") from error


def feature_file(shard: str) -> str:
    """Return the name of the file with the features of a shard's images."""
    return shard.replace("shard-", "features-")


def write_shard(
    folder: Path,
    number: int,
    size: int,
    records: np.ndarray,
    features: np.ndarray | None = None,
) -> None:
    """Write records of one size as a shard, and beside it what is known.

    Args:
        folder: of the store.
        number: of the shard.
        size: place of the size in `sizes`.
        records: (n, F, M, C, h, w), of videos (n, F, M, C, f, h, w).
        features: (n, F, h, w, E) of an encoder; None for none.
    """
    path = folder / f"shard-{number:05d}.npy"
    files = {path.name: records} | ({} if features is None else {feature_file(path.name): features})
    for name, array in reversed(files.items()):
        with writing_file(folder / name) as draft, draft.open("wb") as file:
            np.save(file, array)
    sums, total = np.zeros((2, records.shape[3])), 0
    for part in np.array_split(records, math.ceil(len(records) / 64)):
        wide = part.astype(np.float64)
        wide = wide.reshape(*wide.shape[:4], -1)
        squares = np.einsum("nfmcp,nfmcp->c", wide, wide)
        sums += [wide[:, :, 0].sum((0, 1, 3)), squares]
        total += wide[:, :, 0, 0].size
    shard = {"file": path.name, "size": size, "count": len(records)} | checksum(path)
    sha256 = {name: checksum(folder / name)["sha256"] for name in files if name != path.name}
    known = {"shard": shard, "sums": sums.tolist(), "total": total, "sha256": sha256}
    write_text(path.with_suffix(".json"), json.dumps(known))


def is_written(folder: Path, number: int) -> bool:
    """Return whether a shard is there, whole."""
    path = folder / f"shard-{number:05d}.npy"
    try:
        known = read_json(path.with_suffix(".json"))["shard"]["bytes"]
        return path.stat().st_size == known
    except (InputError, KeyError, TypeError, OSError):
        return False


def finish_store(
    folder: Path,
    describe: Callable[..., StoreIndex],
    tables: dict[str, np.ndarray],
    num_shards: int,
) -> StoreIndex:
    """Write tables and index of a store whose shards are all there; return the index.

    Args:
        folder: with the shards 0 to `num_shards` - 1.
        describe: makes the index from shards, mean, std and sha256.
        tables: arrays by file name.
        num_shards: number of shards.
    """
    sidecars = [folder / f"shard-{number:05d}.json" for number in range(num_shards)]
    known = [read_json(path) for path in sidecars]
    shards = tuple(msgspec.convert(each["shard"], ShardFile) for each in known)
    for name, table in tables.items():
        with writing_file(folder / name) as draft, draft.open("wb") as file:
            np.save(file, table)
    hashes = {name: checksum(folder / name)["sha256"] for name in tables}
    hashes |= {name: digest for each in known for name, digest in each.get("sha256", {}).items()}
    total = sum(each["total"] for each in known)
    mean, square = np.sum([each["sums"] for each in known], axis=0) / total
    std = np.sqrt(np.maximum(square - mean**2, 0))
    index = describe(
        shards=shards, mean=tuple(mean.tolist()), std=tuple(std.tolist()), sha256=hashes
    )
    write_text(folder / INDEX, json.dumps(to_dict(index), indent=1))
    for path in (*sidecars, folder / PLAN):
        with suppress(OSError):  # of no more use, and no harm
            path.unlink()
    return index


def write_store(
    folder: Path,
    records: Iterable[np.ndarray],
    labels: np.ndarray,
    *,
    codec: dict[str, Any],
    factor: int,
    class_names: Sequence[str] = (),
    names: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    contents: Contents = "moments",
    images: str = "",
) -> StoreIndex:
    """Write latents of one size that are there already as a store; return its index.

    Args:
        folder: is made, or is empty.
        records: shards (n, F, M, C, h, w) float16 or float32, all of one shape but for n, neither
            shifted nor scaled.
        labels: (N,) class ids, N the images of all shards.
        codec: settings of the codec, with the constants.
        factor: pixels along a side of a cell.
        class_names: by class id.
        names: of the images; None to number them.
        captions: of the images; None for none.
        contents: of the records.
        images: what the latents were made of, for messages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PLAN, "{}")
    shape, number, count = tuple[int, ...](), 0, 0
    for number, shard in enumerate(records, 1):
        if shape and shard.shape[1:] != shape:
            raise InputError(f"expected latents of one size, {shape}, got {shard.shape[1:]} too")
        shape, dtype, count = shard.shape[1:], shard.dtype.name, count + len(shard)
        write_shard(folder, number - 1, 0, shard)
    if not count or count != len(labels):
        raise InputError(f"expected as many latents as labels, got {count:,} and {len(labels):,}")
    tables = {LABELS: np.asarray(labels, np.int64), PLACES: np.arange(count)}
    tables[NAMES] = encode_names([f"image {i}" for i in range(count)] if names is None else names)
    fingerprint = _fingerprint(class_names, tables)
    tables |= {} if captions is None else encode_captions(captions)
    twins, arrays, channels, height, width = shape
    describe = partial(
        StoreIndex,
        codec=codec,
        codec_sha256=None,
        records=read({"contents": contents, "dtype": dtype}, RecordConfig),
        arrays=arrays,
        flipped=twins > 1,
        channels=channels,
        image_channels=3,
        factor=factor,
        sizes=((height * factor, width * factor),),
        class_names=tuple(class_names),
        count=count,
        fingerprint=fingerprint,
        images=images,
    )
    return finish_store(folder, describe, tables, number)


def _fingerprint(class_names: Sequence[str], tables: Mapping[str, np.ndarray]) -> str:
    """Return another text for other class names, labels or names of images."""
    content = hashlib.sha256(repr(tuple(class_names)).encode())
    for table in tables.values():
        content.update(table.tobytes())
    return content.hexdigest()


def damaged_files(folder: Path, index: StoreIndex) -> Iterator[str]:
    """Yield each file of a store whose content is not what was written; reads all of them."""
    known = {shard.file: shard.sha256 for shard in index.shards} | index.sha256
    for name, digest in known.items():
        try:
            if checksum(folder / name)["sha256"] != digest:
                yield name
        except OSError:
            yield name


def encode_captions(captions: Iterable[str]) -> dict[str, np.ndarray]:
    """Return captions as two tables: bytes (T,) in UTF-8, and (N,) int64 where each ends.

    There are no tables where all captions are empty.
    """
    parts = [caption.encode("utf-8", "surrogateescape") for caption in captions]
    if not any(parts):
        return {}
    return {
        CAPTIONS: np.frombuffer(b"".join(parts), np.uint8),
        CAPTION_ENDS: np.cumsum([len(part) for part in parts], dtype=np.int64),
    }


def encode_names(names: Sequence[str]) -> np.ndarray:
    """Return names of items as an array of bytes, in UTF-8."""
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], "S")
