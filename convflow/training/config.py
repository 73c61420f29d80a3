"""The complete settings of a training run, as dataclasses that check themselves.

A recipe returns a `TrainConfig`; the command line overrides single keys; the whole goes as JSON
into the run folder and every checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from convflow.codecs import SD_SCALE, SD_VAE
from convflow.samplers.ancestral import ANCESTRAL_SOLVERS
from convflow.samplers.guidance import guide
from convflow.samplers.multistep import Table
from convflow.samplers.sampler import GRID, OPTIONS, SEARCHED, STAGES, Sampler
from convflow.samplers.seeds import LabelPolicy
from convflow.types import InputError, check_several, unknown_name

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

    path: Annotated[str, doc("folder, .zip, .parquet, hf:NAME, digits or shapes")] = "digits"
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
        Literal["flow", "ddpm", "dfm"], doc("flow matching, DDPM, or a flow for each scale")
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
    decomposition: Annotated[Literal["laplacian", "haar", "dct"], doc("into scales")] = "laplacian"
    probabilities: Annotated[tuple[Fraction, ...], doc("of the main scale; none = 0.9, rest")] = ()
    earlier_location: Annotated[float, doc("mean as above, of scales before the main one")] = 1.5
    earlier_scale: Annotated[Positive, doc("its standard deviation")] = 1.0
    weights: Annotated[tuple[NotNegative, ...], doc("of each scale in the loss; none = 1")] = ()
    standardize: Annotated[bool, doc("divide by deviations, measured at the start")] = False
    deviations: Annotated[tuple[Positive, ...], doc("of each scale; none = measured, or 1")] = ()


@dataclass(frozen=True)
class CodecConfig:
    """Between pictures and what the network sees (see `convflow.codecs`).

    All but `kind` belong to "latent"; the defaults are those of DiT, SiT, DiCo and FlowDCN.
    """

    kind: Annotated[Literal["pixel", "latent"], doc("pixels, or those of an autoencoder")] = "pixel"
    autoencoder: Annotated[str, doc("folder or Hub id of an AutoencoderKL of diffusers")] = SD_VAE
    scale: Annotated[Positive, doc("multiplies latents")] = SD_SCALE
    shift: Annotated[float, doc("taken from latents before")] = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and what surrounds it."""

    lr: Annotated[Positive, doc("peak learning rate")] = 1e-4
    betas: Annotated[tuple[Momentum, Momentum], doc("AdamW's momenta")] = (0.9, 0.999)
    weight_decay: Annotated[NotNegative, doc("AdamW's decoupled decay")] = 0.0
    warmup_images: Annotated[Natural, doc("images over which the rate rises")] = 0
    schedule: Annotated[Literal["constant", "linear"], doc("stay, or fall to zero")] = "constant"
    clip: Annotated[Positive | None, doc("largest gradient norm, or none")] = 1.0


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
    """Defaults of `convflow sample` for the trained model; `Pipeline.samples` explains them.

    Raises:
        InputError: settings that mean nothing together, or a number out of range.
    """

    solver: Annotated[str, doc("heun, ab4, ddpm, ... (see docs: samplers)")] = "euler"
    steps: Annotated[Count, doc("solver steps")] = 50
    guidance: Annotated[float, doc("classifier-free guidance scale, 1 = none")] = 1.5
    guidance_kind: Annotated[Literal["cfg", "cfg-zero"], doc("formula of the guidance")] = "cfg"
    interval: Annotated[tuple[Fraction, Fraction], doc("times at which it acts")] = (0.0, 1.0)
    channels_guided: Annotated[Count | None, doc("the first so many, none = all")] = None
    label_policy: Annotated[LabelPolicy, doc("labels in turn, or drawn")] = "balanced"
    shift: Annotated[Positive, doc("above 1 spends more steps near noise")] = 1.0
    last_step: Annotated[float | None, doc("length of the last step; published: 0.04")] = None
    diffusion: Annotated[str, doc("of random solvers: sigma, constant, flowdcn, ...")] = "sigma"
    strength: Annotated[NotNegative, doc("of the diffusion")] = 1.0
    last: Annotated[str, doc("how a random solver ends: mean, euler, tweedie, none")] = "mean"
    eta: Annotated[Fraction, doc("noise of ddim")] = 0.0
    clip: Annotated[bool, doc("clip predicted data (ddpm, ddim; pixels only)")] = False
    atol: Annotated[Positive, doc("tolerance of dopri5")] = 1e-6
    rtol: Annotated[Positive, doc("relative tolerance of dopri5")] = 1e-3
    stage_steps: Annotated[tuple[Count, ...], doc("of each scale (dfm); none = 3/4, rest")] = ()
    thresholds: Annotated[tuple[Fraction, ...], doc("when the next scale begins; none = 0.9")] = ()
    stop_scale: Annotated[Count | None, doc("to stop after (dfm), none = the last")] = None

    def __post_init__(self) -> None:
        """Check the whole combination."""
        if self.label_policy not in (known := typing.get_args(LabelPolicy)):
            raise InputError(unknown_name("label policy", self.label_policy, known))
        guide(_anything, 0, self.guidance, self.guidance_kind, **self.guided())
        if self.solver != SEARCHED:  # its table lies beside the weights
            self.sampler().check_guidance(self.guidance_kind)

    def guided(self) -> dict[str, Any]:
        """Return when and where guidance acts, as arguments of `guide`."""
        return {"interval": self.interval, "channels": self.channels_guided}

    def sampler(self, table: Table | None = None) -> Sampler:
        """Return the solver with its own settings."""
        own = {name: getattr(self, name) for name in SAMPLER_SETTINGS}
        return Sampler(self.solver, self.steps, **own, table=table)

    def varied(self, process: str, /, **given: Any) -> SamplingConfig:
        """Return these settings with others in their place, for a kind of process.

        Those of these that mean nothing beside what is given go back to their defaults; `steps`
        becomes the sum of `stage_steps` where these alone are given.

        Raises:
            InputError: what is given means nothing, or is out of range.
        """
        kept = dataclasses.asdict(self)
        for name in unfit_settings(kept, given, process):
            del kept[name]
        check_several(Integral, stage_steps=given.get("stage_steps", ()))
        check_several(Real, thresholds=given.get("thresholds", ()))
        if given.get("stage_steps") and "steps" not in given:
            given["steps"] = sum(given["stage_steps"])
        return SamplingConfig(**kept | given)


SAMPLER_SETTINGS = tuple(
    field.name
    for field in dataclasses.fields(Sampler)
    if field.name not in ("solver", "steps", "table")
)
"""The settings of a solver beside its steps, all of them in `SamplingConfig` too."""


def unfit_settings(stored: Mapping[str, Any], given: Mapping[str, Any], process: str) -> list[str]:
    """Return which stored settings mean nothing beside given ones, maybe words, and the process."""
    solver = given.get("solver", stored["solver"])
    names = [name for name in SAMPLER_SETTINGS if name not in OPTIONS.get(solver, ())]
    if solver in ANCESTRAL_SOLVERS:
        names.append("guidance_kind")  # cfg-zero is for velocities
    if str(given.get("steps", stored["steps"])) == "1" and "last_step" not in names:
        names.append("last_step")
    names += GRID if process == "dfm" else STAGES
    names += ["stage_steps"] * ("steps" in given)  # of another sum
    return [name for name in dict.fromkeys(names) if name not in given]


def _anything(x: Any, t: Any, y: Any, /) -> Any:
    raise AssertionError("guidance is checked, never called")


@dataclass(frozen=True)
class PipelineConfig:
    """What a `Pipeline` needs to know beside the network; stored as `pipeline.json` next to it."""

    size: tuple[Count, Count]
    class_names: tuple[str, ...] = ()
    sampling: SamplingConfig = SamplingConfig()
    codec: CodecConfig = CodecConfig()
    process: ProcessConfig = ProcessConfig()
    format: Literal[1] = 1


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: Annotated[dict[str, Any], doc("name, then settings of the network")] = field(
        default_factory=lambda: {"name": "flowdcn-s/2"}
    )
    data: DataConfig = DataConfig()
    codec: CodecConfig = CodecConfig()
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

HINTS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    tuple: "two numbers such as 64x48",
    ...: "numbers such as 2,2",
}
"""What to call a type in a message, where its own name says too little."""


def from_dict(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the settings held in a nested dict, checked; the inverse of `to_dict`.

    Raises:
        InputError: an unknown key, a wrong type or a value out of range.
    """
    flat = flatten(tree)
    for key in flat:
        kind_of(key)
    try:
        config = msgspec.convert(tree, TrainConfig, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        reason, _, place = str(error).partition(" - at `$.")
        key = place.strip("`").split("[")[0]
        kind = plain(kind_of(key))
        wanted = reason.split(", got")[0].removeprefix("Expected ").replace("`", "")
        hint = HINTS.get(... if ... in typing.get_args(kind) else typing.get_origin(kind) or kind)
        if hint and not wanted.startswith(("int >", "int <", "float")):
            wanted = hint
        elif typing.get_origin(kind) is Literal:
            wanted = " or ".join(map(str, typing.get_args(kind)))
        raise _unfit(key, wanted, flat.get(key, tree)) from error
    for key, value in flatten(dataclasses.asdict(config)).items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise _unfit(key, "a finite number", number)
    config.sampling.sampler()
    if not isinstance(config.model.get("name"), str):
        raise _unfit("model.name", "the name of a network", config.model.get("name"))
    return config


def _unfit(key: str, wanted: str, got: Any) -> InputError:
    shown = "x".join(map(str, got)) if isinstance(got, (list, tuple)) else got
    key = key.replace("_", "-")
    return InputError(f"--{key}: expected {wanted}, got {shown!r}; --help lists values that work")


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
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        reason = str(error).replace("`", "").replace("$.", "").replace("Expected", "expected")
        raise InputError(reason[0].lower() + reason[1:]) from error


def to_dict(config: TrainConfig | PipelineConfig) -> dict[str, Any]:
    """Return plain nested dicts and lists, ready for JSON."""
    # Not by msgspec's encoder: it leaves out the defaults of settings that msgspec has read.
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Return `key (old, now new)` for every key that a resumed run may not change but has."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    return [
        f"{key} ({before.get(key)}, now {after.get(key)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and (key.split(".")[0] not in FREE_TO_CHANGE or (key == "images" and _is_scheduled(new)))
    ]


def _is_scheduled(config: TrainConfig) -> bool:
    """Return whether the learning rate of a step depends on the length of the run."""
    return config.optim.schedule != "constant"


def kind_of(key: str) -> Any:
    """Return the annotation of a dotted key, or raise InputError that names the nearest key."""
    kind: Any = TrainConfig
    for name in key.split("."):
        if typing.get_origin(plain(kind)) is dict:
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
