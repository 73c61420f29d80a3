"""Names of published tensors, there and back."""

from __future__ import annotations

import pytest

from convflow.models.convert import load_official
from convflow.models.layouts import is_spare, our_name, published_name
from tests.cases import read_golden


@pytest.mark.parametrize("layout", ["flowdcn", "dico", "dit"])
def test_every_name_has_its_way_back(layout):
    weights = read_golden(f"{layout}_tiny")[0]
    names = {name for name in weights if not is_spare(name)}
    ours = {our_name(name, layout): name for name in names}
    heads = 4 if layout == "dit" else None
    assert ours.keys() == load_official(weights, layout, num_heads=heads).state_dict().keys()
    assert {published_name(name, layout) for name in ours} == names
