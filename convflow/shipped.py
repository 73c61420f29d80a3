"""The trained models that come with the package; `shipped:NAME` stands for the folder of one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from convflow.types import InputError, Size, check_name

SHIPPED_FOLDER = Path(__file__).parent / "demo" / "models"
"""Holds a model folder for each name, written by `scripts/ship.py`."""
SHIPPED_PREFIX = "shipped:"
SHIPPED_LICENCE = "apache-2.0"
"""Of the weights, as the Hub spells it: the licence of the package."""
LARGEST_SHIPPED = 12_000_000
"""Bytes that the folder of a model may have, so that the package stays small."""


class ShippedModel(NamedTuple):
    """What is known of a model without opening it."""

    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    """Texts that its page shows, of a model that takes texts in place of classes."""
    sizes: tuple[Size, ...]
    """In pixels, that its page shows; the first is that of its training."""
    attribution: str
    """Of the data that it was trained on."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What the columns of its page show."""
        return self.class_names or self.prompts


SHIPPED = {
    "cifar10": ShippedModel(
        tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        (),
        ((32, 32), (48, 48), (32, 48), (48, 32)),
        "CIFAR-10: Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    "emoji": ShippedModel(
        (),
        tuple(
            "red heart, blue heart, grinning face, crying face, dog face, red apple, green apple, "
            "yellow circle, france flag, japan flag".split(", ")
        ),
        ((64, 64), (48, 48), (64, 96), (96, 64)),
        "Fluent Emoji by Microsoft, with names of emoji-datasource; both MIT licence",
    ),
}
"""By name; the first is the one that is taken where nobody names one."""


def path(name: str = next(iter(SHIPPED))) -> Path:
    """Return the model folder of a shipped model, which every command and `Pipeline` reads.

    Args:
        name: a name in `SHIPPED`, by default the first.

    Raises:
        InputError: no such name, or a package without the files of this model.
    """
    check_name("shipped model", name, SHIPPED)
    folder = SHIPPED_FOLDER / name
    if not (folder / "model.safetensors").is_file():
        raise InputError(
            f"expected the shipped model {name} in {folder}, found none; install a package of "
            f"convflow that holds it, or write it from a run: python scripts/ship.py RUN {name}"
        )
    return folder


def called(word: str) -> str:
    """Return `shipped:NAME` for the folder of a shipped model, any other word as it is.

    Examples:
        >>> called("runs/pets")
        'runs/pets'
    """
    folder = Path(word)
    own = folder.parent == SHIPPED_FOLDER and folder.name in SHIPPED
    return f"{SHIPPED_PREFIX}{folder.name}" if own else word


def resolve(word: str) -> str:
    """Return the folder that `shipped:NAME` stands for, any other word as it is.

    Examples:
        >>> resolve("runs/pets")
        'runs/pets'

    Raises:
        InputError: as of `path`.
    """
    return str(path(name)) if (name := word.removeprefix(SHIPPED_PREFIX)) != word else word
