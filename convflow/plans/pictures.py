"""`convflow train pictures`: one's own pictures in the time one has.

A new run looks at the pictures, measures the machine for some seconds and makes a plan. A run that
is there goes on with its settings, and more minutes make it longer.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from convflow import distributed
from convflow.plans.choices import FALLING, SPARE, Candidate, choose_decay, choose_plan
from convflow.plans.facts import look
from convflow.plans.settings import (
    blank_plan,
    given_settings,
    settings_of_plan,
    settings_of_words,
    show_samples,
    without_fall,
)
from convflow.plans.speed import fit_memory, measure_rate
from convflow.plans.words import describe
from convflow.storage import read_json
from convflow.training import checkpoint
from convflow.training.config import TrainConfig
from convflow.training.launch import read_run_config
from convflow.training.overrides import override
from convflow.training.pace import Pace
from convflow.types import InputError

log = logging.getLogger("convflow")

PLAN_FILE = "plan.json"
"""File of a run folder: the minutes of its plan, the measured speed and what was given."""

RECORDED = ("minutes", "images_per_second", "most_images", "given")
"""Keys of that file: time of the whole run, measured speed, longest length, keys of settings."""

USUAL_MINUTES = 20.0

START_SECONDS = 4.0
"""What the start of a training takes, before its first step."""

MEASURED, LONGEST_MEASURED, SHORTLY = 0.01, 5.0, 1.0
"""Share of the time and most seconds that one speed is measured for; seconds where the length is
given."""

USED = 0.95
"""Share of the time that is left for steps after all speeds are measured and samples are drawn."""

CPU_BATCH = 32
"""A CPU is as fast with larger batches as with this one, with which its speed is measured."""


class Timed(NamedTuple):
    """A training that is to end at a minute.

    Attributes:
        config: the complete settings.
        minutes: after so many from now it ends; None where its length alone counts.
        pace: keeps its length to the time.
    """

    config: TrainConfig
    minutes: float | None
    pace: Pace


def begin(
    words: Sequence[str], run: Path, minutes: float | None, began: float | None = None
) -> Timed:
    """Return a training of one's own pictures: a new one by a plan, or one that goes on.

    Args:
        words: settings of the command line.
        run: the run folder.
        minutes: length of the whole run; None for 20, or for that of the run that goes on.
        began: when the time began to count, on `time.monotonic`; None for now.

    Raises:
        InputError: unusable settings or images, several processes, or a run without a plan.
    """
    began = time.monotonic() if began is None else began
    given = given_settings(words)
    if (processes := distributed.processes_begun()) > 1:
        raise InputError(
            f"expected one process for the recipe pictures, which measures its speed, got "
            f"{processes}; begin with one, then go on with torchrun and --resume"
        )
    if (run / "config.json").is_file():
        return go_on(words, run, minutes, began)
    time_given = minutes is not None or "images" not in given
    minutes = minutes or USUAL_MINUTES
    deadline = began + 60 * minutes
    config = settings_of_words(words)
    device = distributed.choose_device(config.device)
    facts = look(config.data, device)
    channels = given.setdefault("data.channels", 1 if facts.grey else 3)
    words = ["--data.channels", str(channels), *words]
    wide = device.type != "cpu"

    @functools.cache
    def measured(candidate: Candidate) -> float:
        tried = settings_of_plan(blank_plan(candidate), words)
        tried = fit_memory(replace(tried, batch_size=candidate.batch), facts.num_classes, device)
        seconds = SHORTLY if "images" in given else min(60 * MEASURED * minutes, LONGEST_MEASURED)
        return measure_rate(tried, facts.num_classes, device, seconds)

    def rate_of(candidate: Candidate) -> float:
        batch = candidate.batch if wide else min(candidate.batch, CPU_BATCH)
        return measured(candidate._replace(batch=batch))

    left = max(1.0, USED * (deadline - time.monotonic()) - START_SECONDS)
    chosen = choose_plan(facts, left, rate_of, given, wide)
    config = show_samples(settings_of_plan(chosen, words), minutes, given)
    config = fit_memory(config, facts.num_classes, device)
    for line in describe(chosen, config, facts, minutes if time_given else None, given):
        log.info(line)
    record = {
        "minutes": minutes,
        "most_images": chosen.most_images,
        "images_per_second": chosen.images_per_second,
        "given": sorted(given),
    }
    return _timed(config, deadline if time_given else None, record)


def go_on(words: Sequence[str], run: Path, minutes: float | None, began: float) -> Timed:
    """Return a run that goes on with its settings, longer or shorter where its minutes change.

    Args:
        words: settings of the command line, which count more than those of the run.
        run: its folder.
        minutes: length of the whole run; None as it was.
        began: when the time began to count, on `time.monotonic`.

    Raises:
        InputError: a run without a plan, or one that has taken longer already.
    """
    known, given, record = read_run_config(run), given_settings(words), read_record(run)
    steps = checkpoint.list_steps(run)
    newest = checkpoint.folder_of(run, steps[-1]) if steps else None
    seen = checkpoint.read_state(newest)["images_seen"] if newest else 0
    rate, kept, images = rate_of_run(known, record), set(record["given"]), known.images
    if "images" in given:
        images = given["images"]
    elif minutes is not None and (minutes != record["minutes"] or "images" in kept):
        kept.discard("images")  # the time counts from now on
        most = min(round(60 * minutes * rate), record["most_images"])
        images = max(1, most // known.batch_size) * known.batch_size
        if images < seen:
            raise InputError(
                f"--minutes: expected more than the {seen / rate / 60:.3g} minutes that {run} has "
                f"taken, got {minutes:g}; raise it to go on"
            )
    time_given = minutes is not None or "images" not in {*given, *kept}
    if images != known.images:
        known = lengthen(known, images, record["given"])
    minutes = minutes or record["minutes"]
    deadline = began + START_SECONDS + max(0.0, 60 * minutes - seen / rate)
    record |= {"minutes": minutes, "given": sorted({*kept, *given})}
    return _timed(
        override(known, [*without_fall(words), *words]),
        deadline if time_given else None,
        record,
    )


def rate_of_run(config: TrainConfig, record: Mapping[str, Any]) -> float:
    """Return the images that a run sees in a second of its whole time, start and end included.

    A length that follows from the time says it. One that was given, or that is the most for the
    images, does not; there the measured speed counts.

    Args:
        config: the complete settings of the run.
        record: what it keeps of its plan.
    """
    capped = config.images > record["most_images"] - config.batch_size
    if "images" in record["given"] or capped:
        return USED * (1 - SPARE) * float(record["images_per_second"])
    return float(config.images / (60 * record["minutes"]))


def lengthen(config: TrainConfig, images: int, given: Sequence[str]) -> TrainConfig:
    """Return settings of another length, with what follows from the length.

    Args:
        config: the complete settings.
        images: length of the run.
        given: keys of settings that stay.
    """
    optim, ema = config.optim, config.ema
    if optim.schedule == "wsd" and "optim.decay_images" not in given:
        optim = replace(optim, decay_images=max(1, int(FALLING * images)))  # type: ignore[type-var]
    if "ema.decay" not in given:
        ema = replace(ema, decay=choose_decay(images, config.batch_size))
    return replace(config, images=images, optim=optim, ema=ema)


def read_record(run: Path) -> dict[str, Any]:
    """Return what a run keeps of its plan, or raise InputError where it has none."""
    if not (run / PLAN_FILE).is_file():
        raise InputError(
            f"expected a run of the recipe pictures, got {run} without {PLAN_FILE}; go on with "
            f"convflow train --resume {run}, or choose another --run"
        )
    record = read_json(run / PLAN_FILE)
    minutes, rate, most, given = (record.get(key) for key in RECORDED)
    if not (
        all(isinstance(number, int | float) and number > 0 for number in (minutes, rate))
        and isinstance(most, int)
        and isinstance(given, list)
        and all(isinstance(key, str) for key in given)
    ):
        raise InputError(
            f"{run / PLAN_FILE} is damaged: expected {', '.join(RECORDED)}, got {record}; "
            f"remove it, and go on with convflow train --resume {run}"
        )
    return record


def _timed(config: TrainConfig, deadline: float | None, record: dict[str, Any]) -> Timed:
    """Return a training with what keeps it to its time.

    A length that was given stays. So does one on which the learning rate depends from the start,
    and one whose learning rate falls over images that were given.
    """
    given = {"images", "optim.decay_images"} & {*record["given"]}
    fixed = given or config.optim.schedule in ("linear", "cosine")
    files = {PLAN_FILE: json.dumps(record, indent=2)}
    pace = Pace(deadline, 0 if fixed else record["most_images"], files)
    return Timed(config, None if deadline is None else (deadline - time.monotonic()) / 60, pace)
