"""What each of several processes does in the tests of the sharded engine."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

import tests.extending.align
import tests.extending.detector
import tests.parallel.average  # noqa: F401
from convflow import distributed
from convflow.parallel.fsdp import FSDP
from convflow.parallel.shards import TensorFile
from convflow.parallel.single import Single
from convflow.recipes import create_config
from convflow.training import launch
from convflow.training import trainer as loop
from convflow.training.build import build_trainer
from convflow.training.config import TrainConfig
from convflow.training.optim import trained_parameters
from convflow.training.overrides import override
from convflow.training.score import Scorer
from convflow.training.trainer import Trainer

CPU = torch.device("cpu")
MODELS = {
    "flowdcn": "--model.width 16 --model.depth 2 --model.num-groups 2",
    "dico": "--model.name dico --model.width 8 --model.depths 1,1,1,1,1",
    "sit": "--model.name sit-s/2 --model.width 16 --model.depth 2 --model.num-heads 2 "
    "--ema.half-lives 20 --ema.sigma-rel 0.05,0.1 --ema.snapshots 24",
}
LOSSES = (
    "--objectives.align.kind tests.extending.align:Align "
    "--objectives.follow.kind tests.parallel.average:Follow"
)
COMMON = (
    "--batch-size 8 --data.size 8x8 --data.channels 1 --optim.warmup-images 16 --optim.lr 1e-3 "
    "--monitor.log-every 1 --monitor.tensorboard false --monitor.num-samples 2 --sampling.steps 1 "
    "--device cpu --images 48 --micro-batch 1 --monitor.validation 5 --monitor.validation.every 2"
)


def settings(data: Path, name: str, words: str = "") -> TrainConfig:
    """Return the settings of a run of six steps of a network called `name` in `MODELS`."""
    given = f"{COMMON} --precision float32 {MODELS[name]} {words}".split()
    return override(create_config("pictures.flowdcn"), ["--data", str(data), *given])


def scoring(data: Path) -> str:
    """Return words for scores of samples that two processes draw."""
    given = {"num": 70, "every": 3, "detector": "tests.extending.detector:load"}
    more = " ".join(f"--monitor.score.{name} {value}" for name, value in given.items())
    return f"--monitor.score {data} {more}"


def signalled(stop):
    """Return a function that is asked whether to stop, and gets a signal when it is."""

    def asked() -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return stop()

    return asked


def failing(call, error, due):
    """Return what does as `call`, but raises an error the `due`-th time."""
    calls = []

    def wrapped(*words, **named):
        calls.append(1)
        if len(calls) == due:
            raise error
        return call(*words, **named)

    return wrapped


def shares_of(trainer: Trainer) -> dict[str, list[int]]:
    """Return how many numbers this process holds, and how many there are, by what they are."""
    held = trained_parameters(trainer.losses)
    groups = {
        "weights": list(held.values()),
        "average": list(trainer.ema.model.parameters()),
        "moments": [
            value
            for parameter in held.values()
            for entry, value in trainer.optimizer.state[parameter].items()
            if entry != "step"
        ],
    }
    for tensors in groups.values():
        assert all(isinstance(tensor, DTensor) for tensor in tensors)
    return {
        name: [sum(t.to_local().numel() for t in some), sum(t.numel() for t in some)]
        for name, some in groups.items()
    }


def attempt(call):
    """Print what a call returns, or the error that it raises."""
    if not torch.distributed.is_initialized():
        return
    try:
        print(json.dumps(call()))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))


def count(shared: Path) -> None:
    """Take two steps and print the shares; end in a step that diverges."""
    config = settings(shared / "data", "flowdcn", f"--parallel fsdp {LOSSES}")
    shapes = []
    run = shared / "counted"
    run.mkdir(exist_ok=True)
    whole = Single.build
    Single.build = None  # the network of a sharded engine is never whole
    trainer, _ = build_trainer(config, run, CPU)
    Single.build = whole
    assert all(isinstance(p, DTensor) for p in trainer.losses.parameters())
    norms = []
    step = trainer.train_step

    def noting(*batch):
        metrics = step(*batch)
        norms.append(metrics["gradient_norm"])
        shapes[:] = [shares_of(trainer)]
        if trainer.step == 2:
            next(trainer.model.parameters()).detach().to_local().fill_(torch.nan)
        return metrics

    trainer.train_step = noting
    attempt(trainer.run)
    print(json.dumps(shapes[0]))
    print(json.dumps(norms))


def tie() -> None:
    """Shard a module with a weight in two places."""

    def create() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        module[1].weight = module[0].weight
        return module

    engine = FSDP(CPU, False, lambda module: False)
    engine.prepare(nn.Sequential(engine.build(create)))


def main(shared: Path, part: str, *words: str) -> None:
    """Do a part of the work on every process."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR, stream=sys.stdout)
    with distributed.process_group(CPU):
        world, rank = distributed.world_size(), distributed.rank()
        data = shared / "data"

        def train(name: str, run: str, words: str):
            return launch.train(settings(data, name, words), shared / run)

        if part == "equal":
            for name in MODELS:
                losses = LOSSES if name == "flowdcn" else ""
                words = f"--parallel fsdp --monitor.samples-minutes 1e-9 {losses}"
                attempt(lambda: train(name, f"{name}-{world}", words))  # noqa: B023
            attempt(lambda: train("sit", "half", "--parallel fsdp --precision bfloat16"))
            copies = f"--parallel fsdp --parallel.shard-size {2 if world == 3 else 1}"
            attempt(lambda: train("sit", "copies", copies))
            count(shared)
        elif part == "half":
            attempt(lambda: train("sit", "from-3", "--parallel fsdp --images 24"))
        elif part == "resume":
            for run, kind in (("from-3", "fsdp"), ("from-1", "fsdp"), ("to-ddp", "ddp")):
                attempt(lambda: train("sit", run, f"--parallel {kind}"))  # noqa: B023
            often = "--checkpoint.background true --checkpoint.every-minutes 0"
            attempt(lambda: train("sit", "halves", f"--parallel fsdp --images 24 {often}"))
            attempt(lambda: train("sit", "halves", "--parallel fsdp"))
            attempt(lambda: train("sit", "straight", "--parallel fsdp"))
            batch, losses = launch.Images.batch, Trainer.losses_of
            if rank:
                error = launch.InputError("odd/1.png: damaged; replace it")
                launch.Images.batch = failing(batch, error, 3)
            attempt(lambda: train("sit", "batch", "--parallel fsdp"))
            launch.Images.batch = batch
            if rank:
                Trainer.losses_of = failing(losses, MemoryError("too much"), 9)
            attempt(lambda: train("sit", "losses", "--parallel fsdp"))
        elif part == "disk":
            write, words = TensorFile.write, "--parallel fsdp --checkpoint.every-minutes 0"
            for run, more in (("full", ""), ("full-later", "--checkpoint.background true")):
                if rank:  # three files before the first step, then four for each
                    TensorFile.write = failing(write, OSError(28, "No space left on device"), 10)
                attempt(lambda: train("sit", run, f"{words} {more}"))  # noqa: B023
            TensorFile.write = write
            eager = loop.compile_network
            loop.compile_network = partial(eager, backend="aot_eager")
            words = "--parallel fsdp --compile blocks --memory.recompute blocks"
            attempt(lambda: train("sit", "compiled", words))
        elif part == "score":
            words = f"--parallel fsdp {scoring(data)}"
            attempt(lambda: train("sit", "scored", words))
            score = Scorer.score
            if rank:
                Scorer.score = lambda self, samples, seen, stop: score(
                    self, samples, seen, signalled(stop)
                )
            attempt(lambda: train("sit", "stopped", words))
        elif part == "hybrid":
            words = "--parallel fsdp --parallel.shard-size 2"
            attempt(lambda: train("sit", "hybrid", words))
            attempt(tie)
    print(distributed.world_size())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
