"""Networks whose features can be looked at: the blocks of the trunk, and what comes out of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from convflow.nn.norm import Modulation
from convflow.types import InputError, Size


class Observed(nn.Module):
    """A network of blocks, of which the features after any can be asked for."""

    multiple: int
    frame_multiple: int
    video: bool

    @property
    def inner(self) -> Any:
        """The network on one image inside, whose blocks these are."""
        raise NotImplementedError

    def blank_inputs(self, batch: int, size: Size) -> tuple[Any, ...]:
        """Return arguments of `forward` without numbers, for images of a height and width."""
        raise NotImplementedError

    @property
    def trunk_blocks(self) -> list[nn.Module]:
        """The blocks of the trunk in the order in which they run; each returns features."""
        inner = self.inner
        found = [m for m in inner.modules() if any(isinstance(c, Modulation) for c in m.children())]
        outside = {*inner.parts.head.modules()} if found else set()
        return [block for block in found if block not in outside]

    @contextmanager
    def features_after(self, blocks: Iterable[int]) -> Iterator[dict[int, Tensor]]:
        """Yield a dict into which the next call puts the features (B, h, w, D) after some blocks.

        Args:
            blocks: numbers of blocks in `trunk_blocks`, from 0.

        Raises:
            InputError: there is no such block.
        """
        found: dict[int, Tensor] = {}
        blocks = tuple(blocks)
        known, hooks = self.trunk_blocks if blocks else [], []
        for number in blocks:
            if not 0 <= number < len(known):
                raise InputError(f"expected a block from 0 to {len(known) - 1}, got {number}")

            def keep(_: nn.Module, __: Any, features: Tensor, number: int = number) -> None:
                found.setdefault(number, features)

            hooks.append(known[number].register_forward_hook(keep))
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def feature_width(self, block: int) -> int:
        """Return the channels D of the features after a block, from one small image or video."""
        weight, training = next(self.parameters()), self.training
        side = self.multiple * (1 if self.multiple > 1 else 8)
        frames = (self.frame_multiple,) if self.video else ()
        blank = self.blank_inputs(1, (*frames, side, side))

        def fitting(part: Tensor) -> Tensor:
            dtype = weight.dtype if part.is_floating_point() else part.dtype
            return torch.zeros_like(part, dtype=dtype, device=weight.device)

        try:
            with self.features_after([block]) as found:
                self.eval()(*tree_map(fitting, blank))
        finally:
            self.train(training)
        return found[block].shape[-1]
