"""A plan in a few plain lines: what was chosen, why, and which option chooses otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from convflow.plans.choices import Plan
from convflow.plans.facts import Facts
from convflow.settings.fields import Pixels
from convflow.settings.read import show
from convflow.training.config import TrainConfig
from convflow.units import duration


def describe(
    chosen: Plan, config: TrainConfig, facts: Facts, minutes: float | None
) -> Iterator[str]:
    """Yield the lines of a plan.

    Args:
        chosen: the plan.
        config: its settings, with what was given.
        facts: what is known of the images.
        minutes: that the run is to take; None where its length was given.
    """
    data, optim, size = config.data, config.optim, show(config.data.size, Pixels)
    yield f"{facts}" + ("" if minutes is None else f"; {duration(60 * minutes)} of time")
    yield (
        f"size {size} (--data.size): the largest up to that of the images that a network learns in "
        "the time"
    )
    if config.model["name"] == "flowdcn":
        model = config.model
        yield (
            f"network flowdcn, {model['width']} wide, {model['depth']} blocks, patches of "
            f"{model['patch_size']}x{model['patch_size']} pixels (--model.width, --model.depth, "
            f"--model.patch-size): it trains on {chosen.images_per_second:,.0f} images/s here"
        )
    yield (
        f"length {config.images:,} images (--images), each shown {chosen.passes:,.3g} times; "
        f"batch {config.batch_size} (--batch-size)"
    )
    yield (
        f"learning rate {optim.lr:g} (--optim.lr), {optim.schedule}; average of the weights with "
        f"decay {config.ema.decay:g} (--ema.decay)"
    )
    mirrored = "mirrored" if data.flip else "not mirrored, for letters and flags"
    changed = "not changed"
    if data.augment:
        kinds = ", ".join(data.augment_kinds) or "all changes"
        changed = f"{kinds} with probability {data.augment:g}, of which the network is told"
    yield f"images {mirrored} (--data.flip); {changed} (--data.augment)"
    if config.images >= chosen.most_images and minutes is not None:
        yield (
            f"the run ends before its time: a model that is shown {facts.num_images:,} images more "
            "often may copy them"
        )
