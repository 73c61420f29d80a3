"""Networks whose features can be looked at."""

import pytest

from convflow.types import InputError
from tests.cases import build, inputs


@pytest.mark.parametrize("case", ["sit", "sit-words", "dico-features"])
def test_features_after_blocks_are_those_of_the_next_call(case):
    model = build(case)
    with model.features_after([0, 1]) as found:
        model(*inputs(model))
    assert sorted(found) == [0, 1]
    assert found[1].shape[-1] == model.feature_width(1)


def test_a_block_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="a block from 0 to 1"), build("sit").features_after([2]):
        pass
