"""Where this process runs: device, rank and world size; the only reader of torchrun's variables.

One process needs no set-up: every function then answers for a world of one.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from convflow.types import InputError, Precision, PrecisionChoice

T = TypeVar("T")

FAILED = "convflow/failed"
"""Under this key the first process that fails while others wait leaves its rank."""


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes take part."""
    return dist.get_world_size() if dist.is_initialized() else 1


def processes_begun() -> int:
    """Return how many processes torchrun has begun, 1 without it; they need not have met."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_world_size() -> int:
    """Return how many processes of torchrun share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; "auto" takes this process's GPU where there is one.

    Raises:
        InputError: a device that torch does not know or that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.ones(1, device=device).item()  # meta and the like hold no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a usable device, got {name!r} ({reason}); try cpu") from error
    return device


def copies_aside(device: torch.device) -> bool:
    """Return whether a device copies from pinned memory while it computes."""
    return device.type == "cuda"


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether this device multiplies matrices in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        capable = torch.cpu.get_capabilities()
        amx = capable.get("amx_bf16") or capable.get("amx_tile")
        # With AVX-512 alone, Intel's multiply bfloat16 no faster than float32, see docs/log.md.
        return bool(amx or (capable.get("avx512_bf16") and "GenuineIntel" not in processor()))
    return False


def processor() -> str:
    """Return what Linux or Python say of the processor, with the name of its vendor."""
    info = Path("/proc/cpuinfo")
    found = info.exists()
    return info.read_text(encoding="utf-8", errors="replace") if found else platform.processor()


def choose_precision(name: PrecisionChoice, device: torch.device) -> Precision:
    """Return "float32" or "bfloat16"; "auto" takes bfloat16 where the hardware multiplies it."""
    if name != "auto":
        return name
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join torchrun's other processes for the length of the block; a no-op without torchrun."""
    if processes_begun() == 1 or dist.is_initialized():
        yield
        return
    backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Imported later, by torch's optimizers, it would hold the group for ever in default arguments;
    # the group's threads would then outlive Python, and now and then end it with an abort.
    importlib.import_module("torch.distributed.nn")
    store, rank, world_size = next(rendezvous("env://"))
    if local_world_size() == world_size:  # what ended processes left in it, others would wait for
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    device_id = device if backend == "nccl" else None
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, device_id=device_id
    )
    try:
        yield
    finally:
        gc.collect()  # of modules prepared by torch, which hold the group and so its threads
        if dist.is_initialized():  # unless it was left after an error
            dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def sum_over_processes(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one message per dtype."""
    if world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        with _connected():
            dist.all_reduce(flat)
        for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


class _Gather(torch.autograd.Function):
    """The same rows of all processes, one after the other; each gets the sum of its gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """Return the rows of all processes in the order of their batch; gradients flow back to each.

    All processes come here, and for their gradients again.

    Args:
        rows: of this process, which has every row of the batch whose number is its own modulo the
            number of processes. Where it has none, something of the same shape as a row.
        total: rows of the batch.
    """
    world = world_size()
    if world == 1:
        return rows
    own, most = len(range(rank(), total, world)), -(-total // world)
    missing = rows.new_zeros(most - own, *rows.shape[1:])
    whole: Tensor = _Gather.apply(torch.cat([rows[:own], missing]))
    return whole.unflatten(0, (world, most)).transpose(0, 1).flatten(0, 1)[:total]


def gather(value: Any) -> list[Any]:
    """Return what each process gave, by rank."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        with _connected():
            dist.all_gather_object(values, value)
    return values


class _Stopped(InputError):
    """A process has stopped that waits at the end of `all_or_none`, which this ends too."""


def name_ranks(ranks: Sequence[int]) -> str:
    """Return "rank 1", "ranks 0, 1" or "ranks 0, 1, 2, 3, ..." for a message."""
    some = ", ".join(map(str, ranks[:4])) + ", ..." * (len(ranks) > 4)
    return f"rank{'s' * (len(ranks) > 1)} {some}"


def _say_stopped(ranks: Sequence[int]) -> str:
    return f"{name_ranks(ranks)} stopped; see {'its message' if len(ranks) == 1 else 'why there'}"


def _failed_ranks(failed: bool, device: torch.device, tensors: Iterable[Tensor] = ()) -> list[int]:
    """Return which processes have failed; `tensors` become their sums in the same message."""
    if world_size() == 1:
        return [0] if failed else []
    flags = torch.zeros(world_size(), device=device)
    flags[rank()] = failed
    sum_over_processes([*tensors, flags])
    return flags.nonzero().flatten().tolist()


def from_first(compute: Callable[[], T], device: torch.device) -> T:
    """Return on every process what the first computes, or raise its InputError on all.

    The others wait as long as it takes. To be called within `all_or_none`, by all processes.
    """
    if world_size() == 1:
        return compute()
    if stopped := _failed_ranks(False, device):
        raise _Stopped(_say_stopped(stopped))
    with _connected():
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    answer: list[Any] = [None, _say_stopped([0])]
    try:
        if rank() == 0:
            answer = [compute(), None]
    except InputError as error:
        answer[1] = str(error)
        raise
    finally:
        with _connected():
            dist.broadcast_object_list(answer, group=patient, device=torch.device("cpu"))
        dist.destroy_process_group(patient)
    if answer[1] is not None:
        raise InputError(answer[1])
    return answer[0]


@contextmanager
def _connected() -> Iterator[None]:
    """Turn the error of a lost process into one line; gloo's own is a page."""
    try:
        yield
    except RuntimeError as error:
        raise lost(error) from error


def is_lost(error: Exception) -> bool:
    """Return whether torch says in `error` that another process is gone."""
    of_gloo = type(error) is RuntimeError and "gloo/" in str(error)
    return of_gloo or isinstance(error, dist.DistError)


def lost(error: Exception) -> InputError:
    """Return the error to raise where torch says in `error` that another process is gone."""
    reason, store = str(error).splitlines()[0].rpartition("] ")[2], _store()
    who = "another process"
    with suppress(RuntimeError):  # the store may be gone too
        if store is not None and store.check([FAILED]):
            who = name_ranks([int(store.get(FAILED))])
    return InputError(f"{who} stopped ({reason}); see its message")


def _store() -> dist.Store | None:
    """Return what the processes keep in common, while there is a group of them."""
    return dist.group.WORLD.get_group_store() if dist.group.WORLD is not None else None


def leave_note(name: str) -> None:
    """Leave a note that all processes find by `is_noted`, whatever they do meanwhile."""
    if (store := _store()) is not None:
        store.set(f"convflow/{name}", "")


def is_noted(name: str) -> bool:
    """Return whether any process has left a note of this name; never where there is one alone."""
    return (store := _store()) is not None and store.check([f"convflow/{name}"])


def leave_group() -> None:
    """Leave the group of processes, so that the others leave too; first say who it was."""
    if (store := _store()) is None:
        return
    with suppress(RuntimeError):
        store.compare_set(FAILED, "", str(rank()))  # the first counts
    dist.destroy_process_group()


@contextmanager
def leaving_group() -> Iterator[None]:
    """Leave the group of processes on any error, for the others wait in the midst of an exchange.

    They then leave too.

    Raises:
        InputError: another process was lost.
    """
    try:
        yield
    except Exception as error:
        if not is_lost(error):
            leave_group()
            raise
        ended = lost(error)
        if dist.is_initialized():
            dist.destroy_process_group()
        raise ended from error


@contextmanager
def all_or_none(
    device: torch.device, tensors: Callable[[bool], list[Tensor]] = lambda failed: []
) -> Iterator[None]:
    """Raise on every process what went wrong on one, so that none waits for it in vain.

    Args:
        device: of the messages.
        tensors: called at the end of the block, with whether it failed here; what it returns is
            replaced by its sum over all processes in the same message. The same shapes on all.

    Raises:
        InputError: another process failed; the message names its rank.
    """
    failure: Exception | None = None
    stopped: list[int] = []
    try:
        yield
    except _Stopped as error:
        raise InputError(str(error)) from error
    except Exception as error:  # whatever it is, the others must not wait for it
        failure = lost(error) if is_lost(error) else error
    try:
        stopped = _failed_ranks(failure is not None, device, tensors(failure is not None))
    except InputError:
        if failure is None:
            raise
    if failure is not None:
        raise failure
    if stopped:
        raise InputError(_say_stopped(stopped))


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Let torch compute on one thread of the CPU for the length of the block, where `wanted`.

    Its threads wait for each other after every operation, by spinning: on a machine that other
    programs use too, a small operation takes many times as long on several threads as on one.
    """
    before = torch.get_num_threads()
    if not wanted or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes free on a device, None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _bytes_in("/proc/meminfo", "MemAvailable:") if device.type == "cpu" else None


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes so far, of tensors on a GPU, of the process on a CPU; else None."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _bytes_in("/proc/self/status", "VmHWM:") if device.type == "cpu" else None


def _bytes_in(path: str, name: str) -> int | None:
    """Return what a file of Linux says of memory in a line that begins with a name."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
