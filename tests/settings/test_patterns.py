"""Patterns choose names in the names' own order; one that fits none is refused with the nearest."""

import pytest

from convflow.settings.patterns import chosen_names, split_patterns
from convflow.types import InputError

NAMES = ["embed.weight", "blocks.0.mlp.weight", "blocks.0.mlp.bias", "blocks.1.mlp.bias"]


def test_names_keep_their_order_and_each_pattern_must_fit():
    assert split_patterns(" blocks.*,, embed* ") == ["blocks.*", "embed*"]
    chosen = chosen_names(["*.bias", "embed*"], NAMES, "--freeze", "a parameter")
    assert chosen == [NAMES[0], *NAMES[2:]]
    assert chosen_names([], NAMES, "--freeze", "a parameter") == []
    with pytest.raises(InputError, match=r"--freeze: .* got 'block\.\*', which .*nearest: blocks"):
        chosen_names(["*.bias", "block.*"], NAMES, "--freeze", "a parameter")
    with pytest.raises(InputError, match="there is none; leave it out"):
        chosen_names(["x"], [], "--freeze", "a parameter")
