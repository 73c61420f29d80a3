"""The vocabulary every folder shares: shape letters, the Denoiser protocol and the user's error.

Shape letters, used in every annotation (`Float[Tensor, "B C *F H W"]`):

    B batch    C channels    H height    W width    G groups    K taps
    N tokens   D model width S scales    P channels of a prediction: C, or 2C with a variance
    F frames, of a video; pictures have none
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:  # torch takes a second to import, and `--help` needs only the words below
    from jaxtyping import Float
    from torch import Tensor

Cond = Any
"""What a network is asked for: class labels (B,) int64, texts, or other tensors of B samples."""

Size = tuple[int, ...]
"""Height and width, of videos frames, height and width; in pixels of model space unless said
otherwise."""

Progress = Callable[[float], None]
"""Called with how many more images are done; a step of a batch counts as fractions of them."""

Precision = Literal["float32", "bfloat16"]
"""Arithmetic of a network."""

PrecisionChoice = Literal["auto", "float32", "bfloat16"]
"""Likewise, as asked for: "auto" is bfloat16 where the hardware multiplies it."""

LONGEST_SIDE = 2**16
"""The largest height or width in pixels that anything takes: more is a slip of the finger."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what was expected, what came
    and what to do. The command line prints it as one line and exits with code 2."""


class Diverged(RuntimeError):
    """The loss, its gradient or the weights stopped being finite; the message names what is kept.

    The command line prints it as one line and exits with code 1.
    """


class Disagreement(RuntimeError):
    """Two that should give the same numbers do not; no speed of theirs means anything.

    The command line prints it as one line and exits with code 1.
    """


@runtime_checkable  # for the shape checks in tests
class Denoiser(Protocol):
    """Any network or wrapper that predicts from a noisy batch.

    Called as `model(x, t, y)`: `x` in model space; `t` the process's own time (flows: [0, 1],
    0 = noise and 1 = data; DDPM: step 0 to 999, 0 = clean); `y` class labels, where `num_classes`
    means "no label", or other conditions. The result has the shape of `x`, or twice its channels
    where a variance is learned: first the prediction, then where the variance lies, from -1 to 1.
    """

    def __call__(
        self, x: Float[Tensor, "B C *F H W"], t: Float[Tensor, " B"], y: Cond, /
    ) -> Float[Tensor, "B P *F H W"]: ...


def nearest_size(size: Size, multiple: int, frame_multiple: int = 1, frame_factor: int = 1) -> Size:
    """Return the size nearest to `size` that a network takes, at least one multiple each.

    Args:
        size: height and width, of videos frames, height and width.
        multiple: that divides height and width.
        frame_multiple: that divides the number of frames, in cells.
        frame_factor: frames of a cell, as of `in_cells`.

    >>> nearest_size((30, 33), 8), nearest_size((5, 30, 33), 8, 2)
    ((32, 32), (4, 32, 32))
    >>> nearest_size((16, 32, 32), 8, 2, 4)
    (13, 32, 32)
    """
    frames = (
        (_nearest((count - 1) / frame_factor + 1, frame_multiple) - 1) * frame_factor + 1
        for count in size[:-2]
    )
    return (*frames, *(_nearest(side, multiple) for side in size[-2:]))


def _nearest(number: float, multiple: int) -> int:
    """Return the nearest multiple, at least one."""
    return max(multiple, round(number / multiple) * multiple)


def in_cells(size: Size, factor: int, frame_factor: int = 1) -> Size:
    """Return a size in cells of `factor` by `factor` pixels.

    The first frame of a video is a cell of its own, and each `frame_factor` after it are one.

    >>> in_cells((16, 32, 48), 8), in_cells((17, 32, 48), 8, 4)
    ((16, 4, 6), (5, 4, 6))
    """
    frames = ((count - 1) // frame_factor + 1 for count in size[:-2])
    return (*frames, size[-2] // factor, size[-1] // factor)


def frames_text(frame_multiple: int, frame_factor: int = 1) -> str:
    """Return which numbers of frames are wanted, for messages, k a whole number.

    >>> frames_text(2), frames_text(1, 4), frames_text(2, 4)
    ('frames that 2 divides', '4 k + 1 frames', '4 (2 k - 1) + 1 frames')
    """
    if frame_factor == 1:
        return f"frames that {frame_multiple} divides"
    cells = "k" if frame_multiple == 1 else f"({frame_multiple} k - 1)"
    return f"{frame_factor} {cells} + 1 frames"


def size_text(size: Size) -> str:
    """Return a size as a user writes it.

    >>> size_text((16, 32, 48))
    '16x32x48'
    """
    return "x".join(map(str, size))


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Return a sentence saying that `name` is no known `kind`, with the nearest one there is.

    What looks like `name` itself, though it is of another type or Unicode form, is not proposed.
    """
    known, given = list(known), unicodedata.normalize("NFC", str(name))
    others = [word for word in known if unicodedata.normalize("NFC", word) != given]
    alike = [word for word in others if word.casefold() == given.casefold()]
    near = alike or difflib.get_close_matches(given, others, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"


def check_name(kind: str, name: object, known: Collection[str]) -> None:
    """Raise InputError when `name` is no known `kind`, see `unknown_name`."""
    if name not in known:
        raise InputError(unknown_name(kind, name, known))
