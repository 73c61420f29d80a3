"""The base class of exported networks keeps what the networks here expect of theirs."""

from convflow.integrations.diffusers_backbone import DiffusersBackbone
from convflow.models.backbone import Backbone


def test_it_declares_what_networks_read():
    assert {"in_channels", "num_classes", "multiple"} <= DiffusersBackbone.__annotations__.keys()
    for name in ("learned_variance", "second_time"):
        assert getattr(DiffusersBackbone, name) is getattr(Backbone, name)
    assert not DiffusersBackbone().state_dict()
