"""The images of a training: opened, scanned once, brought into an order.

A run keeps which images it began with, so that one which becomes unreadable later changes neither
their number nor their order.
"""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch

from convflow import distributed
from convflow.bar import Bar
from convflow.class_names import composed
from convflow.data.buckets import BucketOrder, Buckets, bucket_sizes, even_ratios
from convflow.data.check import FEW_IMAGES, Report, check_images
from convflow.data.clips import StoredClips, starts_anywhere
from convflow.data.groups import GroupOrder, groups_of
from convflow.data.images import num_cores
from convflow.data.latents import Latents
from convflow.data.loader import Images, Order
from convflow.data.selection import Selection
from convflow.data.source import StoredSource, SyntheticSource
from convflow.data.sources import Source, open_source
from convflow.data.timeline import Clips
from convflow.hub import assets
from convflow.training.config import DataConfig, TrainConfig
from convflow.training.latents import check_sizes, open_latents
from convflow.training.validation import PartOrder, hold_back
from convflow.types import InputError, Size, size_text

log = logging.getLogger("convflow")

SELECTION_FILE = "pictures.npz"
"""File of a run folder: the images that the run began with."""


def open_images(data: DataConfig) -> Source:
    """Return the images and labels that the settings name.

    Raises:
        InputError: none are named, nothing usable is there, or two classes have one name.
    """
    if not data.path:
        raise InputError(
            "--data: expected a folder of images, a .zip, .tar, .parquet, .npz or .csv, hf:NAME, "
            "digits, shapes or moving, got none; add --data PATH"
        )
    source = open_source(
        data.path,
        data.split,
        labels=data.labels,
        label_column=data.label_column,
        image_column=data.image_column,
        caption_column=data.caption_column,
        max_pixels=data.max_pixels,
        draft=data.draft,
        clips=clips_of(data),
    )
    if not isinstance(source, StoredClips) and (
        data.fps or data.stride > 1 or data.clips != "windows"
    ):
        raise InputError(
            f"--data.fps, --data.stride, --data.clips: expected them with videos in files, got "
            f"{data.path} at {size_text(data.size)}; leave them out"
        )
    counts = Counter(map(composed, source.class_names))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise InputError(
            f"expected distinct class names in {data.path}, got {twice[0]!r} more than once; "
            "rename one"
        )
    return source


def clips_of(data: DataConfig) -> Clips | None:
    """Return how clips are taken from videos; None where the size is that of images."""
    if len(data.size) == 2:
        return None
    frames = max(size[0] for size in (data.size, *data.sizes))
    return Clips(frames, data.fps, data.stride, data.clips)


def scan_images(
    source: Source, data: DataConfig, kept: Path | None, device: torch.device
) -> tuple[Images | Latents, Report]:
    """Return the images to train on, and what a scan of all of them found.

    Of several processes the first scans, and all get the result.

    Args:
        source: the images.
        data: their settings.
        kept: file of the images that the run began with; None for a new run.
        device: of this process.

    Raises:
        InputError: unreadable images that are not to be skipped, or processes that see other
            images.
    """
    if isinstance(source, Latents):
        return open_latents(source, data)
    report, good = distributed.from_first(partial(_scan_all, source, data, kept), device)
    if report.total != len(source):
        raise InputError(
            f"expected the {report.total:,} images in {data.path} that the first process sees, "
            f"got {len(source):,} on process {distributed.rank()}; give all the same data"
        )
    images = Images(
        source,
        good,
        channels=data.channels,
        size=data.size,
        crop=data.crop_scale if data.crop == "random" else None,
        on_bad=data.on_bad,
        stamp=report.stamp,
        workers=max(1, num_cores() // distributed.local_world_size())
        if data.workers == "auto"
        else data.workers,
    )
    return images, report


def faster_data(images: Images | Latents, shuffle: str = "images") -> str:
    """Return what to do where a training waits for its images, for a message.

    Args:
        images: of the training.
        shuffle: how they are shuffled, as in the settings.
    """
    if isinstance(images, Latents):
        return "copy the store to a faster disk"
    ways, cores = ["store the images at about the size of training"], num_cores()
    if isinstance(images.source, StoredSource) and not images.source.draft:
        ways.insert(0, "decode large JPEGs at a part of their size (--data.draft true)")
    if images.workers < cores:
        ways.insert(0, f"decode by more threads than {images.workers} (--data.workers {cores})")
    groups = getattr(images.source, "groups", None)
    if groups is not None and shuffle == "images" and groups.numbers.max() >= groups.window:
        ways.insert(0, "read each row group once in an epoch, in a new run (--data.shuffle groups)")
    return ", or ".join(ways)


def order_images(
    images: Images | Latents, report: Report, sizes: tuple[Size, ...], config: TrainConfig
) -> Order:
    """Return the order of the images to train on, in buckets where there are several sizes.

    The report is told what becomes of the images.

    Args:
        images: the images, with those that are held back.
        report: what was seen of them.
        sizes: to train at, in pixels.
        config: the complete settings.

    Raises:
        InputError: as of `hold_back`.
    """
    if isinstance(images, Latents):
        check_sizes(images, sizes)
    data, seed = config.data, config.seed
    random = data.crop == "random" or starts_anywhere(images.source)
    held = hold_back(len(images), config.monitor.validation.num, seed)
    places = np.setdiff1d(np.arange(len(images)), held, assume_unique=True)
    one = sizes == (data.size,)
    drawn = isinstance(images.source, SyntheticSource)
    sides = None if drawn else report.sides[places]
    if one and sides is not None:  # then the sizes of some images tell enough
        seen = sides[sides[:, 0] > 0]
        sides = seen if len(seen) else None
    buckets = Buckets(sizes, sides, len(places))
    report.notes, report.num_smaller = buckets.describe(), int(buckets.enlarged.sum())
    report.notes += describe_crops(data, sizes, sides)
    order: Order
    if data.shuffle == "groups":
        order = _order_groups(images, places, config, one)
        report.notes = [*report.notes, order.describe()]
    elif one:
        order = Order(len(places), seed, data.flip, random)
    else:
        order = BucketOrder(buckets, math.prod(data.size), seed, data.flip, random)
    if not one and len(places) < config.batch_size:
        report.notes.append(
            f"buckets never mix two passes over the images: no batch holds more than the "
            f"{len(places)} there are; with one size batches would hold {config.batch_size}"
        )
    if not held.size:
        return order
    report.notes = [*report.notes, f"{held.size:,} of them are held back for the validation loss"]
    return PartOrder(order, places)


def _order_groups(
    images: Images | Latents, places: np.ndarray, config: TrainConfig, one_size: bool
) -> GroupOrder:
    """Return the order of the images at some places that reads each group once in an epoch."""
    data = config.data
    if not one_size:
        raise InputError(
            "--data.shuffle: expected images with several sizes to train at, got groups; leave it "
            "out"
        )
    groups = groups_of(images.source, images.indices[places], data.path)
    return GroupOrder(groups, config.seed, data.flip, data.crop == "random")


def describe_crops(
    data: DataConfig, sizes: tuple[Size, ...], sides: np.ndarray | None
) -> list[str]:
    """Return a line about images so small that their smallest random parts are enlarged."""
    least = data.crop_scale[0]
    if sides is None or least == 1:
        return []
    smallest = np.array([size[-2:] for size in sizes]).min(0) / least
    enlarged = float(np.any(sides < smallest, axis=1).mean())
    if not enlarged:
        return []
    shown = f"{math.ceil(smallest[0])}x{math.ceil(smallest[1])}"
    return [f"{enlarged:.0%} of the images are smaller than {shown}: some parts are enlarged"]


def training_sizes(data: DataConfig, multiple: int) -> tuple[Size, ...]:
    """Return the sizes to train at in pixels, those by ratio as multiples of `multiple`.

    Raises:
        InputError: ratios that are no range, or too few pixels for them.
    """
    if data.buckets > 1:
        low, high = data.ratios
        ratios = even_ratios(low, high, data.buckets)
        sides = bucket_sizes(math.prod(data.size[-2:]), ratios, multiple)
        return tuple((*data.size[:-2], *pair) for pair in sides)
    return tuple(dict.fromkeys(data.sizes)) or (data.size,)


def _scan_all(source: Source, data: DataConfig, kept: Path | None) -> tuple[Report, np.ndarray]:
    shown = sys.stderr.isatty() and distributed.rank() == 0
    many = len(source) > FEW_IMAGES and not isinstance(source, SyntheticSource)
    if many and not shown and distributed.rank() == 0:
        log.info(f"looking at {len(source):,} images, which is remembered")
    with Bar(
        total=len(source), desc="checking", unit="img", delay=1, leave=False, disable=not shown
    ) as bar:
        return check_images(
            source,
            channels=data.channels,
            size=data.size,
            on_bad=data.on_bad,
            look=data.check,
            sized=data.buckets > 1 or bool(data.sizes),
            memory=_memory(),
            selection=Selection.read(kept, source) if kept is not None else None,
            progress=lambda done, _: bar.update(done - bar.n),
        )


def keep_selection(images: Images | Latents, report: Report, path: Path) -> None:
    """Write down which images a run trains on, where that is not known yet."""
    if not isinstance(images.source, SyntheticSource) and not report.kept:
        Selection(images.indices, report.sides).write(path, images.source)


def _memory() -> Path | None:
    """Return the folder where scans are remembered, None where nothing may be written."""
    return assets("looks")
