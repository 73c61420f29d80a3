"""What a visitor of the web page asks for: checked numbers, and the command that makes the same."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convflow.pipeline import USUAL_BATCH, Pipeline
from convflow.samplers.solvers import SOLVERS, Solver
from convflow.settings.fields import LARGEST_COUNT
from convflow.settings.read import setting_hints
from convflow.types import InputError

MOST_LETTERS = 200
"""A longer label is refused before it is compared with the names of classes."""

STRONGEST = 100.0
"""Guidance beyond it, either way, is a slip of the finger."""

IMAGE_FILE, MASK_FILE = "image.png", "mask.png"
"""What the command and the lines of Python call the image and the mask of inpainting."""


ASKED = {"labels": "--label", "prompts": "--prompt"}
"""What pictures show: the option of the command for each argument of a pipeline."""

WORDS_OF = {
    "labels": ("classes", "names", MOST_LETTERS, "choose from the list"),
    "prompts": ("texts", "texts", 2000, "write fewer or shorter ones"),
}
"""Likewise what the form calls them, one by one, most letters of one, and what to do."""


@dataclass(frozen=True)
class Limits:
    """How much a visitor may ask for at once.

    Attributes:
        num: pictures, at most 64, which `convflow sample` makes in one batch.
        side: pixels of a height or width.
        pixels: of all pictures together.
        steps: of the solver.
        labels: classes named.
    """

    num: int = 16
    side: int = 1024
    pixels: int = 2**20
    steps: int = 250
    labels: int = 64

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1 or self.num > USUAL_BATCH:
            raise InputError(
                f"expected limits of at least 1 and at most {USUAL_BATCH} pictures, got {self}; "
                "change them"
            )


@dataclass(frozen=True)
class PictureRequest:
    """Pictures that a visitor asks for.

    Attributes:
        num: how many.
        options: of `Pipeline.samples` by name, but for images; what a model does by itself is left
            out.
    """

    num: int
    options: Mapping[str, Any]

    def command(self, model: str, inpaint: bool = False) -> str:
        """Return the command that makes the same pictures, as single files.

        Args:
            model: what the command line calls it.
            inpaint: name the image and the mask too.
        """
        words = ["convflow", "sample", model, "--num", str(self.num)]
        for name, value in self.options.items():
            if name in ASKED:
                words += [word for text in value for word in (ASKED[name], text)]
            else:
                shown = f"{value[0]}x{value[1]}" if name == "size" else str(value)
                words += [f"--{name}", shown]
        words += ["--image", IMAGE_FILE, "--mask", MASK_FILE] if inpaint else []
        return shlex.join([*words, "--single", "--out", "pictures"])

    def python(self, model: str, inpaint: bool = False) -> str:
        """Return lines of Python that make the same pictures; arguments as of `command`."""
        given = {"num": self.num, **self.options}
        given |= {"image": IMAGE_FILE, "mask": MASK_FILE} if inpaint else {}
        arguments = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return (
            "from convflow import Pipeline\n\n"
            f"pipe = Pipeline.from_pretrained({model!r})\n"
            f"out = pipe({arguments})\n"
            'out.images[0].save("picture.png")\n'
        )


def read_request(
    pipe: Pipeline,
    limits: Limits,
    labels: Any,
    size: tuple[Any, Any],
    *,
    solvers: Collection[str],
    **numbers: Any,
) -> PictureRequest:
    """Return what a form says, checked.

    Args:
        pipe: the model.
        limits: that nobody may pass.
        labels: names or numbers of classes, or texts; nothing stands for all in turn.
        size: height and width in pixels.
        solvers: kinds to choose from, beside that of the model.
        **numbers: num, seed, and if given steps, guidance and solver, of any type.

    Raises:
        InputError: whatever the model does not take, or more than the limits allow.
    """
    asked = "prompts" if pipe.text.used else "labels"
    names = _read_asked(asked, labels, limits)
    height, width = (
        read_whole(name, side, 1, limits.side)
        for name, side in zip(("height", "width"), size, strict=True)
    )
    num = read_whole("number", numbers.pop("num"), 1, limits.num)
    seed = read_whole("seed", numbers.pop("seed"), 0, LARGEST_COUNT)
    if num * height * width > limits.pixels:
        raise InputError(
            f"expected at most {limits.pixels:,} pixels in all pictures together, got {num} x "
            f"{height} x {width}; ask for fewer or smaller ones"
        )
    given: dict[str, Any] = {asked: names} if names else {}
    if (height, width) != pipe.size:
        given["size"] = (height, width)
    return PictureRequest(
        num, given | _read_sampling(pipe, limits, solvers, **numbers) | {"seed": seed}
    )


def _read_asked(asked: str, labels: Any, limits: Limits) -> list[str]:
    """Return names of classes, or texts where `asked` is "prompts"."""
    if labels in (None, ""):
        return []
    what, each, most, cure = WORDS_OF[asked]
    names = [labels] if isinstance(labels, str) else labels
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{what}: expected {each}, got {_shown(labels)}; {cure}")
    if len(names) > limits.labels or any(len(name) > most for name in names):
        raise InputError(
            f"{what}: expected at most {limits.labels} {each} of at most {most} letters; {cure}"
        )
    return list(names)


def _read_sampling(
    pipe: Pipeline,
    limits: Limits,
    solvers: Collection[str],
    solver: Any = None,
    steps: Any = None,
    guidance: Any = None,
) -> dict[str, Any]:
    """Return the solver and its settings where they are not those of the model."""
    stored, given = pipe.sampling, dict[str, Any]()
    kind: type[Solver] = type(stored.solver)
    if solver not in (None, stored.solver.kind):
        if not isinstance(solver, str) or solver not in solvers:  # `module:Name` would run code
            raise InputError(f"solver: expected one of the list, got {_shown(solver)}")
        given["solver"], kind = solver, SOLVERS[solver]
    if steps is not None and "steps" in setting_hints(kind):
        count = read_whole("steps", steps, 1, limits.steps)
        if given or count != stored.solver.num_steps:
            given["steps"] = count
    if guidance is not None and pipe.model.conditional:
        number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
        if not number or not -STRONGEST <= guidance <= STRONGEST:
            raise InputError(
                f"guidance: expected a number from {-STRONGEST:g} to {STRONGEST:g}, got "
                f"{_shown(guidance)}; 1 is none"
            )
        if guidance != stored.guidance:
            given["guidance"] = float(guidance)
    return given


def read_whole(name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number within bounds, or raise InputError.

    >>> read_whole("steps", 20.0, 1, 250)
    20
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or value != int(value):
        raise InputError(
            f"{name}: expected a whole number from {low} to {high:,}, got {_shown(value)}; "
            "change it"
        )
    return int(value)


def _shown(value: Any) -> str:
    """Return a value as short text, whatever it is."""
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of very many digits"
    if isinstance(value, str | list | dict) and len(value) > MOST_LETTERS:
        return f"{len(value):,} {'letters' if isinstance(value, str) else 'things'}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
