"""A checkpoint of this moment: written by all processes that hold a part, while training goes on.

Each process writes into a draft, whose name no reader takes for a checkpoint. When all have ended,
the first gives it its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convflow import __version__, distributed
from convflow.bundle.config import PipelineConfig
from convflow.bundle.folder import describe_codec, describe_text
from convflow.parallel.shards import LAYOUT, TensorFile
from convflow.settings.read import to_dict
from convflow.storage import draft_of, explained
from convflow.training import checkpoint
from convflow.training.captions import SHOWN
from convflow.training.divergence import require_finite
from convflow.training.state import checkpoint_tensors, kept
from convflow.training.tuning import BASE_FROM_WEIGHTS, base_sums

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer


class Writing(NamedTuple):
    """A checkpoint of which this process writes a part."""

    folder: Path
    """Its name when it is complete."""
    state: dict[str, Any]
    """What its `state.json` is to say."""
    sums: Callable[[], dict[str, Any]]
    """Waits for what this process writes, and returns checksums by file."""
    done: Callable[[], bool]
    """Whether it would not wait."""


def store(trainer: Trainer, background: bool = False) -> Path:
    """Write a checkpoint of this moment and return its folder; all processes come here.

    What lies in its place is moved aside, unless this trainer wrote or loaded it: then it is the
    same moment, and only what pipelines are told is brought up to date.

    Args:
        trainer: between two steps.
        background: whether to return as soon as all is copied; `finish` then ends it.

    Raises:
        InputError: the disk is full or not writable, now or when the checkpoint before was written;
            earlier ones are untouched.
        Diverged: weights, average or the optimizer's state are not finite.
    """
    finish(trainer)
    parallel, folder = trainer.parallel, checkpoint.folder_of(trainer.run_folder, trainer.step)
    if not parallel.takes_part:
        return folder
    tensors, saved = checkpoint_tensors(trainer), False
    files = {name: parallel.save(name, held) for name, held in tensors.items()}
    with parallel.all_or_none():
        parts = {checkpoint.PARTS[name]: file.tensors for name, file in files.items()}
        require_finite(parts, lambda: kept(trainer.run_folder))
        if distributed.rank() == 0:
            description = describe_model(trainer, folder / "ema")
            saved = folder == trainer.saved and checkpoint.is_complete(folder)
            if saved:
                checkpoint.update_description(folder, description)
            else:
                checkpoint.move_aside(folder)
                checkpoint.begin(folder, trainer.model, description, BASE_FROM_WEIGHTS)
    if any(parallel.gather(saved)):
        return folder
    written = [file for file in files.values() if file.tensors or distributed.rank() == 0]
    trainer.writing = _write(folder, _state(trainer), written, background)
    if not background:
        finish(trainer)
    return folder


def finish(trainer: Trainer) -> None:
    """Wait for what is being written, if anything is, and complete it; all processes come here.

    Raises:
        InputError: as of `store`.
    """
    writing, trainer.writing, parallel = trainer.writing, None, trainer.parallel
    if writing is None:
        return
    try:
        with parallel.all_or_none():
            mine = writing.sums()
        sums = {name: known for each in parallel.gather(mine) for name, known in each.items()}
        if distributed.rank() == 0:
            sums |= base_sums(trainer.model, trainer.run_folder)
            checkpoint.complete(writing.folder, writing.state, sums)
    finally:
        if distributed.rank() == 0:
            shutil.rmtree(draft_of(writing.folder), ignore_errors=True)
    trainer.saved = writing.folder
    if distributed.rank() == 0:
        saving = trainer.config.checkpoint
        checkpoint.remove_old(trainer.run_folder, saving.keep, saving.keep_every)


def _write(
    folder: Path, state: dict[str, Any], files: list[TensorFile], background: bool
) -> Writing:
    """Return the writing of files; in the background it has begun, with copies of the tensors."""
    if not background:
        sums: Callable[[], dict[str, Any]] = partial(_write_all, folder, files)
        return Writing(folder, state, sums, lambda: True)
    copies = [
        file._replace(tensors={n: t.detach().to("cpu", copy=True) for n, t in file.tensors.items()})
        for file in files
    ]
    writer = ThreadPoolExecutor(1)
    future: Future[dict[str, Any]] = writer.submit(_write_all, folder, copies)
    writer.shutdown(wait=False)
    return Writing(folder, state, future.result, future.done)


def _write_all(folder: Path, files: list[TensorFile]) -> dict[str, Any]:
    with explained(folder):
        return {file.name: file.write(draft_of(folder)) for file in files}


def describe_model(trainer: Trainer, folder: Path) -> PipelineConfig:
    """Return what pipelines are told of a model that lies in `folder`."""
    config = trainer.config
    return PipelineConfig(
        size=trainer.images.shape[1:],
        class_names=trainer.images.class_names,
        sampling=config.sampling,
        codec=describe_codec(trainer.codec, folder, getattr(config.codec, "autoencoder", None)),
        process=config.process,
        resolution=config.resolution,
        text=describe_text(config.text, folder),
        prompts=() if trainer.captions is None else trainer.captions.examples(SHOWN),
    )


def _state(trainer: Trainer) -> dict[str, Any]:
    """Return the content of `state.json`, but for the checksums."""
    return {
        "step": trainer.step,
        "images_seen": trainer.images_seen,
        "precision": trainer.precision,
        "num_pictures": len(trainer.images),
        "pictures": trainer.data_fingerprint,
        "stamp": trainer.images.stamp,
        "config": to_dict(trainer.config),
        "version": __version__,
    } | ({"shards": LAYOUT} if trainer.parallel.sharded else {})
