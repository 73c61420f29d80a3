"""A tiny model for the web page."""

from __future__ import annotations

from pathlib import Path

import pytest

from convflow.bundle.config import SamplingConfig
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.samplers.solvers import create_solver
from tests.cases import build
from tests.cli.conftest import tiny_run as tiny_run

NAMES = ("cat", "dog", "fat, frog", "horse", "ship")


def create_pipe() -> Pipeline:
    """A pipeline of 4x6 images with five classes."""
    sampling = SamplingConfig(create_solver("heun", steps=6), 1.5)
    return Pipeline(build("flowdcn"), PixelCodec(), (4, 6), NAMES, sampling, "cpu")


@pytest.fixture
def pipe() -> Pipeline:
    return create_pipe()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder; read it, do not write to it."""
    folder = tmp_path_factory.mktemp("web") / "tiny"
    create_pipe().save_pretrained(folder)
    return folder
