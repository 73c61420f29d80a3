"""A tiny training on a folder of 22 grey images, a few milliseconds a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.reliability import kills
from convflow.recipes import create_config
from convflow.training.build import build_trainer
from convflow.training.config import TrainConfig
from convflow.training.overrides import override
from convflow.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other far longer than tiny tensors take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two classes; read them, do not write there."""
    return kills.make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def tiny(data: Path) -> Callable[..., TrainConfig]:
    """Return a function from words of the command line to settings."""

    def settings(words: str = "") -> TrainConfig:
        given = ["--data", str(data), *kills.SETTINGS, "--precision", "float32", "--images", "160"]
        return override(override(create_config("pictures.flowdcn"), given), words.split())

    return settings


@pytest.fixture
def trainer_of(tmp_path: Path) -> Callable[..., Trainer]:
    """Return a function from settings to a trainer that has not begun."""

    def build(config: TrainConfig, run: Path | None = None, device: torch.device = CPU) -> Trainer:
        run = run or tmp_path / "run"
        run.mkdir(exist_ok=True)
        return build_trainer(config, run, device)[0]

    return build
