"""Sharded training: every process holds a share of the weights, gradients, averages and moments.

Torch's FSDP2, the algorithm of Rajbhandari et al. 2020 (ZeRO, stage 3) and Zhao et al. 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_module_registration_hook

from convflow import distributed
from convflow.parallel.shards import TensorFile, note_rows, shard_folder
from convflow.parallel.single import Built, Single, T
from convflow.storage import read_finite_parts
from convflow.types import InputError


class FSDP(Single):
    """Torch's `fully_shard`: the weights of a block are gathered when the block computes.

    Weights, averages, gradients and the optimizer's state are float32 and cut along the first axis.
    In a run of bfloat16 the blocks' weights travel as bfloat16, beside `torch.autocast`: autocast
    keeps norms, sums over blocks and losses in float32, as with one process, and the policy of
    FSDP2 halves what travels. Inputs are not cast, for times and data would lose digits. Gradients
    are summed in float32.

    Micro-batches sum their gradients one by one, so that no whole gradient is kept.

    Args:
        device: of this process.
        half: whether the network computes in bfloat16.
        is_block: whether a module of the network is gathered on its own.
        shard_size: processes that hold one copy of the weights; None for all.

    Raises:
        InputError: `shard_size` does not divide the number of processes.
    """

    sharded = True

    def __init__(
        self,
        device: torch.device,
        half: bool,
        is_block: Callable[[nn.Module], bool],
        shard_size: int | None = None,
    ) -> None:
        world = distributed.world_size()
        self.shards = shard_size or world
        if world % self.shards:
            fitting = [str(n) for n in range(1, world + 1) if world % n == 0]
            raise InputError(
                f"--parallel.shard-size: expected a number that divides {world} processes, got "
                f"{shard_size}; choose {' or '.join(fitting)}"
            )
        super().__init__(device)
        self.half, self.is_block = half, is_block
        shape, names = (world // self.shards, self.shards), ("copies", "shards")
        whole = self.shards == world
        self.mesh = init_device_mesh(device.type, shape[whole:], mesh_dim_names=names[whole:])
        self.create: Callable[[], nn.Module] | None = None

    def build(self, create: Callable[[], Built]) -> Built:
        """Return a module without numbers; `prepare` gives it those that `create` draws."""
        self.create = create
        with torch.device("meta"):
            return create()

    def place(self, module: Built) -> Built:
        """Return a module as it is: a network moves when it is sharded, a block at a time."""
        return module

    def prepare(self, module: nn.Module, *, unused: bool = False) -> nn.Module:
        """Shard a module in place: each block, each of its children, and what is left."""
        for child in module.children():
            if not isinstance(child, nn.ModuleDict):  # which is never called, but its modules are
                self._shard(child, unused)
                self._fill(child)
        self._shard_alone(module, unused, half=False)
        module.to(self.device)
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # nothing here writes in place
        return module

    def prepare_average(self, average: nn.Module, module: nn.Module, called: bool) -> None:
        """Shard an average as `module` is sharded, which is; it takes the numbers of `module`."""
        if called:
            self._shard(average, unused=False)
            if _is_empty(average):
                average.to_empty(device=self.device)
            average.requires_grad_(False)
        for own, other in zip(average.modules(), module.modules(), strict=True):
            for name, tensor in other.named_buffers(recurse=False):
                setattr(own, name, tensor)
            for name, parameter in other.named_parameters(recurse=False):
                if called:
                    with torch.no_grad():
                        getattr(own, name).copy_(parameter)
                    continue
                copied = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                setattr(own, name, copied if parameter.requires_grad else parameter)
        for part in average.modules():  # what is gathered first in inference mode serves only there
            if called and isinstance(part, FSDPModule):
                part.unshard()
                part.reshard()

    def _shard(self, module: nn.Module, unused: bool) -> None:
        """Shard a module and its blocks, inner ones first."""
        for block in reversed([m for m in module.modules() if m is not module]):
            if self.is_block(block):
                self._shard_alone(block, unused, self.half)
        self._shard_alone(module, unused, half=False)

    def _shard_alone(self, module: nn.Module, unused: bool, half: bool) -> None:
        """Shard what of a module no inner one has sharded; a gradient is a sum, not a mean."""
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        fully_shard(module, mesh=self.mesh, mp_policy=policy, reshard_after_forward=True)
        sharded = cast(FSDPModule, module)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_reduce_scatter_unused_params(unused)

    def _fill(self, module: nn.Module) -> None:
        """Give an empty sharded module the numbers that `create` draws, a block at a time."""
        if not _is_empty(module) or self.create is None:
            return
        with _keeping_shares(self.is_block, self._rows) as shares:
            drawn = self.create()
        if any(p.is_meta and (id(p) not in shares or p._version) for p in drawn.parameters()):
            shares, drawn = {}, self.create()  # what was copied or drawn after its block was built
        sources, state = dict(drawn.named_parameters()), {}
        for name, parameter in module.named_parameters():
            kept = shares.get(id(sources[name]))
            rows = self._rows(sources[name]).clone() if kept is None else kept[1]
            state[name] = self._as(cast(DTensor, parameter), rows)
        module.load_state_dict(state, strict=False, assign=True)
        for own, other in zip(module.modules(), drawn.modules(), strict=True):
            for name, buffer in other.named_buffers(recurse=False):
                setattr(own, name, buffer.to(self.device))
        if _is_empty(module):
            raise InputError(
                "expected a network without a weight in two places, which fsdp cannot share yet; "
                "use --parallel ddp"
            )

    def _as(self, cut: DTensor, rows: Tensor) -> DTensor:
        """Return the tensor of which `rows` are ours, cut as another of the same shape."""
        return DTensor.from_local(
            rows.to(self.device),
            cut.device_mesh,
            cut.placements,
            shape=cut.shape,  # torch would guess it from our rows; others have fewer
            stride=cut.stride(),
        )

    def _rows(self, whole: Tensor) -> Tensor:
        """Return the rows of this process; of few rows some processes have none."""
        parts, place = whole.detach().chunk(self.shards), distributed.rank() % self.shards
        return parts[place] if place < len(parts) else whole.detach()[:0]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the sum of `loss` over all processes; see `together`."""
        with self.together():
            loss.backward()

    def empty_forward(self, module: nn.Module) -> None:
        """Leave the group, for the others wait in the midst of an exchange; they leave too."""
        distributed.leave_group()

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a tensor of which a process may hold a share; all processes come here."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def alike(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return none of the tensors, for each process holds rows of its own."""
        return {}

    def all_or_none(self) -> AbstractContextManager[object]:
        """Return a context in which an error of one process is raised in all of them."""
        return distributed.all_or_none(self.device)

    def gather(self, value: T) -> list[T]:
        """Return what each process gave, by rank; all come here."""
        return distributed.gather(value)

    def save(self, name: str, tensors: dict[str, Tensor]) -> TensorFile:
        """Return the shard of this process, empty where another has the same rows."""
        rank, world = distributed.rank(), distributed.world_size()
        rows, first = dict[str, Tensor](), dict[str, list[int]]()
        for key, tensor in tensors.items():
            if isinstance(tensor, DTensor):
                begin = min(rank * -(-len(tensor) // self.shards), len(tensor))
                own, held = tensor.to_local(), rank < self.shards
            else:
                begin, own, held = 0, tensor, rank == 0
            if held and own.numel():
                rows[key], first[key] = own, [begin, *[0] * own.dim()][: own.dim()]
        file = f"{shard_folder(name)}/shard-{rank + 1:05d}-of-{world:05d}.safetensors"
        return TensorFile(file, rows, note_rows(first))

    def read(self, path: Path, like: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
        """Return the rows of this process; one tensor at a time is whole in memory."""

        def part(name: str, tensor: Tensor) -> Tensor:
            cut = like(name)
            if not isinstance(cut, DTensor) or cut.shape != tensor.shape:
                return tensor
            return self._as(cut, self._rows(tensor).clone())

        return read_finite_parts(path, part)

    def check_precision(self, precision: str) -> None:
        """Raise InputError where weights travel as bfloat16 and a run goes on in float32."""
        if self.half and precision != "bfloat16":
            raise InputError(
                f"--precision: expected {precision}, in which the run began, got bfloat16 on these "
                f"devices; add --precision {precision}, or --precision bfloat16"
            )


def _is_empty(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())


@contextmanager
def _keeping_shares(
    is_block: Callable[[nn.Module], bool], rows: Callable[[Tensor], Tensor]
) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Yield shares of the weights of blocks that are built meanwhile; no whole one is kept.

    A block that becomes part of a module keeps parameters without numbers. The shares are found by
    the `id` of such a parameter, which is held beside its share.
    """
    shares: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(_: nn.Module, __: str, child: nn.Module | None) -> None:
        if child is None or not is_block(child):
            return
        for module in child.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_meta:
                    continue
                empty = nn.Parameter(
                    torch.empty_like(parameter, device="meta"), parameter.requires_grad
                )
                shares[id(empty)] = (empty, rows(parameter).clone())
                setattr(module, name, empty)

    handle = register_module_module_registration_hook(keep)
    try:
        yield shares
    finally:
        handle.remove()
