"""What each of two processes does in the test of a transformer of diffusers in shares."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from convflow import distributed
from convflow.training import launch
from tests.training.test_pretrained import settings
from tests.transformers import use_texts


def put(place: str, value: Any) -> None:
    """Set what a dotted name stands for: of a module, or of a class in one."""
    owner, _, name = place.rpartition(".")
    try:
        found: Any = import_module(owner)
    except ModuleNotFoundError:
        module, _, cls = owner.rpartition(".")
        found = getattr(import_module(module), cls)
    setattr(found, name, value)


def main(place: Path, run: Path, case: str, words: str) -> None:
    """Train a transformer on both processes."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR, stream=sys.stdout)
    use_texts(put)
    with distributed.process_group(torch.device("cpu")):
        assert distributed.world_size() == 2
        assert launch.train(settings(place, case, words), run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
