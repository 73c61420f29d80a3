"""The complete settings of a training run, as dataclasses that check themselves.

A recipe returns a `TrainConfig`; the command line overrides single keys; the whole goes as JSON
into the run folder and every checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from convflow.types import InputError, unknown_name

Count = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]


def doc(kind: Any, text: str) -> Any:
    """Return the annotation `kind` with a line of help."""
    return Annotated[kind, Meta(description=text)]


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are brought to one size."""

    path: doc(str, "folder, .zip, .parquet, hf:NAME, or digits") = "digits"
    split: doc(str, "which split, where the data have several") = "train"
    size: doc(tuple[Count, Count], "height x width in pixels") = (8, 8)
    channels: doc(Literal[1, 3], "1 = grey, 3 = colour") = 3
    flip: doc(bool, "mirror half of the pictures") = True
    crop: doc(Literal["center", "random"], "where a picture of another shape is cut") = "center"
    on_bad: doc(Literal["stop", "skip"], "what to do about unreadable pictures") = "stop"


@dataclass(frozen=True)
class ProcessConfig:
    """How training times are drawn (see `convflow.processes.flow.FlowMatching`)."""

    times: doc(Literal["uniform", "logit-normal"], "distribution of training times") = "uniform"
    location: doc(float, "mean of the normal behind logit-normal times") = 0.0
    scale: doc(Positive, "its standard deviation") = 1.0
    shift: doc(Positive, "above 1 favours noise, t / (t + (1 - t) shift)") = 1.0


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and what surrounds it."""

    lr: doc(Positive, "peak learning rate") = 1e-4
    betas: doc(tuple[Fraction, Fraction], "AdamW's momenta") = (0.9, 0.999)
    weight_decay: doc(Annotated[float, Meta(ge=0)], "AdamW's decoupled decay") = 0.0
    warmup_images: doc(Annotated[int, Meta(ge=0)], "images over which the rate rises") = 0
    schedule: doc(Literal["constant", "linear"], "after warm-up: stay, or fall to zero") = "constant"
    clip: doc(Positive, "largest gradient norm") = 1.0


@dataclass(frozen=True)
class EMAConfig:
    """The running average of the weights, kept in float32."""

    decay: doc(Fraction, "share of the average kept at each step, once warm") = 0.9999
    warmup: doc(Annotated[float, Meta(ge=0)], "step n keeps (1 + n) / (warmup + n); 0 = off") = 10.0


@dataclass(frozen=True)
class MonitorConfig:
    """What a run shows of itself."""

    log_every: doc(Count, "steps between lines of metrics.jsonl") = 10
    samples_minutes: doc(Positive, "minutes to the first sample grid; each later gap doubles") = 0.75
    samples_longest_minutes: doc(Positive, "longest gap between sample grids") = 20.0
    num_samples: doc(Count, "pictures in a sample grid") = 16
    tensorboard: doc(bool, "write curves when tensorboard is installed") = True


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved."""

    every_minutes: doc(Annotated[float, Meta(ge=0)], "time between checkpoints") = 5.0
    keep: doc(Count, "newest checkpoints kept; older ones are removed") = 3


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of `convflow sample` for the trained model."""

    solver: doc(Literal["euler", "heun"], "ODE solver") = "euler"
    steps: doc(Count, "solver steps") = 50
    guidance: doc(float, "classifier-free guidance scale, 1 = none") = 1.5


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: doc(dict[str, Any], "name, then settings of the network") = field(
        default_factory=lambda: {"name": "flowdcn-s/2"}
    )
    data: DataConfig = DataConfig()
    process: ProcessConfig = ProcessConfig()
    optim: OptimConfig = OptimConfig()
    ema: EMAConfig = EMAConfig()
    monitor: MonitorConfig = MonitorConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sampling: SamplingConfig = SamplingConfig()
    images: doc(Count, "length of the run in images seen") = 1_000_000
    batch_size: doc(Count, "global batch, whatever the number of devices") = 256
    micro_batch: doc(Count | None, "most pictures at once on a device, none = all") = None
    label_dropout: doc(Fraction, "share of labels replaced by 'no label'") = 0.1
    seed: doc(Annotated[int, Meta(ge=0)], "of weights, data order, noise and times") = 0
    device: doc(str, "auto, cpu, ...") = "auto"
    precision: doc(Literal["auto", "float32", "bfloat16"], "auto = bfloat16 where fast") = "auto"


FREE_TO_CHANGE = ("images", "device", "monitor", "checkpoint", "sampling")
"""Keys (or groups) that a resumed run may change."""


def override(config: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """Return `config` with command-line words such as `--optim.lr 2e-4` or `--data.size=64x48` set.

    Dashes and underscores are the same. `--data X` is short for `--data.path X`.

    Raises:
        InputError: an unknown key (the nearest is named), a missing or an unfit value.
    """
    tree = dataclasses.asdict(config)
    for key, text in _pairs(arguments):
        _set(tree, key, text)
    return from_dict(tree)


def from_dict(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the settings held in a nested dict, checked; the inverse of `to_dict`.

    Raises:
        InputError: an unknown key, a wrong type or a value out of range.
    """
    for key in _flatten(tree):
        _kind_of(key)
    try:
        return msgspec.convert(tree, TrainConfig, strict=False)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        key = place.strip("`").replace("_", "-").split("[")[0]
        value = _flatten(tree).get(key.replace("-", "_"))
        reason = reason.split(", got")[0].replace("`", "")
        raise InputError(f"--{key}: {reason[0].lower()}{reason[1:]}, got {value!r}") from error


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Return plain nested dicts and lists, ready for JSON."""
    return json.loads(msgspec.json.encode(config))


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Return `key (old, now new)` for every key that a resumed run may not change but has."""
    before, after = _flatten(to_dict(old)), _flatten(to_dict(new))
    return [
        f"{key} ({before.get(key)}, now {after.get(key)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key.split(".")[0] not in FREE_TO_CHANGE
    ]


def describe(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Return (key, present value, help) for every key, in order, for `--help`."""
    rows = []
    for key, value in _flatten(dataclasses.asdict(config)).items():
        kind = _kind_of(key)
        meta = [m.description for m in getattr(kind, "__metadata__", ()) if m.description]
        shown = "x".join(map(str, value)) if key == "data.size" else value
        rows.append((key.replace("_", "-"), str(shown), meta[-1] if meta else ""))
    return rows


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    words, pairs = list(arguments), []
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise InputError(f"expected an option such as --optim.lr 2e-4, got {word!r}")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise InputError(f"--{key}: expected a value after it, got none")
            text = words.pop(0)
        pairs.append((key.replace("-", "_"), text))
    return pairs


def _set(tree: dict[str, Any], key: str, text: str) -> None:
    key = "data.path" if key == "data" else key
    kind = _kind_of(key)
    if dataclasses.is_dataclass(_plain(kind)):
        keys = ", ".join(f"--{key}.{f.name}".replace("_", "-") for f in dataclasses.fields(kind))
        raise InputError(f"--{key} is a group; set one of {keys}")
    *groups, leaf = key.split(".")
    for group in groups:
        tree = tree[group]
    if typing.get_origin(_plain(kind)) is tuple:
        tree[leaf] = text.replace("x", ",").strip("()").split(",")
    elif groups == ["model"]:
        tree[leaf] = _guess(text)
    else:
        tree[leaf] = None if text == "none" and type(None) in typing.get_args(_plain(kind)) else text


def _guess(text: str) -> Any:
    """Read a setting of a network, whose type is known to the network alone."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _kind_of(key: str) -> Any:
    """Return the annotation of a dotted key, or raise InputError that names the nearest key."""
    kind: Any = TrainConfig
    for name in key.split("."):
        if typing.get_origin(_plain(kind)) is dict:
            return Any
        hints = _hints(kind) if dataclasses.is_dataclass(kind) else {}
        if name not in hints:
            shown = [f"--{k}".replace("_", "-") for k in _all_keys()]
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


def _plain(kind: Any) -> Any:
    return kind.__origin__ if hasattr(kind, "__metadata__") else kind


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= _flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


