"""What videos of `moving` show, against what was drawn; and videos that are broken."""

import pytest
import torch

from benchmarks.quality.motion import look, score_motions
from convflow.data.moving import DrawnMotions
from convflow.data.shapes import SHAPES
from convflow.types import InputError

NUM = 24
LABELS = torch.arange(NUM) % len(SHAPES)


def drawn(size=(16, 32, 32), num=NUM):
    """Videos (num, 3, F, H, W) of the test split, their classes in turn."""
    source = DrawnMotions("test")
    return torch.stack([torch.from_numpy(source.draw(i, size)).movedim(-1, 0) for i in range(num)])


@pytest.fixture(scope="module")
def videos():
    return drawn()


def random_like(x, scale):
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize("size", [(16, 32, 32), (8, 48, 32), (5, 32, 64)])
def test_all_drawn_videos_are_right(size):
    scores = score_motions(drawn(size), LABELS)
    assert scores[:5] == (NUM, 1.0, 1.0, 1.0, 1.0)
    assert scores.roughness < 0.002


def test_slight_noise_is_forgiven(videos):
    noisy = (videos + random_like(videos, 8)).round().clamp(0, 255).to(torch.uint8)
    assert score_motions(noisy, LABELS).right >= 0.95


def test_another_class_than_asked_for_is_wrong(videos):
    scores = score_motions(videos, LABELS.roll(1))
    assert (scores.smooth, scores.right) == (1.0, 0.0)


def shuffled(videos):
    return videos[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(0))]


def frozen(videos):
    return videos[:, :, :1].expand_as(videos)


def jumping(videos):
    return torch.cat([videos[:, :, :8].roll(3, 4), videos[:, :, 8:].roll(-3, 4)], 2)


def swapped(videos):
    return torch.cat([videos[:, :, :8], videos.roll(1, 0)[:, :, 8:]], 2)


def trembling(videos):
    by = torch.randint(-2, 3, (16,), generator=torch.Generator().manual_seed(0)).tolist()
    return torch.stack([frame.roll(n, 3) for frame, n in zip(videos.unbind(2), by)], 2)  # noqa: B905


def noise(videos):
    return (128 + random_like(videos, 60)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("broken", [shuffled, frozen, jumping, swapped, trembling, noise])
def test_broken_videos_fail(videos, broken):
    assert score_motions(broken(videos), LABELS).right <= 0.1


def test_an_object_that_leaves_or_comes_twice_fails(videos):
    away = videos.clone()
    away[:, :, 7] = videos[:, :, 7].flatten(2).median(2).values[:, :, None, None]
    counts, found = look(away)
    assert (counts[:, 7] == 0).all()
    assert not found.one.any()
    twice = torch.cat([videos, videos], 4)
    counts, found = look(twice)
    assert (counts == 2).float().mean() > 0.9
    assert not found.smooth.any()
    cut = videos.roll(12, 3)  # past the border, and in again on the other side
    assert score_motions(cut, LABELS).smooth <= 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v: score_motions(v[:0], LABELS[:0]), "expected videos and a label"),
        (lambda v: score_motions(v, LABELS + 1), "expected videos and a label"),
        (lambda v: score_motions(v[:, :, :3], LABELS), "at least 4 frames, got 3"),
    ],
)
def test_what_cannot_be_judged_is_refused(videos, make, message):
    with pytest.raises(InputError, match=message):
        make(videos)
