"""Gradients of every objective on two processes, for each engine, against those of one."""

from __future__ import annotations

import copy
import sys
from functools import partial

import torch
from torch.distributed.tensor import DTensor

from convflow import distributed
from convflow.conditions.labels import take
from convflow.models.blocks import is_block
from convflow.objectives.objective import FirstCall, Inputs
from convflow.objectives.table import OWN, create_objectives
from convflow.parallel.engines import ENGINES
from convflow.training.step import Losses
from tests.objectives.encoder import network_of, pictures, settings_of

CPU = torch.device("cpu")
COUNT, SIDE = 6, 16
LABELS = [0, 3, 1, 2, 3, 1]


def losses_of(family, process, kind):
    """A network whose every parameter speaks with one objective, and a batch for all processes."""
    network, made = network_of(family, process)
    losses = Losses(network, create_objectives(settings_of(kind), network, made))
    average = copy.deepcopy(network).eval().requires_grad_(False)
    pixels, generator = pictures(COUNT, side=SIDE), torch.Generator().manual_seed(4)
    draws = {n: o.draw((COUNT, 3, SIDE, SIDE), generator) for n, o in losses.objectives.items()}
    inputs = Inputs(
        pixels.float() / 127.5 - 1,
        torch.tensor(LABELS),
        pixels=pixels,
        average=average,
        average_features=average.features_after,
    )
    return losses, inputs, draws


def share(inputs, draws, rows):
    """What one process is given of a batch."""
    mine = {name: take(some, rows) for name, some in draws.items()}
    return inputs._replace(
        data=inputs.data[rows],
        labels=inputs.labels[rows],
        pixels=inputs.pixels[rows],
        first=FirstCall(mine[OWN]),
        whole=partial(distributed.gather_rows, total=COUNT),
        places=rows,
    ), mine


def gradients(losses):
    """Whole gradients by name, of the network and of what is trained beside it."""
    found = {name: p.grad for name, p in losses.named_parameters() if p.grad is not None}
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}


def compare(family, process, kind):
    """Compare both engines with one process."""
    single, inputs, draws = losses_of(family, process, kind)
    whole, _ = single(single.network, inputs._replace(first=FirstCall(draws[OWN])), draws)
    whole.sum().backward()
    truth = gradients(single)
    for engine in ("ddp", "fsdp"):
        parallel = ENGINES[engine]().create(CPU, False, is_block)
        losses, *_ = losses_of(family, process, kind)
        prepared = parallel.prepare(losses, unused=losses.of_users)
        batch, mine = share(inputs, draws, slice(distributed.rank(), None, 2))
        found, _ = prepared(losses.network, batch, mine)
        parallel.backward(found.sum())
        some = gradients(losses)
        for name, grad in truth.items():
            error = (some[name] - grad).norm() / grad.norm().clamp(min=1e-20)
            assert error < 1e-4, (family, process, kind, engine, name, error)
        print(family, kind, engine)


def main(process, *cases):
    """Compare some objectives, each given as family:kind, on each of two processes."""
    for case in cases:
        family, kind = case.split(":")
        compare(family, process, kind)


if __name__ == "__main__":
    with distributed.process_group(CPU):
        main(*sys.argv[1:])
