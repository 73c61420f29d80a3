"""Nearest training images against a slow search, and verdicts on models that copy or do not."""

import math

import numpy as np
import pytest
import torch

from convflow.evaluation import nearest
from convflow.evaluation.nearest import (
    Distance,
    find_nearest,
    judge,
    near_copies,
    pixel_features,
)
from convflow.types import InputError

PIXELS = Distance("pixels", "levels", pixel_features)


def pictures(count, seed, size=(6, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=generator)


def search(training, *sets, keep=3):
    def read(numbers):
        parts.append(len(numbers))
        return training[torch.tensor(numbers)]

    parts = []
    (found,) = find_nearest(list(sets), np.arange(len(training)), read, [PIXELS], keep=keep)
    return found, parts


def test_it_is_what_a_slow_search_finds_mirrored_images_included(monkeypatch):
    monkeypatch.setattr(nearest, "PART_BYTES", 4 * 72 * 7)  # parts of 7
    training, queries = pictures(30, 0), pictures(5, 1)
    queries[0], queries[1] = training[11].flip(2), training[29]
    (found,), parts = search(training, (queries, None))
    assert parts == [7, 7, 7, 7, 2]
    for row in range(5):
        differences = [
            min(
                (other.double() - queries[row].double()).square().mean().sqrt()
                for other in (image, image.flip(2))
            )
            for image in training
        ]
        order = np.argsort(differences, kind="stable")[:3]
        assert found.places[row].tolist() == order.tolist()
        expected = torch.tensor([float(differences[i]) for i in order], dtype=torch.float64)
        torch.testing.assert_close(found.distances[row], expected, atol=1e-4, rtol=0)
    assert found.mirrored[0, 0]
    assert not found.mirrored[1, 0]


def test_a_training_image_is_not_its_own_neighbour():
    training = pictures(10, 0)
    chosen = np.array([3, 7])
    (plain, left_out), _ = search(training, (training[chosen], None), (training[chosen], chosen))
    assert plain.places[:, 0].tolist() == [3, 7]
    assert not plain.distances[:, 0].any()
    assert left_out.places[:, 0].tolist() == plain.places[:, 1].tolist()
    (few,), _ = search(training[:2], (training[:1], None))
    assert math.isinf(few.distances[0, 2])


def test_verdicts():
    training, unseen = pictures(200, 0), pictures(60, 1)
    copies = (training[:40].int() + torch.randint(-4, 5, (40, 3, 6, 4))).clamp(0, 255).byte()
    half = (training[:40].float() * 0.5 + unseen[:40].float() * 0.5).byte()
    few = torch.cat([copies[:1], pictures(39, 3)])
    sets = [unseen, pictures(40, 2), copies, half, few]
    (references, fresh, copied, mixed, one), _ = search(training, *((each, None) for each in sets))
    verdict = judge(fresh, references)
    assert (verdict.word, verdict.num_copies) == ("none", 0)
    assert abs(verdict.closer - 0.5) < 3 * verdict.error
    verdict = judge(copied, references)
    assert (verdict.word, verdict.copies, verdict.closer) == ("copies", 1.0, 1.0)
    assert all(near_copies(copied, references))
    assert judge(mixed, references).word == "near"
    verdict = judge(one, references)
    assert (verdict.word, verdict.num_copies) == ("none", 1)  # of 40, beside 0 of 60
    assert near_copies(one, references).index(True) == 0


def test_a_set_with_twins_expects_copies():
    once = pictures(40, 0)
    training = torch.cat([once, once])
    numbers = np.arange(80)
    (references, copied), _ = search(training, (training, numbers), (once[:10], None))
    verdict = judge(copied, references)
    assert (verdict.copies_expected, verdict.copies, verdict.word) == (1.0, 1.0, "none")


def test_the_error_is_that_of_many_draws():
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        sets = [torch.rand(n, 3, generator=generator).sort(1)[0] for n in (12, 20)]
        near = [nearest.Nearest(d.double(), d.long(), d.bool()) for d in sets]
        found.append(judge(*near))
    spread = float(torch.tensor([v.closer for v in found]).std())
    assert spread == pytest.approx(found[0].error, rel=0.15)
    assert nearest._at_least(2, 3, 0.5) == pytest.approx(0.5)


def test_more_samples_than_memory_are_refused(monkeypatch):
    monkeypatch.setattr(nearest, "MOST_BYTES", 8 * 72 * 3)
    with pytest.raises(InputError, match="at most 3 samples of 6x4, got 4"):
        search(pictures(5, 0), (pictures(4, 1), None))
