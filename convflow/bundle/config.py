"""What a model folder says of its model in `pipeline.json`, as dataclasses that check themselves.

A run takes the same settings, beside those of training (`convflow.training.config`).
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal

import msgspec

from convflow.codecs import SD_VAE
from convflow.nn.reach import ReachSchedule
from convflow.processes.process import has_scales
from convflow.samplers.ancestral import ANCESTRAL_SOLVERS
from convflow.samplers.guidance import guide
from convflow.samplers.multistep import Table
from convflow.samplers.sampler import GRID, OPTIONS, PAUSING, SEARCHED, STAGES, Sampler
from convflow.seeds import LabelPolicy
from convflow.settings.fields import (
    Count,
    Factor,
    Fraction,
    Natural,
    NotNegative,
    Pixels,
    Positive,
    Share,
    doc,
)
from convflow.settings.read import convert
from convflow.types import InputError, check_several, unknown_name


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

    def misfits(self, other: ProcessConfig) -> dict[str, tuple[Any, Any]]:
        """Return what of `NETWORK_KEYS` another process has otherwise: ours and theirs by key."""
        pairs = {key: (getattr(self, key), getattr(other, key)) for key in NETWORK_KEYS}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


NETWORK_KEYS = ("kind", "schedule", "prediction", "variance")
"""What of a process says what its network is asked and what it answers."""


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
        guide(_anything, _anything, self.guidance, self.guidance_kind, **self.guided())
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
    if has_scales(process) and solver != PAUSING:
        names.append("guidance_kind")  # nor for solvers that remember a pause
    if str(given.get("steps", stored["steps"])) == "1" and "last_step" not in names:
        names.append("last_step")
    names += GRID if has_scales(process) else STAGES
    names += ["stage_steps"] * ("steps" in given)  # of another sum
    return [name for name in dict.fromkeys(names) if name not in given]


def _anything(*_: Any) -> Any:
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
        return convert(tree, PipelineConfig)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "").replace("$.", "").replace("Expected", "expected")
        raise InputError(reason[0].lower() + reason[1:]) from error
