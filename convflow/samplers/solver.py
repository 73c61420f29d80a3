"""What every solver promises: its settings, and the way it moves states from noise to data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.processes.contract import Field, MoreNoise, Process, Stage
from convflow.samplers.ode import Callback, time_grid
from convflow.settings.fields import Count, Positive, doc
from convflow.settings.kinds import Part
from convflow.settings.read import check_fields, setting_hints, to_dict
from convflow.types import Cond, InputError, Size

Guide = Callable[[Callable[[Any], Field]], Field]
"""Makes the guided field of a run, given what makes the field of any network."""

Own = TypeVar("Own", bound="Solver")


class Problem(NamedTuple):
    """A stage of a run, for a solver to solve.

    Attributes:
        field: what moves states, with guidance: made by `Solver.field`.
        process: that the model was trained with.
        x: the state at the start of the stage; the state is kept in its dtype.
        labels: class labels, `num_classes` for none.
        stage: its steps.
        draw: from 1, 2, ... to more noise, of that step for random solvers.
        callback: to be told of every step: its number from 1, their number, and the state.
    """

    field: Field
    process: Process
    x: Float[Tensor, "B C *F H W"]
    labels: Cond
    stage: Stage
    draw: MoreNoise
    callback: Callback


class Solver(Part):
    """A way of solving for data, from noise; a frozen dataclass whose fields are its settings.

    A subclass says in `solve` how states move in a stage of a run, and in `num_steps` in how many
    steps.
    """

    multiscale: ClassVar[bool] = False
    """Whether it can move several scales, each with a time of its own."""
    guidance_kinds: ClassVar[tuple[str, ...]] = ("cfg", "cfg-zero", "auto")
    """The kinds of guidance that can act on what it asks for."""

    guides: ClassVar[bool] = True
    """Whether guidance can act on what it asks for at all."""

    @property
    def num_steps(self) -> int | None:
        """How many steps a run has; None where the solver finds them itself."""
        raise NotImplementedError

    def solve(self, problem: Problem) -> Float[Tensor, "B C *F H W"]:
        """Return the state at the end of a stage."""
        raise NotImplementedError

    def field(
        self, process: Process, network: Any, stage: Stage, noise: Float[Tensor, "B C *F H W"]
    ) -> Field:
        """Return what the solver asks of a network: the velocity of states."""
        return process.field(network, stage, noise)

    def stages(self, process: Process) -> list[Stage]:
        """Return the stages of a run: one, but of scales.

        Raises:
            InputError: settings that are not those of the process.
        """
        return process.stages(1 if self.num_steps is None else self.num_steps)

    def check(self, process: Process, guidance_kind: str = "cfg") -> None:
        """Raise InputError where the solver cannot sample a model.

        Args:
            process: that the model was trained with.
            guidance_kind: that acts on the model.
        """
        if process.multiscale and not self.multiscale:
            fitting = [name for name, cls in self.kinds.items() if cls.multiscale]
            raise InputError(
                f"expected a solver of fixed cost for a model trained with the process "
                f"{process.kind}, got {self.kind}; choose {', '.join(fitting)}"
            )
        if guidance_kind not in self.guidance_kinds:
            raise InputError(
                f"the guidance {guidance_kind} is for velocities, got the solver {self.kind}, "
                "which predicts noise; choose another of the two"
            )
        self.stages(process)

    def check_scale(self, guidance: float) -> None:
        """Raise InputError where guidance of this scale cannot act; 1 is none."""
        if guidance != 1 and not self.guides:
            raise InputError(
                f"expected guidance 1 with the solver {self.kind}, for that of average velocities "
                f"is trained into them (--process.guidance), got {guidance}; leave it out, or "
                "choose a solver of many steps such as euler"
            )

    @classmethod
    def unfit(cls, process: Process, given: Mapping[str, Any]) -> set[str]:
        """Return which settings mean nothing for a process, or beside settings that are given."""
        return set()

    def beside(self: Own, folder: Any) -> Own:
        """Return the solver with what it has to read from a model folder, a path or None."""
        return self

    def describe(self, process: Process) -> dict[str, Any]:
        """Return kind, steps and settings for a process, ready for JSON."""
        unfit = self.unfit(process, {})
        own = {name: getattr(self, name) for name in setting_hints(type(self)) if name not in unfit}
        return {"solver": self.kind, "steps": self.num_steps} | to_dict(own)

    def stage_ends(self, process: Process) -> tuple[int, ...]:
        """Return how many steps are done after each stage."""
        return tuple(itertools.accumulate(stage.steps for stage in self.stages(process)))

    def enlarged(self, process: Process, size: Size) -> Size:
        """Return the size of the noise for a result of a size, in cells: larger after a stop."""
        last = len(self.stages(process)) - 1
        few, by = process.frame_downsampling[last], process.downsampling[last]
        return (*(few * count for count in size[:-2]), by * size[-2], by * size[-1])

    def size(self, process: Process, size: Size, factor: int = 1, frame_factor: int = 1) -> Size:
        """Return the size in pixels of what becomes of whole images: smaller after a stop.

        Args:
            process: that the model was trained with.
            size: in pixels, of whole images or videos.
            factor: of the codec.
            frame_factor: of the codec.

        Raises:
            InputError: scales whose sizes are not whole.
        """
        sizes = process.sizes(size, factor, frame_factor)
        *frames, height, width = sizes[len(self.stages(process)) - 1]
        shown = ((count - 1) * frame_factor + 1 for count in frames)
        return (*shown, height * factor, width * factor)

    @torch.no_grad()
    def run(
        self,
        process: Process,
        guide: Guide,
        noise: Float[Tensor, "B C *F H W"],
        labels: Cond,
        draw: MoreNoise,
        callback: Callback | None = None,
    ) -> Float[Tensor, "B C *_"]:
        """Return data in model space, smaller than the noise only after a `stop_scale`.

        Args:
            process: that the model was trained with.
            guide: from what makes a field of a network to the guided field of the model.
            noise: to start from.
            labels: class labels, `num_classes` for none.
            draw: from 1, 2, ... to more noise, of that step for random solvers.
            callback: told of every step, with the running data at the size of the result.

        Raises:
            InputError: a solver that needs another process or a package that is missing.
        """
        self.check(process)
        stages, size, state = self.stages(process), tuple(noise.shape[2:]), None
        total, done = sum(stage.steps for stage in stages), 0
        for stage in stages:

            def report(
                step: int, of: int, x: Tensor, done: int = done, here: Stage = stage
            ) -> None:
                if callback is not None:  # steps that guidance leaves out do not count
                    callback(done + step, total - here.steps + of, process.finish(x, size, stages))

            def field_of(network: Any, here: Stage = stage) -> Field:
                return self.field(process, network, here, noise)

            state = process.start(noise, draw, stage, state)
            problem = Problem(guide(field_of), process, state, labels, stage, draw, report)
            state = self.solve(problem)
            done += stage.steps
        assert state is not None
        return process.finish(state, size, stages)


@dataclass(frozen=True)
class GridSolver(Solver):
    """A solver of so many steps between times that `time_grid` gives."""

    kind: str = "euler"
    steps: Annotated[Count, doc("number of solver steps")] = 50
    shift: Annotated[
        Positive,
        doc("time shift of the steps; above 1 spends more near noise (LightningDiT's 0.3 is 3.33)"),
    ] = 1.0
    last_step: Annotated[
        float | None, doc("length of the last step in flow time, or none; published: 0.04")
    ] = None

    def __post_init__(self) -> None:
        check_fields(self)
        self.grid(self.steps)

    @property
    def num_steps(self) -> int:
        return self.steps

    def grid(self, steps: int, begin: float = 0.0) -> list[float]:
        """Return the times of some steps, from the last one at or before `begin`."""
        times = time_grid(steps, shift=self.shift, last_step=self.last_step)
        return times[min(sum(time < begin for time in times), len(times) - 2) :]

    @classmethod
    def unfit(cls, process: Process, given: Mapping[str, Any]) -> set[str]:
        single = {"last_step"} if given.get("steps") == 1 else set()
        return single | ({"shift", "last_step"} if process.multiscale else set())
