"""The lines of a plan say what is trained, with the option that chooses otherwise."""

import re

from convflow.plans.choices import choose_plan
from convflow.plans.facts import Facts
from convflow.plans.settings import settings_of_plan
from convflow.plans.words import describe

FACTS = Facts(20, 2, (128, 128), num_transparent=20)


def lines_of(words=(), minutes=20.0, facts=FACTS, given=None):
    plan = choose_plan(facts, 60 * minutes, lambda c: 4e9 / c.work, given or {}, False)
    config = settings_of_plan(plan, words)
    return "\n".join(describe(plan, config, facts, minutes, given or {})), config, plan


def test_numbers_are_those_of_the_settings():
    said, config, plan = lines_of(["--batch-size", "3", "--optim.lr", "0.004"])
    assert f"{config.images:,} images (--images)" in said
    assert "batch 3 " in said
    assert "learning rate 0.004 " in said
    assert f"{config.model['width']} wide" in said
    assert "20 transparent ones laid on white; 20 min of time" in said
    assert f"{plan.images_per_second:,.0f} images/s" in said
    assert "may copy them" in said
    assert "of which the network is told" in said


def test_every_choice_names_its_option():
    said, config, _ = lines_of(facts=Facts(50_000, 0, (32, 32)))
    for option in re.findall(r"--([a-z.-]+)", said):
        value = config
        for name in option.replace("-", "_").split("."):
            value = value[name] if isinstance(value, dict) else getattr(value, name)
    assert len(set(re.findall(r"--[a-z.-]+", said))) >= 9
    assert "may copy" not in said
    assert "no classes" in said


def test_no_reason_is_made_up_for_what_was_given():
    words = ["--data.size", "64x64", "--data.flip", "false", "--images", "99999"]
    given = {"data.size": (64, 64), "data.flip": False, "images": 99_999}
    said, _, plan = lines_of(words, given=given)
    assert plan.most_images < 99_999
    assert "size 64x64, as given" in said
    assert "images not mirrored, as given (--data.flip)" in said
    for reason in ("the largest", "letters", "before its time"):
        assert reason not in said
        assert reason in lines_of()[0]


def test_a_run_of_most_images_in_whole_batches_is_said_to_end_early():
    facts = Facts(65, 0, (32, 32))
    said, config, plan = lines_of(facts=facts, minutes=200)
    assert 0 < plan.most_images - config.images < config.batch_size
    assert "may copy them" in said


def test_another_network_is_not_described_as_a_flowdcn():
    assert "flowdcn" not in lines_of(["--model.name", "dico"])[0]
