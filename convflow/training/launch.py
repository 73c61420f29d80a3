"""From settings to a running training: build the parts, find the last checkpoint, go."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from convflow import distributed
from convflow.codecs import PixelCodec
from convflow.data.images import check
from convflow.data.loader import Images
from convflow.data.sources import open_source
from convflow.models.backbone import Backbone, check_size
from convflow.models.zoo import create_model, read_json
from convflow.processes.flow import FlowMatching
from convflow.samplers.seeds import generator_of
from convflow.training import checkpoint
from convflow.training.config import TrainConfig, differences, from_dict, to_dict
from convflow.training.trainer import Trainer
from convflow.types import InputError

log = logging.getLogger("convflow")


def train(config: TrainConfig, run: Path) -> bool:
    """Train in the folder `run`, going on from its newest checkpoint if there is one.

    Returns:
        True at the end of the settings, False when the run was asked to stop earlier.

    Raises:
        InputError: unusable settings, data or checkpoint; another training in the same folder; or
            settings that differ from those the run was started with.
    """
    device = distributed.choose_device(config.device)
    with distributed.process_group(device), _claimed(run):
        _check_settings_match(config, run)
        trainer = build_trainer(config, run, device)
        steps = checkpoint.list_steps(run)
        if steps:
            trainer.load(checkpoint.folder_of(run, steps[-1]))
            log.info(f"going on from {trainer.images_seen:,} images ({run})")
        if distributed.rank() == 0:
            checkpoint.write_text(run / "config.json", json.dumps(to_dict(config), indent=2))
        return trainer.run()


def build_trainer(config: TrainConfig, run: Path, device: torch.device) -> Trainer:
    """Return a Trainer for `config` with its data checked and its network on `device`."""
    data = config.data
    source = open_source(data.path, split=data.split)
    report, good = check(source, channels=data.channels, size=data.size, on_bad=data.on_bad)
    log.info(str(report))
    images = Images(source, good, channels=data.channels, size=data.size, crop=data.crop)
    model = build_model(config, images.num_classes).to(device)
    check_size(*data.size, model.multiple)
    parameters = sum(p.numel() for p in model.parameters())
    log.info(
        f"{config.model['name']}: {parameters / 1e6:.2f} M parameters on {device}; "
        f"{len(images):,} pictures, batch {config.batch_size}, {config.images:,} images to see"
    )
    process = FlowMatching(**dataclasses.asdict(config.process))
    return Trainer(config, model, process, PixelCodec(), images, run)


def build_model(config: TrainConfig, num_classes: int) -> Backbone:
    """Return the network of `config`, its random weights a function of the seed alone."""
    settings = {"num_classes": num_classes, "in_channels": config.data.channels} | config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_of(config.seed).initial_seed())
        return create_model(settings.pop("name"), **settings)


def read_run_config(run: Path) -> TrainConfig:
    """Return the settings a run folder was started with."""
    return from_dict(read_json(run / "config.json"))


def _check_settings_match(config: TrainConfig, run: Path) -> None:
    if not checkpoint.list_steps(run):
        return
    changed = differences(read_run_config(run), config)
    if changed:
        raise InputError(
            f"{run} was started with other settings: {'; '.join(changed)}; give the same settings, "
            "or another folder with --run"
        )


@contextmanager
def _claimed(run: Path) -> Iterator[None]:
    """Make the run folder and hold it for this training alone (every process of it)."""
    if run.exists() and not run.is_dir():
        raise InputError(f"expected a folder to write to, {run} is a file; choose another --run")
    run.mkdir(parents=True, exist_ok=True)
    if distributed.rank():
        yield
        return
    import fcntl

    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another training is writing to {run}; wait for it, or choose another --run"
            ) from error
        yield
