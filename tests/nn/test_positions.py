"""Positions against their formulas, on trained grids and on larger ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.nn.positions import (
    SCALINGS,
    PositionScaling,
    rotary_positions,
    rotate,
    sincos_positions,
)
from convflow.types import InputError
from tests.tolerance import assert_close_rms


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (2, 5), (7, 3)])
def test_fixed_positions_are_their_formula(rows, columns):
    """First half of the channels: the column; in each half sines, then cosines."""
    width, table = 12, torch.zeros(rows, columns, 12, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            for half, place in enumerate((column, row)):
                for k in range(width // 4):
                    angle = place / 10000 ** (k / (width // 4))
                    at = half * width // 2 + k
                    table[row, column, at] = math.sin(angle)
                    table[row, column, at + width // 4] = math.cos(angle)
    assert_close_rms(sincos_positions(rows, columns, width, table), table)
    single = sincos_positions(rows, columns, width, torch.zeros(1, dtype=torch.bfloat16))
    assert single.dtype == torch.float32
    assert_close_rms(single, table)


@given(st.integers(-3, 3), st.integers(-3, 3), st.sampled_from([4, 8, 12]))
def test_products_of_rotated_vectors_depend_on_offsets_alone(down, right, width):
    x = torch.randn(2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    q, k = (v.expand(7, 7, width) for v in x)
    rotation = rotary_positions(7, 7, width, x)
    q, k = rotate(q, rotation), rotate(k, rotation)
    assert_close_rms(q.norm(dim=-1), x[0].norm().expand(7, 7))
    scores = torch.einsum("hwc,ijc->hwij", q, k)
    there = [
        scores[i, j, i + down, j + right]
        for i in range(max(0, -down), min(7, 7 - down))
        for j in range(max(0, -right), min(7, 7 - right))
    ]
    assert_close_rms(torch.stack(there), there[0].expand(len(there)))
    if down:
        assert not torch.isclose(there[0], scores[3, 3, 3, 3 + right])
    if right:
        assert not torch.isclose(there[0], scores[3, 3, 3 + down, 3])


def test_a_rotation_turns_in_float32_and_keeps_the_dtype():
    x = torch.randn(3, 4, 8)
    rotation = rotary_positions(3, 4, 8, x)
    assert rotate(x.bfloat16(), rotation).dtype == torch.bfloat16
    assert rotate(x.bfloat16(), rotation).equal(rotate(x.bfloat16().float(), rotation).bfloat16())
    assert rotate(x, rotation)[0, 0].equal(x[0, 0])


KINDS = [(positions, kind) for positions, kinds in SCALINGS.items() for kind in kinds]


def table(positions, rows, columns, scaling=None, width=24, dtype=torch.float32):
    make = sincos_positions if positions == "sincos" else rotary_positions
    return make(rows, columns, width, torch.zeros((), dtype=dtype), scaling)


@pytest.mark.parametrize(("positions", "kind"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_that_is_not_larger_keeps_its_positions_bit_for_bit(positions, kind, dtype):
    for rows, columns in ((7, 16), (16, 16), (1, 1), (3, 11)):
        scaled = table(positions, rows, columns, PositionScaling(kind, 16, 16), dtype=dtype)
        assert scaled.equal(table(positions, rows, columns, dtype=dtype))
        assert scaled.dtype == dtype


@pytest.mark.parametrize(("positions", "kind"), KINDS)
def test_an_axis_that_is_not_longer_stays_beside_one_that_is(positions, kind):
    plain = table(positions, 5, 8, dtype=torch.float64)
    scaled = table(positions, 5, 8, PositionScaling(kind, 5, 4), dtype=torch.float64)
    half = plain.shape[-1] // 2  # of the channels, first the column's
    heat = 1 + 0.1 * math.log(2) if kind == "yarn" else 1.0
    assert_close_rms(scaled[..., half:], plain[..., half:] * heat)
    assert not torch.allclose(scaled[..., :half], plain[..., :half] * heat)
    turned = table(positions, 8, 5, PositionScaling(kind, 4, 5), dtype=torch.float64)
    swapped = torch.cat(turned.chunk(2, -1)[::-1], -1).transpose(-2, -3)
    assert_close_rms(swapped, scaled)


def frequencies(positions, scaling, rows=1, columns=1):
    """How fast the angle of each channel grows with the column, next to the origin."""
    first, second = table(positions, rows, columns, scaling, dtype=torch.float64)[:, 0, 1, :6]
    return torch.atan2(second, first)


def test_rotary_frequencies_are_those_of_the_formulas():
    """Width 24: F = 6 frequencies an axis on d = 12 channels; 10 columns trained, 25 wanted."""
    s, plain = 2.5, [10000 ** (-k / 6) for k in range(6)]
    wanted = {
        "pi": [f / s for f in plain],
        "ntk": [(10000 * s ** (12 / 10)) ** (-k / 6) for k in range(6)],
        "yarn": [],
    }
    for f in plain:
        turns = 10 * f / (2 * math.pi)
        kept = min(1, max(0, (turns - 1) / 31))
        wanted["yarn"].append((1 - kept) * f / s + kept * f)
    assert 0 < wanted["yarn"][0] - plain[0] / s < 0.02  # 1.6 turns: a little less than in full
    for kind, expected in wanted.items():
        found = frequencies("rotary", PositionScaling(kind, 3, 10), 3, 25)
        assert_close_rms(found, torch.tensor(expected, dtype=torch.float64))
    assert wanted["ntk"][0] == 1
    assert wanted["ntk"][5] == pytest.approx(plain[5] / s)


def test_yarn_leaves_what_turns_often_and_heats_by_the_longer_axis():
    scaling = PositionScaling("yarn", 220, 220)
    found = frequencies("rotary", scaling, 480, 320)
    assert found[0] == pytest.approx(1)  # 35 turns over 220 cells
    heat = 1 + 0.1 * math.log(480 / 220)
    rotation = table("rotary", 480, 320, scaling, dtype=torch.float64)
    lengths = rotation.square().sum(0).sqrt()
    assert_close_rms(lengths, torch.full_like(lengths, heat))


def test_one_frequency_an_axis_stays_with_ntk():
    scaling = PositionScaling("ntk", 2, 2)
    assert table("rotary", 8, 8, scaling, 4).equal(table("rotary", 8, 8, None, 4))


def test_fixed_positions_are_interpolated_as_said():
    # 4 columns trained, 8 wanted: column 5 lies at 2.5 ("pi") and at 2.25 of the table ("ei").
    plain = table("sincos", 1, 4, dtype=torch.float64)
    pi = table("sincos", 1, 8, PositionScaling("pi", 1, 4), dtype=torch.float64)
    assert pi[0, 5, 0].item() == pytest.approx(math.sin(2.5))
    assert_close_rms(pi[0, ::2], plain[0])
    ei = table("sincos", 1, 8, PositionScaling("ei", 1, 4), dtype=torch.float64)
    assert_close_rms(ei[0, 5], 0.75 * plain[0, 2] + 0.25 * plain[0, 3])
    assert ei[0, 0].equal(plain[0, 0])
    assert ei[0, 7].equal(plain[0, 3])


def test_embedding_interpolation_is_that_of_images():
    trained = table("sincos", 5, 4, dtype=torch.float64).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(trained, (11, 6), mode="bilinear")
    found = table("sincos", 11, 6, PositionScaling("ei", 5, 4), dtype=torch.float64)
    assert_close_rms(found, expected[0].permute(1, 2, 0))


@pytest.mark.parametrize(
    ("positions", "kind"),
    [("sincos", "yarn"), ("sincos", "ntk"), ("rotary", "ei"), ("rotary", "nkt"), ("sincos", "")],
)
def test_a_scaling_of_other_positions_is_refused(positions, kind):
    known = " or ".join(SCALINGS[positions])
    with pytest.raises(InputError, match=f"{known} for {positions} positions, got '{kind}'"):
        table(positions, 4, 4, PositionScaling(kind, 4, 4))


@pytest.mark.parametrize("grid", [(0, 4), (4, -1)])
def test_a_grid_of_nothing_is_refused(grid):
    with pytest.raises(InputError, match="at least 1 x 1 cells, got"):
        table("rotary", 4, 4, PositionScaling("pi", *grid))
