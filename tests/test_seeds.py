"""Noise and labels: functions of (seed, i) alone, and no two alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.seeds import TRAINING_KEYS, assign_labels, draw_noise, generator_of, long_sequence

SEEDS = st.integers(0, 2**128 - 1)
SHAPE = (1, 2, 3)
KNOWN = {
    0: [2.130971, 3.4456377, 1.276445, -1.8505656],
    1: [-1.5590769, 0.3511534, -1.5091668, 0.5810589],
    250: [-0.1420925, -1.7445302, -0.3564793, -1.5759997],
}


def state(seed: int, *key: int) -> int:
    return generator_of(seed, *key).initial_seed()


@given(SEEDS, st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.integers(1, 8))
def test_noise_does_not_depend_on_the_batch(seed, indices, size):
    whole = draw_noise(seed, indices, SHAPE)
    parts = [draw_noise(seed, indices[i : i + size], SHAPE) for i in range(0, len(indices), size)]
    assert whole.equal(torch.cat(parts))
    assert whole[0].equal(draw_noise(seed, [indices[0]], SHAPE)[0])


@given(SEEDS, SEEDS, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_other_seeds_and_samples_have_other_states(seed, other, i, j):
    assert (state(seed, i) == state(other, j)) == ((seed, i) == (other, j))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=4), st.integers(0, 2**128 - 1))
def test_short_numbers_keep_the_states_they_have_always_had(key, seed):
    known = np.random.SeedSequence(seed, spawn_key=tuple(key)).generate_state(1, np.uint64)[0]
    assert state(seed, *key) == int(known)


@given(st.integers(0, 2**32 - 1), SEEDS)
def test_training_keeps_its_streams(images_seen, seed):
    """They were those of the key 2^40, which are the words 0 and 256."""
    known = np.random.SeedSequence(seed, spawn_key=(1 << 40, images_seen))
    state_then = int(known.generate_state(1, np.uint64)[0])
    assert state(seed, *TRAINING_KEYS, images_seen) == state_then


def test_no_two_keys_meet_above_32_bits():
    """Side by side as words, a training's key after 2^32 + 7 images was the codec's after 7."""
    keys = [
        (0, *TRAINING_KEYS, 7 + 2**32),
        (0, *TRAINING_KEYS, 7, 1),
        (0, 7 + 2**32),
        (0, 7, 1),
        (2**128, 7),
        (0, 1, 7),
        (2**128 + 7,),
    ]
    assert len({state(*key) for key in keys}) == len(keys)
    noise = [
        draw_noise(0, [i], SHAPE, step) for i, step in ((3 + (2 << 32) + (5 << 64), 0), (3, 5))
    ]
    assert not noise[0].equal(noise[1])


def test_zeros_and_large_seeds_are_not_confused():
    """Laid side by side as 32-bit words, all keys of a row would be one number."""
    rows = [[(5,), (5, 0), (5, 0, 0)], [(5 + (3 << 32), 0), (5, 3), (5, 3, 0)], [(0,), (0, 0)]]
    for row in rows:
        assert len({state(*key) for key in row}) == len(row)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 - 1, 2**64, 10**30])
def test_zero_and_large_seeds_give_normal_noise(seed):
    noise = draw_noise(seed, range(8), (4, 16, 16))
    assert noise.shape == (8, 4, 16, 16)
    assert abs(noise.mean()) < 4 / noise.numel() ** 0.5
    assert noise.var().item() == pytest.approx(1, abs=0.06)
    assert len(noise.flatten(1).unique(dim=0)) == 8


def test_noise_stays_as_it_is():
    """These numbers are part of what a seed means: images in papers and issues rest on them."""
    for step, numbers in KNOWN.items():
        known = draw_noise(0, [0, 1], (1, 1, 2), step).flatten().tolist()
        assert known == pytest.approx(numbers, abs=1e-6)


@given(SEEDS, st.integers(0, 10**6), st.integers(1, 1000), st.integers(1, 1000))
def test_every_step_has_noise_of_its_own(seed, i, step, other):
    first, noise = draw_noise(seed, [i], SHAPE), draw_noise(seed, [i], SHAPE, step)
    assert not noise.equal(first)
    assert noise.equal(draw_noise(seed, [i], SHAPE, other)) == (step == other)
    assert noise.equal(draw_noise(seed, [i + 1, i], SHAPE, step)[1:])


def test_generators_do_not_touch_the_global_one():
    before = torch.get_rng_state()
    draw_noise(0, range(3), SHAPE)
    assert before.equal(torch.get_rng_state())


def test_no_samples_is_an_empty_batch():
    assert draw_noise(0, [], SHAPE).shape == (0, *SHAPE)
    assert assign_labels([], [1]).shape == (0,)


def test_negative_numbers_are_refused():
    for key in ((-1,), (0, -1)):
        with pytest.raises(ValueError, match="non-negative"):
            generator_of(*key)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=5), st.integers(0, 30), st.integers(0, 9))
def test_labels_go_round(labels, start, count):
    out = assign_labels(range(start, start + count), labels)
    assert out.dtype == torch.int64
    assert out.tolist() == [labels[i % len(labels)] for i in range(start, start + count)]


def long_state(*numbers: int) -> int:
    return int(long_sequence(*numbers).generate_state(1, "uint64")[0])


def test_every_row_of_numbers_has_a_state_of_its_own():
    values = [0, 1, 33, 2**32, 2**32 + 1, 2**64, 2**160]
    rows = [row for count in range(1, 4) for row in itertools.product(values, repeat=count)]
    assert len({long_state(*row) for row in rows}) == len(rows)


def test_a_number_below_zero_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        long_state(2**40, -1)
