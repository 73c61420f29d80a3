"""A program that differs from its network does not pass."""

import pytest
import torch

from convflow.integrations.check import check_program
from convflow.types import InputError


def test_the_network_itself_passes(pipe):
    assert check_program("it", pipe.model, pipe.model) == 0
    silent = pipe.model.__class__(**{k: v for k, v in pipe.model.settings.items() if k != "family"})
    assert check_program("it", silent, silent.eval()) == 0  # a new network predicts zero


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_another_prediction_is_refused(pipe, factor):
    with pytest.raises(InputError, match=r"it gives other predictions .* at 8x12.*at most 0\.0001"):
        check_program("it", lambda *inputs: pipe.model(*inputs) * factor, pipe.model)


def test_half_precision_may_be_further_off(pipe):
    def run(*inputs):
        return pipe.model(*inputs) * 1.001

    assert 0 < check_program("it", run, pipe.model, half=True) < 2e-3
    with pytest.raises(InputError, match="export it without --dtype float16"):
        check_program("it", lambda *inputs: 1.1 * run(*inputs), pipe.model, half=True)


def test_one_size_alone_is_not_enough(pipe):
    def run(x, t, y):
        return pipe.model(x, t, y) * (1 if len(x) == 3 else 2)

    with pytest.raises(InputError, match="other predictions than the network at 4x6"):
        check_program("it", run, pipe.model)


def test_times_go_to_the_last_one(pipe):
    asked = []

    def run(x, t, y):
        asked.extend(t.tolist())
        return pipe.model(x, t, y)

    check_program("it", run, pipe.model, last_time=999)
    assert 100 < max(asked) < 999


def test_a_program_that_breaks_is_named(pipe):
    def run(*inputs):
        raise RuntimeError("no such\noperator")

    with pytest.raises(InputError, match=r"it does not run at 8x12 \(no such operator\)"):
        check_program("it", run, pipe.model)


def test_another_question_is_compared(pipe):
    class Twice(torch.nn.Module):
        def forward(self, x, t, y):
            return 2 * pipe.model(x, t, y)

    assert check_program("it", Twice(), pipe.model, asked=Twice()) == 0
    with pytest.raises(InputError, match="other predictions"):
        check_program("it", pipe.model, pipe.model, asked=Twice())
