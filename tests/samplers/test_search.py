"""The search for few steps: it beats published solvers, on noise it has not seen."""

from __future__ import annotations

import pytest
import torch

from convflow.processes.flow import FlowMatching
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS
from convflow.samplers.multistep import MULTISTEP, read_table
from convflow.samplers.ode import SCHEMES, integrate, time_grid
from convflow.samplers.search import (
    _parameters,
    _run,
    _table,
    adams_table,
    compare,
    error_of,
    search,
    teach,
)
from convflow.samplers.tableaus import count_evaluations
from convflow.types import InputError
from tests.cases import build, exact, inputs
from tests.samplers.equation import LABELS, distance, field, start
from tests.tolerance import assert_close_rms

CENTRES = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(4))


def mixture(x, t, y):
    """The exact velocity of data near one of five images, with a spread of 0.3."""
    t = t.view(-1, 1, 1, 1)
    spread = (1 - t) ** 2 + (0.3 * t) ** 2
    far = (x[:, None] - t[:, None] * CENTRES).square().flatten(2).sum(2)
    share = torch.softmax(-far / (2 * spread.view(-1, 1)), 1)
    nearest = torch.einsum("bk,kchw->bchw", share, CENTRES)
    data = nearest + 0.09 * t / spread * (x - t * nearest)
    noise = (x - t * data) / (1 - t).clamp(min=1e-3)
    return data - noise


def batches(seed, count=2, size=16):
    generator = torch.Generator().manual_seed(seed)
    y = torch.zeros(size, dtype=torch.int64)
    starts = [(torch.randn(size, 3, 4, 4, generator=generator), y) for _ in range(count)]
    return teach(mixture, starts, 40)


@pytest.fixture(scope="module")
def found():
    seen = []
    result = search(
        mixture, batches(1), batches(2), 5, iterations=100, progress=lambda *now: seen.append(now)
    )
    return result, seen


def test_it_beats_every_solver_of_as_many_calls_on_unseen_noise(found):
    errors = compare(mixture, batches(3), found[0])
    calls, ours = errors.pop("searched")
    assert calls == 5
    assert {"euler", "heun", "ab2", "adams2", "adams4"} <= errors.keys()
    assert ours < min(error for _, error in errors.values()) / 4


def test_it_tells_of_every_iteration_and_never_gets_worse(found):
    numbers, least = zip(*found[1], strict=True)
    assert numbers == tuple(range(1, 101))
    assert list(least) == sorted(least, reverse=True)
    assert least[-1] == error_of(mixture, batches(2), found[0].times, found[0].solver)


def test_the_table_is_one_that_a_file_may_hold(found):
    table = found[0]
    assert read_table(table._asdict()) == table
    assert count_evaluations(table.solver, table.times) == 5


def test_without_iterations_it_is_the_best_beginning():
    fit, held_out = batches(1), batches(2)
    table = search(mixture, fit, held_out, 4, iterations=0)
    errors = [
        error_of(mixture, fit, grid, adams_table(grid, order).solver)
        for grid in (time_grid(4), time_grid(4, shift=2.0))
        for order in (1, 2, 3)
    ]
    assert error_of(mixture, fit, table.times, table.solver) <= min(errors)


def test_the_same_seeds_find_the_same():
    one, two = (search(mixture, batches(1), batches(2), 3, iterations=5) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_as_a_table_is_adams_with_a_growing_start(order):
    grid = time_grid(7)
    out = integrate(field(), start(), LABELS, grid, adams_table(grid, order).solver)
    published = integrate(field(), start(), LABELS, grid, MULTISTEP[f"adams{order}"])
    assert_close_rms(out, published)


def test_its_gradients_are_those_of_integrate():
    """Each number of a table, moved a little, moves the end as the gradient says."""
    (batch,) = teach(field(), [(start(), LABELS)], 60)
    leaves = _parameters(adams_table(time_grid(4, shift=1.5), 3))
    loss = _run(field(), batch, *leaves).square().sum()
    gradients = torch.autograd.grad(loss, leaves)

    def moved(which, index, step):
        numbers = [leaf.detach().clone() for leaf in leaves]
        numbers[which][index] += step
        table = _table(*numbers)
        return integrate(field(), start(), LABELS, table.times, table.solver).square().sum().item()

    for which, gradient in enumerate(gradients):
        for index in range(len(gradient)):
            slope = (moved(which, index, 1e-5) - moved(which, index, -1e-5)) / 2e-5
            assert gradient[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_the_teacher_is_much_closer_than_its_pupils():
    (batch,) = teach(field(), [(start(), LABELS)], 60)
    assert (
        distance(batch.goal) < 1e-5 < distance(integrate(field(), start(), LABELS, time_grid(60)))
    )


def test_every_solver_gets_as_many_calls_as_there_are():
    table = adams_table(time_grid(6), 2)
    rows = compare(mixture, batches(1, 1), table)
    assert rows.pop("searched") == (6, error_of(mixture, batches(1, 1), table.times, table.solver))
    assert all(5 <= calls <= 6 or name in ("rk4", "ab4") for name, (calls, _) in rows.items())
    for name, (calls, error) in rows.items():
        grid = next(
            g for n in range(1, 7) if count_evaluations(SCHEMES[name], g := time_grid(n)) == calls
        )
        assert error == error_of(mixture, batches(1, 1), grid, name)
    few = compare(mixture, batches(1, 1), adams_table([0.0, 1.0], 1)).keys()
    assert few == {"searched", "euler", "adams2", "adams3", "adams4"}


def test_exponential_solvers_are_compared_where_the_schedule_is_known():
    pytest.importorskip("diffusers")
    table, unseen = adams_table(time_grid(6), 2), batches(1, 1)
    rows = compare(mixture, unseen, table, FlowMatching())
    assert rows.keys() - compare(mixture, unseen, table).keys() == set(EXPONENTIAL_SOLVERS)
    for name in EXPONENTIAL_SOLVERS:
        assert rows[name][0] == 6
        assert rows[name][1] < rows["euler"][1]


def test_a_solver_that_diverges_is_infinitely_wrong():
    (batch,) = batches(1, 1)
    broken = exact(lambda x, t: x * float("nan"))
    assert error_of(broken, [batch], time_grid(2), "euler") == float("inf")


def test_it_works_on_a_network_and_leaves_no_gradients():
    model = build("flowdcn")
    noise, _, labels = inputs(model, 2)
    fit = teach(model, [(noise, labels)], 10)
    begun, found = (search(model, fit, fit, 2, iterations=i) for i in (0, 6))
    one, two = (error_of(model, fit, t.times, t.solver) for t in (begun, found))
    assert two < one
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("bad", [{"steps": 1}, {"iterations": -1}, {"batches": []}])
def test_impossible_searches_are_refused(bad):
    given = {"batches": batches(1, 1), "held_out": batches(2, 1), "steps": 3} | bad
    with pytest.raises(InputError, match="expected at least 2 steps, 0 iterations, a batch"):
        search(mixture, **given)
