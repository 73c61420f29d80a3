"""One process, two processes, and devices by name."""

from __future__ import annotations

import contextlib

import pytest
import torch

from convflow import distributed
from convflow.types import InputError
from tests.two_processes import start_two

TOGETHER = """
import os
import torch
from convflow import distributed as d
from convflow.models.blocks import is_block
from convflow.parallel.engines import Automatic
from convflow.types import InputError
cpu = torch.device("cpu")

def refuse(reason):
    raise InputError(reason)

with d.process_group(cpu):
    rank = d.rank()
    assert d.world_size() == 2
    a = torch.tensor([1.0, 2.0]) * (rank + 1)
    b = torch.tensor(rank + 5, dtype=torch.int64)
    c = torch.full((2, 3), float(rank), dtype=torch.float64).t()
    empty = torch.empty(0)
    d.sum_over_processes(iter([a, b, c, empty]))
    d.sum_over_processes([])
    d.barrier()
    with d.process_group(torch.device("cpu")):  # already joined: a no-op
        assert d.world_size() == 2
    assert d.world_size() == 2
    assert a.tolist() == [3, 6] and b.item() == 11 and c.tolist() == [[1, 1]] * 3, (a, b, c)
    parallel = Automatic().create(cpu, False, is_block)  # is DDP
    module = torch.nn.Linear(2, 1, bias=False)
    prepared = parallel.prepare(module)
    x = torch.tensor([[1.0, 2.0]]) * (rank + 1)
    with parallel.accumulate(prepared):
        parallel.backward(prepared(x).sum())
    assert module.weight.grad.tolist() == x.tolist()
    parallel.backward(prepared(x).sum())
    assert module.weight.grad.tolist() == [[6, 12]]  # 2 (1 + 2) times 1 and 2
    assert parallel.agree([rank == 1, False], cpu) == [True, False]
    del prepared, parallel
    assert not d.is_noted("a")
    d.barrier()
    if rank:
        d.leave_note("a")
    d.barrier()
    assert d.is_noted("a") and not d.is_noted("b")
    with d.all_or_none(cpu):
        found = d.from_first(lambda: {"rank": d.rank(), "of": [1, 2]}, cpu)
        assert found == {"rank": 0, "of": [1, 2]}, found
    said = []
    for compute in (lambda: refuse("from the first"), lambda: 1 / 0):
        try:
            with d.all_or_none(cpu):
                d.from_first(compute, cpu)
        except (InputError, ZeroDivisionError) as error:
            said.append(str(error))
    try:
        with d.all_or_none(cpu):
            if rank:
                refuse("too early")
            d.from_first(lambda: 1 / 0, cpu)
    except InputError as error:
        said.append(str(error))
    with d.all_or_none(cpu):
        assert d.from_first(d.rank, cpu) == 0
    print("|".join(said), flush=True)
    try:
        with d.all_or_none(cpu):
            d.from_first(lambda: os._exit(9), cpu)
    except InputError as error:
        print(error)
assert d.world_size() == 1
"""


def test_without_torchrun_one_process_was_begun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.processes_begun() == 1
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert distributed.processes_begun() == 8


def test_two_processes_sum_and_wait_and_get_what_the_first_finds_or_refuses():
    """In the end the first is lost while it looks."""
    (lost, first, _), (code, second, complained) = start_two(["-c", TOGETHER])
    assert (lost, code) == (9, 0), complained
    assert first == "from the first|division by zero|rank 1 stopped; see its message\n"
    said, error = second.splitlines()
    assert said == "from the first|rank 0 stopped; see its message|too early"
    assert error.startswith("another process stopped (")
    assert error.endswith("; see its message")


def test_one_process_needs_no_set_up():
    with distributed.process_group(torch.device("cpu")):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        tensor = torch.ones(3)
        distributed.sum_over_processes([tensor])
        distributed.barrier()
        assert tensor.tolist() == [1, 1, 1]
        assert distributed.from_first(lambda: 7, torch.device("cpu")) == 7
        distributed.leave_note("a")
        assert not distributed.is_noted("a")


@pytest.mark.parametrize(
    "name", ["", "gpu", "cpu:-1", "cuda:x", "cuda:99", "xla", "hpu", "vulkan", "xpu"]
)
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match=r"expected a usable device, got .*; try cpu") as caught:
        distributed.choose_device(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_devices_by_name():
    assert distributed.choose_device("cpu") == torch.device("cpu")
    assert distributed.choose_device().type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(("rank", "expected"), [(None, "cuda:0"), ("3", "cuda:3")])
def test_auto_takes_the_gpu_of_this_process(monkeypatch, rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert distributed.choose_device("auto") == torch.device(expected)


def test_fast_bfloat16_is_asked_of_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert distributed.has_fast_bfloat16(torch.device("cpu")) is True
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert distributed.has_fast_bfloat16(torch.device("cpu")) is False
    assert distributed.has_fast_bfloat16(torch.device("meta")) is False


@pytest.mark.parametrize(("vendor", "fast"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_bfloat16_without_amx_is_fast_on_amd_alone(monkeypatch, vendor, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(distributed, "processor", lambda: f"vendor_id : {vendor}")
    assert distributed.has_fast_bfloat16(torch.device("cpu")) is fast


def test_an_error_elsewhere_stops_this_process_too(monkeypatch):
    def one_failed(tensors):
        next(iter(tensors))[0] = 1

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_processes", one_failed)
    with (
        pytest.raises(InputError, match=r"^rank 0 stopped; see its message$"),
        distributed.all_or_none(torch.device("cpu")),
    ):
        pass


def test_a_lost_process_is_one_line(monkeypatch):
    def lose(_):
        raise RuntimeError("[/gloo/pair.cc:534] Connection closed by peer [::1]:7\nmore")

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", lose)
    message = r"^another process stopped \(Connection closed by peer \[::1\]:7\); see its message$"
    with pytest.raises(InputError, match=message):
        distributed.sum_over_processes([torch.ones(1)])
    with pytest.raises(MemoryError, match="ours"), distributed.all_or_none(torch.device("cpu")):
        raise MemoryError("ours")  # the error here matters more than that of the lost one
    with pytest.raises(InputError, match=message), distributed.all_or_none(torch.device("cpu")):
        lose(None)  # as in the forward pass of a prepared module
    error = InputError("gloo/1.png: truncated; replace it")
    assert not distributed.is_lost(error)


def test_what_is_summed_is_told_whether_its_block_failed(monkeypatch):
    reported = []
    monkeypatch.setattr(distributed, "sum_over_processes", lambda tensors: None)
    for error in (None, MemoryError()):
        with (
            contextlib.suppress(MemoryError),
            distributed.all_or_none(
                torch.device("cpu"), lambda failed: reported.append(failed) or []
            ),
        ):
            if error:
                raise error
    assert reported == [False, True]
    assert distributed.gather("one") == ["one"]


def test_free_memory():
    free = distributed.free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert distributed.free_memory(torch.device("meta")) is None
