"""What every solver promises, held by one of a user."""

import itertools
from dataclasses import dataclass

import pytest
import torch

from convflow.processes.process import create_process
from convflow.samplers.solver import GridSolver
from convflow.samplers.solvers import create_solver, vary_solver
from convflow.settings.read import to_dict
from convflow.types import InputError


@dataclass(frozen=True)
class Leap(GridSolver):
    """Euler's rule with a factor."""

    factor: float = 1.0

    def solve(self, problem):
        """Return the state at the end of a stage."""
        grid, x = self.grid(problem.stage.steps, problem.field.begin), problem.x
        for step, (start, end) in enumerate(itertools.pairwise(grid), 1):
            slope = problem.field(x, torch.full((len(x),), start), problem.labels)
            x = x + self.factor * (end - start) * slope
            problem.callback(step, len(grid) - 1, x)
        return x


def test_a_solver_of_a_user_has_a_name_settings_and_a_run():
    kind, process = f"{__name__}:Leap", create_process("flow")
    solver = create_solver(kind, steps=4, factor=0.5)
    assert solver == Leap(steps=4, factor=0.5)
    assert to_dict(solver) == {
        "kind": kind, "steps": 4, "shift": 1.0, "last_step": None, "factor": 0.5
    }  # fmt: skip
    reported = []
    noise = torch.zeros(2, 3, 4, 4)
    end = solver.run(
        process,
        lambda field_of: field_of(lambda x, t, y: torch.ones_like(x)),
        noise,
        torch.zeros(2, dtype=torch.int64),
        lambda step: noise,
        lambda step, of, x: reported.append((step, of)),
    )
    torch.testing.assert_close(end, torch.full_like(end, 0.5))
    assert reported == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_settings_that_both_have_are_carried_over():
    process = create_process("flow")
    stored = create_solver("euler-maruyama", steps=7, last_step=0.04, diffusion="flowdcn")
    heun = create_solver("heun", steps=7, last_step=0.04)
    assert vary_solver(stored, process, {"solver": "heun"}) == heun
    assert vary_solver(heun, process, {"solver": stored}) == stored
    assert vary_solver(stored, process, {"solver": "dopri5"}) == create_solver("dopri5")
    with pytest.raises(InputError, match="the solver heun has no diffusion"):
        vary_solver(stored, process, {"solver": "heun", "diffusion": "sigma"})
