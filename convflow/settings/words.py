"""Words of the command line such as `--optim.lr 2e-4`, read as settings, and the help on them."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from convflow.settings.fields import Pixels
from convflow.settings.kinds import Part
from convflow.settings.read import (
    check_settings,
    hints_of,
    read_value,
    setting_hints,
    show,
    unannotated,
)
from convflow.types import InputError, unknown_name

PartKinds = dict[str, tuple[str, type[Part]]]
"""Kinds and classes of parts by the dotted keys where they stand."""


def parts_of(config: Any, place: str = "") -> PartKinds:
    """Return kinds and classes of the parts within settings, by their dotted keys."""
    found: PartKinds = {}
    for name in hints_of(type(config)):
        value = getattr(config, name)
        if isinstance(value, Part):
            found[place + name] = value.kind, type(value)
        elif dataclasses.is_dataclass(value):
            found |= parts_of(value, f"{place}{name}.")
    return found


def pairs_of(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return words such as `--optim.lr 2e-4` or `--optim.lr=2e-4` as pairs of key and text."""
    words, pairs = list(arguments), []
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise InputError(
                f"expected an option, which begins with --, got {word!r}; "
                "what has no name comes first, then options with values"
            )
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise InputError(f"--{key}: expected a value after it, got none; give one")
            text = words.pop(0)
        pairs.append((key.replace("-", "_"), text))
    return pairs


def read_words(
    kind: type, pairs: Sequence[tuple[str, str]], parts: PartKinds, others: Iterable[str] = ()
) -> dict[str, Any]:
    """Return values by complete dotted keys, those of parts as the names of their kinds.

    A part given as a word means its kind, and its name may be left out within a group that has one
    part: `sampling.steps` is `sampling.solver.steps`.

    Args:
        kind: the dataclass that holds the settings.
        pairs: keys and texts, see `pairs_of`; of a key given twice the last counts.
        parts: kinds and classes of the parts, unless a pair names another.
        others: options that are no settings, for messages.

    Raises:
        InputError: an unknown key or part (the nearest is named), or an unfit value.
    """
    chosen = dict(parts)
    for key, text in pairs:
        if (place := key.removesuffix(".kind")) in chosen:
            chosen[place] = text, chosen[place][1].kinds.find(text)
    found = {}
    for key, text in pairs:
        full, hint = _locate(kind, key, chosen, others)
        found[full] = parse(text, hint, key)
    return found


def parse(text: str, hint: Any, key: str) -> Any:
    """Return the value of a setting from its word.

    Args:
        text: the word; "none" stands for nothing, commas and x stand between numbers.
        hint: annotation of the setting.
        key: of the setting, for messages.

    Raises:
        InputError: a group in place of a setting, or an unfit value.
    """
    kind, value = unannotated(hint), text  # type: tuple[Any, Any]
    if isinstance(kind, type) and issubclass(kind, Part):
        return text
    if kind is dict or typing.get_origin(kind) is dict:
        nested = key == "objectives"
        inner = "kind" if "." in key else f"{text}.kind" if nested else "name"
        raise InputError(f"--{key} is a group; set one of its keys, such as --{key}.{inner} {text}")
    if dataclasses.is_dataclass(kind):
        keys = ", ".join(f"--{key}.{name}".replace("_", "-") for name in hints_of(kind))
        raise InputError(f"--{key} is a group; set one of {keys}")
    if kind is Any:
        value = _guess(text)
    elif text in ("none", "all") and type(None) in typing.get_args(kind):
        return None
    elif kind == tuple[Pixels, ...]:
        value = [] if text == "none" else [part.split("x") for part in text.split(",")]
    elif "," in text and any(typing.get_origin(k) is tuple for k in typing.get_args(kind)):
        value = text.split(",")
    elif typing.get_origin(kind) is tuple:
        value = [] if text == "none" else text.replace("x", ",").strip("()").split(",")
    return read_value(value, hint, f"--{key}", words=True)


def _guess(text: str) -> Any:
    """Read a setting whose type is not declared, such as those of a network."""
    if re.fullmatch(r"\d+([x,]\d+)+", text):
        return [int(number) for number in re.split("[x,]", text)]
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError):
        return text


def _locate(kind: type, key: str, parts: PartKinds, others: Iterable[str]) -> tuple[str, Any]:
    """Return the complete key and the annotation of a setting, or raise InputError."""
    place, hint = "", kind  # type: tuple[str, Any]
    for name in key.split("."):
        if typing.get_origin(unannotated(hint)) is dict:
            place, hint = f"{place}.{name}", typing.get_args(unannotated(hint))[1]
            if not name or (hint is Any and place != key):
                place = place.rpartition(".")[0]
                raise InputError(f"expected --{place}.SETTING, got --{key}; --help lists them")
            continue
        if name == "kind" and place in parts:
            break
        hints = _hints(hint, place, parts)
        inner = [f"{place}.{n}".strip(".") for n, h in hints.items() if _is_part(h)]
        if name not in hints and len(inner) == 1:
            place, hints = inner[0], setting_hints(parts[inner[0]][1])
        if name not in hints:
            if place in parts and any(
                name in setting_hints(c) for c in parts[place][1].kinds.values()
            ):
                check_settings(parts[place][1], [name], parts[place][0])
            known = [*(row[0] for row in rows_of(kind, parts)), *others]
            shown = [f"--{k}".replace("_", "-") for k in known]
            raise InputError(unknown_name("option", f"--{key}".replace("_", "-"), shown))
        place, hint = f"{place}.{name}".strip("."), hints[name]
    return place, hint


def _hints(hint: Any, place: str, parts: PartKinds) -> dict[str, Any]:
    if place in parts:
        return setting_hints(parts[place][1])
    kind = unannotated(hint)
    return hints_of(kind) if dataclasses.is_dataclass(kind) else {}


def _is_part(hint: Any) -> bool:
    kind = unannotated(hint)
    return isinstance(kind, type) and issubclass(kind, Part)


def rows_of(kind: Any, parts: PartKinds, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the annotation of every setting, in order."""
    for name, hint in (setting_hints(kind) if issubclass(kind, Part) else hints_of(kind)).items():
        key, inner = place + name, unannotated(hint)
        if _is_part(hint):
            yield key, hint
            yield from rows_of(parts[key][1], parts, f"{key}.")
        elif dataclasses.is_dataclass(inner):
            yield from rows_of(inner, parts, f"{key}.")
        else:
            yield key, hint


def help_of(hint: Any) -> str:
    """Return the line of help of an annotation."""
    meta = [m.description for m in getattr(hint, "__metadata__", ()) if m.description]
    return meta[-1] if meta else ""


def value_at(config: Any, key: str) -> Any:
    """Return the value of a dotted key within settings, of a part its kind."""
    for name in key.split("."):
        config = config[name] if isinstance(config, Mapping) else getattr(config, name)
    return config.kind if isinstance(config, Part) else config


def shown_at(config: Any, key: str, hint: Any) -> str:
    """Return the value of a dotted key as the word that gives it."""
    value = value_at(config, key)
    shown = show(value, hint)
    return "none" if shown in (None, "") and not isinstance(value, str) else str(shown)
