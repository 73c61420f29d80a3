"""Random words for whole numbers that are too long for one of NumPy's 32-bit words."""

from __future__ import annotations

import numpy as np

WORD = 2**32


def long_sequence(*numbers: int) -> np.random.SeedSequence:
    """Return the state of some numbers, each of any length; no two rows of numbers share one.

    `SeedSequence` lays numbers side by side as 32-bit words, in which `n + 2**32 * m` is the same
    as `n` and `m`. Here their count and the length of each are laid beside them. The pool is larger
    than the usual one, so that these words never are those of short numbers.

    Args:
        numbers: at least 0.

    Raises:
        ValueError: a number below 0.

    Example:
        >>> states = [long_sequence(*row).generate_state(1) for row in [(5 + 2**32,), (5, 1)]]
        >>> bool(states[0] == states[1])
        False
    """
    spelled = [word for number in map(int, numbers) for word in (number.bit_length(), number)]
    return np.random.SeedSequence([len(numbers), *spelled], pool_size=8)
