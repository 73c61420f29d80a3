"""Settings as nested dicts: read and checked, compared, shown and written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from convflow.settings.fields import Pixels
from convflow.types import InputError

T = TypeVar("T")


def convert(tree: Any, kind: type[T], *, strict: bool = True) -> T:
    """Return the dataclass held in a nested dict; missing keys get their defaults.

    Args:
        tree: as JSON has it.
        kind: the dataclass.
        strict: whether words are no numbers.

    Raises:
        InputError: text that cannot be written in UTF-8, or what the dataclass itself refuses.
        msgspec.ValidationError: a wrong type or a value out of range; it names the place.
    """
    try:
        return msgspec.convert(tree, kind, strict=strict)
    except UnicodeEncodeError as error:  # half a character, as of bytes that are no UTF-8
        raise InputError(f"expected text, got {error.object[:80]!r}; write it in UTF-8") from error
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain nested dicts and lists, ready for JSON."""
    # Not by msgspec's encoder: it leaves out the defaults of settings that msgspec has read.
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as one with dotted keys; an empty dict within it is a value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the two values at every dotted key where nested dicts differ, None for none."""
    ours, theirs = flatten(a), flatten(b)
    pairs = {key: (ours.get(key), theirs.get(key)) for key in [*ours, *theirs]}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def plain(kind: Any) -> Any:
    """Return an annotation without its limits and its help."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def show(value: Any, kind: Any = None) -> Any:
    """Return a size as 1x2, other numbers as 1,2, several sizes as 1x2,3x4, and all else as it is.

    Args:
        value: of a setting.
        kind: the annotation of the setting, which tells a size from two numbers.
    """
    if not isinstance(value, (list, tuple)):
        return value
    if value and isinstance(value[0], (list, tuple)):
        return ",".join(str(show(size, Pixels)) for size in value)
    return ("x" if plain(kind) == Pixels else ",").join(map(str, value))
