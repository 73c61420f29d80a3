"""The plan of a training is sensible for any images, machine and time, and keeps what is given."""

import itertools
import math

import pytest

from convflow.plans.choices import (
    PARAMETERS_PER_IMAGE,
    RUNGS,
    Candidate,
    choose_batch,
    choose_decay,
    choose_lr,
    choose_patch,
    choose_plan,
    shaped,
)
from convflow.plans.facts import Facts

POWERS = {"slow core": 2e8, "core": 2e9, "two cores": 4e9, "many cores": 4e10, "GPU": 8e12}
COUNTS = [1, 2, 7, 100, 1852, 50_000, 2_000_000]
SIZES = [(8, 8), (9, 200), (32, 32), (128, 96), (300, 700), (1024, 1024), None]
MINUTES = [0.1, 0.5, 1, 5, 20, 60, 600, 10_000]


def rate_of(power, steps=200.0):
    """A machine of some power that takes at most so many steps a second, and what it was asked."""
    asked = []

    def rate(candidate):
        asked.append(candidate)
        return min(power / candidate.work, steps * candidate.batch)

    rate.asked = asked
    return rate


def planned(facts, minutes, power, given=None, wide=False):
    return choose_plan(facts, 60 * minutes, rate_of(power), given or {}, wide)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_plan_is_never_absurd(count, size):
    facts = Facts(count, 3, size)
    for minutes, (machine, power) in itertools.product(MINUTES, POWERS.items()):
        rate = rate_of(power)
        plan = choose_plan(facts, 60 * minutes, rate, {}, machine == "GPU")
        network, images = plan.network, plan.images
        height, width = network.size
        assert height % network.patch == width % network.patch == 0
        assert math.prod(network.size) <= 1.1 * max(64, math.prod(size or (32, 32)))
        assert 8 <= min(height, width) <= max(height, width) <= 256
        assert 16 <= math.prod(network.size) / network.patch**2 <= 4096
        assert 1 <= network.batch <= min(count, 256)
        assert (network.width, network.depth) in RUNGS
        assert network.width % 32 == 0
        assert images % network.batch == 0
        assert network.batch <= images <= max(4000 * count, network.batch)
        assert images <= max(60 * minutes * plan.images_per_second, network.batch)
        assert 1e-4 <= plan.lr <= 2e-3
        assert 1 <= plan.warmup_images <= max(1, images / 10)
        assert 1 <= plan.decay_images <= max(1, images / 2)
        half_life = network.batch * math.log(0.5) / math.log(plan.ema_decay)
        assert half_life <= max(images / 10, 1.01 * network.batch)
        assert plan.passes == images / count
        assert bool(plan.augment) == (plan.passes >= 100)
        assert len(rate.asked) == len(set(rate.asked)) <= len(RUNGS) + 2


@pytest.mark.parametrize("wide", [False, True])
def test_more_time_never_makes_a_smaller_network_or_image(wide):
    facts = Facts(1852, 9, (128, 128))
    before = (0, 0)
    for minutes in (0.5, 1, 2, 5, 10, 20, 40, 80, 160, 1000, 10_000):
        network = planned(facts, minutes, 4e9, wide=wide).network
        assert math.prod(network.size) >= before[0]
        if math.prod(network.size) == before[0]:
            assert network.parameters >= before[1]
        before = math.prod(network.size), network.parameters


def test_the_network_is_the_largest_that_sees_enough():
    given = {"data.size": (32, 32)}
    plan = planned(Facts(50_000, 10, (32, 32)), 20, 4e9, given)
    place = RUNGS.index((plan.network.width, plan.network.depth))
    assert plan.images * PARAMETERS_PER_IMAGE > 0.9 * plan.network.parameters
    larger = plan.network._replace(width=RUNGS[place + 1][0], depth=RUNGS[place + 1][1])
    assert 4e9 / larger.work * 1200 * PARAMETERS_PER_IMAGE < larger.parameters


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("data.size", (48, 40), lambda plan: plan.network.size),
        ("data.size", (1024, 1024), lambda plan: plan.network.size),
        ("data.size", (33, 7), lambda plan: plan.network.size),
        ("batch_size", 5, lambda plan: plan.network.batch),
        ("images", 12_345, lambda plan: plan.images),
        ("model.patch_size", 8, lambda plan: plan.network.patch),
        ("model.width", 48, lambda plan: plan.network.width),
        ("model.depth", 3, lambda plan: plan.network.depth),
    ],
)
def test_what_is_given_is_kept(key, value, found):
    assert found(planned(Facts(1852, 9, (128, 128)), 20, 4e9, {key: value})) == value


@pytest.mark.parametrize(
    ("given", "minutes", "size", "width"),
    [
        ({"model.width": 256, "model.depth": 8}, 60, (32, 32), 256),
        ({"model.width": 64, "model.depth": 4}, 60, (128, 128), 64),
        ({"model.patch_size": 4}, 20, (48, 48), 160),
        ({"data.size": (64, 64)}, 5, (64, 64), 96),
    ],
    ids=str,
)
def test_the_speed_is_that_of_what_is_given(given, minutes, size, width):
    """What is given replaces a candidate's own where it is measured, as in a training."""
    asked = []

    def rate(candidate):
        names = {"data.size": "size", "model.patch_size": "patch", "model.width": "width"}
        names |= {"model.depth": "depth"}
        asked.append(candidate._replace(**{names[key]: value for key, value in given.items()}))
        return 4e9 / asked[-1].work

    plan = choose_plan(Facts(50_000, 10, (128, 128)), 60 * minutes, rate, given, False)
    assert (plan.network.size, plan.network.width) == (size, width)
    assert plan.images_per_second == 4e9 / plan.network.work


def test_more_images_want_a_larger_network():
    facts = Facts(50_000, 10, (32, 32))
    few, many = (planned(facts, 20, 4e9, {"images": n}).network for n in (5_000, 5_000_000))
    assert few.parameters < many.parameters
    assert planned(facts, 20, 4e9, {"images": 5_000_000}).images == 5_000_000
    rate = rate_of(4e9)
    choose_plan(facts, 1200, rate, {"images": 5_000_000}, False)
    assert rate.asked == [many._replace(batch=256)]  # what it chose, to say how fast that is


@pytest.mark.parametrize("wide", [False, True])
def test_the_speed_is_that_of_the_chosen_batch(wide):
    asked = []

    def rate(candidate):
        """A device that takes so many steps a second, however large they are."""
        asked.append(candidate)
        return 30.0 * candidate.batch

    plan = choose_plan(Facts(50_000, 10, (32, 32)), 1200, rate, {}, wide)
    assert plan.network.batch != asked[0].batch
    assert asked[-1] == plan.network
    assert plan.images_per_second == 30.0 * plan.network.batch
    assert plan.images == pytest.approx(0.97 * 1200 * plan.images_per_second, rel=0.02)


@pytest.mark.parametrize("given", [{"data.augment": 0.0}, {"process": "meanflow"}])
def test_images_are_not_changed_where_they_must_not_be(given):
    facts = Facts(20, 0, (32, 32))
    assert planned(facts, 20, 4e9).augment > 0
    plan = planned(facts, 20, 4e9, given)
    assert plan.augment == 0
    assert plan.images <= 1500 * 20


def test_grey_images_have_one_channel():
    assert [planned(Facts(9, 0, (8, 8), grey), 1, 4e9).channels for grey in (False, True)] == [3, 1]


@pytest.mark.parametrize(
    ("size", "patch"),
    [((8, 8), 1), ((16, 16), 1), ((30, 30), 2), ((33, 33), 1), ((32, 32), 2), ((64, 64), 2),
     ((128, 128), 4), ((96, 64), 2), ((256, 256), 8), ((100, 1), 1), ((1024, 768), 32)],
)  # fmt: skip
def test_the_patch_grows_with_the_image_and_divides_it(size, patch):
    assert choose_patch(size) == patch


@pytest.mark.parametrize(
    ("side", "ratio", "size"),
    [(32, 1.2, (32, 32)), (32, 1.5, (40, 28)), (64, 0.5, (48, 88)), (16, 2, (16, 16)),
     (64, 9, (64, 64))],
)  # fmt: skip
def test_long_images_keep_about_their_pixels(side, ratio, size):
    assert shaped(side, ratio) == size


def test_batch_rate_and_average_follow_their_rules():
    assert [choose_batch(n, 10**6) for n in (1, 10_000, 60_000, 10**6, 10**9)] == [
        8, 16, 32, 128, 256
    ]  # fmt: skip
    assert choose_batch(60_000, 5) == 4
    base = Candidate((32, 32), 2, 192, 8, 32)
    assert choose_lr(base) == 1e-3
    assert (
        choose_lr(base._replace(width=384)) < choose_lr(base) < choose_lr(base._replace(batch=64))
    )
    assert choose_decay(100_000, 32) == pytest.approx(0.5 ** (32 / 2000), abs=1e-5)
