"""Utilisation is a rate beside that of the product, by numbers that are plain to see."""

from __future__ import annotations

import pytest
import torch

from convflow.bench import utilisation
from convflow.bench.harness import BenchRow
from convflow.bench.utilisation import Rated, Workload, product, rate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A product of 100 x 100 matrices: 2 million operations."""
    monkeypatch.setitem(utilisation.SIDES, True, 100)


def test_half_the_rate_of_the_product_is_half_of_it():
    """The product takes 2 ms: 10^9 operations a second. Ours needs 4 million, 4 ms, and takes 8."""
    ours = BenchRow("dico-s", "8x256x256", "forward", "eager", 8.0, 7.0, 9.0, 1.0, 3.0)
    limit = BenchRow("dico-s", "8x256x256", "forward", "limit", 2.0, 1.0, 3.0, 0.25, 0.0)
    workloads = dict.fromkeys(("eager", "limit"), Workload(4e6, "limit"))
    found = rate([ours, limit], workloads, CPU)
    assert found[0] == Rated(*vars(ours).values(), 1000.0, 4e-6, 0.5)
    times = (4.0, 2.0, 6.0, 0.5, 0.0)  # as long as two products
    assert found[1] == Rated(*[*vars(limit).values()][:4], *times, 2000.0, 4e-6, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_of_its_dtype_and_of_numbers(dtype):
    call = product(CPU, dtype)
    out = call()
    assert out.dtype == dtype
    assert out.shape in ((100, 100), (400, 50))  # square or tall, whichever is faster
    assert out.equal(call.args[0] @ call.args[1])
    assert out.isfinite().all()
    assert out.float().std() > 5
