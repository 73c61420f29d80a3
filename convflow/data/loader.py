"""Batches of images or videos in an order that depends on the seed and the images seen alone."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convflow.data.clips import StoredClips, starts_anywhere
from convflow.data.files import one_large_at_a_time
from convflow.data.images import num_cores
from convflow.data.latents import Latents
from convflow.data.pieces import WHOLE, Crop, as_uint8, cut, kept
from convflow.data.source import Source, StoredSource, SyntheticSource, labels_of
from convflow.data.transfer import Transfer
from convflow.seeds import WORD, long_sequence
from convflow.types import InputError, Size

log = logging.getLogger("convflow")

_ENTRY_BYTES = 400  # what keeping an image takes beside its pixels
_HASHED = 4096
PLACE_KEYS, GROUPS_KEY = (2, 3, 6, 8), 7
"""Of the random numbers of an epoch: where images are cut, and groups; buckets have 4 and 5."""
_MOST_BAD = 100  # bad images in a row that are passed over; more is a disk that is not there


class Rows(NamedTuple):
    """Which images make up a global batch, and how they are turned and cut."""

    indices: np.ndarray
    """(B,) int64."""
    flips: np.ndarray
    """(B,) bool, which to mirror."""
    crops: np.ndarray | None = None
    """(B, 4) where to cut along both axes, how large, and where along time, in [0, 1); None for the
    middle."""
    size: Size | None = None
    """In pixels; None for the plain size."""
    full: int | None = None
    """Images of a full batch of this size; None for as many as there are."""

    def take(self, share: slice) -> Rows:
        """Return some of the rows."""
        crops = None if self.crops is None else self.crops[share]
        return Rows(self.indices[share], self.flips[share], crops, self.size, self.full)


class Batch(NamedTuple):
    """One process's share of a global batch."""

    pixels: Tensor
    """(B, C, H, W) uint8, or (B, C, F, H, W) of videos; floats of a store of latents."""
    labels: Tensor
    """(B,) int64."""
    indices: np.ndarray
    """(B,) int64."""
    total: int
    """Images of all processes together."""
    full: int
    """Images of a full batch of this size, all processes together; at least `total`."""
    there: Tensor | None = None
    """`pixels` on the device of the training, where that is another."""
    features: Tensor | None = None
    """(B, h, w, E) of a store with features, where they are wanted."""


class Images:
    """Images or videos by index, with their labels.

    They are decoded by several threads when they are asked for. Where all of them fit into
    `cache_bytes` they are kept as uint8 of the size that was wanted. In the place of one that has
    become unreadable stands the next by index that can be read, with its label, if `on_bad` is
    `skip`: which one depends on the files alone.

    Args:
        source: Where the images come from.
        indices: (N,) those of the source's images to use; their places here become 0..N-1.
        channels: Channels C of the result.
        size: Height and width H, W in pixels, where no other is asked for; of videos frames F
            before them.
        crop: Of random crops, for which what they need beside the middle is kept.
        cache_bytes: Memory that decoded images may take.
        on_bad: `stop` raises where an image cannot be read; `skip` puts another in its place.
        stamp: Of the files, as in `Report`.
        workers: Threads that decode; None for one on each core.

    Attributes:
        class_names: Names by class id; empty for unconditional data.
        labels: (N,) int64 class ids.
        source, indices: As given.
        shape: (C, H, W) or (C, F, H, W).
        stamp: Changes when the files may have; None where nothing tells.
        replaced: Places of unreadable images met so far, and of those that stand for them.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        *,
        channels: int,
        size: Size,
        crop: Crop = None,
        cache_bytes: int = 2**30,
        on_bad: Literal["stop", "skip"] = "stop",
        stamp: str | None = None,
        workers: int | None = None,
    ) -> None:
        self.class_names = source.class_names
        self.size, self.shape = size, (channels, *size)
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.labels = labels_of(source)[self.indices]
        self._crop, self._on_bad = crop, on_bad
        self.stamp, self.replaced = stamp, dict[int, int]()
        self._one_at_a_time = Lock()
        self._kept: dict[tuple[int, Size], _Found] = {}
        self._scaled = crop is not None and crop != WHOLE
        each = math.prod(self.shape) / (min(crop) if crop else 1) ** 2 + _ENTRY_BYTES
        self._free_bytes = cache_bytes if each * len(self.indices) <= cache_bytes else 0
        self.workers = workers or num_cores()
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of class names, item names and labels in their order: what a run depends on."""
        hashed = hashlib.sha256(f"({tuple(self.class_names)!r}, [".encode())
        for start in range(0, len(self), _HASHED):  # part by part, as text of all is large
            part = slice(start, start + _HASHED)
            names = map(self.source.item_name, self.indices[part].tolist())
            items = list(zip(names, self.labels[part].tolist(), strict=True))
            hashed.update(f"{', ' if start else ''}{repr(items)[1:-1]}".encode())
        hashed.update(b"])")
        return hashed.hexdigest()

    def item_name(self, index: int) -> str:
        """File name or table row of an image, for messages."""
        return self.source.item_name(int(self.indices[index]))

    def features(self, *of_batch: Any, **more: Any) -> Tensor | None:
        """Return no features of an encoder: objectives make theirs of the images."""
        return None

    def batch(
        self,
        indices: np.ndarray,
        flips: np.ndarray | None = None,
        crops: np.ndarray | None = None,
        size: Size | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pixels and labels of some images; safe to call from several threads.

        Args:
            indices: (B,) places in [0, N).
            flips: (B,) bool, which to mirror left to right; None for none.
            crops: (B, 4) as of `Rows`; None for the middle.
            size: In pixels; None for the plain size.

        Returns:
            Pixels (B, C, H, W) or (B, C, F, H, W) uint8 and labels (B,) int64, both contiguous.

        Raises:
            InputError: An image cannot be read; the message names it.
        """
        indices, size = np.asarray(indices, np.int64), size or self.size
        timed = starts_anywhere(self.source)
        starts = crops[:, 3].tolist() if timed and crops is not None else [None] * len(indices)
        wanted = list(zip(indices.tolist(), starts, strict=True))
        missing = [each for each in dict.fromkeys(wanted) if (each[0], size) not in self._kept]
        decoded = {each: found for part in self._decode(missing, size) for each, found in part}
        pixels = np.empty((len(indices), *size, self.shape[0]), np.uint8)
        shown = np.empty(len(indices), np.int64)
        for row, each in enumerate(wanted):
            found = self._kept.get((each[0], size)) or decoded[each]
            place = None if crops is None else crops[row].tolist()
            pixels[row] = cut(found.image, size, self._crop, place)
            shown[row] = found.place
        for (index, _), (image, place) in decoded.items():
            if timed:  # the next time it begins elsewhere
                break
            middle = image if self._crop is not None else cut(image, size, None, None)
            middle = np.ascontiguousarray(middle)
            with self._one_at_a_time:
                if middle.nbytes + _ENTRY_BYTES <= self._free_bytes:
                    self._free_bytes -= middle.nbytes + _ENTRY_BYTES
                    self._kept[index, size] = _Found(middle, place)
        if flips is not None and np.any(flips):
            pixels[flips] = pixels[flips][..., ::-1, :]
        planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
        return torch.from_numpy(planes), torch.from_numpy(self.labels[shown])

    def _decode(self, wanted: Sequence[_Wanted], size: Size) -> Iterator[list[_Decoded]]:
        """Some images, each covering `size`, in parts made side by side."""

        def decode(part: Sequence[_Wanted]) -> list[_Decoded]:
            return [(each, self._find(*each, size)) for each in part]

        parts = [wanted[i :: self.workers] for i in range(min(self.workers, len(wanted)))]
        return self._pool.map(decode, parts)

    def _find(self, index: int, start: float | None, size: Size) -> _Found:
        """The image of an index, or where it cannot be read the next one that can."""
        failed: InputError | None = None
        for step in range(min(len(self), _MOST_BAD)):
            place = (index + step) % len(self)
            try:
                found = _Found(self._image(place, start, size), place)
            except InputError as error:
                failed = failed or error
                if self._on_bad == "stop":
                    raise InputError(f"{error}; repair it or pass --data.on-bad skip") from error
                continue
            if failed is not None:
                self._note_replaced(index, place, failed)
            return found
        raise InputError(
            f"{failed}, and nothing better of those after it; is the disk still there?"
        )

    def _note_replaced(self, index: int, place: int, failed: InputError) -> None:
        with self._one_at_a_time:
            if index not in self.replaced:
                log.warning(f"{failed}; {self.item_name(place)} is shown in its place")
            self.replaced[index] = place

    def _image(self, index: int, start: float | None, size: Size) -> np.ndarray:
        place, source = int(self.indices[index]), self.source
        least = min(self._crop) if self._scaled and self._crop is not None else 1.0
        *frames, high, wide = (*size[:-2], *(math.ceil(side / least) for side in size[-2:]))
        with one_large_at_a_time():
            try:
                item: Any
                if isinstance(source, SyntheticSource):
                    item = source.draw(place, (*frames, high, wide))
                elif isinstance(source, StoredClips):
                    item = source.read(place, start=start)
                elif isinstance(source, StoredSource):
                    item = source.read(place, max(high, wide))
                else:
                    item = source.read(place)
                return kept(as_uint8(item, self.shape[0], size), size, self._crop)
            except InputError as error:
                name = source.item_name(place)
                raise InputError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error


class _Found(NamedTuple):
    """An image that covers its size, and the index it has."""

    image: np.ndarray
    place: int


_Wanted = tuple[int, float | None]  # an image, and where a clip begins
_Decoded = tuple[_Wanted, _Found]


class Order:
    """The data order as a pure function of the seed and the images seen.

    Position p belongs to epoch p // count; every epoch shows every image once, in a fresh
    order. Sorting raw PCG64 words gives that order, since NumPy promises that those words never
    change between its versions, and promises no such thing for `permutation`.

    Args:
        count: Number of images N, at least 1.
        seed: Any integer >= 0.
        flip: Mirror a random half.
        crop: Cut images at random places instead of from the middle, of random size.

    Examples:
        >>> indices, flips = Order(count=3, seed=0, flip=False).at(start=0, n=6)
        >>> sorted(indices[:3].tolist()), sorted(indices[3:].tolist()), flips.any()
        ([0, 1, 2], [0, 1, 2], np.False_)
    """

    def __init__(self, count: int, seed: int, flip: bool, crop: bool = False) -> None:
        if count < 1 or seed < 0:
            raise InputError(f"expected count >= 1 and seed >= 0, got {count} and {seed}")
        self.count, self.seed, self.flip, self.crop = count, seed, flip, crop
        self._epoch = lru_cache(maxsize=2)(self._draw)
        self._places = lru_cache(maxsize=2)(self._draw_places)

    @property
    def fingerprint(self) -> str:
        """Changes with what the order knows of the images beside their number."""
        return ""

    def at(self, start: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices (n,) int64 and flips (n,) bool of the positions start..start+n-1."""
        rows = self.rows(start, n)
        return rows.indices, rows.flips

    def rows(self, start: int, batch_size: int) -> Rows:
        """The batch that begins at position `start`, where an earlier one ended."""
        epochs, places = np.divmod(np.arange(start, start + batch_size), self.count)
        parts = []
        for epoch in np.unique(epochs):
            order, mirrored = self._epoch(int(epoch))
            here = places[epochs == epoch]
            cuts = self._places(int(epoch))[here] if self.crop else None
            parts.append(Rows(order[here], mirrored[here], cuts))
        if not parts:
            return Rows(np.empty(0, np.int64), np.empty(0, np.bool_))
        indices, flips, crops, *_ = zip(*parts, strict=True)
        return Rows(
            np.concatenate(indices),
            np.concatenate(flips),
            np.concatenate(crops) if self.crop else None,
        )

    def largest(self, batch_size: int) -> int:
        """The most images in a batch."""
        return batch_size

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Images in order, and which of them are mirrored."""
        order = np.argsort(self._words(epoch), kind="stable")
        if not self.flip:
            return order, np.zeros(self.count, np.bool_)
        return order, (self._words(epoch, 1) >> np.uint64(63)).astype(np.bool_)

    def _draw_places(self, epoch: int) -> np.ndarray:
        """(N, 4) where images are cut, how large, and where along time, in order."""
        return np.stack([uniform(self._words(epoch, key)) for key in PLACE_KEYS], axis=1)

    def _words(self, *key: int) -> np.ndarray:
        numbers = (self.seed, *key)
        long = any(number >= WORD for number in numbers)
        state = long_sequence(*numbers) if long else np.random.SeedSequence(numbers)
        return np.random.PCG64(state).random_raw(self.count)


def uniform(words: np.ndarray) -> np.ndarray:
    """Raw 64-bit words as float64 in [0, 1)."""
    return (words >> np.uint64(11)) * 2.0**-53


def batches(
    images: Images | Latents,
    order: Order,
    start: int,
    batch_size: int,
    *,
    share: slice = slice(None),
    prefetch: int = 2,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Batches for ever, the next ones prepared by threads while this one is used.

    Args:
        images: The images.
        order: Their order.
        start: Images seen so far, by all processes together.
        batch_size: Images per step of all processes together, of the plain size.
        share: The rows of every global batch that this process takes.
        prefetch: Batches kept ready.
        device: Where pixels are wanted too; None for the CPU alone.

    Yields:
        The share of this process of one batch after the other. An error while one is prepared is
        raised here. Closing the iterator ends the thread.
    """
    transfer = Transfer(device)

    def load(whole: Rows) -> tuple[Batch, Callable[[], None]]:
        rows, total = whole.take(share), len(whole.indices)
        pixels, labels = images.batch(rows.indices, rows.flips, rows.crops, rows.size)
        pixels, there, wait = transfer.send(pixels)
        found = images.features(rows.indices, rows.flips, rows.size)
        return Batch(pixels, labels, rows.indices, total, rows.full or total, there, found), wait

    pending: deque[Future[tuple[Batch, Callable[[], None]]]] = deque()
    pool = ThreadPoolExecutor(2, thread_name_prefix="batches")  # one decodes, one puts together
    try:
        while True:
            while len(pending) <= prefetch:
                rows = order.rows(start, batch_size)
                pending.append(pool.submit(load, rows))
                start += len(rows.indices)
            batch, wait = pending.popleft().result()
            wait()
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
