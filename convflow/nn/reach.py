"""How far a deformable convolution reaches on a larger image: a schedule over times and blocks.

FlowDCN (Wang et al. 2024, arXiv 2410.22655) calls it the adjustment of S_max; the default numbers
are those of its released sampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from convflow.settings.fields import Fraction, Natural
from convflow.settings.read import check_fields
from convflow.types import InputError

Form = Literal["linear", "constant"]

UNSCALED_BLOCKS = (5, 4)
"""How many of the first and of the last blocks keep their reach, as published."""


@dataclass(frozen=True)
class ReachSchedule:
    """trained reach * min(m(t), max(1, ratio)), for each axis by its own ratio of token grids.

    "linear": m(t) = 1 + (peak - 1) (high - t) / (high - low), from `peak` down to 1, and
    "constant": m(t) = peak, both for low <= t < high; outside m = 1. At the trained size and in
    the blocks that are left out nothing changes. A ratio of infinity leaves m(t) alone.

    Args:
        peak: the largest factor, at least 1.
        times: low and high, in flow time: 0 = noise, 1 = data.
        blocks: the first and the last block that take part, from 0; None for the published ones,
            all but the first five and the last four.
        form: "linear" as published, or "constant".

    Raises:
        InputError: a number outside its range, or an unknown form.

    Examples:
        >>> wide = ReachSchedule().at(torch.tensor(0.3), (2.0, 1.0), trained=6.0, depth=12)
        >>> wide[4:6].tolist()
        [[6.0, 6.0], [9.0, 6.0]]
    """

    peak: Annotated[float, Meta(ge=1)] = 2.0
    times: tuple[Fraction, Fraction] = (0.0, 0.6)
    blocks: tuple[Natural, Natural] | None = None
    form: Form = "linear"

    def __post_init__(self) -> None:
        check_fields(self, "reach-")
        if self.times[0] >= self.times[1]:
            raise InputError(
                f"expected reach-times 0 <= low < high <= 1, got {list(self.times)}; published "
                "are 0 and 0.6"
            )
        if self.blocks is not None and self.blocks[0] > self.blocks[1]:
            raise InputError(
                f"expected reach-blocks 0 <= first <= last, got {list(self.blocks)}; change them"
            )

    def blocks_of(self, depth: int) -> tuple[int, int]:
        """Return the first and the last block that take part, of `depth` blocks.

        Raises:
            InputError: blocks that are not there; too few for the published ones.
        """
        first, last = self.blocks or (UNSCALED_BLOCKS[0], depth - 1 - UNSCALED_BLOCKS[1])
        if self.blocks is None and first > last:
            raise InputError(
                f"expected more than {sum(UNSCALED_BLOCKS)} blocks for the published reach-blocks, "
                f"which leave out so many, got {depth}; choose reach-blocks such as 0,{depth - 1}"
            )
        if last >= depth:
            raise InputError(
                f"expected reach-blocks from 0 to {depth - 1}, got {first},{last}; change them"
            )
        return first, last

    def at(
        self,
        t: Float[Tensor, "*B"],
        ratio: tuple[float, float],
        trained: float,
        depth: int,
    ) -> Float[Tensor, "*B {depth} 2"]:
        """Return the reach (x, y) of each block in cells, in float32 on the device of `t`.

        Args:
            t: flow times, one for each sample, or a single one without an axis.
            ratio: how many times wider and taller the token grid is than that of training.
            trained: the reach of training, in cells.
            depth: number of blocks.

        Raises:
            InputError: blocks that are not there, a ratio or a reach of 0 or less.
        """
        if not min(*ratio, trained) > 0:
            raise InputError(
                f"expected ratios and a trained reach above 0, got {ratio} and {trained}; give "
                "the sizes as they are"
            )
        first, last = self.blocks_of(depth)
        t, (low, high) = t.float(), self.times
        fall = (high - t) / (high - low) if self.form == "linear" else 1.0
        within = (t >= low) & (t < high)
        factor = torch.where(within, 1 + (self.peak - 1) * fall, 1.0)[..., None, None]
        caps = torch.tensor([max(1.0, axis) for axis in ratio], device=t.device)
        block = torch.arange(depth, device=t.device)[:, None]
        inside = (block >= first) & (block <= last)
        return trained * torch.where(inside, torch.minimum(factor, caps), 1.0)
