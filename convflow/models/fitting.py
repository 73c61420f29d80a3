"""What fits a network: the axes and channels of a batch, its size, and settings of heads."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor

from convflow.settings.read import read_value
from convflow.types import (
    LONGEST_SIDE,
    InputError,
    Size,
    frames_text,
    in_cells,
    nearest_size,
    size_text,
)


def check_batch(x: Tensor, channels: int, video: bool) -> None:
    """Raise InputError unless `x` has so many channels, and the axes of videos or of pictures."""
    what, axes = ("videos", "F, H, W") if video else ("images", "H, W")
    if x.dim() != 4 + video or x.shape[1] != channels:
        raise InputError(
            f"expected {what} of shape (B, {channels}, {axes}), got {tuple(x.shape)}; this network "
            f"was built for other {what}"
        )


def read_size(
    given: Any, usual: Size, multiple: int, frame_multiple: int = 1, frame_factor: int = 1
) -> Size:
    """Return a size in pixels that a model takes, from what a user gave.

    Args:
        given: a size; a number for height and width alike; None for the usual one.
        usual: of the model, which has three sides where that is of videos.
        multiple: of height and width.
        frame_multiple: of the frames, in cells.
        frame_factor: frames of a cell.

    Raises:
        InputError: anything else, a size of other axes than the usual one, or as of `check_size`.
    """
    if isinstance(given, Integral):
        given = (*usual[:-2], given, given)
    size = read_value(usual if given is None else given, Size, "size")
    if len(size) != len(usual):
        axes = "frames, height and width" if len(usual) == 3 else "height and width"
        raise InputError(
            f"expected a size of {axes} such as {size_text(usual)}, got {size_text(size)}; "
            "change it"
        )
    check_size(size, multiple, frame_multiple, frame_factor)
    return size


def check_size(size: Size, multiple: int, frame_multiple: int = 1, frame_factor: int = 1) -> None:
    """Raise InputError unless all sides are positive multiples, and not absurd.

    Args:
        size: height and width, of videos frames, height and width.
        multiple: that divides height and width.
        frame_multiple: that divides the number of frames, in cells.
        frame_factor: frames of a cell, as of `in_cells`.
    """
    # Not max(): read back from the compiler's cache it becomes a guard on which side is longer.
    for side in size:
        if side > LONGEST_SIDE:
            raise InputError(
                f"expected sides of at most {LONGEST_SIDE}, got {size_text(size)}; choose smaller "
                "ones"
            )
    frames, (height, width) = size[:-2], size[-2:]
    if height < 1 or width < 1 or height % multiple or width % multiple:
        wanted = f"a height and width that are multiples of {multiple}"
    elif frames and (frames[0] < 1 or in_cells(size, 1, frame_factor)[0] % frame_multiple):
        wanted = frames_text(frame_multiple, frame_factor)
    else:
        return
    near = nearest_size(size, multiple, frame_multiple, frame_factor)
    raise InputError(
        f"expected {wanted}, got {size_text(size)}; the nearest that works is {size_text(near)}"
    )


def outputs_per_channel(discard_half: bool, learned_variance: bool) -> int:
    """Return 2 where a head computes twice the channels, else 1.

    Raises:
        InputError: both reasons at once.
    """
    if discard_half and learned_variance:
        raise InputError(
            "expected discard_half or learned_variance, got both; leave out discard_half, the "
            "second half of the channels is the variance"
        )
    return 2 if discard_half or learned_variance else 1


def check_ratio(mlp_ratio: float, width: int) -> None:
    """Raise InputError unless feed-forward layers of this many widths have channels."""
    if not 1 <= mlp_ratio * width < float("inf"):
        raise InputError(f"expected an mlp_ratio above 0, got {mlp_ratio}; published are 2 and 4")
