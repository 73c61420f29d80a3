"""Shapes are checked while tests run; threads and seeds are the same on every machine."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Where bytecode is not kept, every process of the tests would compile torch again: half its start.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = f"{tempfile.gettempdir()}/convflow-bytecode"
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": sys.pycache_prefix}

# What trainings remember of their images stays out of the home folder; read when imported.
os.environ["HF_ASSETS_CACHE"] = str(Path(tempfile.gettempdir()) / "convflow-tests")

import hypothesis
import jaxtyping
import pytest
import torch

import tests.shape_check  # noqa: F401  the hook below finds it by name
from tests.autoencoder import save_autoencoder

# Without a GPU Triton's kernels are interpreted, on the CPU; read when Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

CHECKED = [
    f"convflow.{part}"
    for part in (
        *("nn", "models", "processes", "samplers", "autoencoders", "codecs", "evaluation"),
    )
]
jaxtyping.install_import_hook(CHECKED, "tests.shape_check.check")

# A shell starts background jobs deaf to Ctrl-C, and so the commands that their tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Two threads on busy cores wait for each other much longer than one thread works.
torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "convflow", deadline=None, derandomize=True, database=None, max_examples=25
)
hypothesis.settings.load_profile("convflow")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Give every test the same new weights, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny autoencoder with random weights, 8 pixels a cell, 4 channels."""
    return save_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the shape checks off, for errors that users see and a type checker sees first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
