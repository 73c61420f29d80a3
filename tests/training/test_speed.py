"""Speed is that of the last line, and utilisation comes when a run is long enough."""

import pytest

from convflow.training.speed import PATIENCE, Speed


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_line_tells_of_the_time_since_the_last(tiny, trainer_of):
    trainer, clock, asked = trainer_of(tiny()), Clock(), []

    def rate(device, dtype):
        asked.append(str(dtype))
        return 1e9

    trainer.product_rate = rate
    speed = Speed(100, trainer, clock)
    clock.now = 2.0
    found = speed.measure(140)
    assert found["images_per_second"] == found["images_per_second_per_device"] == 20
    assert found["peak_memory_gib"] > 0
    assert "utilisation" not in found
    assert "GiB" in speed.describe()
    speed.more["data_wait"] = 0.25
    clock.now += PATIENCE
    later = speed.measure(140 + 30 * int(PATIENCE))
    assert later["images_per_second"] == 30
    assert later["data_wait"] == 0.25
    assert 0 < later["utilisation"] < 1
    assert "utilisation" in speed.describe()
    speed.measure(1000)
    assert asked == ["torch.float32"]


def test_without_a_network_there_is_no_utilisation():
    clock = Clock()
    speed = Speed(0, None, clock)
    clock.now = PATIENCE + 1
    assert "utilisation" not in speed.measure(10)
    assert speed.limit == pytest.approx(0)
