"""Images to latents, once: what `convflow encode` does, on any number of processes."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from convflow import distributed
from convflow.bar import Bar
from convflow.bundle.folder import describe_codec
from convflow.codecs import Codec, LatentCodec, PixelCodec
from convflow.data.buckets import Buckets
from convflow.data.captions import captions_of
from convflow.data.check import Report
from convflow.data.latents import Latents
from convflow.data.loader import Images
from convflow.data.source import SyntheticSource
from convflow.data.store import (
    INDEX,
    LABELS,
    NAMES,
    PLACES,
    PLAN,
    RecordConfig,
    StoreIndex,
    encode_captions,
    encode_names,
    finish_store,
    is_written,
    read_index,
    write_shard,
)
from convflow.evaluation.user_code import import_place
from convflow.seeds import generator_of
from convflow.settings.fields import Count, Seed, doc
from convflow.settings.read import read, to_dict
from convflow.settings.words import pairs_of, parts_of, read_words
from convflow.storage import claimed, hash_tensors, read_json, write_text
from convflow.texts import NoText, PretrainedText, TextEncoder
from convflow.training.captions import check_frozen, encode_texts
from convflow.training.config import DataConfig
from convflow.training.data import open_images, scan_images, training_sizes
from convflow.training.features import FeatureConfig, FeatureMaker
from convflow.training.keys import check_augment
from convflow.training.overrides import SHORT
from convflow.types import InputError, Size
from convflow.units import bytes_of

log = logging.getLogger("convflow")

FOUND_IN_THE_END = {"shards", "mean", "std", "sha256"}
"""What the index of a whole store says beyond its plan."""
NUM_COMPARED = 8
"""Images whose reconstruction is measured before the long work."""


@dataclass(frozen=True)
class EncodeConfig:
    """The complete settings of `convflow encode`."""

    data: DataConfig = field(default_factory=lambda: DataConfig(size=(256, 256)))
    codec: Annotated[Codec, doc("where latents come from: latent")] = field(
        default_factory=LatentCodec
    )
    records: RecordConfig = field(default_factory=RecordConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    text: Annotated[
        TextEncoder, doc("what makes features of captions: pretrained; none = captions alone")
    ] = field(default_factory=NoText)
    batch_size: Annotated[Count, doc("images that the autoencoder is given at once")] = 32
    seed: Annotated[Seed, doc("of the draws of --records.contents sample")] = 0
    device: Annotated[str, doc("cpu, cuda, mps, xpu; auto = what is there")] = "auto"


def override_encoding(config: EncodeConfig, arguments: Sequence[str]) -> EncodeConfig:
    """Return settings with command-line words such as `--data.size 256` set, as `override` does."""
    short = SHORT | {"features": "features.encoder"}
    pairs = [(short.get(key, key), text) for key, text in pairs_of(arguments)]
    if "text.encoder" in dict(pairs) and not {"text", "text.kind"} & dict(pairs).keys():
        pairs.append(("text", PretrainedText.kind))
    given = read_words(EncodeConfig, pairs, parts_of(config), ("out", "captions"))
    tree = to_dict(config)
    for place in ("codec", "text"):
        if (kind := given.pop(place, tree[place]["kind"])) != tree[place]["kind"]:
            tree[place] = {"kind": kind}
    for key, value in given.items():
        *groups, leaf = key.split(".")
        (tree[groups[0]] if groups else tree)[leaf] = value
    if ":" in (encoder := str(tree["features"]["encoder"])):
        import_place(encoder)
    return read(tree, EncodeConfig, trusted=True)


class _Part(NamedTuple):
    """A shard to be: places of its images in `Images`, and which of the sizes they have."""

    number: int
    size: int
    rows: np.ndarray


def encode(config: EncodeConfig, out: Path) -> StoreIndex:
    """Write the latents of images to a store, going on with what is there of it.

    Args:
        config: the complete settings.
        out: folder of the store. Each process writes whole shards; a kill loses those only that
            were being made.

    Raises:
        InputError: unusable images, codec or settings; a folder with something else in it.
    """
    device = distributed.choose_device(config.device)
    with (
        distributed.process_group(device),
        distributed.all_or_none(device),
        claimed(out, "convflow encode", "--out", distributed.rank() == 0),
    ):
        return _encode(config, out, device)


def _check_images(data: DataConfig, encoder: str) -> None:
    """Raise InputError where settings of images would mean nothing in a store of latents."""
    if len(data.size) == 3 and encoder:
        raise InputError(
            "--features: expected none for videos, which encoders of images do not see, got "
            f"{encoder}; leave it out"
        )
    if data.clips == "random":
        raise InputError("--data.clips: expected windows for a store of latents, got random")
    if data.crop == "random":
        raise InputError("--data.crop: expected center for a store of latents, got random")
    if data.augment:
        raise InputError(
            f"--data.augment: expected 0 for a store of latents, got {data.augment:g}; give it to "
            "convflow train --data STORE, which moves latents by whole cells"
        )
    if data.shuffle != "images":
        raise InputError(
            f"--data.shuffle: expected images for a store of latents, got {data.shuffle}; leave it "
            "out, for a store is read image by image"
        )
    check_augment(data)


def _encode(config: EncodeConfig, out: Path, device: torch.device) -> StoreIndex:
    check_frozen(config.text)
    if config.codec == PixelCodec():
        raise InputError("--codec: expected latent for a store of latents, got pixel; leave it out")
    data, codec = config.data, config.codec.open(device)
    _check_images(data, config.features.encoder)
    if data.on_bad == "skip":  # which images are left out is settled before the first shard
        data = replace(data, check="all")
    images, report = scan_images(open_images(data), data, None, device)
    if isinstance(images, Latents):
        raise InputError(f"expected images, got the store of latents {data.path}; give images")
    if distributed.rank() == 0:
        for line in str(report).splitlines():
            log.info(line)
    sizes = training_sizes(data, codec.factor)
    for size in sizes:
        codec.check_size(size)
    numbers = _sizes_of(images, report, sizes)
    parts = list(_plan(numbers, len(sizes), config.records.shard))
    blank = torch.zeros(1, data.channels, *sizes[0], dtype=torch.uint8, device=device)
    arrays, maker = codec.moments(blank).shape[1], None
    if config.features.encoder:
        maker = FeatureMaker(config.features, sizes, codec.factor, data.channels, device)
    index = partial(
        StoreIndex,
        features=None if maker is None else maker.index,
        codec=to_dict(describe_codec(codec, out)),
        codec_sha256=None if codec.network is None else hash_tensors(codec.network.state_dict()),
        records=config.records,
        arrays=arrays if config.records.contents == "moments" else 1,
        flipped=data.flip,
        channels=codec.channels(data.channels),
        image_channels=data.channels,
        factor=codec.factor,
        frame_factor=codec.frame_factor,
        sizes=sizes,
        class_names=tuple(images.class_names),
        count=len(images),
        fingerprint=images.fingerprint,
        images=data.path,
    )
    said = _captions(images)
    missing = distributed.from_first(partial(_begin, out, index, parts), device)
    if config.text.used:
        make = partial(encode_texts, config.text, said, out, device, config.data.path)
        distributed.from_first(make, device)
    if missing is None:
        return distributed.from_first(partial(read_index, out), device)
    if missing and distributed.rank() == 0:
        _compare(codec, images, sizes, numbers, device)
    _write_parts(config, out, codec, images, sizes, missing, device, maker)
    places = np.empty(len(images), np.int64)
    places[np.concatenate([part.rows for part in parts])] = np.arange(len(images))
    names = encode_names([images.item_name(i) for i in range(len(images))])
    tables = {LABELS: images.labels, PLACES: places, NAMES: names}
    if said:
        tables |= encode_captions(said)
    finish = partial(finish_store, out, index, tables, len(parts))
    return distributed.from_first(finish, device)


def _captions(images: Images) -> list[str]:
    """Return the caption of each image; none where the source has no captions."""
    say = captions_of(images.source)
    return [] if say is None else [say(int(i)) for i in images.indices]


def _sizes_of(images: Images, report: Report, sizes: tuple[Size, ...]) -> np.ndarray:
    """Return which of the sizes each image goes to: that of the nearest ratio, as in training."""
    if len(sizes) == 1:
        return np.zeros(len(images), np.int64)
    buckets = Buckets(
        sizes, None if isinstance(images.source, SyntheticSource) else report.sides, len(images)
    )
    if any(len(members) > 1 for members in buckets.members):
        raise InputError("--data.sizes: expected each size to have another ratio, got two of one")
    return np.array([members[0] for members in buckets.members])[buckets.groups]


def _plan(numbers: np.ndarray, num_sizes: int, most: int) -> Iterator[_Part]:
    """Yield the shards to be, of at most so many images of one size, in the order of the data."""
    count = 0
    for size in range(num_sizes):
        rows = np.flatnonzero(numbers == size)
        for start in range(0, len(rows), most):
            yield _Part(count, size, rows[start : start + most])
            count += 1


def _begin(out: Path, index: Any, parts: list[_Part]) -> list[_Part] | None:
    """Return the shards that are not there yet, after a look at what is in the folder.

    Returns:
        None where the whole store is there.

    Raises:
        InputError: a store or shards of other settings, or too small a disk.
    """
    plan = json.loads(json.dumps(to_dict(index(shards=(), mean=(), std=()))))
    del plan["version"]  # of convflow, which may be another by then
    if (out / INDEX).is_file():
        known = {key: plan[key] for key in plan.keys() - FOUND_IN_THE_END}
        _require_same(f"{out} was made", read_json(out / INDEX), known)
        log.info(f"already finished: {out} is the whole store of these images")
        return None
    if (out / PLAN).is_file():
        _require_same(f"{out} was begun", read_json(out / PLAN), plan)
        missing = [part for part in parts if not is_written(out, part.number)]
        log.info(f"{len(parts) - len(missing):,} of {len(parts):,} shards are there already")
    else:
        if left := [path.name for path in out.iterdir() if path.name[0] != "."]:
            raise InputError(f"expected an empty folder, got {out} with {left[0]}; choose another")
        write_text(out / PLAN, json.dumps(plan))
        missing = parts
    made = index(shards=(), mean=(), std=())
    needed = sum(len(part.rows) * made.bytes_each(part.size) for part in missing)
    free = shutil.disk_usage(out).free
    log.info(f"{bytes_of(needed)} to write to {out}, {bytes_of(free)} are free")
    if needed > free:
        raise InputError(
            f"expected {bytes_of(needed)} of free disk for {out}, got {bytes_of(free)}; "
            "free some, or choose --records.dtype float16, --records.contents mean or another --out"
        )
    return missing


def _require_same(store: str, before: dict[str, Any], plan: dict[str, Any]) -> None:
    """Raise InputError where a store was made, or begun, with another plan."""
    if changed := sorted(key for key, value in plan.items() if before.get(key) != value):
        raise InputError(
            f"{store} with other settings or images ({', '.join(changed)}); repeat that command, "
            "or choose another --out"
        )


def _compare(
    codec: Codec, images: Images, sizes: tuple[Size, ...], numbers: np.ndarray, device: torch.device
) -> None:
    """Say how well a few images survive the way to latents and back."""
    some = np.unique(np.linspace(0, len(images) - 1, NUM_COMPARED).round().astype(np.int64))
    errors = []
    for row in some:
        pixels, _ = images.batch(np.array([row]), size=sizes[numbers[row]])
        pixels = pixels.to(device)
        again = codec.decode(codec.encode(pixels))
        errors.append(float((again.float() - pixels.float()).square().mean()))
    noise = 10 * math.log10(255**2 / max(float(np.mean(errors)), 1e-9))
    worst = 10 * math.log10(255**2 / max(*errors, 1e-9))
    log.info(
        f"{len(some)} images encoded and decoded: PSNR {noise:.1f} dB, {worst:.1f} dB at worst; "
        "an autoencoder that suits the images gives 25 dB or more"
    )


def _write_parts(
    config: EncodeConfig,
    out: Path,
    codec: Codec,
    images: Images,
    sizes: tuple[Size, ...],
    missing: list[_Part],
    device: torch.device,
    maker: FeatureMaker | None,
) -> None:
    """Write our share of the missing shards."""
    mine = missing[distributed.rank() :: distributed.world_size()]
    total = sum(len(part.rows) for part in mine)
    shown = distributed.rank() == 0 and sys.stderr.isatty()
    with Bar(total=total, desc="encoding", unit="img", disable=not shown) as bar:
        for part in mine:
            made, seen = [], []
            for start in range(0, len(part.rows), config.batch_size):
                rows = part.rows[start : start + config.batch_size]
                pixels, _ = images.batch(rows, size=sizes[part.size])
                pixels = pixels.to(device)
                records = _records(config, codec, pixels, rows)
                if maker is not None:
                    views = [pixels, pixels.flip(-1)] if config.data.flip else [pixels]
                    seen.append(np.stack([maker(part.size, view) for view in views], 1))
                made.append(records.to(getattr(torch, config.records.dtype)).cpu().numpy())
                bar.update(len(rows))
            if images.replaced:
                raise InputError(
                    f"{images.item_name(next(iter(images.replaced)))} became unreadable meanwhile; "
                    f"repair it, or delete {out} and begin again"
                )
            found = np.concatenate(seen) if seen else None
            write_shard(out, part.number, part.size, np.concatenate(made), found)
            if distributed.rank() == 0 and not shown:
                log.info(f"wrote shard {part.number} of {len(missing)} to write")


@torch.no_grad()
def _records(config: EncodeConfig, codec: Codec, pixels: Tensor, rows: np.ndarray) -> Tensor:
    """Return the records (B, F, M, C, h, w) of images, or (B, F, M, C, f, h, w) of videos."""
    views = [pixels, pixels.flip(-1)] if config.data.flip else [pixels]
    records = torch.stack([codec.moments(view) for view in views], 1)
    contents = config.records.contents
    if contents == "moments":
        return records
    if contents == "mean" or records.shape[2] == 1:
        return records[:, :, :1]
    noise = torch.stack(
        [
            torch.randn(records[0, :, 0].shape, generator=generator_of(config.seed, int(row)))
            for row in rows
        ]
    ).to(records)
    return (records[:, :, 0] + records[:, :, 1] * noise)[:, :, None]
