"""What a network costs in operations and memory, found without computing or allocating anything.

The network runs once on tensors that have shapes but no numbers (torch's FakeTensorMode), while
its matrix products, and the bytes that autograd keeps, are counted. Of blocks that are alike three
run, and the others count as the second.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
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
        with saved_tensors_hooks(saved.keep, _same), few_alike(model, saved):
            model(*inputs)
        flops, live = _Flops(display=False, custom_mapping=EXTRA_OPERATORS), _Live(model)
        with torch.no_grad(), live, flops, few_alike(model, live, flops):
            model(*inputs)
        parameters = sum(p.numel() for p in model.parameters())
        return Cost(parameters, flops.count() / 2e9 / batch, saved.bytes, live.most, again)


def _largest_block(model: Backbone, inputs: tuple[Any, ...]) -> int:
    """Return the bytes that autograd keeps of the block of which it keeps most."""
    saved, sizes = _Saved(model), [0]
    begun: list[int] = []
    for block in model.trunk_blocks:
        block.register_forward_pre_hook(lambda *_: begun.append(saved.bytes))
        block.register_forward_hook(lambda *_: sizes.append(saved.bytes - begun.pop()))
    with saved_tensors_hooks(saved.keep, _same), few_alike(model, saved):
        model(*inputs)
    return max(sizes)


@runtime_checkable  # for the shape checks in tests
class Meter(Protocol):
    """Something that counts while a network runs."""

    def count(self) -> int:
        """Return what there is so far."""

    def add(self, more: int) -> None:
        """Count what a block would have counted that did not run."""


@contextmanager
def few_alike(model: Backbone, *meters: Meter) -> Iterator[None]:
    """Let three blocks of each kind run, two and the last; of others the results alone are there.

    Blocks are alike that have the same class, parameters and inputs by their shapes, and are or
    are not computed again. What the second has counted is counted for the others. The first may
    count more, for what all of them share.

    Args:
        model: its blocks are as before in the end.
        *meters: that count.
    """
    known: dict[Any, tuple[int, list[int], Any]] = {}

    def counts() -> list[int]:
        return [meter.count() for meter in meters]

    def watched(kind: Any, forward: Any, last: bool) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            shapes = tuple(_shape(part) for part in tree_leaves((given, named)))
            times, counted, results = known.get((kind, shapes), (0, [], None))
            before = counts()
            if times == 2 and not last:
                made = tree_map(lambda make: make(), results)
                for meter, more, was, now in zip(meters, counted, before, counts(), strict=True):
                    meter.add(more - (now - was))
                return made
            out = forward(*given, **named)
            counted = [now - was for now, was in zip(counts(), before, strict=True)]
            known[kind, shapes] = min(times + 1, 2), counted, tree_map(_maker, out)
            return out

        return call

    own = [(block, vars(block).get("forward")) for block in model.trunk_blocks]
    kinds = [
        (type(b), tuple((n, p.shape) for n, p in b.named_parameters()), again is not None)
        for b, again in own
    ]
    for number, (block, _) in enumerate(own):
        kind = kinds[number]
        block.forward = watched(kind, block.forward, last=kind not in kinds[number + 1 :])
    try:
        yield
    finally:
        for block, again in own:
            del block.forward
            if again is not None:
                block.forward = again


def _shape(part: Any) -> Any:
    return (tuple(part.shape), part.dtype) if isinstance(part, Tensor) else type(part)


def _maker(part: Any) -> Callable[[], Any]:
    """Return what makes a tensor like another, which is not held; what is none comes back."""
    if not isinstance(part, Tensor):
        return lambda: part
    options = {"dtype": part.dtype, "device": part.device, "requires_grad": part.requires_grad}
    return partial(torch.empty, tuple(part.shape), **options)


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

    def count(self) -> int:
        return self.bytes

    def add(self, more: int) -> None:
        self.bytes += more

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen.add(storage)
            self.bytes += storage.nbytes()
        return tensor


class _Flops(FlopCounterMode):
    """Counts two operations for each multiply-accumulate."""

    more = 0

    def count(self) -> int:
        return self.get_total_flops() + self.more

    def add(self, more: int) -> None:
        self.more += more


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that exist at once, of those made while it is on."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakSet(_storages(model))

    def count(self) -> int:
        return self.now

    def add(self, more: int) -> None:
        self.now += more
        self.most = max(self.most, self.now)

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
