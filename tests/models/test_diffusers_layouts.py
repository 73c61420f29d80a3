"""Every class of diffusers in the table has its blocks, its texts and its names."""

import pytest
import torch
from torch import nn

from convflow.models.diffusers_layouts import (
    ARCHITECTURES,
    create_transformer,
    grid_of,
    is_diffusers_block,
)
from convflow.types import InputError
from tests.transformers import PRX, TINY, wrap


def test_every_layout_has_a_case():
    assert {architecture for architecture, _ in TINY.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", TINY)
def test_every_weight_has_one_name_there(case):
    network = wrap(case)
    names = [network.name_in_diffusers(name) for name in network.state_dict()]
    model = create_transformer(*TINY[case])
    assert sorted(names) == sorted(model.state_dict())
    assert [m for m in model.modules() if is_diffusers_block(m)] != []
    text = network.blank_conditions(2)
    assert text.tokens.shape == (2, network.layout.num_tokens, 8)


def test_blocks_of_others_are_no_blocks():
    class PRXBlock(nn.Module):
        """Of the same name."""

    assert not is_diffusers_block(PRXBlock())


def test_cells_are_numbered_by_row_and_column():
    grid = grid_of(torch.zeros(1, 2, 3, 4), 3)
    assert grid.tolist() == [[0, row, column] for row in range(2) for column in range(3)]


def test_what_a_row_does_not_cover_is_refused():
    with pytest.raises(InputError, match="unknown class of diffusers"):
        create_transformer("UNet2DModel", {})
    TINY["odd"] = ("PRXTransformer2DModel", PRX | {"resolution_embeds": True})
    try:
        with pytest.raises(InputError, match="that is told no resolution"):
            wrap("odd")
    finally:
        del TINY["odd"]
