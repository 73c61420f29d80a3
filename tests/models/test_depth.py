"""Parameters know how many blocks follow them, in stacks and in U shapes."""

import pytest
import torch

from convflow.models.depth import blocks_above
from convflow.types import InputError
from tests.cases import build


@pytest.mark.parametrize("family", ["dit", "dico", "fcdm", "dico-isotropic-skip"])
def test_layers_follow_the_order_in_which_they_run(family):
    network = build(family)
    above = {name: blocks_above(network)[id(p)] for name, p in network.named_parameters()}
    count = len(network.trunk_blocks)
    assert set(above.values()) == {*range(count + 2)}
    assert all(place == 0 for name, place in above.items() if name.startswith("project."))
    assert all(place == count + 1 for name, place in above.items() if name.startswith("embed"))
    if family in ("dico", "fcdm"):
        stages = network.body.stages
        for name, follows in (("down.0", stages[1]), ("up.1", stages[4]), ("join.0", stages[3])):
            first = blocks_above(network)[id(next(follows[0].parameters()))]
            assert {p for n, p in above.items() if n.startswith(f"body.{name}.")} == {first}
    if family == "dit":
        assert above["blocks.0.mlp.0.weight"] == count


def test_a_network_without_blocks_is_refused():
    with pytest.raises(InputError, match=r"--optim\.layer-decay: expected a network whose blocks"):
        blocks_above(torch.nn.Linear(2, 2))
