"""Whether a program gives the predictions of the network that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from convflow.models.backbone import Backbone
from convflow.models.export import cells_of, count_times
from convflow.types import InputError, Size, size_text

Run = Callable[[Tensor, Tensor, Any], Tensor]
"""From images (B, C, H, W) or videos, times (B,) or (B, N), labels or texts to predictions."""

ALLOWED = {False: 1e-4, True: 2e-2}
"""Largest rms(difference) / rms(prediction) of a program, in single and in half precision. Other
orders of sums make less of it even in deep networks, and a wrong operator makes much more."""

CHECKED_SHAPES = ((3, (3, 4, 6)), (1, (4, 2, 3)), (2, (2, 5, 5)))
"""Batches, and frames, heights and widths in multiples of the network; frames are of videos."""


def _asked(model: Backbone, batch: int, generator: torch.Generator) -> Any:
    """Return labels, "no label" among them, or random texts."""
    if not model.takes_text:
        return (torch.arange(batch) + model.num_classes) % (model.num_classes + 1)

    def draw(part: Tensor) -> Tensor:
        if part.is_floating_point():
            return torch.randn(part.shape, generator=generator)
        found = torch.randint(2, part.shape, generator=generator)
        found[:, 0] = 1  # no text has no token
        return found.to(part.dtype)

    return tree_map(draw, model.blank_conditions(batch))


@torch.no_grad()
def check_program(
    name: str,
    run: Run,
    model: Backbone,
    *,
    asked: nn.Module | None = None,
    half: bool = False,
    last_time: float = 1.0,
    shapes: tuple[tuple[int, Size], ...] = CHECKED_SHAPES,
) -> float:
    """Run a program on random images of several sizes, and return how far it is off.

    Args:
        name: of the program, for the message.
        run: the program as its own runtime runs it; it takes and gives float32.
        model: the network, in float32 on the CPU.
        asked: what the program was made of where it is not the network itself, see
            `convflow.models.export.export_program`.
        half: whether the program holds half precision.
        last_time: the times are from 0 to there.
        shapes: batches, and frames, heights and widths in multiples of the network.

    Returns:
        The largest rms(difference) / rms(prediction).

    Raises:
        InputError: a program that fails, or gives other predictions than the network.
    """
    worst = 0.0
    for batch, cells in shapes:
        generator = torch.Generator().manual_seed(batch)
        size = cells_of(model, cells)
        x = torch.randn(batch, model.in_channels, *size, generator=generator)
        count = count_times(asked or model)
        t = last_time * torch.rand(batch, count, generator=generator)
        t = t[:, 0] if count == 1 else t
        y = _asked(model, batch, generator)
        expected = (asked or model)(x, t, y)
        try:
            found = run(x, t, y)
        except Exception as error:  # each runtime has errors of its own
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{name} does not run at {size_text(size)} ({reason}); nothing was written, please "
                "report this with the output of convflow doctor"
            ) from error
        off = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
        off = 0.0 if torch.equal(found, expected) else off  # a new network predicts zero
        if not off <= ALLOWED[half]:  # written so that NaN fails
            cure = "export it without --dtype float16" if half else "please report this"
            raise InputError(
                f"{name} gives other predictions than the network at {size_text(size)}: expected a "
                f"relative error of at most {ALLOWED[half]:g}, got {off:.1e}; nothing was written, "
                f"{cure}"
            )
        worst = max(worst, off)
    return worst
