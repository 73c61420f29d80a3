"""Batches of uint8 pictures in an order that depends on the seed and the images seen alone."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from convflow.data.images import num_cores, resize_and_crop, to_uint8
from convflow.data.pictures import Drawn, Source
from convflow.types import InputError, Size

Batch = tuple[Tensor, Tensor, np.ndarray]
"""Pixels (B, C, H, W) uint8, labels (B,) int64 and indices (B,) int64."""


class Images:
    """Pictures of one size by index, with their labels.

    Pictures are decoded when first asked for and kept as uint8 if all of them fit `cache_bytes`;
    otherwise they are decoded each time, on all cores.

    Args:
        source: Where the pictures come from.
        indices: (N,) those of the source's pictures to use; their places here become 0..N-1.
        channels: Channels C of the result.
        size: Height and width H, W in pixels.
        cache_bytes: Memory that decoded pictures may take.

    Attributes:
        class_names: Names by class id; empty for unconditional data.
        num_classes: Number of classes; 0 for unconditional data.
        labels: (N,) int64 class ids.
        shape: (C, H, W).
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        *,
        channels: int,
        size: Size,
        cache_bytes: int = 2**30,
    ) -> None:
        self.class_names = source.class_names
        self.num_classes = len(source.class_names)
        self.shape = (channels, *size)
        self._source = source
        self._indices = np.asarray(indices, np.int64)
        self.labels = np.array([source.label(index) for index in self._indices], np.int64)
        shape = (len(self._indices), *size, channels)
        fits = np.prod(shape, dtype=np.int64) <= cache_bytes
        self._cache = np.empty(shape, np.uint8) if fits else None
        self._known = np.zeros(len(self._indices), np.bool_)
        self._pool = ThreadPoolExecutor(num_cores(), thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self._indices)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of class names, item names and labels in their order: what a run depends on."""
        items = ((self.item_name(i), int(label)) for i, label in enumerate(self.labels))
        text = repr((tuple(self.class_names), list(items)))
        return hashlib.sha256(text.encode()).hexdigest()

    def item_name(self, index: int) -> str:
        """File name or table row of a picture, for messages."""
        return self._source.item_name(int(self._indices[index]))

    def batch(self, indices: np.ndarray, flips: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Pixels and labels of some pictures; safe to call from several threads.

        Args:
            indices: (B,) places in [0, N).
            flips: (B,) bool, which to mirror left to right; None for none.

        Returns:
            Pixels (B, C, H, W) uint8 and labels (B,) int64, both contiguous.

        Raises:
            InputError: A picture cannot be read; the message names it.
        """
        indices = np.asarray(indices, np.int64)
        if self._cache is None:
            pixels = self._decode(indices)
        else:
            missing = np.unique(indices[~self._known[indices]])
            if missing.size:
                self._cache[missing] = self._decode(missing)
                self._known[missing] = True
            pixels = self._cache[indices]
        if flips is not None and np.any(flips):
            pixels[flips] = pixels[flips, :, ::-1]
        planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return torch.from_numpy(planes), torch.from_numpy(self.labels[indices])

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        channels, height, width = self.shape
        pixels = np.empty((len(indices), height, width, channels), np.uint8)

        def decode(places: np.ndarray) -> None:
            for place in places:
                pixels[place] = self._picture(int(self._indices[indices[place]]))

        list(self._pool.map(decode, np.array_split(np.arange(len(indices)), num_cores())))
        return pixels

    def _picture(self, index: int) -> np.ndarray:
        channels, height, width = self.shape
        source, size = self._source, (height, width)
        try:
            found = source.draw(index, size) if isinstance(source, Drawn) else source.read(index)
            picture = to_uint8(found, channels)
        except InputError as error:
            name = source.item_name(index)
            raise InputError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
        return resize_and_crop(picture, size)


class Order:
    """The data order as a pure function of the seed and the images seen.

    Position p belongs to epoch p // count; every epoch shows every picture once, in a fresh
    order. Sorting raw PCG64 words gives that order, since NumPy promises that those words never
    change between its versions, and promises no such thing for `permutation`.

    Args:
        count: Number of pictures N, at least 1.
        seed: Any integer >= 0.
        flip: Mirror a random half.

    Example:
        >>> indices, flips = Order(count=3, seed=0, flip=False).at(start=0, n=6)
        >>> sorted(indices[:3].tolist()), sorted(indices[3:].tolist()), flips.any()
        ([0, 1, 2], [0, 1, 2], np.False_)
    """

    def __init__(self, count: int, seed: int, flip: bool) -> None:
        if count < 1 or seed < 0:
            raise InputError(f"expected count >= 1 and seed >= 0, got {count} and {seed}")
        self.count, self.seed, self.flip = count, seed, flip
        self._epoch = lru_cache(maxsize=2)(self._draw)

    def at(self, start: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices (n,) int64 and flips (n,) bool of the positions start..start+n-1."""
        positions = np.arange(start, start + n)
        epochs, places = np.divmod(positions, self.count)
        indices, flips = np.empty(n, np.int64), np.empty(n, np.bool_)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order, mirrored = self._epoch(int(epoch))
            indices[here], flips[here] = order[places[here]], mirrored[places[here]]
        return indices, flips

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self._words(epoch), kind="stable")
        if not self.flip:
            return order, np.zeros(self.count, np.bool_)
        return order, (self._words(epoch, 1) >> np.uint64(63)).astype(np.bool_)

    def _words(self, *key: int) -> np.ndarray:
        return np.random.PCG64(np.random.SeedSequence([self.seed, *key])).random_raw(self.count)


def batches(
    images: Images,
    order: Order,
    start: int,
    batch_size: int,
    *,
    share: slice = slice(None),
    workers: int = 1,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Batches for ever, the next ones prepared by threads while this one is used.

    Args:
        images: The pictures.
        order: Their order.
        start: Images seen so far, by all processes together.
        batch_size: Images per step of all processes together.
        share: The rows of every global batch that this process takes.
        workers: Batches prepared at the same time.
        prefetch: Batches kept ready.

    Yields:
        Pixels (B, C, H, W) uint8, labels (B,) int64, indices (B,) int64. An error while one is
        prepared is raised here. Closing the iterator ends the threads.
    """

    def load(position: int) -> Batch:
        indices, flips = (part[share] for part in order.at(position, batch_size))
        return (*images.batch(indices, flips), indices)

    pending: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        while True:
            while len(pending) <= prefetch:
                pending.append(pool.submit(load, start))
                start += batch_size
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
