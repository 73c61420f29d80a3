"""Settings as nested dicts and dotted keys: read and checked, and written."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from convflow.processes.process import has_scales
from convflow.training.config import DataConfig, PipelineConfig, Pixels, TrainConfig
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
        config = msgspec.convert(tree, TrainConfig, strict=False)
    except UnicodeEncodeError as error:  # half a character, as of bytes that are no UTF-8
        raise InputError(f"expected text, got {error.object[:80]!r}; write it in UTF-8") from error
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
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


def read_pipeline(tree: Mapping[str, Any]) -> PipelineConfig:
    """Return the description of a pipeline held in a dict, checked; missing keys get defaults.

    In earlier versions `process` and `codec` were a name alone, which is their `kind` now.

    Raises:
        InputError: no size, a wrong type or a value out of range.
    """
    for group in ("process", "codec"):
        if isinstance(tree.get(group), str):
            tree = {**tree, group: {"kind": tree[group]}}
    try:
        return msgspec.convert(tree, PipelineConfig)
    except UnicodeEncodeError as error:  # half a character, as of bytes that are no UTF-8
        raise InputError(f"expected text, got {error.object[:80]!r}; write it in UTF-8") from error
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        reason = str(error).replace("`", "").replace("$.", "").replace("Expected", "expected")
        raise InputError(reason[0].lower() + reason[1:]) from error


def to_dict(config: TrainConfig | PipelineConfig) -> dict[str, Any]:
    """Return plain nested dicts and lists, ready for JSON."""
    # Not by msgspec's encoder: it leaves out the defaults of settings that msgspec has read.
    return json.loads(json.dumps(dataclasses.asdict(config)))


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


def plain(kind: Any) -> Any:
    """Return an annotation without its limits and its help."""
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as one with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat
