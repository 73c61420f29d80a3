"""Dropout: the share, masks that belong to samples alone, and blocks of every network."""

import pytest
import torch
from torch import nn

from convflow.models.blocks import compile_blocks, recompute_blocks
from convflow.models.zoo import create_model
from convflow.nn.dropout import Dropout, kept_features, seeds_at, set_dropout, tell_seeds
from convflow.types import InputError
from tests.cases import MODELS, build, build_pyramid, inputs
from tests.tolerance import assert_close_rms

SEEDS = torch.tensor([5, 2**31 - 1, 0, 77])
CASES = ["flowdcn", "flowdcn-dico", "dico", "dico-isotropic", "fcdm", "dit", "sit"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_masks_look_like_independent_draws(share):
    count = 50_000
    dropped = ~torch.stack([kept_features(seeds_at(SEEDS, i), count, share) for i in range(3)])
    rows = dropped.flatten(0, 1).double()
    deviation = (share * (1 - share) / count) ** 0.5
    assert ((rows.mean(1) - share).abs() < 4 * deviation).all()
    centred = (rows - share) / (share * (1 - share)) ** 0.5
    among = (centred @ centred.T / count).fill_diagonal_(0)
    assert float(among.abs().max()) < 5 / count**0.5  # of samples and of places
    for lag in (1, 2, 3, 7, 8, 64, 384, 1024, 4096):
        along = (centred[:, lag:] * centred[:, :-lag]).mean(1)
        assert float(along.abs().max()) < 5 / (count - lag) ** 0.5, lag


def test_a_mask_belongs_to_the_sample_wherever_it_stands():
    whole = kept_features(SEEDS, 999, 0.3)
    assert kept_features(SEEDS[2:3], 999, 0.3).equal(whole[2:3])
    assert not kept_features(seeds_at(SEEDS, 4), 999, 0.3).equal(whole)


def test_features_are_zero_or_larger_and_so_are_gradients():
    layer, x = Dropout(), torch.randn(4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    layer.share = 0.25
    layer.seeds = SEEDS
    out = layer(x)
    kept = kept_features(SEEDS, 90, 0.25).view(x.shape)
    torch.testing.assert_close(out, torch.where(kept, x / 0.75, 0.0))
    (slope,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(slope, torch.where(kept, 1 / 0.75, 0.0).double())
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"seeds of the 3 samples .* got those of 4"):
        layer(x[:3])
    layer.seeds = None
    with pytest.raises(InputError, match="got none"):
        layer(x)
    with torch.no_grad():
        assert layer(x) is x
    assert layer.eval()(x) is x


@pytest.mark.parametrize("case", CASES)
def test_every_network_drops_in_training_alone(case):
    network = build(case)
    given = inputs(network, batch=4)
    plain = network(*given)
    names = list(network.state_dict())
    set_dropout(network, 0.5)
    assert list(network.state_dict()) == names
    assert network(*given).equal(plain)
    network.train()
    tell_seeds(network, SEEDS)
    first = network(*given)
    assert network(*given).equal(first)
    assert (first - plain).norm() > 0.01 * plain.norm()
    tell_seeds(network, SEEDS[2:])
    assert_close_rms(network(*(part[2:] for part in given)), first[2:])
    tell_seeds(network, SEEDS + 1)
    assert not network(*given).equal(first)
    set_dropout(network, 0.0)
    assert_close_rms(network(*given), plain)


@pytest.mark.parametrize("case", ["flowdcn", "fcdm"])
def test_a_block_that_is_computed_again_drops_the_same(case):
    found = []
    for which in ("none", "blocks"):
        torch.manual_seed(0)
        network = build(case).train()
        set_dropout(network, 0.5)
        recompute_blocks(network, which)
        tell_seeds(network, SEEDS)
        network(*inputs(network, batch=4)).square().sum().backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        assert_close_rms(one, other)


def test_each_place_has_a_mask_of_its_own():
    network = build("dico")
    set_dropout(network, 0.1)
    places = [m.place for m in network.modules() if isinstance(m, Dropout)]
    assert places == list(range(2 * len(network.trunk_blocks)))


def test_blocks_with_dropout_share_a_compiled_graph(unchecked):
    graphs, network = [], create_model("dit", **MODELS["dit"][1] | {"depth": 3}).train()
    set_dropout(network, 0.5)
    tell_seeds(network, SEEDS)
    torch.compiler.reset()

    def count(graph, _):
        graphs.append(graph)
        return graph

    given = inputs(network, batch=4)
    eager = network(*given)
    compile_blocks(network, backend=count)
    assert_close_rms(network(*given), eager)
    assert len(graphs) == 2  # of the blocks, and of the head


def test_in_bfloat16_features_keep_their_mean():
    layer, x = Dropout(), 1 + torch.rand(4, 20_000)
    layer.share, layer.seeds = 0.1, SEEDS
    x = x.bfloat16()
    out = layer(x)
    ratio = (out.double() / x.double())[out != 0].mean()
    assert abs(float(ratio) * 0.9 - 1) < 3e-4


def test_a_network_of_scales_drops_features_of_each_by_the_sample():
    network = build_pyramid()
    scales = [
        torch.randn(4, 3, side, side) for side in (2 * network.multiple, 4 * network.multiple)
    ]
    given = scales, torch.rand(4, 2), torch.arange(4)
    plain = network(*given)
    set_dropout(network, 0.5)
    for one, other in zip(network(*given), plain, strict=True):
        assert one.equal(other)
    network.train()
    tell_seeds(network, SEEDS)
    first = network(*given)
    for one, other in zip(first, plain, strict=True):
        assert (one - other).norm() > 0.01 * other.norm()
    tell_seeds(network, SEEDS[2:])
    some = network([scale[2:] for scale in scales], *(part[2:] for part in given[1:]))
    for one, other in zip(some, first, strict=True):
        assert_close_rms(one, other[2:])


def test_a_network_without_a_place_for_it_is_refused():
    set_dropout(nn.Linear(2, 2), 0.0)
    with pytest.raises(InputError, match="--dropout: expected a network with dropout in its blo"):
        set_dropout(nn.Linear(2, 2), 0.1)
