"""The settings of a run by dotted keys, and read from nested dicts, checked."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from convflow.processes.process import has_scales
from convflow.settings.fields import Pixels
from convflow.settings.read import convert, flatten, plain, show
from convflow.training.config import DataConfig, TrainConfig
from convflow.types import InputError, unknown_name

OF_THE_COMMAND = ("run", "resume", "epochs", "minutes")
"""Options of `convflow train` that are no settings, for messages."""

HINTS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    tuple: "two numbers such as 0.5,2",
    Pixels: "two numbers such as 64x48",
    ...: "numbers such as 2,2",
    tuple[Pixels, ...]: "sizes such as 32x32,64x32",
}
"""What to call a type in a message, where its own name says too little."""


def from_dict(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the settings held in a nested dict, checked; the inverse of `to_dict`.

    Raises:
        InputError: an unknown key, a wrong type or a value out of range.
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"expected settings by name, got {str(tree)[:80]!r}; give an object")
    flat = flatten(tree)
    for key in flat:
        kind_of(key)
    try:
        config = convert(tree, TrainConfig, strict=False)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        key = place.strip("`").split("[")[0]
        kind = plain(kind_of(key))
        wanted = reason.split(", got")[0].removeprefix("Expected ").replace("`", "")
        several = ... if ... in typing.get_args(kind) else typing.get_origin(kind) or kind
        hint = HINTS.get(kind) or HINTS.get(several)
        if hint and not wanted.startswith(("int >", "int <", "float")):
            wanted = hint
        elif typing.get_origin(kind) is Literal:
            wanted = " or ".join(map(str, typing.get_args(kind)))
        raise _unfit(key, wanted, flat.get(key, tree)) from error
    for key, value in flatten(dataclasses.asdict(config)).items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise _unfit(key, "a finite number", number)
    _check_sizes(config.data)
    scales = has_scales(config.process.kind)
    config.sampling.sampler().check_guidance(config.sampling.guidance_kind, scales)
    if not isinstance(config.model.get("name"), str):
        raise _unfit("model.name", "the name of a network", config.model.get("name"))
    return config


def _check_sizes(data: DataConfig) -> None:
    """Raise InputError where settings of sizes do not belong together."""
    if data.sizes and data.buckets > 1:
        raise InputError(
            f"--data.sizes: expected sizes or --data.buckets, got both {show(data.sizes)} "
            f"and {data.buckets} buckets; leave one of them out"
        )
    pixels = [math.prod(size) for size in data.sizes]
    if pixels and not 0.9 * min(pixels) <= math.prod(data.size) <= 1.1 * max(pixels):
        first = show(data.sizes[0], Pixels)
        raise InputError(
            f"--data.size: expected a size such as --data.sizes {show(data.sizes)}, for samples "
            f"and the pixels of a batch, got {show(data.size, Pixels)}; add --data.size {first}"
        )
    if data.buckets == 1 and data.ratios != DataConfig.ratios:
        raise InputError(
            f"--data.ratios: expected --data.buckets of at least 2 with them, got "
            f"{show(data.ratios)} and one bucket; add --data.buckets 5, or leave the ratios out"
        )


def _unfit(key: str, wanted: str, got: Any) -> InputError:
    shown = show(got, kind_of(key))
    key = key.replace("_", "-")
    return InputError(f"--{key}: expected {wanted}, got {shown!r}; --help lists values that work")


def kind_of(key: str) -> Any:
    """Return the annotation of a dotted key, or raise InputError that names the nearest key."""
    kind: Any = TrainConfig
    for name in key.split("."):
        if typing.get_origin(plain(kind)) is dict:
            return Any
        hints = _hints(kind) if dataclasses.is_dataclass(kind) else {}
        if name not in hints:
            shown = [f"--{k}".replace("_", "-") for k in [*_all_keys(), *OF_THE_COMMAND]]
            raise InputError(unknown_name("option", f"--{key}".replace("_", "-"), shown))
        kind = hints[name]
    return kind


def _all_keys(kind: Any = TrainConfig, prefix: str = "") -> list[str]:
    keys = []
    for name, hint in _hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        keys += _all_keys(hint, f"{prefix}{name}.") if nested else [prefix + name]
    return keys


def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
