"""A plan in a few plain lines: what was chosen, why, and which option chooses otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from convflow.plans.choices import Plan
from convflow.plans.facts import Facts
from convflow.settings.fields import Pixels
from convflow.settings.read import show
from convflow.training.config import TrainConfig
from convflow.units import duration


def describe(
    chosen: Plan,
    config: TrainConfig,
    facts: Facts,
    minutes: float | None,
    given: Collection[str],
) -> Iterator[str]:
    """Yield the lines of a plan.

    Args:
        chosen: the plan.
        config: its settings, with what was given.
        facts: what is known of the images.
        minutes: that the run is to take; None where its length was given.
        given: dotted keys of the settings that were given.
    """
    data, optim, size = config.data, config.optim, show(config.data.size, Pixels)
    yield f"{facts}" + ("" if minutes is None else f"; {duration(60 * minutes)} of time")
    if "data.size" in given:
        yield f"size {size}, as given"
    else:
        yield (
            f"size {size} (--data.size): the largest up to that of the images that a network "
            f"learns in the {'time' if minutes is not None else 'length'}"
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
    mirrored = "mirrored" if data.flip else "not mirrored"
    mirrored += ", as given" if "data.flip" in given else ", for letters and flags"
    changed = "not changed"
    if data.augment:
        kinds = ", ".join(data.augment_kinds) or "all changes"
        changed = f"{kinds} with probability {data.augment:g}, of which the network is told"
    yield f"images {mirrored} (--data.flip); {changed} (--data.augment)"
    capped = config.images > chosen.most_images - config.batch_size
    if capped and "images" not in given:
        yield (
            f"the run ends before its time: a model that is shown {facts.num_images:,} images more "
            "often may copy them"
        )
