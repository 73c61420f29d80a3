"""The settings of a run read from nested dicts, checked."""

from __future__ import annotations

import math
from typing import Any

from convflow.bundle.config import upgrade
from convflow.settings.fields import Pixels
from convflow.settings.read import read, show
from convflow.training.config import DataConfig, TrainConfig
from convflow.types import InputError


def from_dict(tree: Any, *, trusted: bool = False) -> TrainConfig:
    """Return the settings held in a nested dict, checked; the inverse of `to_dict`.

    Args:
        tree: of this version or an earlier one.
        trusted: whether the names of parts may import modules, see `Table.find`.

    Raises:
        InputError: an unknown key, a wrong type or a value out of range.
    """
    config = read(upgrade(tree), TrainConfig, trusted=trusted, place="--")
    _check_sizes(config.data)
    check_augment(config.data)
    if not isinstance(name := config.model.get("name"), str):
        raise InputError(f"--model.name: expected the name of a network, got {name!r}; give one")
    return config


def _check_sizes(data: DataConfig) -> None:
    """Raise InputError where settings of sizes do not belong together."""
    if data.sizes and data.buckets > 1:
        raise InputError(
            f"--data.sizes: expected sizes or --data.buckets, got both {show(data.sizes)} "
            f"and {data.buckets} buckets; leave one of them out"
        )
    if any(len(size) != len(data.size) for size in data.sizes):
        raise InputError(
            f"--data.sizes: expected sizes of as many sides as --data.size "
            f"{show(data.size, Pixels)}, got {show(data.sizes)!r}; change one of them"
        )
    pixels = [math.prod(size) for size in data.sizes]
    if pixels and not 0.9 * min(pixels) <= math.prod(data.size) <= 1.1 * max(pixels):
        first = show(data.sizes[0], Pixels)
        raise InputError(
            f"--data.size: expected a size such as --data.sizes {show(data.sizes)}, for samples "
            f"and the pixels of a batch, got {show(data.size, Pixels)}; add --data.size {first}"
        )
    if data.buckets == 1 and data.ratios != DataConfig.ratios:
        raise InputError(
            f"--data.ratios: expected --data.buckets of at least 2 with them, got "
            f"{show(data.ratios)} and one bucket; add --data.buckets 5, or leave the ratios out"
        )


def check_augment(data: DataConfig) -> None:
    """Raise InputError where settings of augmentation and crops do not belong together."""
    kinds, (low, high) = data.augment_kinds, data.crop_scale
    if kinds and not data.augment:
        raise InputError(
            "--data.augment-kinds: expected --data.augment with it, got 0; add --data.augment 0.12"
        )
    if len(set(kinds)) < len(kinds):
        raise InputError(
            f"--data.augment-kinds: expected each once, got {','.join(kinds)}; leave one out"
        )
    if low > high:
        raise InputError(
            f"--data.crop-scale: expected the smaller first, got {low:g},{high:g}; give "
            f"{high:g},{low:g}"
        )
    if low < 1 and data.crop != "random":
        raise InputError(
            f"--data.crop-scale: expected --data.crop random with it, got {data.crop}; add it"
        )
