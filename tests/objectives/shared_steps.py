"""What each of several processes does in tests of objectives: a few runs, and a process that fails.

Every objective of the package is in a run: those of features on a U, those of outputs beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from convflow import distributed
from convflow.recipes import create_config
from convflow.settings.read import show
from convflow.training import launch
from convflow.training.overrides import override
from convflow.training.trainer import Trainer
from convflow.types import InputError
from tests.objectives.encoder import BACKBONES, NAME, refused

CPU = torch.device("cpu")
COMMON = (
    "--batch-size 5 --data.size 16x16 "
    "--data.channels 3 --optim.warmup-images 10 --optim.lr 1e-3 --monitor.log-every 1 "
    "--monitor.tensorboard false --monitor.num-samples 2 --sampling.steps 1 --device cpu "
    "--precision float32 --monitor.validation 4 --monitor.validation.every 2 --images 20"
)
ENCODED = {
    "repa": "--objectives.repa.hidden 8",
    "irepa": "--objectives.irepa.until 15 --objectives.irepa.fade 10",
    "u-repa": "--objectives.u-repa.hidden 8",
}
ALONE = (
    "--objectives.sra.hidden 8 --objectives.dispersive.block 1 --objectives.contrastive.weight 0.1 "
    "--objectives.direction.weight 0.2 --process.prediction data "
    "--objectives.process.kind velocity"
)


def aligned(family: str = "dico") -> str:
    """Return the words of every alignment that a family takes."""
    return " ".join(
        f"--objectives.{name}.encoder {NAME} {more}"
        for name, more in ENCODED.items()
        if not refused(name, family, "flow")
    )


def settings(data: Path, words: str, family: str = "dico"):
    """Return the settings of a run of four steps, the last validation of fewer images than two."""
    given = [f"--model.{n.replace('_', '-')}={show(v)}" for n, v in BACKBONES[family].items()]
    given += [f"--model.name={family}", *COMMON.split(), *words.split()]
    return override(create_config("pictures.flowdcn"), ["--data", str(data), *given])


def failing(call, due):
    """Return what does as `call`, but runs out of memory the `due`-th time."""
    calls = []

    def wrapped(*words, **named):
        calls.append(1)
        if len(calls) == due:
            raise MemoryError("too much")
        return call(*words, **named)

    return wrapped


def attempt(call) -> None:
    """Print what a call returns, or the error that it raises."""
    try:
        print(json.dumps(call()))
    except (InputError, MemoryError) as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))


def main(shared: Path, part: str) -> None:
    """Train with each engine, or let the second process fail before it meets the first.

    Its second pass is that of a step, its third that of a validation.
    """
    torch.set_num_threads(1)
    data = shared / "data"
    with distributed.process_group(CPU):
        for engine in ("ddp", "fsdp") if part == "equal" else ():
            words = f"{aligned()} {ALONE} --parallel {engine}"
            attempt(lambda: launch.train(settings(data, words), shared / engine))  # noqa: B023
        if part == "equal":
            return
        if distributed.rank():
            Trainer.losses_of = failing(Trainer.losses_of, int(part))
        attempt(lambda: launch.train(settings(data, ALONE), shared / part))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
