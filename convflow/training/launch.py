"""A training from its settings to its end: check everything, build it, go on or begin."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from convflow import distributed
from convflow.bundle.run import say_passed_over
from convflow.data.check import Report
from convflow.data.latents import Latents
from convflow.data.loader import Images
from convflow.data.sources import find_source
from convflow.models.zoo import settings_of
from convflow.settings.fields import Pixels
from convflow.settings.read import show, to_dict
from convflow.storage import claimed, read_json, write_text
from convflow.training import checkpoint
from convflow.training.agreement import agree_on_start
from convflow.training.averages import describe_averages, drop_later, names_of, store_missed
from convflow.training.build import build_trainer
from convflow.training.captions import keep_encoder, with_text_of_store, write_texts
from convflow.training.changes import RECORD, Change, check_changes, find_changes, record_changes
from convflow.training.config import LoRAConfig, TrainConfig
from convflow.training.data import SELECTION_FILE, keep_selection
from convflow.training.keys import from_dict
from convflow.training.latents import with_codec_of_store
from convflow.training.length import count_images, say_end
from convflow.training.pace import Pace
from convflow.training.places import find_paths, resolve_paths, store_paths
from convflow.training.repeats import advise_repeats
from convflow.training.saving import describe_model
from convflow.training.speed import ProductRate
from convflow.training.time_scale import keep_time_scale
from convflow.training.trainer import Trainer
from convflow.training.tuning import BASE, stored_numbers, write_base
from convflow.types import InputError

FOUND_OUT = ("coarse", "position_grid")
"""Settings of a network that a run takes from the weights it begins from."""

log = logging.getLogger("convflow")


def train(
    config: TrainConfig,
    run: Path,
    *,
    epochs: float | None = None,
    minutes: float | None = None,
    product_rate: ProductRate | None = None,
    pace: Pace | None = None,
) -> bool:
    """Train in the folder `run`, going on from its newest checkpoint if there is one.

    Nothing is written before settings, data and checkpoint have been checked.

    Args:
        config: the complete settings.
        run: the run folder.
        epochs: length of the run in passes over the images, in place of `config.images`.
        minutes: after so many from now the training ends, or at its length if that comes first.
        product_rate: what utilisation is measured with; None leaves it out.
        pace: sets the length once more on the way; None keeps it.

    Returns:
        True at the end of the settings or of the minutes, False when the run was asked to stop
        earlier.

    Raises:
        InputError: unusable settings, data or checkpoint; another training in the same folder; or
            settings that differ from those the run was started with and may not.
        Diverged: the loss stopped being finite.
    """
    began, device = time.monotonic(), distributed.choose_device(config.device)
    with distributed.process_group(device), ExitStack() as held:
        with distributed.all_or_none(device):
            start = _prepare(config, run, device, epochs, held)
            start.trainer.product_rate, start.trainer.pace = product_rate, pace
        agree_on_start(start.trainer)
        with distributed.all_or_none(device):
            _write_down(start, run)
        _look_for_folder(run)
        if (captions := start.trainer.captions) is not None:
            with distributed.all_or_none(device):
                captions.prepare(run, device)
                if distributed.rank() == 0:
                    write_texts(captions, run)
        with distributed.all_or_none(device):
            store_missed(start.trainer)
        finished = start.trainer.run(None if minutes is None else began + 60 * minutes)
        _say_replaced(start.trainer.images)
        if distributed.rank() == 0:
            seconds = None if minutes is None else time.monotonic() - began
            say_end(start.trainer, finished, seconds)
        del start  # and with it what holds the group of processes
        return finished


class _Start(NamedTuple):
    """A training before its first step.

    Attributes:
        trainer: at the moment of the newest checkpoint, if there is one.
        report: what a scan of all images found.
        before: the settings in the newest checkpoint.
        existed: whether the run folder was there.
    """

    trainer: Trainer
    report: Report
    before: TrainConfig | None
    existed: bool


def _prepare(
    config: TrainConfig, run: Path, device: torch.device, epochs: float | None, held: ExitStack
) -> _Start:
    """Return a training with everything checked; `held` keeps the run folder for this program."""
    existed = (run / "config.json").is_file()
    if existed:
        held.enter_context(claimed(run, "training", "--run", distributed.rank() == 0))
    config = with_text_of_store(with_codec_of_store(config, run), run)
    config, before = _check_folder(store_paths(config, run), run)
    trainer, report = build_trainer(config, run, device)
    if epochs is not None:
        images, line = count_images(epochs, trainer.order.count)
        report.notes = [*report.notes, line]
        trainer.config = replace(trainer.config, images=images)
    if not existed:
        held.enter_context(claimed(run, "training", "--run", distributed.rank() == 0))
    config = trainer.config
    if steps := checkpoint.list_steps(run):
        trainer.load(checkpoint.folder_of(run, steps[-1]))
        last = trainer.order.largest(config.batch_size)
        if trainer.images_seen - last >= config.images:
            raise InputError(
                f"--{'epochs' if epochs else 'images'}: expected at least the "
                f"{trainer.images_seen:,} images that {run} has seen, got {config.images:,}; "
                "raise it to go on"
            )
    return _Start(trainer, report, before, existed)


def _write_down(start: _Start, run: Path) -> None:
    """Write settings, changes and images into the run folder, and say what begins."""
    trainer, config, changes = start.trainer, start.trainer.config, list[Change]()
    if start.before is not None:
        changes = find_changes(resolve_paths(start.before, run), resolve_paths(config, run))
    if distributed.rank():
        return
    if config.lora.rank and not checkpoint.list_steps(run):
        write_base(trainer.model, run, describe_model(trainer, run / BASE))
    for name, text in (trainer.pace.files if trainer.pace else {}).items():
        write_text(run / name, text)
    write_text(run / "config.json", json.dumps(to_dict(config), indent=2))
    if trainer.images_seen >= config.images:
        changes = []  # nothing is trained with them
    else:
        changes = record_changes(changes, run, trainer.step, trainer.images_seen)
    drop_later(trainer)
    keep_selection(trainer.images, start.report, run / SELECTION_FILE)
    _introduce(trainer, start.report, changes)
    if start.existed and not checkpoint.list_steps(run):
        log.info(f"no checkpoint in {run} yet; beginning again from the start")


def _say_replaced(images: Images | Latents) -> None:
    """Say how many images could not be read on any process."""
    replaced = set().union(*distributed.gather(list(images.replaced)))
    if distributed.rank() or not replaced:
        return
    if len(replaced) == 1:
        log.info("1 image could not be read; another stood in its place")
    else:
        log.info(f"{len(replaced):,} images could not be read; others stood in their places")


def read_run_config(run: Path) -> TrainConfig:
    """Return the settings of a run folder, its paths as they are now, or raise InputError."""
    path = run / "config.json"
    if not path.is_file():
        raise InputError(
            f"expected a run folder with config.json, got {run} without one; give the folder that "
            "convflow train wrote, or a recipe to begin a new run"
        )
    try:
        config = find_paths(from_dict(read_json(path)), run)
    except InputError as error:
        if "add --import" in str(error):  # the file is good
            raise
        reason = str(error).partition("; ")[0].removeprefix(f"{path} ")
        raise InputError(
            f"{path} cannot be used: {reason}; restore it from state.json of a checkpoint"
        ) from error
    settings_of(config.model["name"], trusted=False)  # a file alone runs no code
    for images in (config.data.path, config.monitor.score.reference):
        find_source(images, trusted=False)
    return config


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
    names = {getattr(each.codec, "autoencoder", None) for each in (config, before)}
    if len(names) == 1:
        config = replace(config, codec=config.codec.with_constants(before.codec))
    if config.process.unmeasured:
        known = getattr(before.process, "deviations", ())
        config = replace(config, process=config.process.measured(known))
    if (config.lora.rank, config.lora.target) == (before.lora.rank, before.lora.target):
        config = replace(config, lora=_known_adapters(config.lora, before.lora))
    if config.init:  # what was found out of the weights
        found = {key: value for key, value in before.model.items() if key in FOUND_OUT}
        config = replace(config, model=found | config.model)
    config, before = keep_time_scale(keep_encoder(config, before), before)
    check_changes(find_changes(resolve_paths(before, run), resolve_paths(config, run)), run)
    return config, before


def _known_adapters(lora: LoRAConfig, before: LoRAConfig) -> LoRAConfig:
    """Return settings of adapters with what a run has found out for what is left to it."""
    alpha = before.alpha if lora.alpha is None else lora.alpha
    auto = lora.modules_to_save == "auto"
    whole = before.modules_to_save if auto else lora.modules_to_save
    return replace(lora, alpha=alpha, modules_to_save=whole)


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
    axes = "frames x height x width" if trainer.model.video else "height x width"
    for line in str(report).splitlines():
        log.info(line)
    log.info(
        f"{config.model['name']}: {parameters / 1e6:.2f} M parameters on {trainer.device} in "
        f"{trainer.precision}; batch {config.batch_size}, {config.images:,} images to see, "
        f"trained at {show(config.data.size, Pixels)} ({axes})"
    )
    if config.optim.warmup_images > config.images:
        log.info(
            f"the learning rate still rises at the end of this run: its warm-up takes "
            f"{config.optim.warmup_images:,} images (--optim.warmup-images)"
        )
    if warning := advise_repeats(config, trainer.order.count, trainer.run_folder):
        log.warning(warning)
    process = trainer.process
    codec = trainer.codec
    if scales := process.describe(config.data.size, codec.factor, codec.frame_factor):
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
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    if averages := describe_averages(config.ema, trained, config.images):
        log.info(averages)
    kept = len(checkpoint.list_steps(trainer.run_folder))
    saving = config.checkpoint
    numbers = stored_numbers(trainer.model) + trained * len(names_of(config.ema))
    line, fits = checkpoint.describe_disk(
        numbers, saving.keep, kept, trainer.run_folder, saving.keep_every
    )
    log.log(logging.INFO if fits else logging.WARNING, line)
    say_passed_over(trainer.run_folder)
