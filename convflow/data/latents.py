"""Latents from a store, or from many stores as one, by index: what training reads for images.

Shards are read record by record, not mapped into memory: reading is as fast, takes no memory
beside the batch, and a file that is cut short meanwhile is an error instead of a crash.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from convflow.data.store import (
    CAPTION_ENDS,
    CAPTIONS,
    INDEX,
    LABELS,
    NAMES,
    PLACES,
    PLAN,
    StoreIndex,
    damaged_files,
    feature_file,
    read_index,
)
from convflow.types import InputError, Size, in_cells, size_text

LONGEST_HEADER = 256
"""Bytes before the numbers of an .npy file of records."""


class _Shard(NamedTuple):
    path: Path
    size: int
    start: int
    """Place of its first record among all."""
    records: int
    offset: int
    """Bytes before the first record."""


class Latents:
    """The stores of latents in a folder, as a `Source` and in the place of `Images`.

    Args:
        name: what the user gave.
        folders: of the stores.

    Attributes:
        index: of the first store; the others have the same codec, records and classes.
        sizes: heights and widths in pixels, of all stores.
        labels: (N,) int64 class ids.
        size: height and width in pixels where no other is asked for; may be set.
        with_features: whether batches of a training come with `features`; may be set.
        caption: index to what is said of the image; None where no store has captions.

    Raises:
        InputError: a store that is unfinished, damaged, cut short, or unlike the others.
    """

    def __init__(self, name: str, folders: Sequence[Path]) -> None:
        self.name, self.folders = name, folders
        indices = [read_index(folder) for folder in folders]
        self.index = indices[0]
        for folder, index in zip(folders, indices, strict=True):
            _require_alike(self.index, index, folders[0], folder)
        self.class_names = self.index.class_names
        self.sizes: tuple[Size, ...] = tuple(
            dict.fromkeys(size for index in indices for size in index.sizes)
        )
        self.size, self.with_features = self.sizes[0], False
        self._grids = {
            size: grid
            for index in indices
            if index.features is not None
            for size, grid in zip(index.sizes, index.features.grids, strict=True)
        }
        self._shards: list[_Shard] = []
        labels, places, self._names, self._bounds = [], [], [], [0]
        self._captions: list[tuple[np.ndarray, np.ndarray] | None] = []
        for folder, index in zip(folders, indices, strict=True):
            begin = sum(shard.records for shard in self._shards)
            self._add_shards(folder, index, begin)
            labels.append(_table(folder, LABELS, index.count))
            places.append(_table(folder, PLACES, index.count) + begin)
            self._names.append(_table(folder, NAMES, index.count))
            self._captions.append(_caption_tables(folder, index))
            self._bounds.append(self._bounds[-1] + index.count)
        self.labels, self._places = (np.concatenate(x).astype(np.int64) for x in (labels, places))
        total = sum(shard.records for shard in self._shards)
        for found, limit, what in (
            (self._places, total, PLACES),
            (self.labels, max(1, len(self.class_names)), LABELS),
        ):
            if found.min(initial=0) < 0 or found.max(initial=0) >= limit:
                raise InputError(f"{what} in {name} is damaged; copy the store again")
        self._starts = np.array([shard.start for shard in self._shards])
        known = [index.fingerprint for index in indices]
        self.fingerprint = (
            known[0] if len(known) == 1 else hashlib.sha256(repr(known).encode()).hexdigest()
        )
        self.source, self.stamp, self.replaced = self, None, dict[int, int]()
        self.caption = self._caption if any(self._captions) else None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images in pixels, of videos frames between them."""
        return (self.index.image_channels, *self.size)

    @property
    def videos(self) -> bool:
        """Whether they are of videos."""
        return len(self.sizes[0]) == 3

    @property
    def indices(self) -> np.ndarray:
        """(N,) all of them."""
        return np.arange(len(self))

    @property
    def sides(self) -> np.ndarray:
        """(N, 2) height and width of each image in pixels."""
        of_shards = np.array([self.sizes[shard.size][-2:] for shard in self._shards])
        return of_shards[self._shards_of(self._places)]

    def label(self, index: int) -> int:
        """Class of the image, in [0, len(class_names)); 0 for unconditional data."""
        return int(self.labels[index])

    def item_name(self, index: int) -> str:
        """What the image was called, for messages."""
        store, row = self._row(index)
        return bytes(self._names[store][row]).decode("utf-8", "surrogateescape")

    def _caption(self, index: int) -> str:
        store, row = self._row(index)
        if (tables := self._captions[store]) is None:
            return ""
        text, ends = tables
        start = int(ends[row - 1]) if row else 0
        return text[start : int(ends[row])].tobytes().decode("utf-8", "surrogateescape")

    def _row(self, index: int) -> tuple[int, int]:
        """The number of the store with an image, and its row there."""
        store = int(np.searchsorted(self._bounds, index, side="right")) - 1
        return store, index - self._bounds[store]

    def read(self, index: int) -> NoReturn:
        """Raise InputError: there are no images here."""
        raise InputError(
            f"expected images, got the store of latents {self.name}; give the images themselves "
            f"({self.index.images})"
        )

    def batch(
        self,
        indices: np.ndarray,
        flips: np.ndarray | None = None,
        crops: np.ndarray | None = None,
        size: Size | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return latents (B, M, C, h, w) as stored, (B, M, C, f, h, w) of videos, and labels (B,).

        Args:
            indices: (B,) places in [0, N), of one size.
            flips: (B,) bool, which to take mirrored.
            crops: none; a store holds what was cut.
            size: height and width of all of them in pixels; None for the plain size.

        Raises:
            InputError: a file that is gone, cut short or unreadable.
        """
        cells = in_cells(size or self.size, self.index.factor, self.index.frame_factor)
        one = (self.index.arrays, self.index.channels, *cells)
        out = np.empty((len(indices), *one), self.index.dtype)
        self._fill(out, indices, flips, size or self.size)
        return torch.from_numpy(out), torch.from_numpy(self.labels[indices])

    def features(
        self, indices: np.ndarray, flips: np.ndarray | None = None, size: Size | None = None
    ) -> Tensor | None:
        """Return features (B, h, w, E) of images, as the store's encoder saw them, where wanted.

        Args:
            indices: as of `batch`.
            flips: likewise.
            size: likewise.

        Raises:
            InputError: as `batch`.
        """
        size, known = size or self.size, self.index.features
        if not self.with_features or known is None:
            return None
        dtype = np.dtype(known.dtype).newbyteorder("<")
        out = np.empty((len(indices), *self._grids[size], known.width), dtype)
        self._fill(out, indices, flips, size, of_encoder=True)
        return torch.from_numpy(out)

    def _fill(
        self,
        out: np.ndarray,
        indices: np.ndarray,
        flips: np.ndarray | None,
        size: Size,
        of_encoder: bool = False,
    ) -> None:
        """Read the records of images, or their features, into rows of `out`."""
        places = self._places[np.asarray(indices, np.int64)]
        shards = self._shards_of(places)
        if any(self.sizes[self._shards[shard].size] != size for shard in set(shards)):
            raise InputError(f"expected latents of {size} alone, got others too")
        bytes_each, twins = math.prod(out.shape[1:]) * out.itemsize, 1 + self.index.flipped
        rows = out.reshape(len(out), math.prod(out.shape[1:])).view(np.uint8)
        mirrored = np.zeros(len(out), np.int64) if flips is None else np.asarray(flips, np.int64)
        if mirrored.any() and not self.index.flipped:
            raise InputError(f"expected a store with mirrored images, got {self.name} without")
        for number_of_shard in np.unique(shards):
            shard = self._shards[number_of_shard]
            path, offset = shard.path, shard.offset
            mine = np.flatnonzero(shards == number_of_shard)
            at = (places[mine] - shard.start) * twins + mirrored[mine]
            try:
                if of_encoder:
                    path = path.with_name(feature_file(path.name))
                    offset = _offset(path, shard.records * twins * bytes_each)
                with path.open("rb", buffering=0) as file:
                    for row, place in zip(mine.tolist(), at.tolist(), strict=True):
                        file.seek(offset + place * bytes_each)
                        if file.readinto(rows[row].data) != bytes_each:
                            raise OSError("it is cut short")
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise InputError(f"{path} cannot be read ({reason}); copy it again") from error

    def _add_shards(self, folder: Path, index: StoreIndex, begin: int) -> None:
        for shard in index.shards:
            path = folder / shard.file
            if Path(shard.file).name != shard.file or shard.size >= len(index.sizes):
                raise InputError(f"{folder / INDEX} is damaged; copy it again")
            found = path.stat().st_size if path.is_file() else None
            if found != shard.bytes:
                got = "no such file" if found is None else f"{found:,}"
                raise InputError(
                    f"expected {shard.bytes:,} bytes in {path}, got {got}; copy the store again"
                )
            size = self.sizes.index(index.sizes[shard.size])
            numbers = shard.count * math.prod(index.record(shard.size))
            offset = shard.bytes - numbers * index.dtype.itemsize
            if not 0 < offset <= LONGEST_HEADER:
                raise InputError(f"{folder / INDEX} is damaged; copy it again")
            self._shards.append(_Shard(path, size, begin, shard.count, offset))
            begin += shard.count

    def _shards_of(self, places: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, places, side="right") - 1


def _offset(path: Path, size: int) -> int:
    """Return where the numbers of an .npy file of so many bytes of them begin, or raise OSError."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        begin = file.tell()
    if path.stat().st_size != begin + size:
        raise OSError("it is cut short")
    return begin


def find_stores(folder: Path) -> list[Path]:
    """Return the stores of latents in a folder: itself, or those right below it; none of images."""
    if not folder.is_dir():
        return []
    if any((folder / name).is_file() for name in (INDEX, PLAN)):
        return [folder]
    with os.scandir(folder) as entries:
        if any(entry.name[0] != "." and not entry.is_dir() for entry in entries):
            return []  # of images, maybe of a million
    return sorted(path.parent for path in folder.glob(f"*/{INDEX}"))


def _require_alike(first: StoreIndex, other: StoreIndex, folder: Path, place: Path) -> None:
    for what in (
        *("codec", "codec_sha256", "records", "flipped", "channels", "image_channels", "factor"),
        *("frame_factor", "class_names", "features"),
    ):
        ours, theirs = (getattr(index, what) for index in (first, other))
        if what == "codec":
            ours, theirs = ({**known, "autoencoder": ""} for known in (ours, theirs))
        elif what == "features" and ours and theirs:  # grids are those of the sizes
            ours, theirs = ((f.sha256, f.width, f.dtype) for f in (ours, theirs))
        elif what == "records":
            ours, theirs = ((known.contents, known.dtype) for known in (ours, theirs))
        if ours != theirs:
            raise InputError(
                f"expected stores of one kind, got another {what.replace('_', ' ')} in {place} "
                f"than in {folder}; train from one of them, or encode one again"
            )


def _caption_tables(folder: Path, index: StoreIndex) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the bytes of all captions and where each ends; None where a store has none."""
    if CAPTIONS not in index.sha256:
        return None
    ends = _table(folder, CAPTION_ENDS, index.count)
    return _table(folder, CAPTIONS, int(ends[-1])), ends


def _table(folder: Path, name: str, count: int) -> np.ndarray:
    """Return a table of a store, which stays on disk."""
    path = folder / name
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is damaged or missing; copy the store again") from error
    if table.shape != (count,) or (table.dtype.kind != "S") == (name == NAMES):
        raise InputError(f"{path}: expected {count:,} items, got {table.shape}; copy it again")
    return table


def describe_stores(folder: Path, stores: list[Path]) -> dict[str, Any]:
    """Return what stores of latents hold, all of whose bytes are checked."""
    latents = Latents(str(folder), stores)
    index, records = latents.index, latents.index.records
    whole = [(place, read_index(place)) for place in stores]
    damaged = [str(place / name) for place, known in whole for name in damaged_files(place, known)]
    rounded = {name: [round(x, 4) for x in getattr(index, name)] for name in ("mean", "std")}
    return {
        "store": str(folder),
        "stores": len(stores),
        "images": len(latents),
        "from": list(dict.fromkeys(known.images for _, known in whole)),
        "sizes": [size_text(size) for size in latents.sizes],
        "latents": f"{records.contents} in {records.dtype}, {index.channels} channels of "
        f"{index.factor}x{index.factor} pixels" + (", mirrored too" if index.flipped else ""),
        "bytes": sum(shard.bytes for _, known in whole for shard in known.shards),
        "shards": sum(len(known.shards) for _, known in whole),
        "classes": list(index.class_names),
        **_shown_features(index),
        **_shown_captions(latents),
        "codec": index.codec | {"sha256": index.codec_sha256},
        "channels": rounded,
        **({"problem": f"damaged: {', '.join(damaged)}"} if damaged else {}),
    }


def _shown_features(index: StoreIndex) -> dict[str, Any]:
    """Return what features are beside the latents, nothing where there are none."""
    if (found := index.features) is None:
        return {}
    grids = ", ".join(f"{rows}x{columns}" for rows, columns in found.grids)
    said = f"{found.width} of {found.encoder} at {grids} places in {found.dtype}"
    return {"features": said}


def _shown_captions(latents: Latents) -> dict[str, Any]:
    """Return a few captions, none where there are none."""
    if latents.caption is None:
        return {}
    some = np.unique(np.linspace(0, len(latents) - 1, 3).round().astype(np.int64)).tolist()
    texts = [" ".join(latents.caption(i).split()) for i in some]
    named = zip(map(latents.item_name, some), texts, strict=True)
    return {"captions": [f"{name}: {text[:200]}" for name, text in named]}
