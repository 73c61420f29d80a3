"""Class labels as people give them: which class a name or a number means."""

from __future__ import annotations

import logging
import operator
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from convflow.types import InputError, unknown_name

Label = str | int

log = logging.getLogger("convflow")

NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")


@cache
def imagenet_classes() -> dict[str, str]:
    """Return the names of ImageNet's 1000 classes by synset of WordNet, in the order of labels.

    They are what torchvision 0.28 calls them, and the synsets are those of timm 1.0.31.

    Examples:
        >>> imagenet_classes()["n02099601"], list(imagenet_classes().values()).index("tench")
        ('golden retriever', 0)
    """
    lines = Path(__file__).with_name("imagenet.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def composed(name: str) -> str:
    """Return a name in Unicode's form NFC: equal names then have equal characters."""
    return unicodedata.normalize("NFC", name)


class ClassLabels:
    """The classes of a model, found by name or index.

    A name goes before an index, and "3" means what 3 means. Names compare in Unicode's form NFC.
    Where all names are numbers, a number that is no name is unknown. A synset such as n02099601
    means the class with its name in ImageNet.

    Args:
        names: of the classes 0, 1, ...; empty when they have none.
        count: number of classes.

    Examples:
        >>> ClassLabels(("cat", "dog"), 2).find("dog"), ClassLabels((), 10).find("3")
        (1, 3)
    """

    def __init__(self, names: Sequence[str], count: int) -> None:
        self.names, self.count = tuple(names), count
        self._told: set[int] = set()

    def find(self, label: object) -> int:
        """Return the index of the class that a name or a number means.

        A line is logged, once for each number, where a class has this name and another this index.

        Raises:
            InputError: no such class; the message has the nearest name.
        """
        text, index = _read(label)
        if text not in self.names:
            text = imagenet_classes().get(text or "", text)
        named = [i for i, name in enumerate(self.names) if composed(name) == text]
        if named:
            found = next((i for i in named if self.names[i] == label), named[0])
            self._tell(found, index)
            return found
        numbers = bool(self.names) and all(NUMBER.fullmatch(name) for name in self.names)
        if index is not None and index < self.count and not numbers:
            return index
        if not self.count:
            raise InputError(
                f"this model was trained without labels, got {label!r}; leave the labels out"
            )
        message = unknown_name("label", label, self.names or [f"0 to {self.count - 1}"])
        if numbers and index is not None:
            message += "; all class names are numbers here, so a number is a name and no index"
        elif index is not None:
            message += f" (or 0 to {self.count - 1})" if self.names else ""
        raise InputError(message)

    def _tell(self, found: int, index: int | None) -> None:
        """Say once that a class was found by its name where another one has this index."""
        if index is None or index in (found, *self._told) or index >= len(self.names):
            return
        self._told.add(index)
        name, other = self.names[found], self.names[index]
        log.info(f"{index} is taken as the class named {name!r} (index {index} is {other!r})")


def _read(label: object) -> tuple[str | None, int | None]:
    """Return a label as a name and as an index, None for what it cannot be."""
    if isinstance(label, str):
        text = composed(label)
        return text, int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None
    try:
        index = None if isinstance(label, bool) else operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        index = None
    return (None, None) if index is None else (str(index), index if index >= 0 else None)
