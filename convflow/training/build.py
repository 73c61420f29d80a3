"""The parts of a training, each from settings: process, images, network, and all together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from convflow import distributed
from convflow.codecs import Codec
from convflow.data.buckets import batch_size_of
from convflow.data.captions import captions_of
from convflow.data.check import Report
from convflow.data.latents import Latents
from convflow.data.loader import Images, Order
from convflow.data.source import holds_videos
from convflow.data.sources import Source
from convflow.models.backbone import Backbone
from convflow.models.blocks import is_block
from convflow.models.families import PRETRAINED
from convflow.models.fitting import check_size
from convflow.models.memory import MemoryEstimate
from convflow.models.text import OF_TEXT
from convflow.models.zoo import create_model, settings_of
from convflow.nn.dropout import set_dropout
from convflow.objectives.table import create_objectives
from convflow.parallel.single import Single
from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow
from convflow.processes.process import Process
from convflow.seeds import TRAINING_KEYS, generator_of
from convflow.training import checkpoint
from convflow.training.augmentation import Augmentation, describe
from convflow.training.averages import names_of
from convflow.training.captions import open_captions
from convflow.training.config import TrainConfig
from convflow.training.data import (
    SELECTION_FILE,
    open_images,
    order_images,
    scan_images,
    training_sizes,
)
from convflow.training.features import use_features
from convflow.training.loggers import find_loggers
from convflow.training.origin import begin_from, drawn_anew, fit_settings, read_origin
from convflow.training.places import describe_paths, find_paths
from convflow.training.step import Losses
from convflow.training.time_scale import choose_time_scale
from convflow.training.trainer import Trainer
from convflow.training.tuning import check_tuning, limit_training, spared_bytes
from convflow.training.videos import check_kind, check_sides
from convflow.types import InputError, Size

UNREAD = "captions are not used: the network is told classes (--text words reads captions)"

MEASURED_IMAGES = 10_000
"""Of so many images, or frames of videos, at most the deviations of the scales are measured."""


class Data(NamedTuple):
    """The images of a training, their order, and what a scan of all found."""

    images: Images | Latents
    order: Order
    report: Report


def build_trainer(config: TrainConfig, run: Path, device: torch.device) -> tuple[Trainer, Report]:
    """Return a Trainer with its network on `device`, and what a scan of all images found.

    Raises:
        InputError: settings, data or weights to begin from that do not fit each other.
    """
    if config.batch_size < (processes := distributed.world_size()):
        raise InputError(
            f"--batch-size: expected at least one image for each of {processes} processes, "
            f"got {config.batch_size}; raise it or use fewer processes"
        )
    find_loggers(config.monitor)
    found = find_paths(config, run) if (run / "config.json").is_file() else config
    source = open_images(found.data)
    _check_texts(config)
    process = open_process(config)
    stored = isinstance(source, Latents)
    codec = found.codec.prepare(device) if stored else found.codec.open(device)
    begun = bool(checkpoint.list_steps(run))
    origin = read_origin(found) if config.init and not begun else None
    if origin is not None:
        config = fit_settings(config, origin, codec.factor)
    config = choose_time_scale(config, origin)
    told = replace(config, text=found.text)
    build = partial(build_network, told, len(source.class_names), codec, process)
    check_sides(config, holds_videos(source))
    sizes = fitting_sizes(config, build, codec, process)
    check_kind(config, build, holds_videos(source))
    for size in {config.data.size, *sizes}:
        codec.check_size(size)
    half = distributed.choose_precision(config.precision, device) == "bfloat16"
    parallel = config.parallel.create(device, half, is_block)
    _check_engine(config, parallel)
    check_tuning(config, parallel, None if origin is None else origin.model)
    _check_memory(config, build, max(sizes, key=math.prod), codec, parallel)
    images, order, report = open_data(config, source, sizes, run if begun else None, device)
    config, captions = open_captions(config, found, images, report, device)
    config = know_constants(config, codec, process, images, device)
    process = config.process
    model = parallel.build(build) if origin is None else build()
    losses = build_losses(config, model, process, codec, stored)
    report.notes = [*report.notes, *describe_paths(config, found)]
    anew = list[str]()
    if origin is not None:
        anew = drawn_anew(model, origin, images.class_names)
        report.notes = [*report.notes, *begin_from(model, origin, images.class_names)]
    set_dropout(model, config.dropout)
    config, lines = limit_training(config, model, anew, run if begun else None)
    report.notes = [*report.notes, *lines]
    _check_losses(config, losses)
    if isinstance(source, Latents) and losses.wants_pixels:
        use_features(config, losses, source)
    parallel.exchanges |= bool(losses.compares)
    if losses.augmentation is not None:
        report.notes = [*report.notes, describe(losses.augmentation)]
    losses = parallel.place(losses)
    trainer = Trainer(config, losses, process, codec, images, run, order, parallel, captions)
    if captions is not None and not begun:  # after an engine has given the weights numbers
        captions.tell_empty([trainer.model, cast(Backbone, trainer.ema.model)], device)
    return trainer, report


def _check_texts(config: TrainConfig) -> None:
    """Raise InputError where a network of texts alone is to be told something else."""
    if config.model["name"] in PRETRAINED and not config.text.used:
        raise InputError(
            f"--text: expected text encoders for the network {config.model['name']}, which is told "
            "texts, got none; add --text.encoder with the folder or the Hub id of its pipeline"
        )


def _check_engine(config: TrainConfig, parallel: Single) -> None:
    """Raise InputError where an optimizer cannot work with shares of the weights."""
    if parallel.sharded and config.optim.kind != "adamw":
        raise InputError(
            f"expected the optimizer adamw with --parallel fsdp, got {config.optim.kind}, which "
            "would see shares of a matrix; choose adamw, or --parallel ddp"
        )


def _check_losses(config: TrainConfig, losses: Losses) -> None:
    """Raise InputError where objectives want what these settings or images do not give."""
    if losses.compares and config.micro_batch is not None:
        raise InputError(
            f"--micro-batch: expected none with the objective {losses.compares[0]}, which compares "
            f"all images of a batch, got {config.micro_batch}; leave one of them out"
        )
    if losses.augmentation is not None and isinstance(config.process, MeanFlow):
        raise InputError(
            "--data.augment: expected 0 with the process meanflow, which calls the network with "
            f"parts of a batch, got {config.data.augment}; leave one of them out"
        )


def open_process(config: TrainConfig) -> Process:
    """Return the process of a training, or raise InputError where other settings do not fit it."""
    process = config.process
    config.sampling.check(process)
    if config.resolution.shift and not isinstance(process, FlowMatching):
        raise InputError("--resolution.shift: expected the process flow with it; leave it out")
    return process


def fitting_sizes(
    config: TrainConfig, build: Callable[[], Backbone], codec: Codec, process: Process
) -> tuple[Size, ...]:
    """Return the sizes to train at in pixels, all of which fit codec, process and network.

    Args:
        config: the complete settings.
        build: makes the network; called where its weights take no memory.
        codec: between pixels and model space.
        process: which may halve images again and again.

    Raises:
        InputError: a size that does not fit; the message names the nearest that does.
    """
    # Before a network is built for absurd factors.
    for size in (config.data.size, *config.data.sizes):
        process.sizes(size, codec.factor, codec.frame_factor)
    with torch.device("meta"):
        network = build()
    multiple = codec.factor * math.lcm(network.multiple, process.multiple)
    frames = math.lcm(network.frame_multiple, process.frame_multiple)
    sizes = training_sizes(config.data, multiple)
    for size in (config.data.size, *sizes):
        check_size(size, multiple, frames, codec.frame_factor)
    return sizes


def open_data(
    config: TrainConfig,
    source: Source,
    sizes: tuple[Size, ...],
    begun: Path | None,
    device: torch.device,
) -> Data:
    """Return the images of a training after a scan of all of them.

    Args:
        config: the complete settings.
        source: the images.
        sizes: to train at, in pixels.
        begun: the run folder where the training goes on from a checkpoint, whose images it then
            keeps; None for a new run.
        device: of this process.
    """
    kept = begun / SELECTION_FILE if begun else None
    images, report = scan_images(source, config.data, kept, device)
    order = order_images(images, report, sizes, config)
    if captions_of(images.source) is not None and not config.text.used:
        report.notes = [*report.notes, UNREAD]
    return Data(images, order, report)


def know_constants(
    config: TrainConfig,
    codec: Codec,
    process: Process,
    images: Images | Latents,
    device: torch.device,
) -> TrainConfig:
    """Return settings with the constants that autoencoder and images give where none are set.

    All processes come here, whatever each knows, so that none waits for another.
    """
    find = partial(_measure, process, images, codec, device)
    stds = distributed.from_first(find, device)
    if process.unmeasured:
        config = replace(config, process=process.measured(stds))
    return replace(config, codec=config.codec.with_constants(codec))


def build_network(
    config: TrainConfig, num_classes: int, codec: Codec, process: Process
) -> Backbone:
    """Return the network of `config`, its random weights a function of the seed alone.

    Args:
        config: the complete settings.
        num_classes: of the data.
        codec: tells the channels of model space.
        process: which may want more channels.

    Raises:
        InputError: settings that fit neither the network nor the data and process.
    """
    channels, learned = codec.channels(config.data.channels), process.learned_variance
    more = process.more_channels
    classes = 0 if config.model["name"] in PRETRAINED else num_classes  # those are told texts
    given: dict[str, Any] = {"num_classes": classes, "in_channels": channels}
    given |= _text_settings(config)
    if "learned_variance" in settings_of(config.model["name"]):
        given["learned_variance"] = learned
    elif learned:
        raise InputError(
            f"expected a network with channels for {more.purpose}, got {config.model['name']}; add "
            f"{more.refused}, or choose another --model.name"
        )
    for key, value in given.items():
        if config.model.get(key, value) != value:
            of_text = key in OF_TEXT
            latent = key == "in_channels" and config.codec.kind == "latent"
            origin = "process" if key == "learned_variance" else "codec" if latent else "data"
            origin = "text encoder" if of_text else origin
            raise InputError(
                f"--model.{key.replace('_', '-')}: expected {value} as in the {origin}, "
                f"got {config.model[key]}; leave it out"
            )
    settings = process.adapt(given | config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(config.seed).initial_seed())
        return create_model(settings.pop("name"), **settings)


def _text_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a text encoder gives a network, in place of classes."""
    if not config.text.used:
        return {}
    known, name = settings_of(config.model["name"]), config.model["name"]
    if "text_width" not in known:
        raise InputError(
            f"--text: expected a network that is told texts, got {name}; choose another "
            "--model.name such as flowdcn, or leave --text out"
        )
    return config.text.network_settings()


def build_losses(
    config: TrainConfig, network: Backbone, process: Process, codec: Codec, stored: bool
) -> Losses:
    """Return the network with the objectives of `config`, whose weights the seed alone decides.

    Args:
        config: the complete settings.
        network: to be trained.
        process: it is trained with.
        codec: between pixels and model space.
        stored: whether the images are latents of a store.
    """
    cells = codec.cells(config.data.size) if config.resolution.shift else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(config.seed, *TRAINING_KEYS, 0, 0, 0).initial_seed())
        objectives = create_objectives(config.objectives, network, process, cells)
        augmentation = None
        if config.data.augment:
            augmentation = Augmentation(network, config.data, stored, config.seed)
        return Losses(network, objectives, augmentation)


def _check_memory(
    config: TrainConfig, build: Callable[[], Backbone], size: Size, codec: Codec, parallel: Single
) -> None:
    """Raise InputError when a step at the largest size cannot fit into memory."""
    device = parallel.device
    whole = batch_size_of(size, config.batch_size, math.prod(config.data.size))
    share = math.ceil(whole / distributed.world_size())
    batch = min(share, config.micro_batch or share)
    half = distributed.choose_precision(config.precision, device) == "bfloat16"
    estimate = MemoryEstimate(
        build,
        size,
        batch,
        codec.factor,
        half,
        training=True,
        recompute=config.memory.recompute,
        frame_factor=codec.frame_factor,
    )
    free = distributed.free_memory(device)
    if free is not None:
        with torch.device("meta"):
            numbers = 4 * sum(parameter.numel() for parameter in build().parameters())
        more = len(names_of(config.ema)) * numbers
        held = 5 * numbers + more  # weights, average, gradients and two moments, more averages
        free += held - held // parallel.shards - more
    if free is not None and (config.lora.rank or config.freeze):
        free += spared_bytes(config, build)
    estimate.check(free, "micro-batch")


def _measure(
    process: Process, images: Images | Latents, codec: Codec, device: torch.device
) -> tuple[float, ...]:
    """Return the deviations of the scales over evenly spaced images, () where they are known."""
    if not process.unmeasured:
        return ()
    size, known = images.size, np.arange(len(images))
    if isinstance(images, Latents):  # of one size
        size = images.sizes[0]
        known = np.flatnonzero((images.sides == size).all(1))
    frames = math.prod(size[:-2])  # 1 of images
    count = min(len(known), max(1, MEASURED_IMAGES // frames))
    places = known[np.linspace(0, len(known) - 1, count).round().astype(np.int64)]
    parts = np.array_split(places, min(count, math.ceil(count * frames / 64)))
    batches = (codec.latents(images.batch(part, size=size)[0].to(device)) for part in parts)
    return process.measure(batches)
