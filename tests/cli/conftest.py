"""A tiny finished run for the tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from convflow.cli.main import main

TINY = (
    "--images 8 --batch-size 4 --monitor.num-samples 2 --sampling.steps 1 --model.width 16 "
    "--model.depth 1 --model.num-groups 2 --optim.schedule constant --device cpu"
).split()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny FlowDCN on the digits; read it, do not write to it."""
    run = tmp_path_factory.mktemp("tiny") / "run"
    assert main(["train", "digits.flowdcn", "--run", str(run), *TINY]) == 0
    return run
