"""A compiler without memory for the tests of networks."""

import sys

import pytest
import torch


@pytest.fixture(autouse=True)
def forget_graphs():
    """Forget the graphs of other tests: torch compiles one function for a few guards alone."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
