"""From settings to a running training: check everything, build the parts, go on or begin."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convflow import distributed
from convflow.bundle.run import say_passed_over
from convflow.codecs import Codec
from convflow.data.buckets import batch_of
from convflow.data.check import Report
from convflow.data.loader import Images
from convflow.models.backbone import Backbone, check_size
from convflow.models.memory import MemoryEstimate
from convflow.models.zoo import create_model, settings_of
from convflow.processes.flow import FlowMatching
from convflow.processes.process import Process
from convflow.seeds import generator_of
from convflow.settings.fields import Pixels
from convflow.settings.read import show, to_dict
from convflow.storage import claimed, read_json, write_text
from convflow.training import checkpoint
from convflow.training.agreement import agree_on_start
from convflow.training.changes import (
    RECORD,
    Change,
    check_changes,
    find_changes,
    record_changes,
)
from convflow.training.config import TrainConfig
from convflow.training.keys import from_dict
from convflow.training.length import count_images, say_end
from convflow.training.origin import begin_from, fit_settings, read_origin
from convflow.training.pictures import (
    SELECTION,
    keep_selection,
    look_at_pictures,
    open_pictures,
    order_pictures,
    training_sizes,
)
from convflow.training.places import describe_paths, find_paths, resolve_paths, store_paths
from convflow.training.trainer import Trainer, choose_precision
from convflow.types import InputError, Size

log = logging.getLogger("convflow")

MEASURED_PICTURES = 10_000
"""Of so many pictures at most the deviations of the scales are measured."""


def train(
    config: TrainConfig, run: Path, *, epochs: float | None = None, minutes: float | None = None
) -> bool:
    """Train in the folder `run`, going on from its newest checkpoint if there is one.

    Nothing is written before settings, data and checkpoint have been checked.

    Args:
        config: the complete settings.
        run: the run folder.
        epochs: length of the run in passes over the pictures, in place of `config.images`.
        minutes: after so many from now the training ends, or at its length if that comes first.

    Returns:
        True at the end of the settings or of the minutes, False when the run was asked to stop
        earlier.

    Raises:
        InputError: unusable settings, data or checkpoint; another training in the same folder; or
            settings that differ from those the run was started with and may not.
        Diverged: the loss stopped being finite.
    """
    began, changes = time.monotonic(), list[Change]()
    device = distributed.choose_device(config.device)
    with distributed.process_group(device), ExitStack() as held:
        with distributed.all_or_none(device):
            known = (run / "config.json").is_file()
            if known:
                held.enter_context(claimed(run, "training", "--run", distributed.rank() == 0))
            config, before = _check_folder(store_paths(config, run), run)
            trainer, report = build_trainer(config, run, device)
            if epochs is not None:
                images, line = count_images(epochs, len(trainer.images))
                report.notes = [*report.notes, line]
                trainer.config = replace(trainer.config, images=images)
            if not known:
                held.enter_context(claimed(run, "training", "--run", distributed.rank() == 0))
            config, steps = trainer.config, checkpoint.list_steps(run)
            if steps:
                trainer.load(checkpoint.folder_of(run, steps[-1]))
                last = trainer.order.largest(config.batch_size)
                if trainer.images_seen - last >= config.images:
                    raise InputError(
                        f"--{'epochs' if epochs else 'images'}: expected at least the "
                        f"{trainer.images_seen:,} images that {run} has seen, got "
                        f"{config.images:,}; raise it to go on"
                    )
        agree_on_start(trainer)
        with distributed.all_or_none(device):
            if before is not None:
                changes = find_changes(resolve_paths(before, run), resolve_paths(config, run))
            if distributed.rank() == 0:
                write_text(run / "config.json", json.dumps(to_dict(config), indent=2))
                if trainer.images_seen >= config.images:
                    changes = []  # nothing is trained with them
                else:
                    changes = record_changes(changes, run, trainer.step, trainer.images_seen)
                keep_selection(trainer.images, report, run / SELECTION)
                _introduce(trainer, report, changes)
                if known and not steps:
                    log.info(f"no checkpoint in {run} yet; beginning again from the start")
        _look_for_folder(run)
        finished = trainer.run(None if minutes is None else began + 60 * minutes)
        replaced = set().union(*distributed.gather(list(trainer.images.replaced)))
        if distributed.rank() == 0:
            if len(replaced) == 1:
                log.info("1 picture could not be read; another stood in its place")
            elif replaced:
                log.info(
                    f"{len(replaced):,} pictures could not be read; others stood in their places"
                )
            say_end(trainer, finished, None if minutes is None else time.monotonic() - began)
        return finished


def build_trainer(config: TrainConfig, run: Path, device: torch.device) -> tuple[Trainer, Report]:
    """Return a Trainer with its network on `device`, and what a look at all pictures found."""
    data, processes = config.data, distributed.world_size()
    if config.batch_size < processes:
        raise InputError(
            f"--batch-size: expected at least one picture for each of {processes} processes, "
            f"got {config.batch_size}; raise it or use fewer processes"
        )
    found = find_paths(config, run) if (run / "config.json").is_file() else config
    source = open_pictures(found.data)
    process = config.process
    config.sampling.check(process)
    if config.resolution.shift and not isinstance(process, FlowMatching):
        raise InputError("--resolution.shift: expected the process flow with it; leave it out")
    codec = found.codec.open(device)
    channels = codec.channels(data.channels)
    for size in (data.size, *data.sizes):  # before a network is built for absurd factors
        process.sizes(size, codec.factor)
    origin = None
    if config.init and not checkpoint.list_steps(run):
        origin = read_origin(found)
        config = fit_settings(config, origin.model)
    build = partial(
        build_model, config, len(source.class_names), process.learned_variance, channels
    )
    with torch.device("meta"):
        multiple = codec.factor * math.lcm(build().multiple, process.multiple)
    sizes = training_sizes(data, multiple)
    for height, width in (data.size, *sizes):
        check_size(height, width, multiple)
    _check_memory(config, build, max(sizes, key=math.prod), codec.factor, device)
    kept = run / SELECTION if checkpoint.list_steps(run) else None
    images, report = look_at_pictures(source, data, kept, device)
    order = order_pictures(images, report, sizes, data, config.seed)
    # All processes come here, whatever each knows, so that none waits for another.
    find = partial(_find_deviations, process, images, codec, device)
    deviations = distributed.from_first(find, device)
    if process.unmeasured:
        process = process.measured(deviations)
        config = replace(config, process=process)
    model = build()
    report.notes = [*report.notes, *describe_paths(config, found)]
    if origin is not None:
        report.notes = [*report.notes, *begin_from(model, origin, source.class_names)]
    return Trainer(config, model.to(device), process, codec, images, run, order), report


def _check_memory(
    config: TrainConfig,
    build: Callable[[], Backbone],
    size: Size,
    factor: int,
    device: torch.device,
) -> None:
    """Raise InputError when a step at the largest size cannot fit into memory."""
    whole = batch_of(size, config.batch_size, math.prod(config.data.size))
    share = math.ceil(whole / distributed.world_size())
    batch = min(share, config.micro_batch or share)
    half = choose_precision(config.precision, device) == "bfloat16"
    estimate = MemoryEstimate(build, size, batch, factor, half, training=True)
    estimate.check(distributed.free_memory(device), "micro-batch")


def build_model(
    config: TrainConfig,
    num_classes: int,
    learned_variance: bool = False,
    in_channels: int | None = None,
) -> Backbone:
    """Return the network of `config`, its random weights a function of the seed alone.

    Args:
        config: the complete settings.
        num_classes: of the data.
        learned_variance: whether the process wants channels for a variance.
        in_channels: of model space; by default those of the pictures.

    Raises:
        InputError: settings that fit neither the network nor the data and process.
    """
    in_channels = config.data.channels if in_channels is None else in_channels
    given: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    if "learned_variance" in settings_of(config.model["name"]):
        given["learned_variance"] = learned_variance
    elif learned_variance:
        raise InputError(
            f"expected a network that can learn a variance, got {config.model['name']}; add "
            "--process.variance small, or choose another --model.name"
        )
    for key, value in given.items():
        if config.model.get(key, value) != value:
            codec = key == "in_channels" and config.codec.kind == "latent"
            origin = "process" if key == "learned_variance" else "codec" if codec else "data"
            raise InputError(
                f"--model.{key.replace('_', '-')}: expected {value} as in the {origin}, "
                f"got {config.model[key]}; leave it out"
            )
    settings = config.process.adapt(given | config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(config.seed).initial_seed())
        return create_model(settings.pop("name"), **settings)


def read_run_config(run: Path) -> TrainConfig:
    """Return the settings of a run folder, its paths as they are now, or raise InputError."""
    path = run / "config.json"
    if not path.is_file():
        raise InputError(
            f"expected a run folder with config.json, got {run} without one; give the folder that "
            "convflow train wrote, or a recipe to begin a new run"
        )
    try:
        return find_paths(from_dict(read_json(path)), run)
    except InputError as error:
        reason = str(error).partition("; ")[0].removeprefix(f"{path} ")
        raise InputError(
            f"{path} cannot be used: {reason}; restore it from state.json of a checkpoint"
        ) from error


def _find_deviations(
    process: Process, images: Images, codec: Codec, device: torch.device
) -> tuple[float, ...]:
    """Return the deviations of the scales where they must be measured, else ()."""
    return _measure(process, images, codec, device) if process.unmeasured else ()


def _measure(
    process: Process, images: Images, codec: Codec, device: torch.device
) -> tuple[float, ...]:
    """Return the deviations of the scales over evenly spaced pictures."""
    count = min(len(images), MEASURED_PICTURES)
    places = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    parts = np.array_split(places, math.ceil(count / 64))
    batches = (codec.encode(images.batch(part)[0].to(device)) for part in parts)
    return process.measure(batches)


def _check_folder(config: TrainConfig, run: Path) -> tuple[TrainConfig, TrainConfig | None]:
    """Return the settings to begin or go on with, and those of the newest checkpoint.

    What the run has found out stays as it was.

    Raises:
        InputError: `run` is no folder or holds a run with other settings.
    """
    if run.exists() and not run.is_dir():
        raise InputError(f"expected a folder to write to, got the file {run}; choose another --run")
    steps = checkpoint.list_steps(run)
    if not steps:
        checkpoint.require_no_remains(run)
        return config, None
    folder = checkpoint.folder_of(run, steps[-1])
    with checkpoint.readable(folder):
        before = from_dict(checkpoint.read_state(folder)["config"])
    if config.process.unmeasured:
        known = getattr(before.process, "deviations", ())
        config = replace(config, process=config.process.measured(known))
    if config.init and "coarse" in before.model:
        config = replace(config, model={"coarse": before.model["coarse"]} | config.model)
    check_changes(find_changes(resolve_paths(before, run), resolve_paths(config, run)), run)
    return config, before


def _look_for_folder(run: Path) -> None:
    """Say which processes do not see the run folder that the first has just written to."""
    seen = distributed.gather((run / "config.json").is_file())
    blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
    if blind and distributed.rank() == 0:
        log.warning(
            f"rank {', '.join(blind)} does not see {run}, which rank 0 writes to; to go on later "
            "all processes must see it"
        )


def _introduce(trainer: Trainer, report: Report, changes: Sequence[Change]) -> None:
    config = trainer.config
    parameters = sum(p.numel() for p in trainer.model.parameters())
    for line in str(report).splitlines():
        log.info(line)
    log.info(
        f"{config.model['name']}: {parameters / 1e6:.2f} M parameters on {trainer.device} in "
        f"{trainer.precision}; batch {config.batch_size}, {config.images:,} images to see, "
        f"trained at {show(config.data.size, Pixels)} (height x width)"
    )
    if config.optim.warmup_images > config.images:
        log.info(
            f"the learning rate still rises at the end of this run: its warm-up takes "
            f"{config.optim.warmup_images:,} images (--optim.warmup-images)"
        )
    process = trainer.process
    if scales := process.describe(config.data.size, trainer.codec.factor):
        by = ", ".join(f"{deviation:.3g}" for deviation in scales["deviations"])
        log.info(
            f"scales of {scales['decomposition']}: {show(scales['sizes'])}"
            + (f", divided by deviations {by}" if by else "")
        )
    if trainer.images_seen >= config.images:
        log.info(f"already finished at {trainer.images_seen:,} images; raise --images to go on")
    elif config.init and not trainer.step:
        log.info(f"beginning from the averaged weights of {config.init}")
    elif trainer.step:
        log.info(f"going on from {trainer.images_seen:,} images ({trainer.run_folder})")
    if changes:
        log.info(f"changed, noted in {RECORD}: {', '.join(map(str, changes))}")
    kept = len(checkpoint.list_steps(trainer.run_folder))
    line, fits = checkpoint.describe_disk(
        parameters, config.checkpoint.keep, kept, trainer.run_folder
    )
    log.log(logging.INFO if fits else logging.WARNING, line)
    say_passed_over(trainer.run_folder)
