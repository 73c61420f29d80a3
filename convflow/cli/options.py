"""Words of the command line as values, and the options of sampling that several commands share."""

from __future__ import annotations

import argparse
import ast
import csv
import itertools
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from convflow.class_names import composed
from convflow.settings.fields import doc
from convflow.types import InputError, Size, frames_text, nearest_size, size_text

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


def within(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number from `least` to `most`; for `argparse`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {text!r}"
            )
        return int(text)

    return read


def finite(text: str) -> float:
    """Return a finite number; for `argparse`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return number


def above_zero(text: str) -> float:
    """Return a finite number above 0; for `argparse`."""
    if (number := finite(text)) <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


WEIGHTS_HELP = "ema (averaged), raw (last), or another average of the run, such as ema-0.05"


def weight_set(text: str) -> str:
    """Return the name of weights of a checkpoint; for `argparse`."""
    if text not in ("ema", "raw") and not re.fullmatch(r"ema-[\d.]+", text):
        raise argparse.ArgumentTypeError(
            f"expected ema, raw or another average of the run such as ema-0.05, got {text!r}"
        )
    return text


def reach(text: str) -> float | tuple[float, float] | str:
    """Return one reach, or two, from "4" or "4,6", or "auto" or "none"; for `argparse`."""
    if text in ("auto", "none"):
        return text
    numbers = tuple(above_zero(part) for part in text.split(","))
    if len(numbers) > 2:
        raise argparse.ArgumentTypeError(f"expected one number or X,Y such as 4,6, got {text!r}")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def size(text: str) -> Size:
    """Return height and width from "48x32", or a square from "32"; for `argparse`.

    Three numbers such as "16x48x32" are the frames, height and width of a video.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 48x32, got {text!r}")
    sides = [int(side) for side in match.groups() if side]
    return tuple(sides if len(sides) > 1 else sides * 2)


def sizes(text: str) -> list[Size]:
    """Return sizes from "48x32" or "48x32,64x64"; for `argparse`."""
    return list(dict.fromkeys(size(part) for part in text.split(",")))


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
    "weaker": {"help": "run, checkpoint or model folder that guidance pulls away from"},
    "reach": {
        "type": reach,
        "help": "S_max of FlowDCN in cells, or X,Y, or auto: grows with the size as published, or "
        "none (default: as trained)",
    },
    "reach_times": {
        "type": interval,
        "help": "with --reach auto: flow times between which S_max grows (default: 0,0.6)",
    },
    "reach_blocks": {
        "type": blocks,
        "help": "with --reach auto: first,last block whose S_max grows, from 0 (default: all but "
        "the first 5 and last 4)",
    },
    "reach_form": {
        "help": "with --reach auto: linear, the factor falls to 1 (default), or constant"
    },
    "reach_peak": {
        "type": above_zero,
        "help": "with --reach auto: largest factor of S_max (default: 2)",
    },
    "position_scaling": {
        "help": "scaling of the positions of DiT and SiT on larger grids: pi or ei; pi, ntk or yarn"
        " of rotary ones"
    },
    "precision": {
        "help": "arithmetic of the network: float32 (default), bfloat16, or auto = bfloat16 where "
        "it is fast"
    },
}
"""What `Pipeline.samples` takes beside settings, as options; size and seed stand with commands."""

USUAL_SETTINGS = {
    "bundle/config.py": "SamplingConfig",
    "samplers/solver.py": "GridSolver",
    "samplers/linear.py": "GeneralLinear",
}
"""The files and classes that declare the settings of sampling with the solver euler."""

SPECIAL = {
    "shift": "; auto = times sqrt(pixels / trained pixels)",
    "guidance_kind": ": cfg, cfg-zero, or auto with --weaker",
}
"""What the help says besides of settings that take one more word here."""


def add_sampling_options(
    parser: argparse._ActionsContainer,
    arguments: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> None:
    """Add the options that say how a model makes images, all or some; None unless given.

    The settings of solvers are those of `--solver` where it is among the arguments. All others are
    taken too, for what they mean is known only once the model is; `--help` leaves them out.
    """
    from convflow.settings.read import unannotated
    from convflow.settings.words import help_of

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
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="text to draw, of a model that is told texts; may be repeated (default: examples)",
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="texts to draw, one a line")
    solver = word_after("--solver", arguments)
    if solver is None and {"-h", "--help"} & {*arguments}:
        shown = every = usual_settings()
    else:
        shown, every = sampling_settings(solver)
    for name, hint in every.items():
        if names is not None and name not in names:
            continue
        said = f"{help_of(hint)}{SPECIAL.get(name, '')} (default: the recipe's)"
        if name == "solver":
            said += "; with --help its settings are shown, without it those of euler"
        said = said.replace("%", "%%") if name in shown else argparse.SUPPRESS
        more: dict[str, Any] = {"help": said}
        if unannotated(hint) is bool:
            more["action"] = argparse.BooleanOptionalAction
        parser.add_argument(f"--{name.replace('_', '-')}", **more)
    for name in OPTIONS if names is None else [name for name in OPTIONS if name in names]:
        parser.add_argument(f"--{name.replace('_', '-')}", **OPTIONS[name])


def sampling_settings(solver: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the annotations of the settings of sampling by name: those of a solver, and all.

    Args:
        solver: its name, which may be a user's; None for euler.
    """
    from convflow.bundle.config import SamplingConfig
    from convflow.samplers.solvers import SOLVERS
    from convflow.settings.read import hints_of, setting_hints

    settings = hints_of(SamplingConfig) | setting_hints(SOLVERS.find(solver or "euler"))
    others: dict[str, Any] = {}
    for cls in dict.fromkeys(SOLVERS.values()):
        others = setting_hints(cls) | others
    return settings, settings | others | settings


def usual_settings() -> dict[str, Any]:
    """Return the settings of sampling with the solver euler by name, with their help.

    They are read from the source, for their modules import torch.
    """
    found = {}
    for file, name in USUAL_SETTINGS.items():
        tree = ast.parse((Path(__file__).parents[1] / file).read_text(encoding="utf-8"))
        (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
        for field in (node for node in body if isinstance(node, ast.AnnAssign)):
            for call in ast.walk(field.annotation):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "doc":
                    said = doc(ast.literal_eval(call.args[0]))
                    found[ast.unparse(field.target)] = Annotated[str, said]
    return found


def word_after(option: str, arguments: Sequence[str]) -> str | None:
    """Return the value given last to an option, in words not yet read; None where there is none."""
    found = None
    for word, after in itertools.pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else after
    return found


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the user gave of the arguments of `Pipeline.samples`, labels apart.

    Raises:
        InputError: an unfit value; a weaker model without the guidance that uses it, or the other
            way round; a part of a schedule of the reach without --reach auto.
    """
    if (vars(options).get("guidance_kind") == "auto") != bool(vars(options).get("weaker")):
        raise InputError(
            "expected --guidance-kind auto and --weaker MODEL together, got one of them; "
            "give both or none"
        )
    from convflow.nn.reach import ReachSchedule
    from convflow.pipeline import Pipeline
    from convflow.settings.words import parse

    names = (*OPTIONS, "size", "seed")
    words = {name: v for name, v in vars(options).items() if v is not None}
    given = {name: v for name, v in words.items() if name in names}
    for name, hint in sampling_settings(words.get("solver"))[1].items():
        if isinstance(text := words.get(name), str) and text != "auto":
            given[name] = "all" if text == "all" else parse(text, hint, name.replace("_", "-"))
        elif name in words:
            given[name] = text
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
    if (prompts := chosen_prompts(options)) is not None:
        given["prompts"] = prompts
    if "table" in given:
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


def chosen_prompts(options: argparse.Namespace) -> list[str] | None:
    """Return what --prompt and --prompts ask for, in this order; None where neither is given.

    Raises:
        InputError: a file that cannot be read.
    """
    one, file = vars(options).get("prompt"), vars(options).get("prompts")
    if file is None:
        return one

    from convflow.prompts import read_prompts

    return [*(one or ()), *read_prompts(file, "--prompts")]


def multiples_of(pipe: Pipeline, chosen: dict[str, Any]) -> tuple[int, int, int]:
    """Return what divides sides, and cells of frames, also of a weaker model; frames of a cell."""
    weaker = chosen.get("weaker")
    return (
        math.lcm(pipe.multiple, getattr(weaker, "multiple", 1)),
        math.lcm(pipe.frame_multiple, getattr(weaker, "frame_multiple", 1)),
        pipe.codec.frame_factor,
    )


def fit_sizes(asked: Sequence[Size], *multiples: int) -> list[Size]:
    """Return sizes that the model takes, the nearest ones to those asked for, and say so.

    Args:
        asked: in pixels, of videos with frames before height and width.
        *multiples: as of `multiples_of`; that of height and width may stand alone.

    Raises:
        InputError: a side of no pixels, or no frames.
    """
    found = {}
    for size in asked:
        if min(size) < 1:
            least = nearest_size((1,) * len(size), *multiples)
            raise InputError(
                f"--size: expected sides of at least 1 pixel, got {size_text(size)}; the smallest "
                f"that works is {size_text(least)}"
            )
        near = nearest_size(size, *multiples)
        if near != size:
            of = f"multiples of {multiples[0]}"
            if math.prod(multiples[1:]) > 1:
                of += f", and {frames_text(*multiples[1:])}"
            log.info(f"{size_text(size)} becomes {size_text(near)}: the model takes {of}")
        found[near] = True
    return list(found)
