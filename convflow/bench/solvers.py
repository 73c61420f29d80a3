"""A solver of few steps, searched for one model and compared with all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from convflow.generate import Samples
from convflow.pipeline import Pipeline
from convflow.samplers.multistep import CoefficientTable
from convflow.samplers.search import compare, search, teach
from convflow.seeds import draw_noise
from convflow.types import InputError


@dataclass(frozen=True)
class SolverSearch:
    """How a solver is searched.

    Attributes:
        steps: calls of the network, at least 2.
        iterations: of the search.
        teacher_steps: steps to end like, at least twice `steps`.
        num: samples to fit, as many to choose, as many to compare.
        batch_size: samples at once.

    Raises:
        InputError: too few steps, of the solver or of its teacher.
    """

    steps: int = 6
    iterations: int = 200
    teacher_steps: int = 100
    num: int = 64
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InputError(
                f"--steps: expected at least 2, got {self.steps}; one step has nothing to search"
            )
        if self.teacher_steps < 2 * self.steps:
            raise InputError(
                f"--teacher-steps: expected at least twice the {self.steps} of --steps, got "
                f"{self.teacher_steps}; a teacher has to come closer than its pupil"
            )


def search_solver(
    pipe: Pipeline,
    samples: Samples,
    settings: SolverSearch,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[CoefficientTable, dict[str, tuple[int, float]]]:
    """Return the table that was found, and (calls, error) of it and of every other solver.

    Fitted, chosen and compared is on samples of three different ranges of numbers.

    Args:
        pipe: the model.
        samples: of the model, with the guidance, labels, size and seed to search for.
        settings: how to search.
        progress: told (iteration, least error) now and then.

    Returns:
        The table, and the root mean square distance from the end of the teacher as a share by
        name of the solver, smallest first.
    """
    if samples.weaker is not None:
        samples.weaker.requires_grad_(False)
    pipe.model.requires_grad_(False)
    model = samples.velocity()

    def starts(first: int) -> list[tuple[Tensor, Tensor]]:
        found, last = [], first + settings.num
        for i in range(first, last, settings.batch_size):
            part = range(i, min(i + settings.batch_size, last))
            noise = draw_noise(samples.seed, part, samples.shape)
            found.append((noise.to(pipe.device), samples.conditions(part)))
        return found

    parts = (starts(i * settings.num) for i in range(3))
    fit, held_out, unseen = (teach(model, part, settings.teacher_steps) for part in parts)
    table = search(
        model, fit, held_out, settings.steps, iterations=settings.iterations, progress=progress
    )
    compared = compare(model, unseen, table, samples.process)
    return table, dict(sorted(compared.items(), key=lambda row: row[1][1]))
