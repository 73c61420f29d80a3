"""Both forms of the operator that an exported network can hold give the sums of the operator."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from convflow.ops import deform_sample
from convflow.ops.deform.exported import by_grid_sample, written_as
from tests.tolerance import assert_close_rms

FORMS = ["reference", "grid_sample"]


def draw(batch: int, height: int, width: int, spread: float = 3.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(height)
    offsets = spread * torch.randn(batch, height, width, 2, 9, 2, generator=generator)
    values = torch.randn(batch, height, width, 2, 5, generator=generator)
    return values, offsets, torch.randn(batch, height, width, 2, 9, generator=generator)


class Operator(nn.Module):
    def __init__(self, border: str) -> None:
        super().__init__()
        self.border = border

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return deform_sample(*inputs, border=self.border)


def exported(border: str, form: str) -> torch.export.ExportedProgram:
    free = dict.fromkeys(range(3), Dim.AUTO)
    with written_as(form):
        shapes = ((free, free, free),)
        return torch.export.export(Operator(border), draw(2, 6, 4), dynamic_shapes=shapes)


@pytest.mark.parametrize("spread", [0.3, 3.0, 50.0])
def test_grid_sample_gives_the_same_sums(spread: float) -> None:
    inputs = draw(2, 7, 12, spread)
    assert_close_rms(by_grid_sample(*inputs), deform_sample(*inputs))


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_operator_takes_other_sizes(form: str) -> None:
    program = exported("zeros", form)
    used = any("grid_sampler" in str(node.target) for node in program.graph.nodes)
    assert used == (form == "grid_sample")
    for size in ((3, 9, 5), (2, 4, 6)):
        inputs = draw(*size)
        assert_close_rms(program.module()(*inputs), deform_sample(*inputs))


def test_the_border_of_published_weights_has_the_reference_alone() -> None:
    program = exported("truncate", "grid_sample")
    assert not any("grid_sampler" in str(node.target) for node in program.graph.nodes)
    inputs = draw(2, 5, 7)
    expected = deform_sample(*inputs, border="truncate")
    assert_close_rms(program.module()(*inputs), expected)


def test_the_form_ends_with_its_block() -> None:
    with pytest.raises(KeyError), written_as("grid_sample"):
        raise KeyError
    free = exported("zeros", "reference")
    assert not any("grid_sampler" in str(node.target) for node in free.graph.nodes)
