"""The complete settings of a training run, as dataclasses that check themselves.

A recipe returns a `TrainConfig`; the command line overrides single keys; the whole goes as JSON
into the run folder and every checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from convflow.samplers.sampler import Sampler
from convflow.types import InputError, unknown_name

LARGEST = 2**53
"""Up to here JSON, float64 and int64 agree about whole numbers."""

Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Natural = Annotated[int, Meta(ge=0, le=LARGEST)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Precision = Literal["auto", "float32", "bfloat16"]
Positive = Annotated[float, Meta(gt=0)]


def doc(text: str) -> Meta:
    """Return a line of help, for use within an annotation."""
    return Meta(description=text)


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are brought to one size."""

    path: Annotated[str, doc("folder, .zip, .parquet, hf:NAME, or digits")] = "digits"
    split: Annotated[str, doc("which split, where the data have several")] = "train"
    size: Annotated[tuple[Count, Count], doc("height x width in pixels")] = (8, 8)
    channels: Annotated[Literal[1, 3], doc("1 = grey, 3 = colour")] = 3
    flip: Annotated[bool, doc("mirror half of the pictures")] = True
    on_bad: Annotated[Literal["stop", "skip"], doc("what to do about unreadable pictures")] = "stop"


@dataclass(frozen=True)
class ProcessConfig:
    """How data become noise, and what the network predicts (see `convflow.processes`).

    `variance` belongs to "ddpm"; `factors` and all below to "dfm", `location` and `scale` to it and
    to "flow"; all other keys to "flow".
    """

    kind: Annotated[
        Literal["flow", "ddpm", "dfm"],
        doc("flow matching, DDPM in 1000 steps, or a flow per scale"),
    ] = "flow"
    times: Annotated[Literal["uniform", "logit-normal"], doc("distribution of times")] = "uniform"
    location: Annotated[float, doc("mean of the normal behind logit-normal times")] = 0.0
    scale: Annotated[Positive, doc("its standard deviation")] = 1.0
    shift: Annotated[Positive, doc("above 1 favours noise, t / (t + (1 - t) shift)")] = 1.0
    schedule: Annotated[Literal["linear", "cosine", "vp"], doc("path to the data")] = "linear"
    prediction: Annotated[
        Literal["velocity", "noise", "data", "score"], doc("what the network predicts")
    ] = "velocity"
    variance: Annotated[
        Literal["learned", "small", "large"], doc("of DDPM's steps; learned doubles the channels")
    ] = "learned"
    factors: Annotated[tuple[Count, ...], doc("between the scales of dfm, coarse to fine")] = (2,)
    decomposition: Annotated[
        Literal["laplacian", "haar", "dct"], doc("of a picture into scales")
    ] = "laplacian"
    probabilities: Annotated[
        tuple[Fraction, ...], doc("of each scale to be the main one; none = 0.9, rest shared")
    ] = ()
    earlier_location: Annotated[float, doc("mean as above, of scales before the main one")] = 1.5
    earlier_scale: Annotated[Positive, doc("its standard deviation")] = 1.0
    weights: Annotated[tuple[NotNegative, ...], doc("of each scale in the loss; none = 1")] = ()
    standardize: Annotated[bool, doc("divide scales by their deviations, measured at start")] = (
        False
    )
    deviations: Annotated[tuple[Positive, ...], doc("of each scale; none = measured, or 1")] = ()


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and what surrounds it."""

    lr: Annotated[Positive, doc("peak learning rate")] = 1e-4
    betas: Annotated[tuple[Momentum, Momentum], doc("AdamW's momenta")] = (0.9, 0.999)
    weight_decay: Annotated[NotNegative, doc("AdamW's decoupled decay")] = 0.0
    warmup_images: Annotated[Natural, doc("images over which the rate rises")] = 0
    schedule: Annotated[Literal["constant", "linear"], doc("stay, or fall to zero")] = "constant"
    clip: Annotated[Positive, doc("largest gradient norm")] = 1.0


@dataclass(frozen=True)
class EMAConfig:
    """The running average of the weights, kept in float32."""

    decay: Annotated[Fraction, doc("share of the average kept at each step, once warm")] = 0.9999
    warmup: Annotated[NotNegative, doc("step n keeps (1 + n) / (warmup + n); 0 = off")] = 10.0


@dataclass(frozen=True)
class MonitorConfig:
    """What a run shows of itself."""

    log_every: Annotated[Count, doc("steps between lines of metrics.jsonl")] = 10
    samples_minutes: Annotated[Positive, doc("until the first grid; gaps double")] = 0.75
    samples_longest_minutes: Annotated[Positive, doc("longest gap between sample grids")] = 20.0
    num_samples: Annotated[Count, doc("pictures in a sample grid")] = 16
    tensorboard: Annotated[bool, doc("write curves when tensorboard is installed")] = True


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved."""

    every_minutes: Annotated[NotNegative, doc("time between checkpoints")] = 5.0
    keep: Annotated[Count, doc("newest checkpoints kept; older ones are removed")] = 3


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of `convflow sample` for the trained model."""

    solver: Annotated[str, doc("heun, ab4, ddpm, ... (see docs: samplers)")] = "euler"
    steps: Annotated[Count, doc("solver steps")] = 50
    guidance: Annotated[float, doc("classifier-free guidance scale, 1 = none")] = 1.5


@dataclass(frozen=True)
class PipelineConfig:
    """What a `Pipeline` needs to know beside the network; stored as `pipeline.json` next to it."""

    size: tuple[Count, Count]
    class_names: tuple[str, ...] = ()
    sampling: SamplingConfig = SamplingConfig()
    codec: Literal["pixel"] = "pixel"
    process: ProcessConfig = ProcessConfig()
    format: Literal[1] = 1


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: Annotated[dict[str, Any], doc("name, then settings of the network")] = field(
        default_factory=lambda: {"name": "flowdcn-s/2"}
    )
    data: DataConfig = DataConfig()
    process: ProcessConfig = ProcessConfig()
    optim: OptimConfig = OptimConfig()
    ema: EMAConfig = EMAConfig()
    monitor: MonitorConfig = MonitorConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sampling: SamplingConfig = SamplingConfig()
    images: Annotated[Count, doc("length of the run in images seen")] = 1_000_000
    batch_size: Annotated[Count, doc("global batch, whatever the number of devices")] = 256
    micro_batch: Annotated[Count | None, doc("most pictures at once on a device")] = None
    label_dropout: Annotated[Fraction, doc("share of labels replaced by 'no label'")] = 0.1
    seed: Annotated[Natural, doc("of weights, data order, noise and times")] = 0
    device: Annotated[str, doc("auto, cpu, ...")] = "auto"
    precision: Annotated[Precision, doc("auto = bfloat16 where fast")] = "auto"


FREE_TO_CHANGE = ("images", "device", "micro_batch", "monitor", "checkpoint", "sampling")
"""Keys (or groups) that a resumed run may change."""

SHORT = {"data": "data.path", "process": "process.kind"}
"""Groups that stand for one of their keys."""

HINTS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    tuple: "two numbers such as 64x48",
    ...: "numbers such as 2,2",
}
"""What to call a type in a message, where its own name says too little."""


def override(config: TrainConfig, arguments: Sequence[str]) -> TrainConfig:
    """Return `config` with command-line words such as `--optim.lr 2e-4` or `--data.size=64x48` set.

    Dashes and underscores are the same. `--data X` is short for `--data.path X`, and `--process X`
    for `--process.kind X`.

    Raises:
        InputError: an unknown key (the nearest is named), a missing or an unfit value.
    """
    tree = dataclasses.asdict(config)
    # Another network starts from its own settings, not from those of the recipe's network.
    pairs = sorted(_pairs(arguments), key=lambda pair: pair[0] != "model.name")
    if pairs and pairs[0][0] == "model.name" and pairs[0][1] != tree["model"]["name"]:
        tree["model"] = {}
    for key, text in pairs:
        _set(tree, key, text)
    return from_dict(tree)


def from_dict(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the settings held in a nested dict, checked; the inverse of `to_dict`.

    Raises:
        InputError: an unknown key, a wrong type or a value out of range.
    """
    flat = _flatten(tree)
    for key in flat:
        _kind_of(key)
    try:
        config = msgspec.convert(tree, TrainConfig, strict=False)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        key = place.strip("`").split("[")[0]
        kind = _plain(_kind_of(key))
        wanted = reason.split(", got")[0].removeprefix("Expected ").replace("`", "")
        hint = HINTS.get(... if ... in typing.get_args(kind) else typing.get_origin(kind) or kind)
        if hint and not wanted.startswith(("int >", "int <", "float")):
            wanted = hint
        elif typing.get_origin(kind) is Literal:
            wanted = " or ".join(map(str, typing.get_args(kind)))
        raise _unfit(key, wanted, flat.get(key, tree)) from error
    for key, value in _flatten(dataclasses.asdict(config)).items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise _unfit(key, "a finite number", number)
    Sampler(config.sampling.solver, config.sampling.steps)
    if not isinstance(config.model.get("name"), str):
        raise _unfit("model.name", "the name of a network", config.model.get("name"))
    return config


def _unfit(key: str, wanted: str, got: Any) -> InputError:
    shown = "x".join(map(str, got)) if isinstance(got, (list, tuple)) else got
    key = key.replace("_", "-")
    return InputError(f"--{key}: expected {wanted}, got {shown!r}; --help lists values that work")


def read_pipeline(tree: Mapping[str, Any]) -> PipelineConfig:
    """Return the description of a pipeline held in a dict, checked; missing keys get defaults.

    Before version 0.2 `process` was a name alone, which is its `kind` now.

    Raises:
        InputError: no size, a wrong type or a value out of range.
    """
    if isinstance(tree.get("process"), str):
        tree = {**tree, "process": {"kind": tree["process"]}}
    try:
        return msgspec.convert(tree, PipelineConfig)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "").replace("$.", "").replace("Expected", "expected")
        raise InputError(reason[0].lower() + reason[1:]) from error


def to_dict(config: TrainConfig | PipelineConfig) -> dict[str, Any]:
    """Return plain nested dicts and lists, ready for JSON."""
    # Not by msgspec's encoder: it leaves out the defaults of settings that msgspec has read.
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Return `key (old, now new)` for every key that a resumed run may not change but has."""
    before, after = _flatten(to_dict(old)), _flatten(to_dict(new))
    return [
        f"{key} ({before.get(key)}, now {after.get(key)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and (key.split(".")[0] not in FREE_TO_CHANGE or (key == "images" and _is_scheduled(new)))
    ]


def _is_scheduled(config: TrainConfig) -> bool:
    """Return whether the learning rate of a step depends on the length of the run."""
    return config.optim.schedule != "constant"


def describe(config: TrainConfig) -> list[tuple[str, str, str]]:
    """Return (key, present value, help) for every key, in order, for `--help`."""
    rows = []
    for key, value in _flatten(dataclasses.asdict(config)).items():
        kind = _kind_of(key)
        meta = [m.description for m in getattr(kind, "__metadata__", ()) if m.description]
        shown = "x".join(map(str, value)) if isinstance(value, tuple) else value
        shown = "none" if shown in (None, "") else shown
        rows.append((key.replace("_", "-"), str(shown), meta[-1] if meta else ""))
    return rows


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    words, pairs = list(arguments), []
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            raise InputError(
                f"expected an option such as --optim.lr 2e-4, got {word!r}; "
                "the recipe comes first, then options with values"
            )
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise InputError(f"--{key}: expected a value after it, got none; give one")
            text = words.pop(0)
        pairs.append((key.replace("-", "_"), text))
    return pairs


def _set(tree: dict[str, Any], key: str, text: str) -> None:
    key = SHORT.get(key, key)
    kind = _plain(_kind_of(key))
    *groups, leaf = key.split(".")
    if kind is dict or typing.get_origin(kind) is dict:
        raise InputError(f"--{key} is a group; set one of its keys, such as --model.name {text}")
    if dataclasses.is_dataclass(kind):
        keys = ", ".join(f"--{key}.{f.name}".replace("_", "-") for f in dataclasses.fields(kind))
        raise InputError(f"--{key} is a group; set one of {keys}")
    if groups[:1] == ["model"]:
        if len(groups) > 1 or not leaf:
            raise InputError(f"expected --model.SETTING, got --{key}; --help lists the settings")
        tree["model"][leaf] = _guess(text)
        return
    for group in groups:
        tree = tree[group]
    if typing.get_origin(kind) is tuple:
        tree[leaf] = [] if text == "none" else text.replace("x", ",").strip("()").split(",")
    else:
        tree[leaf] = None if text == "none" and type(None) in typing.get_args(kind) else text


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
