"""The state of a training, by the files of a checkpoint, and taken back from one."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from convflow.data.formats import newly_read
from convflow.data.selection import describe_others
from convflow.models.adapter import adapter_tensors, has_adapter, load_adapter
from convflow.models.backbone import Backbone
from convflow.models.zoo import load_strictly
from convflow.parallel.shards import SHARDS, Shards, shard_folder
from convflow.storage import find_misfits
from convflow.training import checkpoint
from convflow.training.changes import free_name
from convflow.training.data import SELECTION_FILE
from convflow.training.optim import optimizer_tensors, restore_optimizer, trained_parameters
from convflow.training.places import find_paths
from convflow.types import InputError

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer

log = logging.getLogger("convflow")


def checkpoint_tensors(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Return all tensors that training changes, by the file of a checkpoint that holds them."""
    parts = {name: stored_tensors(network) for name, network in _networks(trainer).items()}
    parts[checkpoint.OPTIMIZER_FILE] = optimizer_tensors(trainer.losses, trainer.optimizer)
    parameters = {
        f"{name}/{key}": tensor
        for name, tensors in _objectives(trainer).items()
        for key, tensor in tensors.items()
    }
    averages = trainer.averages.state()
    parts |= {checkpoint.OBJECTIVES_FILE: parameters} if parameters else {}
    return parts | ({checkpoint.AVERAGES_FILE: averages} if averages else {})


def _networks(trainer: Trainer) -> dict[str, Backbone]:
    """Return the network and its average by the file of a checkpoint that holds their weights."""
    adapted = has_adapter(trainer.model)
    raw = checkpoint.RAW_ADAPTER if adapted else checkpoint.RAW_FILE
    ema = checkpoint.EMA_ADAPTER if adapted else checkpoint.EMA_FILE
    return {raw: trainer.model, ema: cast(Backbone, trainer.ema.model)}


def stored_tensors(network: Backbone) -> dict[str, Tensor]:
    """Return the tensors of a network that a checkpoint holds: all, or those of its adapter."""
    return adapter_tensors(network) if has_adapter(network) else network.state_dict()


def _objectives(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Return the state of the objectives, averages of what is trained in them, augmentation's."""
    objectives, augmentation = trainer.losses.objectives, trainer.losses.augmentation
    averages = trainer.objectives_ema.averages(objectives)
    more = {} if augmentation is None else {"augmentation": augmentation.state_dict()}
    return {"raw": objectives.state_dict(), "ema": averages} | more


def restore(trainer: Trainer, folder: Path) -> None:
    """Take a trainer back to the moment of a checkpoint.

    Raises:
        InputError: a damaged file, numbers that are not finite, another network, other images.
    """
    state = checkpoint.read_state(folder)
    _check_images(trainer, state, folder)
    checkpoint.compare_stamps(state.get("stamp"), trainer.images.stamp, folder, trainer.config.data)
    with checkpoint.readable(folder):
        checkpoint.require_whole(folder, state, hashes=trainer.config.checkpoint.verify)
        # The average first, for earlier versions stored old values of buffers with it.
        for name, network in reversed(_networks(trainer).items()):
            tensors = _read(trainer, folder, name, stored_tensors(network).get)
            load = load_adapter if has_adapter(network) else load_strictly
            load(network, tensors, folder / name)
        trained = trained_parameters(trainer.losses)
        tensors = _read(
            trainer,
            folder,
            checkpoint.OPTIMIZER_FILE,
            lambda key: trained.get(key.rpartition("/")[0]),
        )
        restore_optimizer(trainer.losses, trainer.optimizer, tensors, state["step"])
        _restore_objectives(trainer, folder)
        if held := trainer.averages.state():
            trainer.averages.restore(_read(trainer, folder, checkpoint.AVERAGES_FILE, held.get))
    trainer.step, trainer.images_seen = state["step"], state["images_seen"]
    if trainer.config.precision == "auto":  # stays what it was
        trainer.precision = state.get("precision", trainer.precision)
        trainer.parallel.check_precision(trainer.precision)
        samples = replace(trainer.previews.samples, precision=trainer.precision)
        trainer.previews = replace(trainer.previews, samples=samples)
    trainer.begun_from = trainer.saved = folder


def _read(
    trainer: Trainer, folder: Path, name: str, like: Callable[[str], Tensor | None]
) -> dict[str, Tensor]:
    """Return the share of this process in a file of a checkpoint, or in the shards for it."""
    if (folder / SHARDS).is_dir():
        shards = Shards(folder / shard_folder(name))
        return shards.read([*shards.shapes], like)
    return trainer.parallel.read(folder / name, like)


def _restore_objectives(trainer: Trainer, folder: Path) -> None:
    """Put parameters and average of objectives back, or raise InputError where they do not fit."""
    held = _objectives(trainer)
    if not any(held.values()):
        return
    held_flat = {f"{part}/{key}": t for part, some in held.items() for key, t in some.items()}
    path = folder / checkpoint.OBJECTIVES_FILE
    tensors = _read(trainer, folder, path.name, held_flat.get)
    # Earlier versions stored what is frozen with the average too.
    twice = {f"ema/{name}" for name in held["raw"].keys() - held["ema"].keys()}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in twice}
    modules: dict[str, Any] = {
        "raw": trainer.losses.objectives,
        "ema": trainer.objectives_ema.model,
    }
    if trainer.losses.augmentation is not None:
        modules["augmentation"] = trainer.losses.augmentation
    for name, module in modules.items():
        start = f"{name}/"
        own = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        if problems := find_misfits(held[name], own):
            raise InputError(f"{path} does not fit the objectives: {'; '.join(problems[:3])}")
        module.load_state_dict(own, strict=False)


def _check_images(trainer: Trainer, state: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError where a state is of other images, with the ways out."""
    run, count = trainer.run_folder, len(trainer.images)
    num_before = state.get("num_pictures", count)
    if (
        num_before == count
        and state.get("pictures", trainer.data_fingerprint) == trainer.data_fingerprint
    ):
        return
    data = find_paths(trainer.config, run).data
    found = f"{num_before:,} images, got {count:,} in {data.path}"
    if num_before == count:
        found = f"other images, classes, labels or captions than are in {data.path} now"
    if others := describe_others(run / SELECTION_FILE, trainer.images.source):
        found += f" ({others})"
    ways = ["restore the data"]
    if count < num_before and data.on_bad == "skip" and not (run / SELECTION_FILE).is_file():
        ways = [f"restore {run / SELECTION_FILE}, which names the images of the run, or the data"]
    if "labels" not in state["config"].get("data", {}):
        names = map(trainer.images.item_name, range(count))
        added = newly_read(names) if num_before < count else {}
        kinds = ", ".join(f"{number:,} {ending}" for ending, number in added.items())
        if kinds:
            ways = [f"since convflow now reads more kinds of files, move them away ({kinds})"]
        if count - num_before != sum(added.values()) or not kinds:
            ways.append(
                "since convflow now reads files of labels and takes folders such as test for "
                "splits, pass --data.labels folders or --data.split all, or rename them"
            )
    words = shlex.join(["--init", str(run), "--data", data.path, "--run", str(free_name(run))])
    ways.append(f"begin another run from its weights: convflow train {words}")
    raise InputError(f"{folder} was trained on {found}; {'; or '.join(ways)}")


def save_before(error: Exception, save: Callable[[], Path]) -> Exception:
    """Save before an error ends the run, where that can be; return the error, saying where."""
    try:
        where = f"saved before: {save()}"
    except Exception as second:  # the first error matters more
        log.warning(f"nothing could be saved: {second}")
        return error
    if isinstance(error, InputError):
        return InputError(f"{error}; {where}")
    log.info(where)
    return error


def kept(run: Path, before: int | None = None) -> str:
    """Return the name of the newest good checkpoint of a run, for a message."""
    return str(checkpoint.find_good(run, before) or "no good checkpoint")


def advise(trainer: Trainer) -> str:
    """Return what is kept of a training that diverges, and what to do, for the message."""
    run, begun = trainer.run_folder, trainer.begun_from
    if begun == checkpoint.folder_of(run, trainer.step):
        good = kept(run, before=trainer.step)
        cure = f"the first step after {begun} was read, which may be bad: move it elsewhere"
    else:
        good, cure = kept(run), "try a lower --optim.lr in a new run"
    return f"kept: {good}; {cure}"
