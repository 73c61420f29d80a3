"""The length of a training: epochs as images seen, and what is said where it ends."""

from __future__ import annotations

import logging
import shlex

from convflow.settings.fields import LARGEST_COUNT
from convflow.training.trainer import Trainer
from convflow.types import InputError
from convflow.units import duration

log = logging.getLogger("convflow")


def count_images(epochs: float, num_images: int) -> tuple[int, str]:
    """Return the images to see, and a line such as "3 epochs of 1,797 images: 5,391 images".

    Args:
        epochs: passes over the images, above 0; part of one is rounded to whole images.
        num_images: in an epoch.

    Raises:
        InputError: more images than can be counted.
    """
    if epochs * num_images > LARGEST_COUNT:
        raise InputError(f"--epochs: expected at most {LARGEST_COUNT:,} images, got more; lower it")
    images, word = max(1, round(epochs * num_images)), "epoch" if epochs == 1 else "epochs"
    return images, f"{epochs:,g} {word} of {num_images:,} images: {images:,} images"


def say_end(trainer: Trainer, finished: bool, spent: float | None) -> None:
    """Say how a training ended and how to go on.

    Args:
        trainer: after its run.
        finished: whether nobody interrupted it.
        spent: seconds that it took, where they were limited.
    """
    config, word = trainer.config, shlex.quote(str(trainer.run_folder))
    if not finished:
        log.info(f"saved; go on with: convflow train --resume {word}")
        return
    if trainer.images_seen >= config.images:
        if spent is not None:
            log.info(f"all {config.images:,} images are seen after {duration(spent)}")
        first = f"convflow export {word}, then " if trainer.parallel.sharded else ""
        log.info(f"done; try: {first}convflow sample {word}")
        return
    if config.optim.schedule != "constant":
        log.info("the learning rate has not fallen to zero yet: it does with the last image")
    log.info(
        f"time is over at {trainer.images_seen:,} of {config.images:,} images; saved; "
        f"go on with: convflow train --resume {word}"
    )
