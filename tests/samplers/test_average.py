"""Steps by average velocities: exact ones reach the end whatever the steps are."""

import pytest
import torch

from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow
from convflow.samplers.solvers import create_solver
from convflow.types import InputError
from tests.processes import mixture
from tests.processes.mixture import plane


def exact(x, t, y):
    point = x[..., 0, 0]
    return plane(mixture.average(point, t[:, 0].double(), t[:, 1].double() - 1e-9))


@pytest.mark.parametrize("settings", [{}, {"steps": 2}, {"steps": 3, "shift": 2.0}], ids=str)
def test_exact_averages_reach_the_end_in_any_steps(settings):
    solver, seen, calls = create_solver("average", **settings), [], []
    noise = plane(torch.randn(16, 2, dtype=torch.float64))

    def network(x, t, y):
        calls.append(t)
        return exact(x, t, y)

    found = solver.run(
        MeanFlow(),
        lambda field_of: field_of(network),
        noise,
        torch.zeros(16, dtype=torch.int64),
        lambda step: noise,
        lambda step, of, x: seen.append((step, of)),
    )
    zeros = torch.zeros(16, dtype=torch.float64)
    truth = noise + plane(mixture.average(noise[..., 0, 0], zeros, zeros + 1 - 1e-9))
    assert (found - truth).norm() < 1e-3 * truth.norm()
    steps = settings.get("steps", 1)
    assert len(calls) == solver.num_steps == steps
    assert seen == [(step, steps) for step in range(1, steps + 1)]
    assert (calls[0][:, 0] == 0).all()
    assert (calls[-1][:, 1] == 1).all()


def test_it_is_for_averages_alone_and_takes_no_guidance():
    solver = create_solver("average")
    with pytest.raises(InputError, match="trained with the process meanflow"):
        solver.check(FlowMatching())
    solver.check(MeanFlow())
    solver.check_scale(1.0)
    create_solver("average", told_guidance=4).check(MeanFlow(guidance_max=8.0))
    create_solver("average", told_guidance=8).check(MeanFlow(guidance_max=8.0))
    with pytest.raises(
        InputError, match=r"expected a told-guidance of at most 8, .* got 9; give a"
    ):
        create_solver("average", told_guidance=9).check(MeanFlow(guidance_max=8.0))
    with pytest.raises(InputError, match="expected told-guidance 1 for a network that is told no"):
        create_solver("average", told_guidance=4).check(MeanFlow())
    with pytest.raises(InputError, match="expected guidance 1 with the solver average"):
        solver.check_scale(1.5)
    create_solver("euler").check_scale(1.5)
    with pytest.raises(InputError):
        create_solver("average", steps=0)
