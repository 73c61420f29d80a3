"""Shapes are checked while tests run; threads and seeds are the same on every machine."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
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

CHECKED = ("nn", "models", "processes", "samplers", "autoencoders", "codecs", "evaluation")
jaxtyping.install_import_hook([f"convflow.{name}" for name in CHECKED], "tests.shape_check.check")

# A shell starts background jobs deaf to Ctrl-C, and so the commands that their tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Two threads on busy cores wait for each other much longer than one thread works, also in the
# processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

hypothesis.settings.register_profile(
    "convflow", deadline=None, derandomize=True, database=None, max_examples=25
)
hypothesis.settings.load_profile("convflow")


def pytest_collection_finish() -> None:
    """Look seldom for garbage among a million objects that stay to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Give every test the same new weights, alone or after others."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _shapes(request: pytest.FixtureRequest) -> None:
    """Check shapes in the tests of the parts that name them: it takes a quarter of their time."""
    part = request.path.relative_to(Path(__file__).parent).parts[0]
    checked = part.removeprefix("test_").removesuffix(".py") in CHECKED
    jaxtyping.config.update("jaxtyping_disable", not checked)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny autoencoder with random weights, 8 pixels a cell, 4 channels."""
    return save_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture
def unchecked() -> None:
    """Switch the shape checks off, for errors that users see and a type checker sees first."""
    jaxtyping.config.update("jaxtyping_disable", True)
