"""Checks that several networks have: of outputs of heads, of ratios, and of sizes of images."""

from __future__ import annotations

from convflow.types import LONGEST_SIDE, InputError, nearest_size


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


def check_size(height: int, width: int, multiple: int) -> None:
    """Raise InputError unless both sides are positive multiples of `multiple`, and not absurd."""
    # Not max(): read back from the compiler's cache it becomes a guard on which side is longer.
    if height > LONGEST_SIDE or width > LONGEST_SIDE:
        raise InputError(
            f"expected sides of at most {LONGEST_SIDE}, got {height}x{width}; choose smaller ones"
        )
    if height < 1 or width < 1 or height % multiple or width % multiple:
        near = nearest_size((height, width), multiple)
        raise InputError(
            f"expected a height and width that are multiples of {multiple}, got {height}x{width}; "
            f"the nearest that works is {near[0]}x{near[1]}"
        )
