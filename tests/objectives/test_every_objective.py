"""Every objective of the package on every kind of network and process, or refused by name."""

import copy

import pytest
import torch

from convflow.models.families import BACKBONES as FAMILIES
from convflow.models.zoo import create_model
from convflow.objectives.objective import FirstCall, Objective
from convflow.objectives.table import OBJECTIVES, OWN, create_objectives
from convflow.processes.process import PROCESSES as ALL_PROCESSES
from convflow.training.step import Losses
from convflow.types import InputError
from tests.objectives.encoder import (
    BACKBONES,
    ENCODED,
    KINDS,
    PROCESSES,
    inputs_of,
    network_of,
    pictures,
    refused,
    settings_of,
)
from tests.two_processes import start_many


def test_the_lists_here_are_complete():
    assert {OWN, *KINDS} == set(OBJECTIVES)
    assert set(BACKBONES) == set(FAMILIES)
    assert set(PROCESSES) == set(ALL_PROCESSES)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("family", BACKBONES)
def test_it_trains_what_it_says_or_is_refused(family, process):
    network, made = network_of(family, process)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    batch = inputs_of(pictures(), made, average=average, average_features=average.features_after)
    generator = torch.Generator().manual_seed(4)
    for kind in KINDS:
        settings = settings_of(kind)
        if refused(kind, family, process):
            named = rf"objective {kind}, got ({process}|{family})|an average of velocities"
            with pytest.raises(InputError, match=named):
                create_objectives(settings, network, made)
            continue
        weighted = create_objectives(settings, network, made)
        losses = Losses(network, weighted)
        draws = {n: w.objective.draw((4, 3, 16, 16), generator) for n, w in weighted.items()}
        draws[OWN] = batch.first.draws
        losses.zero_grad(set_to_none=True)
        whole, terms = losses(network, batch, draws)
        assert whole.shape == (4,)
        assert bool(whole.isfinite().all())
        last = next(reversed(weighted.values()))
        assert isinstance(last.objective, Objective)
        mine = sum(v for n, v in terms.items() if n.startswith("it.") or kind == "velocity")
        mine.sum().backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in network.parameters()), kind
        own = [p for p in last.objective.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in own)
        assert bool(own) == (kind in ("repa", "irepa", "u-repa", "sra"))
        assert all(p.grad is None for p in average.parameters())


@pytest.mark.parametrize(
    ("family", "temporal"), [("flowdcn", "conv"), ("dico", "conv"), ("sit", "factorised")]
)
def test_videos_are_aligned_frame_by_frame(family, temporal):
    """A new network of videos is that of pictures on each frame, and so are its losses."""
    network, process = network_of(family)
    videos, _ = network_of(family, temporal=temporal)
    videos = create_model(family, **{n: v for n, v in videos.settings.items() if n != "family"})
    videos.begin_from(network)
    generator = torch.Generator().manual_seed(4)
    shape = (4, 3, 5, 16, 16)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    draws = process.draw(shape, generator)
    for kind in [*ENCODED, "sra"]:
        if refused(kind, family, "flow"):
            continue
        weighted = create_objectives(settings_of(kind), network, process)
        more = weighted["it"].objective.draw(shape, generator)

        def losses_of(model, images, first, weighted=weighted, more=more):
            batch = inputs_of(images, process, average=model, first=FirstCall(first))
            batch = batch._replace(average_features=model.features_after)
            terms = Losses(model, weighted)(model, batch, {OWN: first, "it": more})[1]
            return sum(v for n, v in terms.items() if n.startswith("it."))

        each = [
            losses_of(network, pixels[:, :, k], draws._replace(noise=draws.noise[:, :, k]))
            for k in range(5)
        ]
        found = losses_of(videos, pixels, draws)
        assert found.shape == (4,)
        torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-4, atol=1e-5)


def test_frames_that_share_a_cell_are_not_aligned():
    network, process = network_of("flowdcn", temporal="conv")
    weighted = create_objectives(settings_of("repa"), network, process)
    batch = inputs_of(torch.zeros(4, 3, 5, 16, 16, dtype=torch.uint8), process)
    joined = batch._replace(pixels=torch.zeros(4, 3, 17, 16, 16, dtype=torch.uint8))
    with pytest.raises(InputError, match="got 5 cells of 17 frames"):
        Losses(network, weighted)(network, joined, {OWN: batch.first.draws, "it": None})


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES)
def test_two_processes_have_the_gradients_of_one_with_each_engine(process):
    cases = [(f, k) for f in BACKBONES for k in KINDS if not refused(k, f, process)]
    words = ["-m", "tests.objectives.distributed_gradients", process, *map(":".join, cases)]
    expected = [f"{family} {kind} {engine}" for family, kind in cases for engine in ("ddp", "fsdp")]
    for code, said, complained in start_many(2, words, 300):
        assert code == 0, complained
        assert said.splitlines() == expected


def test_without_its_weight_nothing_is_computed():
    network, process = network_of("flowdcn")
    some = {"it": {"kind": "dispersive", "until": 100, "fade": 40, "weight": 2.0}}
    losses = Losses(network, create_objectives(some, network, process))
    batch = inputs_of(pictures(), process)
    draws = {OWN: batch.first.draws, "it": None}
    for seen, factor in ((0, 2.0), (60, 2.0), (70, 1.5), (90, 0.5), (100, 0.0), (200, 0.0)):
        whole, terms = losses(network, batch._replace(images_seen=seen), draws)
        assert ("it.closeness" in terms) == bool(factor)
        other = terms.get("it.closeness", torch.zeros(4))
        torch.testing.assert_close(whole, terms["process.loss"] + factor * other)
