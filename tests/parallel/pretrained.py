"""What each of two processes does in the test of a transformer of diffusers in shares."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch

from convflow import distributed
from convflow.training import launch
from tests.training.test_pretrained import settings


def main(place: Path, run: Path, case: str, words: str) -> None:
    """Train a transformer on both processes."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR, stream=sys.stdout)
    with distributed.process_group(torch.device("cpu")):
        assert distributed.world_size() == 2
        assert launch.train(settings(place, case, words), run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
