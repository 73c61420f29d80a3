"""Blocks at a share of the depth, and the middle of a U."""

import pytest

from convflow.models.zoo import create_model
from convflow.objectives.taps import aligned_block, block_at, middle_block, require_flow
from convflow.processes.process import create_process
from convflow.types import InputError
from tests.objectives.encoder import network_of


@pytest.mark.parametrize(
    ("name", "middle", "third", "teacher"),
    [("sit-b/2", None, 3, 8), ("dico-s", 12, 12, 14), ("fcdm-s", 13, 13, 13)],
)
def test_blocks_of_published_sizes(name, middle, third, teacher):
    import torch

    with torch.device("meta"):
        network = create_model(name)
    assert middle_block(network) == middle
    assert aligned_block(network) == third
    assert block_at(network, 5 / 7) == teacher


def test_the_middle_of_a_u_is_where_features_are_widest():
    network, _ = network_of("dico")
    widths = [network.feature_width(block) for block in range(len(network.trunk_blocks))]
    assert widths == [8, 16, 32, 32, 16, 16]
    assert middle_block(network) == 3
    pyramid, _ = network_of("dico", "dfm")
    assert middle_block(pyramid) == 3


def test_another_process_is_refused():
    assert require_flow(create_process("flow"), "direction").kind == "flow"
    with pytest.raises(InputError, match="process flow with the objective direction, got ddpm"):
        require_flow(create_process("ddpm"), "direction")
