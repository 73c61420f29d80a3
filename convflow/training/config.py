"""The complete settings of a training run, as dataclasses that check themselves.

A recipe returns a `TrainConfig`; the command line overrides single keys; the whole goes as JSON
into the run folder and every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from convflow.bundle.config import ResolutionConfig, SamplingConfig
from convflow.codecs import Codec, PixelCodec
from convflow.data.augment import AugmentKind
from convflow.data.check import Look
from convflow.data.files import MAX_PIXELS
from convflow.models.blocks import RecomputeChoice
from convflow.parallel.engines import Automatic, Parallel
from convflow.processes.flow import FlowMatching
from convflow.processes.process import Process
from convflow.settings.fields import (
    Count,
    Fraction,
    Momentum,
    Natural,
    NotNegative,
    Pixels,
    Positive,
    RelativeWidth,
    Share,
    doc,
)
from convflow.settings.read import show
from convflow.training.compiling import CompileChoice
from convflow.training.optimizers import AdamW, Optimizer
from convflow.types import InputError, PrecisionChoice


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are brought to one size, or to several.

    `buckets` above 1 stand for sizes of at most as many pixels as `size`, whose ratios of width to
    height lie evenly between `ratios`; `sizes` names them one by one instead. A batch holds
    images of one size, about as many pixels as `batch_size` images of the size `size`.
    """

    path: Annotated[
        str,
        doc("folder, .zip, .tar, .parquet, hf:NAME, .npz, .csv, .jsonl, digits, shapes or moving"),
    ] = "digits"
    split: Annotated[
        str, doc("split of the images: train, validation, test or unlabeled; all = the first three")
    ] = "train"
    labels: Annotated[
        Literal["auto", "folders", "table", "names", "none"],
        doc("what gives classes: auto = table, else folders; names = cat_0.png; none = no classes"),
    ] = "auto"
    label_column: Annotated[
        str, doc("column of a table that holds the labels; empty = find it")
    ] = ""
    image_column: Annotated[
        str, doc("column of a table that holds the images; empty = find it")
    ] = ""
    caption_column: Annotated[
        str, doc("column of a table, or key of .json files, that holds captions; empty = find it")
    ] = ""
    size: Annotated[
        Pixels, doc("height x width of the images in pixels; of videos frames x height x width")
    ] = (8, 8)
    channels: Annotated[Literal[1, 3], doc("channels of the images: 1 = grey, 3 = colour")] = 3
    buckets: Annotated[Count, doc("number of aspect ratios to train at")] = 1
    ratios: Annotated[
        tuple[Positive, Positive], doc("smallest and largest width / height of the buckets")
    ] = (0.5, 2.0)
    sizes: Annotated[
        tuple[Pixels, ...], doc("sizes of the buckets, such as 32x32,64x32; none = by ratio")
    ] = ()
    crop: Annotated[Literal["center", "random"], doc("which part of an image is kept")] = "center"
    crop_scale: Annotated[
        tuple[Share, Share],
        doc("with crop random: smallest and largest side of the part, 1 = as large as fits"),
    ] = (1.0, 1.0)
    fps: Annotated[
        NotNegative, doc("frames a second that videos are brought to first; 0 = their own frames")
    ] = 0.0
    stride: Annotated[Count, doc("steps between the frames of a clip, in frames of its video")] = 1
    clips: Annotated[
        Literal["windows", "random"],
        doc("clips of a video: windows = all that follow each other; random = one from anywhere"),
    ] = "windows"
    flip: Annotated[bool, doc("mirror half of the images")] = True
    shuffle: Annotated[
        Literal["images", "groups"],
        doc("order of an epoch; groups = read each row group of a parquet file once in it"),
    ] = "images"
    augment: Annotated[
        Fraction,
        doc("probability of each change of an image, of which the network is told; 0 = none"),
    ] = 0.0
    augment_kinds: Annotated[
        tuple[AugmentKind, ...],
        doc("changes that augment makes, such as flip,scale,hue; none = all that the images show"),
    ] = ()
    max_pixels: Annotated[
        Count, doc("most pixels of an image; one of more is bad and is not decoded")
    ] = MAX_PIXELS
    workers: Annotated[
        Count | Literal["auto"], doc("threads that decode images; auto = one on each core")
    ] = "auto"
    draft: Annotated[
        bool,
        doc("decode JPEGs at 1/2, 1/4 or 1/8 where that is large enough, which is faster"),
    ] = False
    check: Annotated[
        Look,
        doc("what is looked at before the first step: all = every image, some = 1,000 images"),
    ] = "auto"
    on_bad: Annotated[
        Literal["stop", "skip"], doc("whether an unreadable image stops the run or is skipped")
    ] = "stop"
    on_change: Annotated[
        Literal["warn", "stop"], doc("what to do on resume where images were written anew")
    ] = "warn"


@dataclass(frozen=True)
class EMAConfig:
    """The running average of the weights, kept in float32, and more of them beside it.

    Raises:
        InputError: snapshots without a power-function average, or an average named twice.
    """

    decay: Annotated[Fraction, doc("share of the average that each step keeps, once warm")] = 0.9999
    warmup: Annotated[
        NotNegative, doc("step n of the average keeps (1 + n) / (warmup + n); 0 = off")
    ] = 10.0
    every: Annotated[
        Count, doc("steps between updates of the average, whose half-life stays the same")
    ] = 1
    half_lives: Annotated[
        tuple[Count, ...],
        doc("half-lives in images of more averages to keep, such as 50000,500000; none = no more"),
    ] = ()
    sigma_rel: Annotated[
        tuple[RelativeWidth, ...],
        doc("relative widths of power-function averages to keep, such as 0.05,0.1; none = no more"),
    ] = ()
    snapshots: Annotated[
        Natural, doc("images between stored power-function averages, for convflow export; 0 = none")
    ] = 0
    snapshot_dtype: Annotated[
        Literal["float16", "bfloat16", "float32"], doc("numbers of the stored averages")
    ] = "float16"

    def __post_init__(self) -> None:
        if self.snapshots and not self.sigma_rel:
            raise InputError(
                "--ema.snapshots: expected --ema.sigma-rel with it, got none; add --ema.sigma-rel "
                "0.05,0.1"
            )
        for name, numbers in (("half-lives", self.half_lives), ("sigma-rel", self.sigma_rel)):
            if len(set(numbers)) < len(numbers):
                raise InputError(
                    f"--ema.{name}: expected different numbers, got {show(numbers)}; drop one"
                )


@dataclass(frozen=True)
class ValidationConfig:
    """The loss of images that are held back from training."""

    num: Annotated[Natural, doc("images held back to measure their loss; 0 = none")] = 0
    every: Annotated[
        Count, doc("steps between validation losses; rounded up to lines of metrics.jsonl")
    ] = 500


@dataclass(frozen=True)
class ScoreConfig:
    """Scores of samples that are drawn during training, as by `convflow evaluate`."""

    reference: Annotated[
        str, doc("real images or statistics to score samples against; empty = no scores")
    ] = ""
    every: Annotated[Count, doc("steps between scores; rounded up to lines of metrics.jsonl")] = (
        10_000
    )
    num: Annotated[Count, doc("samples drawn for a score")] = 5000
    detector: Annotated[
        str, doc("feature network: inception, dinov2, X.pt2 or package.module:name")
    ] = "inception"
    metrics: Annotated[str, doc("metrics with commas between: fid, is, kid, ...")] = "fid"


@dataclass(frozen=True)
class MonitorConfig:
    """What a run shows of itself."""

    log_every: Annotated[
        Count, doc("steps between lines of metrics.jsonl; the last of all images has one too")
    ] = 10
    samples_minutes: Annotated[
        Positive, doc("minutes until the first sample grid; gaps then double")
    ] = 0.75
    samples_longest_minutes: Annotated[
        Positive, doc("longest gap between sample grids, in minutes")
    ] = 20.0
    num_samples: Annotated[Count, doc("images in a sample grid")] = 16
    decoder: Annotated[
        str,
        doc("AutoencoderTiny that decodes sample grids, which is fast; empty = the autoencoder"),
    ] = ""
    tensorboard: Annotated[bool, doc("write curves when tensorboard is installed")] = True
    logger: Annotated[
        str,
        doc(
            "more loggers with commas between: wandb, trackio or package.module:Name; empty = none"
        ),
    ] = ""
    validation: ValidationConfig = ValidationConfig()
    score: ScoreConfig = ScoreConfig()


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved."""

    every_minutes: Annotated[NotNegative, doc("minutes between checkpoints")] = 5.0
    keep: Annotated[Count, doc("newest checkpoints kept; older ones are removed")] = 3
    keep_every: Annotated[
        Natural, doc("the first checkpoint after each so many steps stays for good; 0 = none")
    ] = 0
    background: Annotated[
        bool, doc("write checkpoints while training goes on, from a copy in the CPU's memory")
    ] = False
    verify: Annotated[bool, doc("compare checksums of checkpoints that are read")] = True


@dataclass(frozen=True)
class MemoryConfig:
    """What saves memory and costs time."""

    recompute: Annotated[
        RecomputeChoice,
        doc("blocks whose results the backward pass computes again: none, blocks = all, every-2"),
    ] = "none"


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters, which are trained in place of the network; see docs: published weights.

    Raises:
        InputError: other settings without a rank.
    """

    rank: Annotated[
        Natural, doc("rank of low-rank adapters (LoRA), trained in place of the network; 0 = none")
    ] = 0
    alpha: Annotated[
        Positive | None, doc("what adapters add is scaled by alpha / rank; none = as the rank")
    ] = None
    target: Annotated[
        str,
        doc(
            "linear and 1x1 layers that get adapters, patterns of names with commas between: "
            "blocks.*.mlp.*; empty = all in the blocks"
        ),
    ] = ""
    modules_to_save: Annotated[
        str,
        doc(
            "modules trained whole beside adapters, patterns of names with commas between; "
            "auto = those drawn anew, such as the label table of new classes; none"
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        others = (self.alpha, self.target, self.modules_to_save)
        if not self.rank and others != (None, "", "auto"):
            raise InputError(
                "--lora.rank: expected at least 1 with the other settings of adapters, got 0; "
                "add --lora.rank 8, or leave them out"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: Annotated[dict[str, Any], doc("name, then settings of the network")] = field(
        default_factory=lambda: {"name": "flowdcn-s/2"}
    )
    data: DataConfig = DataConfig()
    resolution: ResolutionConfig = field(default_factory=ResolutionConfig)
    codec: Annotated[
        Codec, doc("what turns images into what the network sees: pixel or latent")
    ] = field(default_factory=PixelCodec)
    process: Annotated[
        Process,
        doc("how data become noise: flow, meanflow (one step), ddpm or dfm (several scales)"),
    ] = field(default_factory=FlowMatching)
    objectives: Annotated[
        dict[str, dict[str, Any]],
        doc("losses beside that of the process, by name: kind, weight, settings of the kind"),
    ] = field(default_factory=dict)
    optim: Annotated[Optimizer, doc("optimizer: adamw, muon or package.module:Name")] = field(
        default_factory=AdamW
    )
    ema: EMAConfig = EMAConfig()
    monitor: MonitorConfig = MonitorConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    memory: MemoryConfig = MemoryConfig()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    init: Annotated[str, doc("run, model folder or published weights that it begins from")] = ""
    init_partial: Annotated[
        bool, doc("take only the weights that fit, also of another process; a line names the rest")
    ] = False
    freeze: Annotated[
        str,
        doc(
            "parameters that stay as they are, patterns of names with commas between: "
            "embed*,blocks.0.*; empty = none"
        ),
    ] = ""
    lora: LoRAConfig = LoRAConfig()
    images: Annotated[Count, doc("length of the run in images seen")] = 1_000_000
    batch_size: Annotated[Count, doc("global batch, whatever the number of devices")] = 256
    micro_batch: Annotated[Count | None, doc("most images at once on a device")] = None
    label_dropout: Annotated[Fraction, doc("share of labels replaced by 'no label'")] = 0.1
    dropout: Annotated[
        Momentum, doc("share of the features in the blocks that training sets to 0; 0 = none")
    ] = 0.0
    label_noise: Annotated[Fraction, doc("share of labels replaced by a class drawn evenly")] = 0.0
    seed: Annotated[Natural, doc("seed of weights, data order, noise and times")] = 0
    device: Annotated[str, doc("device to train on: auto, cpu, ...")] = "auto"
    parallel: Annotated[
        Parallel, doc("what several devices share: auto or ddp (the batch), fsdp (the network too)")
    ] = field(default_factory=Automatic)
    compile: Annotated[
        CompileChoice, doc("torch.compile of the network: off, blocks (quick to compile) or whole")
    ] = "off"
    precision: Annotated[
        PrecisionChoice, doc("arithmetic of the network; auto = bfloat16 where fast")
    ] = "auto"
