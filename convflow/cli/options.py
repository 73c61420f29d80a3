"""Words of the command line as values, and the options of sampling that several commands share."""

from __future__ import annotations

import argparse
import csv
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convflow.labels import composed
from convflow.types import InputError, Size, nearest_size

if TYPE_CHECKING:
    from convflow.pipeline import Pipeline

log = logging.getLogger("convflow")


def _whole(text: str, least: int) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII) or int(text) < least:
        message = f"expected a whole number of at least {least}, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def positive(text: str) -> int:
    """Return a whole number of at least 1; for `argparse`."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """Return a whole number of at least 0; for `argparse`."""
    return _whole(text, 0)


def finite(text: str) -> float:
    """Return a finite number; for `argparse`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return number


def channels(text: str) -> int | str:
    """Return how many channels, or "all"; for `argparse`."""
    return text if text == "all" else positive(text)


def last_step(text: str) -> float | str:
    """Return a length, or "none"; for `argparse`."""
    return text if text == "none" else finite(text)


def above_zero(text: str) -> float:
    """Return a finite number above 0; for `argparse`."""
    if (number := finite(text)) <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def shift(text: str) -> float | str:
    """Return a number above 0, or "auto"; for `argparse`."""
    return text if text == "auto" else above_zero(text)


def reach(text: str) -> float | tuple[float, float] | str:
    """Return one reach, or two, from "4" or "4,6", or "auto" or "none"; for `argparse`."""
    if text in ("auto", "none"):
        return text
    numbers = tuple(above_zero(part) for part in text.split(","))
    if len(numbers) > 2:
        raise argparse.ArgumentTypeError(f"expected one number or X,Y such as 4,6, got {text!r}")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def size(text: str) -> Size:
    """Return height and width from "48x32", or a square from "32"; for `argparse`."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 48x32, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def sizes(text: str) -> list[Size]:
    """Return sizes from "48x32" or "48x32,64x64"; for `argparse`."""
    return list(dict.fromkeys(size(part) for part in text.split(",")))


def counts(text: str) -> tuple[int, ...]:
    """Return whole numbers of at least 1 from "30,10"; for `argparse`."""
    return tuple(positive(part) for part in text.split(","))


def times(text: str) -> tuple[float, ...]:
    """Return numbers above 0 from "0.9" or "0.9,0.7"; for `argparse`."""
    return tuple(above_zero(part) for part in text.split(","))


def blocks(text: str) -> tuple[int, int]:
    """Return the first and the last block from "5,7"; for `argparse`."""
    numbers = tuple(natural(part) for part in text.split(","))
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"expected FIRST,LAST such as 5,7, got {text!r}")
    return numbers


def interval(text: str) -> tuple[float, float]:
    """Return two times from "0.1,0.9"; for `argparse`."""
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        message = f"expected LOW,HIGH such as 0.1,0.9, got {text!r}"
        raise argparse.ArgumentTypeError(message) from error
    return low, high


REACH = ("times", "blocks", "form", "peak")
"""Parts of a `ReachSchedule`, as options `--reach-PART`."""

OPTIONS: dict[str, dict[str, Any]] = {
    "label_policy": {"help": "balanced: labels in turn; random: drawn (default: the recipe's)"},
    "steps": {"type": positive, "help": "solver steps (default: the recipe's)"},
    "solver": {"help": "euler, heun, ab4, ddpm, ... (default: the recipe's; docs: samplers)"},
    "guidance": {"type": finite, "help": "1 = none (default: the recipe's)"},
    "guidance_kind": {"help": "cfg, cfg-zero (default: the recipe's), or auto with --weaker"},
    "interval": {
        "type": interval,
        "help": "times at which it acts, as 0,1 (default: the recipe's)",
    },
    "channels_guided": {"type": channels, "help": "the first so many, or all; published: 3"},
    "weaker": {"help": "run, checkpoint or model folder that guidance pulls away from"},
    "shift": {
        "type": shift,
        "help": "above 1 spends more steps near noise (LightningDiT's 0.3 is 3.33 here); "
        "auto: times sqrt(pixels / trained pixels)",
    },
    "last_step": {"type": last_step, "help": "length of the last step, or none; published: 0.04"},
    "diffusion": {"help": "of random solvers: sigma, constant, flowdcn, ..."},
    "strength": {"type": finite, "help": "of the diffusion"},
    "last": {"help": "how a random solver ends: mean, euler, tweedie, none"},
    "eta": {"type": finite, "help": "noise of ddim, 0 to 1"},
    "clip": {"action": argparse.BooleanOptionalAction, "help": "clip predicted data (ddpm, ddim)"},
    "atol": {"type": above_zero, "help": "tolerance of dopri5"},
    "rtol": {"type": above_zero, "help": "relative tolerance of dopri5"},
    "stage_steps": {
        "type": counts,
        "help": "of dfm: steps of each scale, 30,10 (default: the recipe's, or 3/4 and the rest)",
    },
    "thresholds": {"type": times, "help": "of dfm: when the next scale begins, published: 0.9"},
    "stop_scale": {
        "type": positive,
        "help": "of dfm: stop after scale K, at its size, 1 = coarsest",
    },
    "table": {"type": Path, "help": "of the solver searched: a .json of convflow bench solvers"},
    "reach": {
        "type": reach,
        "help": "S_max of FlowDCN in cells, or X,Y, or auto: grows with the size as published, or "
        "none (default: as trained)",
    },
    "reach_times": {
        "type": interval,
        "help": "of --reach auto: flow times at which it grows (default: 0,0.6)",
    },
    "reach_blocks": {
        "type": blocks,
        "help": "of --reach auto: first,last from 0 (default: all but the first 5 and last 4)",
    },
    "reach_form": {"help": "of --reach auto: linear, falling to 1 (default), or constant"},
    "reach_peak": {"type": above_zero, "help": "of --reach auto: its largest factor (default: 2)"},
    "position_scaling": {
        "help": "of DiT and SiT on larger grids: pi or ei; of rotary positions pi, ntk or yarn"
    },
    "precision": {"help": "float32 (default) or bfloat16, faster and less exact"},
}
"""What `Pipeline.samples` takes, as options; size and seed stand with each command. What is not
given is as in the recipe."""


def add_sampling_options(
    parser: argparse._ActionsContainer, names: Sequence[str] | None = None
) -> None:
    """Add the options that say how a model makes pictures, all or some; None unless given."""
    parser.add_argument(
        "--labels",
        help='class names or indices: cat,dog; names with commas in quotes: cat,"b, or not" '
        "(default: all classes)",
    )
    parser.add_argument(
        "--label",
        action="append",
        metavar="NAME",
        help="one class name or index, commas included; may be repeated",
    )
    for name in OPTIONS if names is None else names:
        parser.add_argument(f"--{name.replace('_', '-')}", **OPTIONS[name])


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the user gave of the arguments of `Pipeline.samples`, labels apart.

    Raises:
        InputError: a weaker model without the guidance that uses it, or the other way round;
            a part of a schedule of the reach without --reach auto.
    """
    if (vars(options).get("guidance_kind") == "auto") != bool(vars(options).get("weaker")):
        raise InputError(
            "expected --guidance-kind auto and --weaker MODEL together, got one of them; "
            "give both or none"
        )
    from convflow.nn.reach import ReachSchedule
    from convflow.pipeline import Pipeline
    from convflow.samplers.multistep import read_table

    names = (*OPTIONS, "size", "seed")
    given = {name: v for name, v in vars(options).items() if name in names and v is not None}
    if "weaker" in given:
        given["weaker"] = Pipeline.from_pretrained(given["weaker"], device=options.device)
    varied = {n: given.pop(f"reach_{n}") for n in REACH if f"reach_{n}" in given}
    if given.get("reach") == "auto":
        given["reach"] = ReachSchedule(**varied)
    elif varied:
        raise InputError(
            f"--reach-{next(iter(varied))}: expected --reach auto with it, got "
            f"{given.get('reach', 'none')}; add it, or leave this out"
        )
    if given.get("last_step") == "none":
        given["last_step"] = None
    if "table" in given:
        given["table"] = read_table(given["table"])
        given.setdefault("solver", "searched")
    return given


def holds_model(folder: Path) -> bool:
    """Return whether a folder is a run, a checkpoint or a model folder."""
    inside = ("checkpoints", "config.json", "ema/config.json", "raw/config.json")
    return any((folder / name).exists() for name in inside)


def chosen_labels(options: argparse.Namespace, known: Sequence[str]) -> list[str] | None:
    """Return what --labels and --label ask for, in this order; None where neither is given.

    Args:
        options: of the command.
        known: class names; a value of --labels that is one of them is one label.

    Raises:
        InputError: quotes in --labels that do not close.
    """
    text, more = options.labels, options.label
    if text is None:
        return more
    names = [text]
    if composed(text) not in map(composed, known):
        try:
            names = next(csv.reader([text], skipinitialspace=True, strict=True), []) or [text]
        except csv.Error as error:
            raise InputError(
                f"--labels: expected names with commas between them, got {text} ({error}); "
                'write names with commas as "b, or not", or give each name as --label NAME'
            ) from error
    return [*names, *(more or ())]


def multiple_of(pipe: Pipeline, chosen: dict[str, Any]) -> int:
    """Return what divides the sides of all pictures, of which a weaker model makes some too."""
    return math.lcm(pipe.multiple, getattr(chosen.get("weaker"), "multiple", 1))


def fit_sizes(asked: Sequence[Size], multiple: int) -> list[Size]:
    """Return sizes that the model takes, the nearest ones to those asked for, and say so.

    Raises:
        InputError: a side of no pixels.
    """
    found = {}
    for height, width in asked:
        if min(height, width) < 1:
            raise InputError(
                f"--size: expected sides of at least 1 pixel, got {height}x{width}; "
                f"the smallest that works is {multiple}x{multiple}"
            )
        near = nearest_size((height, width), multiple)
        if near != (height, width):
            log.info(
                f"{height}x{width} becomes {near[0]}x{near[1]}: the model takes multiples of "
                f"{multiple}"
            )
        found[near] = True
    return list(found)
