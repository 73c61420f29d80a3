"""Changes of images: against slow twins, exact where they can be, and what a network is told."""

import math

import pytest
import torch

from convflow.codecs import PixelCodec
from convflow.data import augment as module
from convflow.data.augment import (
    NUM_TOLD,
    OF_CELLS,
    TOLD,
    Strengths,
    augment,
    draw_strengths,
    fit,
    move_cells,
    tell,
)

SHAPES = [(8, 8), (6, 10)]


def of(count, probability=1.0, kinds=tuple(TOLD), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return draw_strengths(count, probability, kinds, generator)


def none(count, **given):
    return of(count, kinds=())._replace(**given)


def smooth(height, width, count=2):
    """Images that bicubic sampling reproduces well: slow waves."""
    y = torch.linspace(0, math.pi, height)[:, None]
    x = torch.linspace(0, math.pi, width)
    waves = torch.stack([torch.sin(y) * torch.cos(x / 2), torch.cos(y + x), torch.sin(x - y)])
    return 0.8 * waves.expand(count, 3, height, width).clone()


def test_draws_are_those_of_the_seed_whatever_else_may_happen():
    alone, all_kinds = of(50, 0.3, ["hue"]), of(50, 0.3)
    assert torch.equal(alone.hue, all_kinds.hue)
    assert sum(bool(part.any()) for part in alone) == 1
    many = of(4000, 0.25)
    for name in ("scale", "rotation", "brightness", "contrast", "hue", "saturation"):
        assert 0.22 < float((getattr(many, name) != 0).float().mean()) < 0.28
    assert abs(float((many.flip[:, 0] == 1).float().mean()) - 0.125) < 0.03
    assert sorted(many.quarter.unique().tolist()) == [0, 1, 2, 3]
    assert not torch.equal(of(5, seed=1).scale, of(5).scale)


@pytest.mark.parametrize("kind", TOLD)
def test_a_network_is_told_of_what_happens_and_of_nothing_else(kind):
    told = tell(fit(of(30, kinds=[kind]), 8, 8))
    assert told.shape == (30, NUM_TOLD)
    start = sum(list(TOLD.values())[: list(TOLD).index(kind)])
    mine = slice(start, start + TOLD[kind])
    assert told[:, mine].any()
    told[:, mine] = 0
    assert not told.any()
    assert not tell(of(5, 0.0)).any()


@pytest.mark.parametrize("size", SHAPES)
def test_what_nothing_happens_to_stays_bit_by_bit(size):
    x = torch.rand(6, 3, *size) * 2 - 1
    strengths = Strengths(*(torch.cat([part[:2], 0 * part[2:]]) for part in of(6)))
    changed = augment(x, fit(strengths, *size))
    assert torch.equal(changed[2:], x[2:])
    assert not any(torch.equal(a, b) for a, b in zip(changed[:2], x[:2], strict=True))
    assert torch.equal(augment(x, none(6)), x)


def test_images_do_not_depend_on_their_batch():
    x, strengths = torch.rand(5, 3, 8, 8) * 2 - 1, fit(of(5), 8, 8)
    alone = [
        augment(x[i : i + 1], Strengths(*(part[i : i + 1] for part in strengths))) for i in range(5)
    ]
    assert torch.equal(torch.cat(alone), augment(x, strengths))


def test_turns_and_flips_are_exact_and_rotation_by_a_right_angle_is_one():
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    flipped = augment(x, none(2, flip=torch.tensor([[1.0, 0.0], [0.0, 1.0]])))
    assert torch.equal(flipped, torch.stack([x[0].flip(2), x[1].flip(1)]))
    turned = augment(x, none(2, quarter=torch.tensor([1.0, 3.0])))
    assert torch.equal(turned, torch.stack([x[0].rot90(1, (1, 2)), x[1].rot90(3, (1, 2))]))
    half = math.pi / 2
    rotated = augment(x, none(2, rotation=torch.tensor([-half, half])))
    torch.testing.assert_close(rotated, turned, atol=1e-5, rtol=0)
    assert fit(none(2, quarter=torch.tensor([1.0, 0.0])), 6, 10).quarter.tolist() == [2, 0]


@pytest.mark.parametrize("size", SHAPES)
def test_whole_cells_move_as_pixels_do_mirrored_at_the_border(size):
    x = torch.rand(3, 3, *size) * 2 - 1
    strengths = fit(of(3, kinds=OF_CELLS, seed=5), *size, cells=True)
    assert strengths.translation.any()
    torch.testing.assert_close(move_cells(x, strengths), augment(x, strengths), atol=1e-5, rtol=0)
    far = none(3, translation=torch.full((3, 2), 24.0))  # three times the image: mirrored
    assert torch.equal(move_cells(x, far), x.flip(2, 3))


def test_the_inverse_is_that_of_the_product_of_all_changes():
    strengths = Strengths(*(part.double() for part in of(7)))
    (ab, cd), right, down = module._inverse(strengths, 6, 10)
    found = torch.stack([torch.stack(ab, -1), torch.stack(cd, -1)], -2)

    def turn(angle):
        c, s = angle.cos(), angle.sin()
        return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)

    scale = 2 ** (0.2 * strengths.scale)
    stretch, axis = 2 ** (0.2 * strengths.anisotropy[:, 0]), turn(strengths.anisotropy[:, 1])
    along = torch.diag_embed(torch.stack([stretch, 1 / stretch], -1))
    whole = axis @ along @ axis.mT @ turn(strengths.rotation) * scale[:, None, None]
    torch.testing.assert_close(found, torch.linalg.inv(whole))
    torch.testing.assert_close(right, strengths.translation[:, 0] * 10 / 8)
    torch.testing.assert_close(down, strengths.translation[:, 1] * 6 / 8)


def test_scaling_enlarges_and_moving_goes_right_and_down():
    x = -torch.ones(2, 3, 16, 16)
    x[:, :, 6:10, 6:10] = 1
    larger = augment(x, none(2, scale=torch.tensor([5.0, -5.0])))  # by 2 and by 1 / 2
    assert [int((one[0, 2:14, 2:14] > 0).sum()) for one in larger] == [64, 4]
    moved = augment(x, none(2, translation=torch.tensor([[1.0, 0.0], [0.0, 1.0]])))
    torch.testing.assert_close(moved[0], x[0].roll(2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[1], x[1].roll(2, 1), atol=1e-5, rtol=0)
    there = augment(smooth(32, 32), none(2, rotation=torch.tensor([0.3, -0.3])))
    back = augment(there, none(2, rotation=torch.tensor([-0.3, 0.3])))
    inside = (slice(None), slice(None), slice(8, 24), slice(8, 24))
    assert (back - smooth(32, 32))[inside].abs().max() < 0.02


def test_colours_change_as_formulas_say_and_greys_keep_their_hue():
    x = torch.rand(2, 3, 4, 4) - 0.5
    brighter = augment(x, none(2, brightness=torch.tensor([1.0, -2.0])))
    torch.testing.assert_close(brighter - x, torch.tensor([0.2, -0.4]).view(2, 1, 1, 1) + 0 * x)
    stark = augment(x, none(2, contrast=torch.tensor([2.0, -2.0])))
    torch.testing.assert_close(stark, x * torch.tensor([2.0, 0.5]).view(2, 1, 1, 1))
    third = 2 * math.pi / 3
    turned = augment(x, none(2, hue=torch.tensor([third, -third])))  # red to green to blue to red
    torch.testing.assert_close(turned[0], x[0].roll(1, 0), atol=1e-6, rtol=0)
    torch.testing.assert_close(turned[1], x[1].roll(-1, 0), atol=1e-6, rtol=0)
    pale = augment(x, none(2, saturation=torch.tensor([-40.0, 1.0])))
    torch.testing.assert_close(pale[0], x[0].mean(0, keepdim=True).expand(3, 4, 4))
    grey = x[:, :1].expand(2, 3, 4, 4)
    same = augment(grey, none(2, hue=torch.ones(2), saturation=torch.ones(2)))
    torch.testing.assert_close(same, grey)
    one = augment(x[:, :1], none(2, brightness=torch.ones(2)))
    assert one.shape == (2, 1, 4, 4)
    assert PixelCodec().decode(torch.full((1, 3, 1, 1), 1.7)).unique().tolist() == [255]
