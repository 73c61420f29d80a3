"""What a part declares of itself: the fields of a frozen dataclass, read and checked."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from convflow.types import InputError, unknown_name

T = TypeVar("T")

Width = Annotated[int, Meta(ge=1, le=2**24)]
"""A number of channels, heads or pixels. More than that tells a damaged file."""
Classes = Annotated[int, Meta(ge=0, le=2**24)]
Depth = Annotated[int, Meta(ge=1, le=256)]
Depths = Annotated[tuple[Depth, ...], Meta(max_length=256)]

MSGSPEC_WORDS = {
    "Expected ": "", "`int`": "a whole number", "`float`": "a number", "`bool`": "true or false",
    "`str`": "a word", "`array`": "a list", "`object`": "settings by name",
    "of length <=": "no longer than", ">=": "of at least", "<=": "of at most", ">": "above",
}  # fmt: skip
"""What a message says in place of msgspec's words, in this order."""


def defaults(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass by name with their defaults, `dataclasses.MISSING` if none.

    Args:
        kind: a dataclass.
    """
    return {field.name: field.default for field in dataclasses.fields(kind)}


def read_part(kind: type[T], given: Mapping[str, Any], owner: str) -> T:
    """Return a dataclass made of settings by name, its types and limits checked.

    Args:
        kind: the dataclass; its annotations may hold msgspec's `Meta`.
        given: its fields, as JSON or Python have them; missing ones get their defaults.
        owner: whose settings they are, for messages.

    Raises:
        InputError: an unknown name (the nearest is named), a missing one, or a value that does
            not fit.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     width: int = 8
        >>> read_part(Config, {"width": 16}, "net")
        Config(width=16)
    """
    known = defaults(kind)
    for name in given:
        if name not in known:
            raise InputError(f"{owner}: {unknown_name('setting', name, known)}")
    try:
        return msgspec.convert(dict(given), kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        reason, _, place = str(error).partition(" - at `$.")
        if not place:
            lacking = reason.rpartition(" ")[2].strip("`")
            raise InputError(
                f"{owner}: expected a value for {lacking}, got none; give one"
            ) from error
        name = place.rstrip("`").split("[")[0].split(".")[0]
        hint = typing.get_type_hints(kind)[name]
        if typing.get_origin(hint) is Literal:
            message = unknown_name(name, given[name], map(str, typing.get_args(hint)))
            raise InputError(f"{owner}: {message}") from error
        wanted = reason.split(", got")[0]
        for word, plain in MSGSPEC_WORDS.items():
            wanted = wanted.replace(word, plain)
        got = repr(given[name])[:80]
        raise InputError(f"{owner}: expected {wanted} for {name}, got {got}; change it") from error
