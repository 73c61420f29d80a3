"""Averages of the weights that a run keeps beside the usual one, and snapshots of some of them.

An average over a half-life gives the weights after n of N images a share that grows as
2^(n / half-life); a power-function average as n^exponent (`convflow.bundle.averages`). Weights
before the first step have no share. Both are counted in images, so the batch may change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from convflow import distributed
from convflow.bundle.averages import (
    SNAPSHOT_FILE,
    exponent_of,
    file_of,
    list_snapshots,
    snapshot_folder,
)
from convflow.storage import (
    UNFINISHED,
    begin_folder,
    draft_of,
    end_folder,
    explained,
    find_nonfinite,
)
from convflow.training.config import EMAConfig
from convflow.training.ema import EMA
from convflow.types import InputError
from convflow.units import bytes_of

if TYPE_CHECKING:
    from convflow.training.step import Losses
    from convflow.training.trainer import Trainer


def create_averages(losses: Losses, config: EMAConfig) -> tuple[EMA, EMA]:
    """Return the usual average of a network, and that of its objectives."""
    settings = (config.decay, config.warmup, config.every)
    return EMA(losses.network, *settings), EMA(losses.objectives, *settings)


class Averages:
    """Averages of the trained parameters of a network, in float32, each beside what it follows.

    Args:
        model: the network, prepared by its engine; of a sharded one a process averages its share.
        config: the half-lives and relative widths.

    Attributes:
        tensors: by the name of the average, then of the parameter.
        before: images seen before the last update.
    """

    def __init__(self, model: nn.Module, config: EMAConfig) -> None:
        self.config, self.before = config, 0
        self.tensors = {
            name: {
                key: parameter.detach().float().clone()
                for key, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            for name in names_of(config)
        }

    @torch.no_grad()
    def update(self, model: nn.Module, before: int, images: int) -> None:
        """Take in the weights after a step.

        Args:
            model: the network.
            before: images seen before the step.
            images: images seen after it.
        """
        self.before = before
        if not self.tensors:
            return
        new = [p.detach().float() for p in model.parameters() if p.requires_grad]
        for name, share in shares_of(self.config, before, images).items():
            torch._foreach_lerp_([*self.tensors[name].values()], new, share)

    def state(self) -> dict[str, Tensor]:
        """Return all averages, as `NAME/PARAMETER`."""
        return {
            f"{name}/{key}": t for name, some in self.tensors.items() for key, t in some.items()
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take averages from what `state` returned, or raise InputError where they do not fit."""
        held = self.state()
        if held.keys() != tensors.keys():
            missing = sorted(held.keys() ^ tensors.keys())[0]
            raise InputError(f"the averages do not fit the network, first {missing}; use others")
        for name, tensor in held.items():
            tensor.copy_(tensors[name])


def update_averages(trainer: Trainer, total: int) -> None:
    """Take the weights after a step on `total` images into all averages."""
    trainer.ema.update(trainer.model, trainer.step)
    trainer.objectives_ema.update(trainer.losses.objectives, trainer.step)
    images = trainer.images_seen
    trainer.averages.update(trainer.model, images - total, images)


def names_of(config: EMAConfig) -> list[str]:
    """Return the names of the averages, such as "ema-50000" and "ema-0.05"."""
    return [f"ema-{number}" for number in (*config.half_lives, *config.sigma_rel)]


def shares_of(config: EMAConfig, before: int, images: int) -> dict[str, float]:
    """Return the share of the newest weights in each average, by its name.

    The weights of a step stand for the images of the step: all images have shares that sum to 1.

    Args:
        config: the half-lives and relative widths.
        before: images seen before the step.
        images: images seen after it.
    """
    shares = {}
    for half_life in config.half_lives:
        rest, all_of_it = (1 - 0.5 ** (n / half_life) for n in (images - before, images))
        shares[f"ema-{half_life}"] = rest / all_of_it
    for width in config.sigma_rel:
        shares[f"ema-{width}"] = 1 - (before / images) ** (exponent_of(width) + 1)
    return shares


def is_due(config: EMAConfig, before: int, images: int, last: int) -> bool:
    """Return whether a snapshot is taken after a step: at its images, and at the end of the run."""
    every = config.snapshots
    return bool(every) and (images // every > before // every or images >= last)


def store_snapshot(trainer: Trainer) -> None:
    """Write the power-function averages of this moment, if it is time; all processes come here.

    Args:
        trainer: between two steps.

    Raises:
        InputError: the disk is full or not writable, or an average is not finite in the dtype of
            snapshots.
    """
    config, images = trainer.config.ema, trainer.images_seen
    parallel, before = trainer.parallel, trainer.averages.before
    if not parallel.takes_part or not is_due(config, before, images, trainer.config.images):
        return
    folder, first = snapshot_folder(trainer.run_folder, images), distributed.rank() == 0
    dtype = getattr(torch, config.snapshot_dtype)
    with parallel.all_or_none():
        if first:
            begin_folder(folder)
    try:
        with parallel.all_or_none(), explained(folder):
            sums = {}
            for width in config.sigma_rel:
                held = trainer.averages.tensors[f"ema-{width}"]
                file = parallel.save(file_of(width), {n: t.to(dtype) for n, t in held.items()})
                if bad := find_nonfinite(file.tensors):
                    raise InputError(
                        f"expected finite numbers in the average ema-{width} as "
                        f"{config.snapshot_dtype}, got others, first in {bad}; add "
                        "--ema.snapshot-dtype float32"
                    )
                if file.tensors or first:
                    sums[file.name] = file.write(draft_of(folder))
        found = {name: known for each in parallel.gather(sums) for name, known in each.items()}
        with parallel.all_or_none():
            if first:
                state = {
                    "images": images,
                    "step": trainer.step,
                    "sigma_rel": list(config.sigma_rel),
                    "dtype": config.snapshot_dtype,
                    "files": found,
                }
                text = json.dumps(state, indent=2)
                (draft_of(folder) / SNAPSHOT_FILE).write_text(text, encoding="utf-8")
                end_folder(draft_of(folder), folder)
    finally:
        if first:
            shutil.rmtree(draft_of(folder), ignore_errors=True)


def store_missed(trainer: Trainer) -> None:
    """Write the snapshot of the moment that a run goes on from, where a full disk prevented it.

    Where a run asks for snapshots only now, its first is that of this moment. All processes come
    here, after `drop_later`.
    """
    run, device = trainer.run_folder, trainer.device
    stored = distributed.from_first(lambda: [s.images for s in list_snapshots(run)], device)
    trainer.averages.before = max(stored, default=0)
    if trainer.averages.before < trainer.images_seen:
        store_snapshot(trainer)


def drop_later(trainer: Trainer) -> None:
    """Remove snapshots of a later moment than that from which a run goes on, and drafts."""
    if distributed.rank():
        return
    run, images = trainer.run_folder, trainer.images_seen
    for snapshot in list_snapshots(run):
        if snapshot.images > images:
            shutil.rmtree(snapshot.folder)
    for draft in snapshot_folder(run, 0).parent.glob(f"{UNFINISHED}*"):
        shutil.rmtree(draft, ignore_errors=True)


def describe_averages(config: EMAConfig, parameters: int, images: int) -> str:
    """Return a line on the averages that a run keeps, their memory, and the disk for snapshots."""
    names = names_of(config)
    if not names:
        return ""
    held = bytes_of(4 * parameters * len(names))
    said = f"averages beside ema: {', '.join(names)}, {held} in memory and in each checkpoint"
    if not config.snapshots:
        return said
    number = 2 if config.snapshot_dtype != "float32" else 4
    each = number * parameters * len(config.sigma_rel)
    count = -(-images // config.snapshots)
    return (
        f"{said}; a snapshot in {config.snapshot_dtype} every {config.snapshots:,} images takes "
        f"{bytes_of(each)}, {count:,} of them {bytes_of(count * each)}"
    )
