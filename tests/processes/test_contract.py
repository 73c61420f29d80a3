"""What processes with one time for the whole image inherit, and fields of states."""

from __future__ import annotations

import pytest
import torch

from convflow.processes.contract import Field, Process, Stage, beside
from convflow.samplers.guidance import guide
from convflow.types import InputError

X, T, Y = torch.randn(2, 3, 4, 4), torch.tensor([0.01, 0.5]), torch.tensor([0, 1])


def test_states_are_pictures_unless_a_process_says_otherwise():
    process, stages = Process(), [Stage(7, (0.0,), (1.0,))]
    assert process.stages(7) == stages
    assert process.start(X, torch.zeros, stages[0]) is X
    assert process.finish(X, (4, 4), stages) is X
    assert (process.sizes((16, 32), 8), process.downsampling, process.multiple) == (
        ((2, 4),),
        (1,),
        1,
    )
    assert process.adapt({"name": "dit", "width": 8}) == {"name": "dit", "width": 8}
    assert (process.unmeasured, process.measure([X]), process.describe((4, 4))) == (False, (), {})


@pytest.mark.parametrize("more", [{"stage_steps": (3, 4)}, {"thresholds": (0.9,)}])
def test_one_stage_has_no_settings_of_several(more):
    with pytest.raises(InputError, match="expected a model trained with the process dfm for"):
        Process().stages(7, **more)


def test_a_field_tells_guidance_its_clock_and_the_solver_where_to_begin():
    field = Field(lambda x, t, y: x * beside(t + y), clock=lambda t: beside(1 - t))
    assert field(X, T, Y).equal(X * beside(T + Y))

    def guided(kind, **more):
        return field.guided(
            lambda model, clock: guide(model, torch.zeros_like, 2.0, kind, clock=clock, **more)
        )

    assert guided("cfg").begin == 0
    zero = guided("cfg-zero", zeroed=0.6)
    assert zero.begin == 0.6
    out = zero(X, T, Y)
    assert out[0].any()  # 0.99 on its clock
    assert not out[1].any()  # 0.5
