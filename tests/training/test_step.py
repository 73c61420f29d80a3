"""Network and objectives as one module: weights, features and what objectives are given."""

import pytest
import torch
from torch import nn

from convflow.objectives.objective import Inputs, Objective, Wants
from convflow.objectives.table import Weighted
from convflow.training.step import Losses
from tests.cases import MODELS, build


class Spy(Objective):
    """Two terms: one of its own, one of the features after a block."""

    def __init__(self, block):
        super().__init__()
        self.wants = Wants(features=(block,), average=True)
        self.block, self.seen = block, []

    def terms(self, network, batch, draws):
        self.seen.append(batch)
        return {"two": batch.data.new_full((len(batch.data),), 2.0), "drawn": draws}


class Call(Objective):
    """Calls the network."""

    def terms(self, network, batch, draws):
        x = batch.data
        return {"loss": network(x, torch.zeros(len(x)), batch.labels).flatten(1).sum(1)}


ONE_OF_EACH = {family: name for name, (family, _) in reversed(MODELS.items())}


@pytest.mark.parametrize("name", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_features_after_each_block_have_the_width_it_says(name):
    model = build(name)
    first, last = 0, len(model.trunk_blocks) - 1
    spies = {str(block): Weighted(Spy(block), 0.5) for block in {first, last}}
    losses = Losses(model, {"call": Weighted(Call(), 2.0)} | spies)
    assert losses.wants_average
    x = torch.randn(2, model.in_channels, 24, 24)
    batch = Inputs(x, torch.zeros(2, dtype=torch.int64))
    draws = {"call": None} | {key: torch.tensor([1.0, 3.0]) for key in spies}
    whole, terms = losses(model, batch, draws)
    assert list(terms) == ["call.loss", *(f"{k}.{t}" for k in spies for t in ("two", "drawn"))]
    extra = len(spies) * 0.5 * torch.tensor([3.0, 5.0])
    torch.testing.assert_close(whole, 2 * terms["call.loss"] + extra)
    for key in spies:
        features = losses.objectives[key].seen[0].features
        assert features[int(key)].shape[0] == 2
        assert features[int(key)].shape[-1] == model.feature_width(int(key))
    assert not any(module._forward_hooks for module in model.modules())
    assert isinstance(losses.objectives, nn.ModuleDict)
