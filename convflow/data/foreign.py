"""Latents of another program: what is known of them, and how they become shards of a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convflow.data.source import one_line
from convflow.data.store import Contents
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


class Block(NamedTuple):
    """Some images of a store that goes to another program."""

    rows: np.ndarray
    """(n,) places in the store."""
    records: np.ndarray
    """(n, F, M, C, h, w) float32, F = 2 with mirrored images."""
    labels: np.ndarray
    """(n,) class ids."""


def from_logs(moments: np.ndarray) -> np.ndarray:
    """Return mean and deviation (..., 2, C, h, w) of mean and log variance (..., 2C, h, w)."""
    mean, variance = np.split(moments, 2, axis=-3)
    return np.stack([mean, np.exp(variance.clip(LOWEST, HIGHEST) / 2)], -4)


def to_logs(records: np.ndarray) -> np.ndarray:
    """Return mean and log variance (..., 2C, h, w) of mean and deviation (..., 2, C, h, w)."""
    mean, deviation = (records.take(i, -4) for i in (0, 1))
    return np.concatenate([mean, 2 * np.log(np.maximum(deviation, 1e-8))], -3)


def stacked(records: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield records (F, M, C, h, w) as shards of many."""
    left = iter(records)
    while some := list(islice(left, PER_SHARD)):
        if len({record.shape for record in some}) > 1:
            raise InputError("expected latents of one size, got several; encode them by size")
        yield np.stack(some)


def numbered(ids: np.ndarray) -> tuple[str, ...]:
    """Return the numbers of class ids as names."""
    return tuple(map(str, range(int(ids.max(initial=-1)) + 1)))


def unlike(kind: str, path: Path, wanted: str, got: str = "none") -> InputError:
    """Return the error that says that latents are not of a format."""
    return InputError(f"expected latents as of --format {kind} in {path} ({wanted}), got {got}")


@contextmanager
def explained(kind: str, path: Path, wanted: str) -> Iterator[None]:
    """Turn any error of a reader into one line that says what was expected."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of zip, numpy or safetensors on damaged bytes
        raise unlike(kind, path, wanted, one_line(error)[:100]) from error
