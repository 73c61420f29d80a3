"""What a network costs in operations and memory, found without computing or allocating anything.

The network runs once on tensors that have shapes but no numbers (torch's FakeTensorMode), while
its matrix products, and the bytes that autograd keeps, are counted.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from convflow.models.backbone import Backbone
from convflow.models.blocks import RecomputeChoice, recompute_blocks
from convflow.models.fitting import check_size
from convflow.types import InputError, Size, in_cells, size_text

TRAINING_COPIES = {"weights": 1, "averaged weights": 1, "gradients": 1, "AdamW moments": 2}
"""How many numbers a training holds for each parameter."""


class Cost(NamedTuple):
    """What one network needs for a batch of images of one size.

    Attributes:
        parameters: numbers that are trained.
        gmacs: 10^9 multiply-accumulates of the matrix products and convolutions, attention's
            included, for one image; norms, activations and deformable sampling are not counted.
        saved: bytes that autograd keeps of one forward pass for the backward pass.
        live: the most bytes that exist at once in a forward pass without gradients, beside the
            weights and the batch itself.
        again: bytes that autograd keeps of the largest block, where blocks are computed again.
    """

    parameters: int
    gmacs: float
    saved: int
    live: int
    again: int = 0

    @property
    def training(self) -> dict[str, int]:
        """Bytes of a training step, item by item: an estimate.

        A backward pass is taken to make temporary results as large as those of a forward pass.
        The allocator's rest and the data loader are not in it.
        """
        held = {name: 4 * count * self.parameters for name, count in TRAINING_COPIES.items()}
        activations = self.saved + self.again
        return held | {"activations": activations, "temporary results": self.live}

    @property
    def sampling(self) -> dict[str, int]:
        """Bytes of one evaluation while sampling, item by item: an estimate, without a codec."""
        return {"weights": 4 * self.parameters, "activations": self.live}


MOST_PLACES = 2**33
"""The largest batch times height times width in model space: torch counts bytes in 63 bits."""


def measure_cost(
    build: Callable[[], Backbone],
    size: Size,
    batch: int = 1,
    factor: int = 1,
    half: bool = False,
    recompute: RecomputeChoice = "none",
    frame_factor: int = 1,
) -> Cost:
    """Return what a network costs for `batch` images or videos of a size.

    Args:
        build: makes the network; called where its weights take no memory.
        size: in pixels, multiples of `factor` times the network's `multiple`; of videos frames
            before them.
        batch: images at once; guidance evaluates two for each that it makes.
        factor: pixels along a side of one cell of model space.
        half: whether the arithmetic is in bfloat16, the weights in float32.
        recompute: blocks that the backward pass computes again, see `recompute_blocks`.
        frame_factor: frames of a cell, as of `in_cells`.

    Raises:
        InputError: a size that does not fit the network, or a batch beyond counting.
    """
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        model = build()
        if len(size) != 2 + model.video:
            axes = "frames, height and width" if model.video else "height and width"
            raise InputError(f"expected a size of {axes}, got {size_text(size)}; change it")
        check_size(size, factor * model.multiple, model.frame_multiple, frame_factor)
        cells = in_cells(size, factor, frame_factor)
        if batch * math.prod(cells) > MOST_PLACES:
            raise InputError(
                f"expected a batch whose bytes can be counted, got {batch} images of "
                f"{size_text(size)}; give fewer or smaller ones"
            )
        inputs = model.blank_inputs(batch, cells)
        again = _largest_block(model, inputs) if recompute != "none" else 0
        recompute_blocks(model, recompute)
        saved = _Saved(model)
        with saved_tensors_hooks(saved.keep, _same):
            model(*inputs)
        flops = FlopCounterMode(display=False, custom_mapping=EXTRA_OPERATORS)
        with torch.no_grad(), _Live(model) as live, flops:
            model(*inputs)
        parameters = sum(p.numel() for p in model.parameters())
        return Cost(
            parameters, flops.get_total_flops() / 2e9 / batch, saved.bytes, live.most, again
        )


def _largest_block(model: Backbone, inputs: tuple[Any, ...]) -> int:
    """Return the bytes that autograd keeps of the block of which it keeps most."""
    saved, sizes = _Saved(model), [0]
    begun: list[int] = []
    for block in model.trunk_blocks:
        block.register_forward_pre_hook(lambda *_: begun.append(saved.bytes))
        block.register_forward_hook(lambda *_: sizes.append(saved.bytes - begun.pop()))
    with saved_tensors_hooks(saved.keep, _same):
        model(*inputs)
    return max(sizes)


def _storages(model: Backbone) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


EXTRA_OPERATORS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Operations whose counts torch lacks."""


class _Saved:
    """Counts the bytes of tensors that autograd keeps; views count once, parameters never."""

    def __init__(self, model: Backbone) -> None:
        self.bytes = 0
        self.seen = set(_storages(model))  # held, so that they stay what they are

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen.add(storage)
            self.bytes += storage.nbytes()
        return tensor


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that exist at once, of those made while it is on."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakSet(_storages(model))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self.seen:
            return
        self.seen.add(storage)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, count: int) -> None:
        self.now -= count
