"""Whether a trained network is the one that a new run builds."""

from __future__ import annotations

import pytest

from convflow.models.zoo import create_model
from convflow.processes.meanflow import MeanFlow
from convflow.training.likeness import check_same
from convflow.types import InputError
from tests.cases import MODELS


def test_networks_that_are_told_more_are_named_with_options_of_their_process():
    more = MeanFlow.more_channels

    def sit(**told):
        return create_model("sit", **MODELS["sit"][1] | told)

    def said(begun, trained):
        with pytest.raises(InputError) as found:
            check_same(sit(**begun), sit(**trained), "there", more)
        return str(found.value)

    two = {"second_time": True}
    guided, headed = two | {"told_guidance": True}, two | {"learned_variance": True}
    assert "got there with learned_variance False, here True; add --process.velocity-head f" in (
        said(headed, two)
    )
    assert "got there with learned_variance True, here False; add --process.velocity-head t" in (
        said(two, headed)
    )
    assert "here False; add --process.guidance-max N, or" in said(two, guided)
    assert "here False; add --process meanflow, or" in said({}, two)
    assert "got there with width" in said(guided | {"width": 32}, two)
    check_same(sit(**guided), sit(), "there", more)
