"""How often a run shows each image, and what is said where a model may learn them by heart.

The number of passes counts, for the training time after which a model reproduces its images grows
with their number (Bonnaire et al. 2025). Where to draw the line is a rule of thumb: published runs
on ImageNet without augmentation make 80 to 1,400 passes, and EDM's on CIFAR-10 with augmentation
makes 4,000 (200 M images of 50,000; Karras et al. 2022).
"""

from __future__ import annotations

from pathlib import Path

from convflow.training.config import TrainConfig

MOST_PASSES = 1_500
"""Passes over the images from which on a run warns."""

MOST_PASSES_AUGMENTED = 4_000
"""Likewise with augmentation."""


def most_passes(config: TrainConfig) -> int:
    """Return the passes from which on a run warns."""
    return MOST_PASSES_AUGMENTED if config.data.augment else MOST_PASSES


def advise_repeats(config: TrainConfig, count: int, run: Path) -> str | None:
    """Return a warning where a run shows its images so often that it may copy them.

    Args:
        config: the complete settings.
        count: images that the run is shown, without those held back.
        run: the run folder, for the message.

    Returns:
        One line, None where there is nothing to say.
    """
    passes, most = config.images / count, most_passes(config)
    if passes <= most:
        return None
    ways = [f"end it after about --images {most * count}"]
    if not config.data.augment:
        ways.append("change the images with --data.augment 0.12")
    ways.append("add images")
    if not config.init:
        ways.append("begin from a trained model with --init")
    ways[-1] = f"or {ways[-1]}"
    return (
        f"{count:,} images are few for this run: each is shown {passes:,.0f} times, and from about "
        f"{most:,} times on (a rule of thumb) a model may copy them; {', '.join(ways)}; "
        f"convflow nearest {run} shows whether it copies"
    )
