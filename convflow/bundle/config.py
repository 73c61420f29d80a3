"""What a model folder says of its model in `pipeline.json`, as dataclasses that check themselves.

A run takes the same settings, beside those of training (`convflow.training.config`).
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from convflow.codecs import CODECS, Codec, PixelCodec
from convflow.nn.reach import ReachSchedule
from convflow.processes.flow import FlowMatching
from convflow.processes.process import PROCESSES, Process
from convflow.samplers.average import Average
from convflow.samplers.guidance import guide
from convflow.samplers.linear import GeneralLinear
from convflow.samplers.solvers import SOLVERS, Solver, vary_solver
from convflow.seeds import LabelPolicy
from convflow.settings.fields import Count, Fraction, Natural, Pixels, doc
from convflow.settings.kinds import Table
from convflow.settings.read import hints_of, read, setting_hints
from convflow.texts import NoText, TextEncoder
from convflow.types import InputError, check_name


@dataclass(frozen=True)
class ResolutionConfig:
    """What training at several sizes makes of a size that is not `data.size`; see docs: samplers.

    `shift` belongs to the process "flow", `reach_blocks` to the reach "auto". What a network was
    told in training it is told in sampling too.

    Raises:
        InputError: blocks of a reach that is not to grow.
    """

    shift: Annotated[
        bool, doc("shift training times to noise at larger sizes, by sqrt(pixel ratio)")
    ] = False
    reach: Annotated[
        Literal["none", "auto"], doc("schedule of FlowDCN's S_max over sizes: auto, or none")
    ] = "none"
    reach_blocks: Annotated[
        tuple[Natural, ...],
        doc("first,last block whose S_max grows; none = all but the first 5 and last 4"),
    ] = ()
    position_scaling: Annotated[
        Literal["none", "pi", "ei", "ntk", "yarn"],
        doc("scaling of the positions of DiT and SiT on larger grids"),
    ] = "none"

    def __post_init__(self) -> None:
        if self.reach_blocks and (self.reach == "none" or len(self.reach_blocks) != 2):
            raise InputError(
                "--resolution.reach-blocks: expected first,last and --resolution.reach auto with "
                f"it, got {list(self.reach_blocks)} beside {self.reach}; try 0,3"
            )

    def arguments(self) -> dict[str, Any]:
        """Return what the network is to be told, as `read_arguments` takes it."""
        model_kwargs: dict[str, Any] = {}
        if self.reach == "auto":
            first_last = (self.reach_blocks[0], self.reach_blocks[1]) if self.reach_blocks else None
            model_kwargs["reach"] = ReachSchedule(blocks=first_last)
        if self.position_scaling != "none":
            model_kwargs["position_scaling"] = self.position_scaling
        return model_kwargs


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of `convflow sample` for the trained model; `Pipeline.choose` explains them.

    Raises:
        InputError: an unknown name, or a number out of range.
    """

    solver: Annotated[Solver, doc("solver that makes images of noise: heun, ab4, ddpm, ...")] = (
        field(default_factory=GeneralLinear)
    )
    guidance: Annotated[float, doc("scale of classifier-free guidance; 1 = none")] = 1.5
    guidance_kind: Annotated[Literal["cfg", "cfg-zero"], doc("formula of the guidance")] = "cfg"
    interval: Annotated[
        tuple[Fraction, Fraction], doc("flow times between which guidance acts, such as 0,1")
    ] = (0.0, 1.0)
    channels_guided: Annotated[
        Count | None, doc("number of channels guided, from the first; none = all, published: 3")
    ] = None
    label_policy: Annotated[
        LabelPolicy, doc("balanced gives the labels in turn, random draws one for each image")
    ] = "balanced"

    def __post_init__(self) -> None:
        check_name("label policy", self.label_policy, typing.get_args(LabelPolicy))
        guide(_anything, _anything, self.guidance, self.guidance_kind, **self.guided())

    def guided(self) -> dict[str, Any]:
        """Return when and where guidance acts, as arguments of `guide`."""
        return {"interval": self.interval, "channels": self.channels_guided}

    def check(self, process: Process) -> None:
        """Raise InputError where a model trained with a process cannot be sampled so."""
        self.solver.check(process, self.guidance_kind)
        self.solver.check_scale(self.guidance)

    def varied(self, process: Process, /, **given: Any) -> SamplingConfig:
        """Return these settings with others in their place, for a process; see `vary_solver`.

        A stored kind of guidance that the solver does not take becomes the default.

        Raises:
            InputError: what is given means nothing, or is out of range.
        """
        settings = {name: getattr(self, name) for name in hints_of(SamplingConfig)}
        mine = {
            name: value for name, value in given.items() if name in settings and name != "solver"
        }
        others = {name: value for name, value in given.items() if name not in mine}
        solver = vary_solver(self.solver, process, others)
        try:
            solver.check(process, self.guidance_kind)
        except InputError:  # of the kind, or of what will be refused with any
            settings["guidance_kind"] = SamplingConfig.guidance_kind
        if not solver.guides:
            settings["guidance"] = 1.0
        return read(settings | mine | {"solver": solver}, SamplingConfig)


def usual_sampling(process: Process, wanted: SamplingConfig | None = None) -> SamplingConfig:
    """Return how a model of a process is sampled where nobody says it.

    Args:
        process: that the model was trained with.
        wanted: what there would be for other processes; the rest of it stays.
    """
    base = wanted or SamplingConfig()
    if process.second_time and base.solver.guides:
        return replace(base, solver=Average(), guidance=1.0, guidance_kind="cfg")
    if not process.second_time and not base.solver.guides:
        return replace(base, solver=GeneralLinear())
    return base


def _anything(*_: Any) -> Any:
    raise AssertionError("guidance is checked, never called")


@dataclass(frozen=True)
class PipelineConfig:
    """What a `Pipeline` needs to know beside the network; stored as `pipeline.json` next to it."""

    size: Pixels
    class_names: tuple[str, ...] = ()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    codec: Codec = field(default_factory=PixelCodec)
    process: Process = field(default_factory=FlowMatching)
    resolution: ResolutionConfig = ResolutionConfig()
    text: TextEncoder = field(default_factory=NoText)
    prompts: tuple[str, ...] = ()
    """Examples of texts, where the network is told texts."""
    format: Literal[1, 2] = 2


def read_pipeline(tree: Mapping[str, Any]) -> PipelineConfig:
    """Return the description of a pipeline held in a dict, checked; missing keys get defaults.

    Raises:
        InputError: no size, an unknown key, a wrong type or a value out of range.
    """
    return replace(read(upgrade(tree), PipelineConfig), format=2)


def upgrade(tree: Any) -> Any:
    """Return settings of a pipeline or a run as this version has them.

    In versions 0.1 and 0.2 a process and a codec stood with the settings of all kinds, or as a name
    alone, and the settings of all solvers stood beside `solver`, a name. Those of other kinds had
    their defaults or meant nothing, and are left out.
    """
    if not isinstance(tree, Mapping):
        return tree
    new, sampling = dict(tree), tree.get("sampling")
    sampling = sampling if isinstance(sampling, Mapping) else {}
    flat = isinstance(sampling.get("solver"), str)
    if not flat and tree.get("format") != 1 and not isinstance(tree.get("process"), str):
        return tree
    if flat:
        mine = {n: v for n, v in sampling.items() if n in hints_of(SamplingConfig)}
        solver = {n: v for n, v in sampling.items() if n not in mine}
        new["sampling"] = mine | {"solver": _own(SOLVERS, solver | {"kind": mine["solver"]})}
    for name, table in (("process", PROCESSES), ("codec", CODECS)):
        if name in new:
            new[name] = _own(table, new[name])
    return new


def _own(table: Table[Any], part: Any) -> Any:
    """Return a part without the settings of others of its table."""
    if not isinstance(part, Mapping) or part.get("kind") not in table:
        return part
    others = {name for cls in table.values() for name in setting_hints(cls)}
    others -= setting_hints(table[part["kind"]]).keys()
    return {name: value for name, value in part.items() if name not in others}
