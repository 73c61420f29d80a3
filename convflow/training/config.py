"""The complete settings of a training run, as dataclasses that check themselves.

A recipe returns a `TrainConfig`; the command line overrides single keys; the whole goes as JSON
into the run folder and every checkpoint.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Annotated, Any, Literal

from msgspec import Meta

from convflow.codecs import SD_VAE
from convflow.data.files import MAX_PIXELS
from convflow.samplers.ancestral import ANCESTRAL_SOLVERS
from convflow.samplers.guidance import guide
from convflow.samplers.multistep import Table
from convflow.samplers.reach import ReachSchedule
from convflow.samplers.sampler import GRID, OPTIONS, PAUSING, SEARCHED, STAGES, Sampler
from convflow.samplers.seeds import LabelPolicy
from convflow.types import InputError, check_several, unknown_name

LARGEST = 2**53
"""Up to here JSON, float64 and int64 agree about whole numbers."""

Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Natural = Annotated[int, Meta(ge=0, le=LARGEST)]
Factor = Annotated[int, Meta(ge=2, le=LARGEST)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Precision = Literal["auto", "float32", "bfloat16"]
Positive = Annotated[float, Meta(gt=0)]
Pixels = tuple[Count, Count]


def doc(text: str) -> Meta:
    """Return a line of help, for use within an annotation."""
    return Meta(description=text)


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are brought to one size, or to several.

    `buckets` above 1 stand for sizes of at most as many pixels as `size`, whose ratios of width to
    height lie evenly between `ratios`; `sizes` names them one by one instead. A batch holds
    pictures of one size, about as many pixels as `batch_size` pictures of the size `size`.
    """

    path: Annotated[str, doc("folder, .zip, .parquet, hf:NAME, digits or shapes")] = "digits"
    split: Annotated[
        str,
        doc("split of the pictures: train, validation, test or unlabeled; all = the first three"),
    ] = "train"
    labels: Annotated[
        Literal["auto", "folders", "table", "names", "none"],
        doc("what gives classes: auto = table, else folders; names = cat_0.png; none = no classes"),
    ] = "auto"
    label_column: Annotated[
        str, doc("column of a table that holds the labels; empty = find it")
    ] = ""
    image_column: Annotated[
        str, doc("column of a table that holds the pictures; empty = find it")
    ] = ""
    size: Annotated[Pixels, doc("height x width in pixels")] = (8, 8)
    channels: Annotated[Literal[1, 3], doc("1 = grey, 3 = colour")] = 3
    buckets: Annotated[Count, doc("aspect ratios to train at")] = 1
    ratios: Annotated[tuple[Positive, Positive], doc("of buckets, width / height")] = (0.5, 2.0)
    sizes: Annotated[
        tuple[Pixels, ...], doc("of buckets, such as 32x32,64x32; none = by ratio")
    ] = ()
    crop: Annotated[Literal["center", "random"], doc("which part of a picture is kept")] = "center"
    flip: Annotated[bool, doc("mirror half of the pictures")] = True
    max_pixels: Annotated[
        Count, doc("most pixels of a picture; one of more is bad and is not decoded")
    ] = MAX_PIXELS
    on_bad: Annotated[
        Literal["stop", "skip"], doc("whether an unreadable picture stops the run or is skipped")
    ] = "stop"
    on_change: Annotated[
        Literal["warn", "stop"], doc("what to do on resume where pictures were written anew")
    ] = "warn"


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
    factors: Annotated[tuple[Factor, ...], doc("between the scales of dfm, coarse to fine")] = (2,)
    decomposition: Annotated[Literal["laplacian", "haar", "dct"], doc("into scales")] = "laplacian"
    probabilities: Annotated[tuple[Share, ...], doc("of the main scale; none = 0.9, rest")] = ()
    earlier_location: Annotated[float, doc("mean as above, of scales before the main one")] = 1.5
    earlier_scale: Annotated[Positive, doc("its standard deviation")] = 1.0
    weights: Annotated[tuple[Positive, ...], doc("of each scale in the loss; none = 1")] = ()
    standardize: Annotated[bool, doc("divide by deviations, measured at the start")] = False
    deviations: Annotated[tuple[Positive, ...], doc("of each scale; none = measured, or 1")] = ()
    locations: Annotated[
        tuple[float, ...], doc("of each scale, in place of location; none = location")
    ] = ()


@dataclass(frozen=True)
class ResolutionConfig:
    """What training at several sizes makes of a size that is not `data.size`; see docs: samplers.

    `shift` belongs to the process "flow", `reach_blocks` to the reach "auto". What a network was
    told in training it is told in sampling too.

    Raises:
        InputError: blocks of a reach that is not to grow.
    """

    shift: Annotated[bool, doc("favour noise at larger sizes, by sqrt(pixel ratio)")] = False
    reach: Annotated[Literal["none", "auto"], doc("FlowDCN's schedule of S_max")] = "none"
    reach_blocks: Annotated[
        tuple[Natural, ...], doc("first,last that take part; none = all but 5 and 4")
    ] = ()
    position_scaling: Annotated[
        Literal["none", "pi", "ei", "ntk", "yarn"], doc("of DiT and SiT on larger grids")
    ] = "none"

    def __post_init__(self) -> None:
        """Check that they belong together."""
        if self.reach_blocks and (self.reach == "none" or len(self.reach_blocks) != 2):
            raise InputError(
                "--resolution.reach-blocks: expected first,last and --resolution.reach auto with "
                f"it, got {list(self.reach_blocks)} beside {self.reach}; try 0,3"
            )

    def arguments(self) -> dict[str, Any]:
        """Return what the network is to be told, as `read_arguments` takes it."""
        told: dict[str, Any] = {}
        if self.reach == "auto":
            first_last = (self.reach_blocks[0], self.reach_blocks[1]) if self.reach_blocks else None
            told["reach"] = ReachSchedule(blocks=first_last)
        if self.position_scaling != "none":
            told["position_scaling"] = self.position_scaling
        return told


@dataclass(frozen=True)
class CodecConfig:
    """Between pictures and what the network sees (see `convflow.codecs`).

    All but `kind` belong to "latent"; the autoencoder is that of DiT, SiT, DiCo and FlowDCN.
    """

    kind: Annotated[Literal["pixel", "latent"], doc("pixels, or those of an autoencoder")] = "pixel"
    autoencoder: Annotated[str, doc("folder or Hub id of an AutoencoderKL of diffusers")] = SD_VAE
    scale: Annotated[
        Positive | None, doc("factor on latents; none = as the autoencoder's config.json says")
    ] = None
    shift: Annotated[
        float | None, doc("taken from latents before; none = as the autoencoder's config.json says")
    ] = None


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and what surrounds it."""

    lr: Annotated[Positive, doc("peak learning rate")] = 1e-4
    betas: Annotated[tuple[Momentum, Momentum], doc("AdamW's momenta")] = (0.9, 0.999)
    weight_decay: Annotated[NotNegative, doc("AdamW's; spares norms, biases, embeddings")] = 0.0
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
    logger: Annotated[
        str, doc("another logger of the metrics, as package.module:Name; empty = none")
    ] = ""


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved."""

    every_minutes: Annotated[NotNegative, doc("time between checkpoints")] = 5.0
    keep: Annotated[Count, doc("newest checkpoints kept; older ones are removed")] = 3
    verify: Annotated[bool, doc("compare checksums of checkpoints that are read")] = True


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
    shift: Annotated[Positive, doc("above 1: steps near noise; LightningDiT's 0.3 is 3.33")] = 1.0
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
    if process == "dfm" and solver != PAUSING:
        names.append("guidance_kind")  # nor for solvers that remember a pause
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

    size: Pixels
    class_names: tuple[str, ...] = ()
    sampling: SamplingConfig = SamplingConfig()
    codec: CodecConfig = CodecConfig()
    process: ProcessConfig = ProcessConfig()
    resolution: ResolutionConfig = ResolutionConfig()
    format: Literal[1] = 1


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: Annotated[dict[str, Any], doc("name, then settings of the network")] = field(
        default_factory=lambda: {"name": "flowdcn-s/2"}
    )
    data: DataConfig = DataConfig()
    resolution: ResolutionConfig = ResolutionConfig()
    codec: CodecConfig = CodecConfig()
    process: ProcessConfig = ProcessConfig()
    objectives: Annotated[
        dict[str, dict[str, Any]],
        doc("losses beside that of the process, by name: kind, weight, settings of the kind"),
    ] = field(default_factory=dict)
    optim: OptimConfig = OptimConfig()
    ema: EMAConfig = EMAConfig()
    monitor: MonitorConfig = MonitorConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sampling: SamplingConfig = SamplingConfig()
    init: Annotated[str, doc("run, checkpoint or model folder whose weights it begins from")] = ""
    images: Annotated[Count, doc("length of the run in images seen")] = 1_000_000
    batch_size: Annotated[Count, doc("global batch, whatever the number of devices")] = 256
    micro_batch: Annotated[Count | None, doc("most pictures at once on a device")] = None
    label_dropout: Annotated[Fraction, doc("share of labels replaced by 'no label'")] = 0.1
    seed: Annotated[Natural, doc("of weights, data order, noise and times")] = 0
    device: Annotated[str, doc("auto, cpu, ...")] = "auto"
    precision: Annotated[Precision, doc("auto = bfloat16 where fast")] = "auto"
