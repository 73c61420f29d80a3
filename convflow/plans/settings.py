"""The settings of a plan, and what the words of the command line have chosen already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convflow.bundle.config import SamplingConfig
from convflow.plans.choices import AUGMENT_KINDS, RUNGS, Candidate, Plan
from convflow.samplers.solvers import create_solver
from convflow.settings.words import parts_of, read_words
from convflow.training.config import DataConfig, EMAConfig, TrainConfig
from convflow.training.optimizers import AdamW
from convflow.training.overrides import OF_THE_COMMAND, override, pairs_of_settings
from convflow.types import InputError

SHEETS = 8
"""The first sheet of samples comes after this part of the time, two more come on the way."""


def usual_settings() -> TrainConfig:
    """Return the settings that a plan begins from; it chooses all that depends on data and time."""
    width, depth = RUNGS[3]
    return TrainConfig(
        model={"name": "flowdcn", "width": width, "depth": depth, "num_groups": width // 32},
        data=DataConfig(path="", size=(32, 32), channels=3, flip=False),
        optim=AdamW(
            1e-3, betas=(0.9, 0.99), warmup_images=5_000, schedule="wsd", decay_images=50_000
        ),
        ema=EMAConfig(decay=0.99),
        sampling=SamplingConfig(create_solver("ab2", steps=20), guidance=1.5),
        images=100_000,
        batch_size=32,
    )


def settings_of_words(words: Sequence[str]) -> TrainConfig:
    """Return the usual settings with what the words of a command line say."""
    return override(usual_settings(), [*without_fall(words), *words])


def given_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return what words of the command line choose, by complete dotted keys.

    Raises:
        InputError: an unknown key, an unfit value, or one that no plan takes.
    """
    usual = usual_settings()
    pairs = pairs_of_settings(words, usual)
    given = read_words(TrainConfig, pairs, parts_of(usual), OF_THE_COMMAND)
    for key, wanted in {"init": "", "codec": "pixel"}.items():
        if given.get(key, wanted) != wanted:
            raise InputError(
                f"--{key}: expected none with the recipe pictures, which plans a new network for "
                f"pixels, got {given[key]}; leave it out, or choose pictures.flowdcn"
            )
    return given


def settings_of_plan(chosen: Plan, words: Sequence[str]) -> TrainConfig:
    """Return the settings of a plan; what the words say counts more.

    Args:
        chosen: the plan.
        words: of the command line, such as `--data pets --batch-size 16`.
    """
    base, network = usual_settings(), chosen.network
    augmented: dict[str, Any] = {}
    if chosen.augment:
        augmented = {"augment": chosen.augment, "augment_kinds": AUGMENT_KINDS}
    model = {
        "width": network.width,
        "depth": network.depth,
        "num_groups": max(1, network.width // 32),
        "patch_size": network.patch,
    }
    rate: dict[str, Any] = {
        "lr": chosen.lr,
        "warmup_images": chosen.warmup_images,
        "decay_images": chosen.decay_images,
    }
    config = replace(
        base,
        model=base.model | model,
        data=replace(base.data, size=network.size, channels=chosen.channels, **augmented),
        optim=replace(base.optim, **rate),  # type: ignore[type-var]
        ema=replace(base.ema, decay=chosen.ema_decay),
        images=chosen.images,
        batch_size=network.batch,
    )
    return override(config, [*without_fall(words), *words])


def blank_plan(candidate: Candidate) -> Plan:
    """Return a plan whose numbers do not matter, to measure the speed of a candidate."""
    return Plan(candidate, 1.0, 1000, 1e-4, 50, 500, 0.99, 0.0, 3, 1.0, 1000)


def show_samples(config: TrainConfig, minutes: float, given: Mapping[str, Any]) -> TrainConfig:
    """Return settings that draw three sheets of samples on the way, none in a very short run."""
    first = max(1.0, minutes / SHEETS)
    times = {"samples_minutes": first, "samples_longest_minutes": max(first, minutes / 2)}
    chosen: dict[str, Any] = {k: v for k, v in times.items() if f"monitor.{k}" not in given}
    return replace(config, monitor=replace(config.monitor, **chosen))


def without_fall(words: Sequence[str]) -> list[str]:
    """Return words that take the fall of the usual schedule out where another schedule is given."""
    schedule = given_settings(words).get("optim.schedule", "wsd")
    return [] if schedule == "wsd" else ["--optim.decay-images", "0"]
