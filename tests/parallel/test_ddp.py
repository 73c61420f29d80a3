"""Two processes sum their gradients in the backward pass, and an error in it ends both."""

import pytest

from tests.two_processes import run_two

STEPS = """
import torch
from torch import nn
from convflow import distributed as d
from convflow.models.blocks import is_block
from convflow.parallel.engines import Automatic
from convflow.types import InputError

class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        raise MemoryError("too much")

cpu = torch.device("cpu")
with d.process_group(cpu):
    rank, parallel = d.rank(), Automatic().create(cpu, False, is_block)
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1)
    prepared = parallel.prepare(module)
    x = torch.tensor([[1.0, 2.0]]) * (rank + 1)
    with parallel.accumulate(prepared):
        parallel.backward(prepared(x).sum())
    assert module.weight.grad.tolist() == x.tolist()
    parallel.backward(prepared(x).sum())
    assert module.weight.grad.tolist() == [[6, 12]]  # 2 (1 + 2) times 1 and 2
    assert parallel.agree([rank == 1, False], cpu) == [True, False]
    module.zero_grad()
    y = prepared(x)
    try:
        parallel.backward((Failing.apply(y) if rank else y).sum())
    except (InputError, MemoryError) as error:
        print(type(error).__name__, str(error)[:16])
assert d.world_size() == 1
"""


@pytest.mark.slow  # test_distributed.py sums gradients in the processes that it starts anyway
def test_gradients_are_summed_and_an_error_ends_all():
    first, second = run_two(["-c", STEPS])
    assert first == "InputError rank 1 stopped (\n"
    assert second == "MemoryError too much\n"
