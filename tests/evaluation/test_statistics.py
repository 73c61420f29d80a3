"""Statistics against all rows at once, in any order and grouping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convflow.evaluation.statistics import (
    Statistics,
    as_float64,
    check_moments,
    check_rows,
    float64_device,
)
from convflow.types import InputError
from tests.tolerance import assert_close_rms

ORDER = 1e-12
"""Largest ratio of norms between two orders of the same additions in float64."""


def features(rows: int, width: int = 5, offset: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    normal = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return normal @ torch.randn(width, width, generator=generator, dtype=torch.float64) + offset


def gather(*batches: torch.Tensor) -> Statistics:
    statistics = Statistics(batches[0].shape[1])
    for batch in batches:
        statistics.update(batch)
    return statistics


def assert_same(a: Statistics, b: Statistics) -> None:
    assert a.count == b.count
    assert_close_rms(a.mean, b.mean, limit=ORDER)
    assert_close_rms(a.scatter, b.scatter, limit=ORDER)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_batches_in_any_order_give_the_moments_of_all_rows(sizes, random):
    rows = features(sum(sizes) + 2)
    batches = list(rows.split([*sizes, 1, 1]))
    random.shuffle(batches)
    statistics = gather(*batches)
    assert statistics.count == len(rows)
    assert_close_rms(statistics.mean, torch.from_numpy(rows.numpy().mean(0)), limit=ORDER)
    expected = torch.from_numpy(np.cov(rows.numpy(), rowvar=False))
    assert_close_rms(statistics.covariance, expected, limit=ORDER)


def test_a_far_mean_costs_no_digits():
    rows = features(1000)
    shifted = gather(*(rows + 1e6).split(100))
    assert_close_rms(shifted.covariance, gather(rows).covariance, limit=1e-8)  # 1e-4 by squares


def test_float32_is_added_in_float64():
    rows = (features(2000) + 1000).float().requires_grad_()
    statistics = gather(*rows.split(7))
    assert statistics.mean.dtype == statistics.covariance.dtype == torch.float64
    assert not statistics.mean.requires_grad
    assert_close_rms(statistics.covariance, torch.cov(rows.detach().double().T), limit=ORDER)


def test_the_batch_is_left_alone_and_empty_ones_add_nothing():
    rows = features(4)
    statistics = gather(rows, rows[:0])
    assert rows.equal(features(4))
    assert statistics.count == 4
    assert gather(rows[:0]).count == 0


def test_one_row_has_a_mean_and_no_covariance():
    statistics = gather(features(1))
    assert statistics.mean.equal(features(1)[0])
    assert statistics.scatter.count_nonzero() == 0
    with pytest.raises(InputError, match="at least 2 feature vectors for a covariance, got 1"):
        _ = statistics.covariance
    statistics.update(features(2)[1:])
    assert statistics.covariance.count_nonzero() > 0


def test_bad_rows_are_refused_and_leave_no_trace(unchecked):
    statistics = gather(features(4))
    bad = features(3)
    bad[2, 1] = torch.nan
    with pytest.raises(InputError, match="expected finite features, got NaN or infinity in row 2"):
        statistics.update(bad)
    bad[1] = -torch.inf
    with pytest.raises(InputError, match="row 1"):
        statistics.update(bad)
    with pytest.raises(InputError, match="expected 5 features a row, got 4"):
        statistics.update(features(3, width=4))
    with pytest.raises(InputError, match=r"expected features of shape \(N, F\), got \(5,\)"):
        statistics.update(features(3)[0])
    assert_same(statistics, gather(features(4)))


def test_bad_moments_are_refused(unchecked):
    mean, covariance = torch.zeros(3), torch.eye(3)
    with pytest.raises(InputError, match="at least 1 feature, got 0"):
        Statistics(0)
    with pytest.raises(InputError, match=r"got \(3,\) and \(2, 2\)"):
        check_moments(mean, torch.eye(2))
    with pytest.raises(InputError, match="expected a finite mean and covariance"):
        check_moments(mean, covariance / 0)
    with pytest.raises(InputError, match="expected a symmetric covariance"):
        check_moments(mean, torch.ones(3, 3).tril())


def test_rows_are_counted():
    check_rows(torch.ones(2, 3), "rows", at_least=2)
    with pytest.raises(InputError, match="expected at least 3 rows, got 2"):
        check_rows(torch.ones(2, 3), "rows", at_least=3)
    with pytest.raises(InputError, match="shape"):
        check_rows(torch.ones(2, 0), "rows")


def test_the_cpu_stands_in_for_devices_without_float64():
    assert float64_device(torch.device("cpu")).type == "cpu"
    assert float64_device(torch.device("meta")).type == "meta"
    assert float64_device(torch.device("mps")).type == "cpu"  # on a Mac and where there is none
    assert as_float64(torch.ones(2)).dtype == torch.float64


def test_the_state_moves_to_the_first_features():
    statistics = Statistics(3)
    statistics.update(features(4, width=3))
    assert statistics.mean.device == torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", 0)
        moved = gather(features(4).to(device), features(3))
        assert moved.mean.device == moved.scatter.device == device
        whole = gather(features(4), features(3))
        assert_close_rms(moved.scatter.cpu(), whole.scatter, limit=ORDER)
