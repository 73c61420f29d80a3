"""Settings as nested dicts: read and checked, compared, shown and written."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

import msgspec

from convflow.settings.fields import Pixels, Sides
from convflow.settings.kinds import Part
from convflow.types import InputError, unknown_name

T = TypeVar("T")

HINTS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    dict: "settings by name",
    tuple: "two numbers such as 0.5,2",
    Sides: "two numbers such as 64x48, or three of a video such as 16x64x48",
    ...: "several numbers such as 2,2",
    tuple[Pixels, ...]: "sizes such as 32x32,64x32",
}
"""What to call a type in a message."""

LIMIT_WORDS = {
    "int": "a whole number", "float": "a number", "array": "a list with a length",
    ">=": "of at least", "<=": "of at most", ">": "above", "<": "below", "=": "of",
}  # fmt: skip
"""What to call a limit of msgspec in a message."""


def read(tree: Any, kind: type[T], *, trusted: bool = False, place: str = "") -> T:
    """Return the dataclass held in a nested dict, checked; missing keys get their defaults.

    Args:
        tree: as JSON has it; what is read already may stand in it.
        kind: the dataclass, or the class of a part.
        trusted: whether the name of a part may import a module, see `Table.find`.
        place: what stands before its keys in messages, such as "--" or "process.".

    Raises:
        InputError: an unknown key or part, a wrong type, a number out of range or not finite, or
            what the dataclass itself refuses.
    """
    if isinstance(tree, kind):
        return tree
    if issubclass(kind, Part) and isinstance(tree, str):
        tree = {"kind": tree}
    if not isinstance(tree, Mapping):
        raise _unfit(place.rstrip("."), "settings by name", tree)
    own, found = dict(tree), kind
    if issubclass(kind, Part):
        name = own.pop("kind", next(iter(kind.kinds)))
        if not isinstance(name, str):
            raise _unfit(f"{place}kind", "a name", name)
        found = kind.kinds.find(name, trusted=trusted)
        check_settings(found, own, name)
        own |= {"kind": name} if "kind" in hints_of(found) else {}
    hints = hints_of(found)
    for key, value in own.items():
        if key not in hints and "--" in place:
            known = [f"{place}{name}".replace("_", "-") for name in hints]
            raise InputError(unknown_name("option", f"{place}{key}".replace("_", "-"), known))
        if key not in hints:
            owner = f"{place.rstrip('.')}: " if place else ""
            raise InputError(f"{owner}{unknown_name('setting', key, hints)}")
        own[key] = read_value(value, hints[key], f"{place}{key}", trusted=trusted)
    try:
        return msgspec.convert(own, found)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        missing = str(error).removeprefix("Object missing required field ").strip("`")
        said = f"{place.rstrip('.')}: " if place else ""
        raise InputError(f"{said}expected a value for {missing}, got none; give one") from error


def read_value(
    value: Any, hint: Any, key: str, *, trusted: bool = False, words: bool = False
) -> Any:
    """Return the value of a setting, checked.

    Args:
        value: as JSON has it, or a number of any library.
        hint: annotation of the setting.
        key: what the setting is called in messages.
        trusted: as in `read`.
        words: whether numbers are words, as on the command line.

    Raises:
        InputError: a wrong type, or a number out of range or not finite.
    """
    kind = unannotated(hint)
    if isinstance(kind, type) and (issubclass(kind, Part) or dataclasses.is_dataclass(kind)):
        return read(value, kind, trusted=trusted, place=f"{key}.")
    value = _native(value)
    try:
        found = msgspec.convert(value, hint, strict=not words)
    except UnicodeEncodeError as error:  # half a character, as of bytes that are no UTF-8
        raise InputError(f"expected text, got {error.object[:80]!r}; write it in UTF-8") from error
    except msgspec.ValidationError as error:
        known = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        wanted = _wanted(str(error), kind, words)
        raise _unfit(key, wanted, show(value, hint), known) from error
    if not all(math.isfinite(n) for n in _floats(found)):
        raise _unfit(key, "a finite number", show(value, hint))
    return found


def check_fields(config: Any, place: str = "") -> None:
    """Give the fields of a frozen dataclass the types of their annotations, such as tuples.

    Args:
        config: made in Python; `read` has looked at what it reads.
        place: what stands before their names in messages.

    Raises:
        InputError: as `read_value`.
    """
    for name, hint in hints_of(type(config)).items():
        value = read_value(getattr(config, name), hint, f"{place}{name}")
        object.__setattr__(config, name, value)


def check_settings(part: type[Part], names: Iterable[str], kind: str) -> None:
    """Raise InputError when a part does not have settings; the message names those that do."""
    noun, known = f"the {part.kinds.noun} {kind}", list(setting_hints(part))
    for name in names:
        if name in known:
            continue
        shown = name.replace("_", "-")
        if others := [other for other, cls in part.kinds.items() if name in setting_hints(cls)]:
            raise InputError(
                f"{noun} has no {shown}; leave it out, or choose {' or '.join(others[:4])}"
            )
        near = unknown_name("setting", name, known) if known else f"there is no setting {name!r}"
        raise InputError(f"{noun}: {near}")


def setting_hints(part: type[Part]) -> dict[str, Any]:
    """Return the annotations of the settings of a part by name."""
    return {name: hint for name, hint in hints_of(part).items() if name != "kind"}


def defaults(kind: Any) -> dict[str, Any]:
    """Return the defaults of a dataclass by field, `dataclasses.MISSING` where there is none."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def hints_of(kind: Any) -> dict[str, Any]:
    """Return the annotations of the fields of a dataclass by name."""
    return _read_hints(kind)


@cache  # whose own type refuses classes
def _read_hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _wanted(reason: str, kind: Any, words: bool) -> str:
    """Return what a setting of some kind should be, from msgspec's reason."""
    wanted, _, place = reason.replace("`", "").removeprefix("Expected ").partition(" - at ")
    wanted = wanted.split(", got")[0]
    limited = r"(int|float|array)(?: of length)?(?: (>=|<=|>|<)?\s?(-?\d+)(?:\.0)?)?(.*)"
    within = "[" in place and not words and kind not in HINTS
    limit = re.fullmatch(limited, wanted)
    if (
        limit
        and (limit[2] or within)
        and not (limit[1] == "array" and kind in (Sides, tuple[Pixels, ...]))
    ):
        noun, sign, value, rest = limit.groups()
        bound = f" {LIMIT_WORDS[sign or '=']} {value}" if value else ""
        return f"{LIMIT_WORDS[noun]}{bound}{rest}"
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    kinds = [k for k in typing.get_args(kind) if k is not type(None)]
    if ... in kinds and typing.get_origin(kinds[0]) is Literal:
        return f"some of {', '.join(map(str, typing.get_args(kinds[0])))}"
    several = ... if ... in kinds else typing.get_origin(kind)
    optional = unannotated(kinds[0]) if type(None) in typing.get_args(kind) else kind
    known = (HINTS.get(each) for each in (kind, several, optional, typing.get_origin(optional)))
    return next(filter(None, known), wanted)


def _unfit(key: str, wanted: str, got: Any, known: Iterable[Any] = ()) -> InputError:
    key = key.replace("_", "-") if key.startswith("--") else key
    near = difflib.get_close_matches(str(got), map(str, known), n=1, cutoff=0.4)
    cure = f"did you mean {near[0]!r}?" if near else "change it"
    said = f"{key}: " if key.strip("-") else ""
    return InputError(f"{said}expected {wanted}, got {str(got)[:80]!r}; {cure}")


def _native(value: Any) -> Any:
    """Return numbers as those of Python, and sequences as lists."""
    if isinstance(value, (bool, str)) or hasattr(value, "_fields"):
        return value
    if isinstance(value, (list, tuple)):
        return [_native(each) for each in value]
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _floats(each)


def to_dict(config: Any) -> Any:
    """Return settings as plain nested dicts and lists, ready for JSON."""
    if hasattr(config, "_asdict"):
        return to_dict(config._asdict())
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if not dataclasses.is_dataclass(config):
        return config
    fields = {name: to_dict(getattr(config, name)) for name in hints_of(type(config))}
    return ({"kind": config.kind} | fields) if isinstance(config, Part) else fields


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


def unannotated(kind: Any) -> Any:
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
    return ("x" if unannotated(kind) == Sides else ",").join(map(str, value))
