"""The settings of a run: groups of dataclasses."""

from convflow.training.config import TrainConfig


def test_every_setting_has_a_default_and_no_run_shares_one():
    one, other = TrainConfig(), TrainConfig()
    assert one == other
    assert one.model is not other.model
