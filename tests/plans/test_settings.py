"""A plan becomes settings, and the words of the user count more."""

import pytest

from convflow.plans.choices import Candidate, Plan
from convflow.plans.settings import given_settings, settings_of_plan, show_samples, usual_settings
from convflow.types import InputError

PLAN = Plan(
    Candidate((48, 32), 2, 96, 5, 16), 100.0, 32_000, 7e-4, 1600, 16_000, 0.97, 0.12, 3, 200.0, 9
)


def test_every_choice_is_a_setting():
    config = settings_of_plan(PLAN, ["--data", "pets"])
    assert config.model == {
        "name": "flowdcn", "width": 96, "depth": 5, "num_groups": 3, "patch_size": 2
    }  # fmt: skip
    assert (config.data.path, config.data.size, config.data.augment) == ("pets", (48, 32), 0.12)
    assert not config.data.flip
    assert (config.images, config.batch_size, config.ema.decay) == (32_000, 16, 0.97)
    optim = config.optim
    assert (optim.lr, optim.warmup_images, optim.decay_images) == (7e-4, 1600, 16_000)
    assert optim.schedule == "wsd"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--optim.lr 3e-3", lambda c: c.optim.lr == 3e-3),
        ("--optim.schedule cosine", lambda c: (c.optim.schedule, c.optim.decay_images)
         == ("cosine", 0)),
        ("--optim muon", lambda c: c.optim.kind == "muon"),
        ("--model.name dico --model.width 16", lambda c: c.model == {"name": "dico", "width": 16}),
        ("--model.depth 2", lambda c: (c.model["depth"], c.model["width"]) == (2, 96)),
        ("--data.augment 0.3", lambda c: c.data.augment == 0.3),
        ("--data.flip true", lambda c: c.data.flip),
        ("--ema.decay 0.5", lambda c: c.ema.decay == 0.5),
        ("--images 77", lambda c: c.images == 77),
        ("--process dfm", lambda c: c.process.kind == "dfm"),
    ],
)  # fmt: skip
def test_words_count_more(words, found):
    assert found(settings_of_plan(PLAN, words.split()))


def test_given_keys_are_complete_and_checked():
    words = "--data pets --data.size=32x24 --batch-size 4 --steps 3".split()
    with pytest.raises(InputError, match="unknown option '--steps'"):
        given_settings(words)
    assert given_settings(words[:-2]) == {
        "data.path": "pets", "data.size": (32, 24), "batch_size": 4
    }  # fmt: skip


@pytest.mark.parametrize("words", ["--init runs/a", "--codec latent"])
def test_what_no_plan_takes_is_refused(words):
    with pytest.raises(InputError, match=r"expected none with the recipe pictures.*leave it out"):
        given_settings(words.split())


@pytest.mark.parametrize(("minutes", "first"), [(0.5, 1.0), (8, 1.0), (20, 2.5), (800, 100)])
def test_sheets_come_on_the_way(minutes, first):
    monitor = show_samples(usual_settings(), minutes, {}).monitor
    assert (monitor.samples_minutes, monitor.samples_longest_minutes >= first) == (first, True)
    given = {"monitor.samples_minutes": 9}
    assert show_samples(usual_settings(), minutes, given).monitor.samples_minutes == 0.75
