"""Gradients of average velocities on two processes, for each engine, against those of one."""

from __future__ import annotations

import sys

import torch
from torch.distributed.tensor import DTensor

from convflow import distributed
from convflow.bench.models import perturb
from convflow.conditions.labels import take
from convflow.models.blocks import is_block
from convflow.models.zoo import create_model
from convflow.objectives.objective import Inputs
from convflow.objectives.table import create_objectives
from convflow.parallel.engines import ENGINES
from convflow.processes.meanflow import MeanFlow
from convflow.training.step import Losses
from tests.cases import TINY, TINY_DICO

CPU = torch.device("cpu")
PROCESS = MeanFlow(guidance=2.0, mixture=0.5, apart=0.5)
SETTINGS = {"flowdcn": TINY, "dico": TINY_DICO, "fcdm": TINY_DICO}


def losses_of(family: str) -> Losses:
    """A network whose every parameter speaks, with its objective."""
    torch.manual_seed(0)
    network = perturb(create_model(family, **SETTINGS[family], second_time=True))
    return Losses(network, create_objectives({}, network, PROCESS))


def gradients(losses: Losses) -> dict[str, torch.Tensor]:
    """Whole gradients by name."""
    found = {name: p.grad for name, p in losses.network.named_parameters()}
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}


def main(families: list[str]) -> None:
    """Compare all engines, on each of two processes."""
    generator = torch.Generator().manual_seed(1)
    data, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.tensor([0, 5, 1, 2, 5, 3])
    draws = PROCESS.draw((6, 3, 8, 8), generator)
    for family in families:
        single = losses_of(family)
        whole, _ = single(single.network, Inputs(data, labels), {"process": draws})
        whole.sum().backward()
        truth = gradients(single)
        assert all(grad.any() for grad in truth.values())
        for kind in ("ddp", "fsdp"):
            parallel = ENGINES[kind]().create(CPU, False, is_block)
            losses = losses_of(family)
            prepared = parallel.prepare(losses, unused=losses.of_users)
            rows = slice(distributed.rank(), None, 2)
            some = take(draws, rows)
            batch = Inputs(data[rows], labels[rows])
            mine, _ = prepared(losses.network, batch, {"process": some})
            parallel.backward(mine.sum())
            for name, grad in gradients(losses).items():
                error = (grad - truth[name]).norm() / truth[name].norm()
                assert error < 1e-4, (family, kind, name, error)
            print(family, kind)


if __name__ == "__main__":
    with distributed.process_group(CPU):
        main(sys.argv[1:])
