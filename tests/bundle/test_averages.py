"""Power-function profiles: their width, their products, and sums of some that stand for another."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convflow.bundle.averages import (
    Profile,
    check_width,
    combine,
    exponent_of,
    is_kept,
    list_snapshots,
    open_stored,
    snapshot_folder,
)
from convflow.settings.fields import WIDEST, RelativeWidth
from convflow.settings.read import read_value
from convflow.types import InputError


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_width_is_the_deviation_of_the_images_over_their_number(width):
    n = (np.arange(1_000_000) + 0.5) / 1_000_000
    shares = n ** exponent_of(width)
    shares /= shares.sum()
    mean = shares @ n
    assert math.sqrt(shares @ (n - mean) ** 2) == pytest.approx(width, rel=1e-4)


def test_products_are_the_integrals():
    n = (np.arange(200_000) + 0.5) / 100  # up to 2000 images
    pairs = [(Profile(16.97, 700), Profile(6.94, 2000)), (Profile(3.0, 2000), Profile(5.0, 2000))]
    for pair in pairs:
        shares = [
            (n < p.images) * (p.exponent + 1) / p.images * (n / p.images) ** p.exponent
            for p in pair
        ]
        integral = (shares[0] * shares[1]).sum() / 100
        assert pair[0].product(pair[1]) == pytest.approx(integral, rel=1e-3)
        assert pair[1].product(pair[0]) == pair[0].product(pair[1])


def test_a_few_stored_profiles_come_near_to_any_other():
    stored = [
        Profile(exponent_of(width), images)
        for images in range(1000, 16_001, 1000)
        for width in (0.05, 0.1)
    ]
    for width, most in {0.03: 0.04, 0.05: 1e-5, 0.075: 0.004, 0.15: 0.01, 0.2: 0.03}.items():
        factors, rest = combine(stored, Profile(exponent_of(width), 16_000))
        assert factors.sum() == pytest.approx(1, abs=1e-6)
        assert rest < most
    assert combine(stored[:2], Profile(exponent_of(0.2), 16_000))[1] > 0.5  # and of too few not


def test_the_widest_average_is_that_of_the_settings():
    def of_settings(width):
        assert read_value(width, RelativeWidth, "--ema.sigma-rel") == width

    for check in (check_width, of_settings):
        check(WIDEST)
        with pytest.raises(InputError, match=r"0\.288, got '?0\.2885"):
            check(0.2885)


@pytest.mark.parametrize("width", [0.0, 0.29, float("nan")])
def test_a_width_out_of_range(width):
    with pytest.raises(InputError, match=r"--sigma-rel: expected a relative width from 0\.001"):
        check_width(width)


def test_names_and_damaged_snapshots(tmp_path):
    assert [is_kept(name) for name in ("ema-0.05", "ema-50000", "ema", "ema-x")] == [
        True,
        True,
        False,
        False,
    ]
    assert list_snapshots(tmp_path) == []
    folder = snapshot_folder(tmp_path, 5)
    folder.mkdir(parents=True)
    (folder / "snapshot.json").write_text('{"images": 5}')
    with pytest.raises(InputError, match=r"snapshot.json is damaged; remove the folder"):
        list_snapshots(tmp_path)


def test_tensors_without_numbers_keep_shape_and_dtype(tmp_path):
    tensors = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.tensor(7)}
    save_file(tensors, tmp_path / "some.safetensors")
    found = open_stored(tmp_path, "some.safetensors").shapes()
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (t.shape, t.dtype) for n, t in tensors.items()
    }
    assert all(tensor.is_meta for tensor in found.values())
