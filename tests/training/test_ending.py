"""What a timed training keeps for its end: measured, or by the calls of the network."""

import time

import pytest

from convflow.training import checkpoint
from convflow.training.ending import MOST_OF_TIME, SAFETY, SAVING, Ending


def test_it_is_what_was_measured_and_before_that_what_calls_cost(tiny):
    now = [50.0]
    words = "--monitor.num-samples 6 --sampling.solver euler --sampling.steps 10"
    ending = Ending(tiny(f"{words} --sampling.guidance 2"), lambda: now[0])
    ending.begin(None)
    assert ending() == 0
    ending.begin(1050.0)
    assert ending() == SAFETY * SAVING
    for seen, seconds in ((8, 30.0), (16, 2.0), (24, 2.0)):  # the first step compiles
        now[0] += seconds
        ending.note(seen)
    images = 2 * 6 * 20 / 3  # of both networks, a third of a step each
    assert ending() == pytest.approx(2.0 + SAFETY * (SAVING + images * 2.0 / 8))
    for what, seconds in (("drawing", 7.0), ("saving", 3.0)):
        begun = now[0]
        now[0] += seconds
        ending.took(what, begun)
    assert ending() == pytest.approx(2.0 + SAFETY * 10)
    assert ending.drawn == 24
    now[0] += 500
    ending.took("drawing", now[0] - 500)
    assert ending() == MOST_OF_TIME * 1000


def test_the_time_holds_the_last_checkpoint_and_the_samples(
    tiny, trainer_of, tmp_path, monkeypatch
):
    trainer, now = trainer_of(tiny("--images 8000 --monitor.samples-minutes 1e-9")), [1000.0]

    def pass_time(network, *_):
        now[0] += 10.0 if network.training else 4.0

    for network in (trainer.model, trainer.ema.model):
        network.register_forward_pre_hook(pass_time)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    trainer.ending.clock = time.monotonic
    assert trainer.run(now[0] + 1000)
    assert trainer.late
    assert 1800 < now[0] <= 2000
    assert checkpoint.list_steps(tmp_path / "run") == [trainer.step]
    last = f"images_{trainer.images_seen:010d}"
    assert {p.stem[:17] for p in (tmp_path / "run/samples").glob(f"{last}*")} == {last}
    assert trainer.ending.drawn == trainer.images_seen
