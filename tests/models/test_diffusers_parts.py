"""The parts around the blocks of transformers of diffusers."""

import pytest
import torch
from torch import nn

from convflow.models.diffusers_layouts import create_waves
from convflow.models.diffusers_parts import (
    ConvolvedStem,
    NoiseEmbedding,
    PackedStem,
    PositionTable,
    VelocityHead,
)
from tests.transformers import pack, unpack


class Same(nn.Module):
    """Layers of a head that return the tokens."""

    def forward(self, tokens, c):
        return tokens


def test_a_packed_stem_and_head_have_the_packing_of_flux():
    x = torch.randn(2, 4, 6, 8)
    stem = PackedStem(nn.Identity(), 4, 16, 2)
    assert torch.equal(stem(x).flatten(1, 2), pack(x))
    head = VelocityHead(Same(), 4, 16, 2, packed=True)
    assert torch.equal(head(stem(x), torch.zeros(2, 16)), -x)
    assert torch.equal(head(stem(x), torch.zeros(2, 16)), -unpack(pack(x), 6, 8))


def test_a_convolved_stem_is_a_linear_one_on_patches():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 5, 2, 2), torch.randn(2, 4, 6, 8)
    plain = nn.Linear(16, 5)
    plain.load_state_dict({"weight": layer.weight.flatten(1), "bias": layer.bias})
    convolved, packed = ConvolvedStem(layer, 4, 5, 2), PackedStem(plain, 4, 5, 2)
    torch.testing.assert_close(convolved(x), packed(x))


def test_time_is_the_share_of_data_and_layers_see_a_thousand_times_that_of_noise():
    seen = []
    layers = nn.ModuleDict({"last": nn.Linear(256, 3)})
    layers.forward = layers["last"].forward
    waves = create_waves()
    embed = NoiseEmbedding(lambda t: seen.append(t) or waves(t), layers, "last")
    embed(torch.tensor([0.0, 0.25, 1.0]))
    assert seen[0].tolist() == [1000.0, 750.0, 0.0]
    assert embed.out is layers["last"]


@pytest.mark.parametrize(("rows", "columns", "first"), [(4, 4, 0), (2, 2, 5), (2, 4, 4)])
def test_smaller_grids_take_the_middle_of_the_positions(rows, columns, first):
    table = PositionTable(torch.arange(16.0).view(1, 16, 1))
    found = table(rows, columns)
    assert found.shape == (1, rows, columns, 1)
    assert found.flatten()[0] == first
