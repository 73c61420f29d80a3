"""The scheduler of diffusers goes the way of `integrate`, bit for bit, for every solver."""

import diffusers
import pytest
import torch

from convflow.integrations.diffusers_scheduler import FlowScheduler
from convflow.samplers.ode import SCHEMES, integrate, time_grid

LABELS = torch.zeros(2, dtype=torch.int64)


def velocity(x, t, y):
    return torch.sin(3 * t).view(-1, 1, 1, 1) * x - 0.5 * x.square().tanh()


def run(scheduler, x, steps, **how):
    scheduler.set_timesteps(steps, **how)
    for timestep in scheduler.timesteps:
        t = torch.full((len(x),), 1 - float(timestep) / 1000)
        x = scheduler.step(-velocity(x, t, None), timestep, x).prev_sample
    return x


@pytest.mark.parametrize("solver", SCHEMES)
def test_it_is_integrate(solver):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"shift": 3.0}, {"last_step": 0.04}):
        ours = integrate(velocity, x, LABELS, time_grid(5, **options), solver)
        scheduler = FlowScheduler(solver, **options)
        torch.testing.assert_close(run(scheduler, x, 5), ours, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(run(scheduler, x, 5), ours, rtol=1e-6, atol=1e-6)  # again


def test_settings_survive_a_file(tmp_path):
    FlowScheduler("ab2", shift=2.0).save_pretrained(tmp_path)
    again = FlowScheduler.from_pretrained(tmp_path)
    assert (again.config.solver, again.config.shift, again.config.last_step) == ("ab2", 2.0, None)


def test_it_counts_as_the_euler_scheduler_of_diffusers():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    theirs.set_timesteps(sigmas=[1 - i / 6 for i in range(6)])
    for timestep in theirs.timesteps:
        t = torch.full((len(x),), 1 - float(timestep) / 1000)
        moved = theirs.step(-velocity(x, t, None), timestep, x).prev_sample
        if timestep == theirs.timesteps[0]:
            first = x
        x = moved
    torch.testing.assert_close(x, run(FlowScheduler(shift=2.0), first, 6), rtol=1e-4, atol=1e-4)
