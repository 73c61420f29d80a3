"""SRA: the average at a later time, computed here by calling it by hand."""

import copy

import pytest
import torch

from convflow.objectives.sra import SRA, nearer_data
from tests.objectives.encoder import inputs_of, network_of, pictures
from tests.tolerance import assert_close_rms


def test_its_target_is_a_later_block_of_the_average_at_a_later_time():
    network, process = network_of("flowdcn")
    average = copy.deepcopy(network).eval()
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.9)
    objective = SRA(network, process, hidden=8, block=0, teacher_block=2, beta=0.1)
    ahead = objective.draw((4, 3, 16, 16), torch.Generator().manual_seed(1))
    assert bool(((ahead >= 0) & (ahead <= 0.2)).all())
    features = torch.randn(4, 8, 8, 16)
    batch = inputs_of(
        pictures(),
        process,
        features={0: features},
        average=average,
        average_features=average.features_after,
    )
    found = objective.terms(None, batch, ahead)["smooth_l1"]
    noise, t = batch.first.draws
    later = (t + ahead).clamp(max=1)
    x = later.view(-1, 1, 1, 1) * batch.data + (1 - later).view(-1, 1, 1, 1) * noise
    with torch.no_grad(), average.features_after([2]) as kept:
        average(x, later, batch.labels)
    target = kept[2]
    error = (objective.project(features) - target).abs()
    truth = torch.where(error < 0.1, error.square() / 0.2, error - 0.05)
    assert_close_rms(found, truth.flatten(1).mean(1))
    assert not any(block._forward_hooks for block in average.blocks)


@pytest.mark.parametrize("process", ["flow", "ddpm", "dfm"])
def test_times_are_nearer_to_data_by_a_share_of_the_whole_time(process):
    _, made = network_of("flowdcn", process)
    draws = made.draw((64, 3, 16, 16), torch.Generator().manual_seed(3))
    ahead = 0.2 * torch.rand(64, generator=torch.Generator().manual_seed(4))
    later = nearer_data(made, draws, ahead)
    assert later.noise is draws.noise
    before, after = made.flow_time(draws.t), made.flow_time(later.t)
    if process == "dfm":
        rest = torch.arange(2) >= draws.active[:, None]
        assert bool((later.t[rest] == 0).all())
        moved = ~rest
        expected = (draws.t + ahead[:, None]).clamp(max=1)[moved]
        torch.testing.assert_close(later.t[moved], expected)
        return
    nearest = 1.0 if process == "flow" else 0.999
    torch.testing.assert_close(after, (before + ahead).clamp(max=nearest), atol=1e-3, rtol=0)
