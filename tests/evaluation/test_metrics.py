"""Each metric against its definition in NumPy, other libraries, closed forms, and common sense."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from prdc import compute_prdc
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convflow.evaluation.metrics import (
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    rows_in_block,
)
from convflow.types import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

RELATIVE = 1e-6
"""Largest relative difference from an independent float64 computation."""

PAIRS = [(60, 60, 8), (40, 90, 3), (90, 41, 33), (7, 6, 2), (30, 30, 1)]
"""Rows of the real and the fake set, and their width."""


def normal(rows: int, width: int, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99)).double()
    draws = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return scale * draws @ mixing + shift


def pair(rows_a: int, rows_b: int, width: int) -> tuple[Tensor, Tensor]:
    return normal(rows_a, width, 1), normal(rows_b, width, 2, scale=1.2, shift=0.3)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.mean(0), torch.cov(rows.T).reshape(rows.shape[1], rows.shape[1])


def frechet(a: Tensor, b: Tensor) -> float:
    return frechet_distance(*moments(a), *moments(b))


def distances(a: Tensor, b: Tensor) -> np.ndarray:
    """Every distance, by differences."""
    return np.sqrt(((a.numpy()[:, None] - b.numpy()[None]) ** 2).sum(-1))


def radii(rows: Tensor, k: int) -> np.ndarray:
    table = distances(rows, rows)
    return np.array([np.sort(np.delete(line, i))[k - 1] for i, line in enumerate(table)])


def manifold_scores(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage as their papers define them."""
    table = distances(real, fake)
    in_real, in_fake = table <= radii(real, k)[:, None], table <= radii(fake, k)[None]
    return (
        in_real.any(0).mean(),
        in_fake.any(1).mean(),
        in_real.sum() / (k * len(fake)),
        in_real.any(1).mean(),
    )


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate, pair by pair."""
    width, total = x.shape[1], 0.0
    for z in (x, y):
        table = (z @ z.T / width + 1) ** 3
        total += (table.sum() - np.trace(table)) / (len(z) * (len(z) - 1))
    return total - 2 * ((x @ y.T / width + 1) ** 3).mean()


# Frechet distance


@pytest.mark.parametrize("sizes", [(300, 400, 20), (100, 90, 40), (50, 50, 1)])
def test_frechet_distance_agrees_with_a_matrix_square_root(sizes):
    a, b = pair(*sizes)
    (mean_a, cov_a), (mean_b, cov_b) = ([x.numpy() for x in moments(rows)] for rows in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=RELATIVE)
    assert frechet(b, a) == pytest.approx(expected, rel=RELATIVE)


variances = st.lists(st.tuples(*[st.floats(0, 1e4)] * 3), min_size=1, max_size=6)


@given(variances)
def test_frechet_distance_of_independent_features_has_a_closed_form(rows):
    a, b, shift = torch.tensor(rows, dtype=torch.float64).unbind(1)
    expected = float((a.sqrt() - b.sqrt()).square().sum() + shift.square().sum())
    found = frechet_distance(torch.zeros_like(a), a.diag(), shift, b.diag())
    # Eigenvalues below F eps of the largest count as zero: their roots may be missing.
    lost = 2 * len(rows) * math.sqrt(float(a.max() * b.max())) * 1e-7
    assert found == pytest.approx(expected, rel=1e-9, abs=lost + 1e-9 * float(a.sum() + b.sum()))


def test_frechet_distance_of_fewer_samples_than_features():
    """With X the centred samples, the roots' trace is the sum of singular values of X_a X_b^T."""
    width, count = 1024, 250
    spread = torch.logspace(0, -4, width, dtype=torch.float64)
    a, b = (
        torch.randn(count, width, generator=torch.Generator().manual_seed(i)).double() * spread
        for i in range(2)
    )
    b = 1.1 * b + 0.01
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    shared = np.linalg.svd(((a - mean_a) @ (b - mean_b).T).numpy() / (count - 1))[1].sum()
    traces = float(cov_a.trace() + cov_b.trace())
    expected = float((mean_a - mean_b).square().sum()) + traces - 2 * shared
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=RELATIVE)
    assert frechet_distance(mean_a, cov_a, mean_a, cov_a) <= 1e-9 * traces


@pytest.mark.parametrize("condition", [0, 6, 12, 18])
def test_frechet_distance_of_a_set_to_itself_is_zero(condition):
    rows = normal(100, 64) * torch.logspace(3, 3 - condition / 2, 64, dtype=torch.float64)
    assert 0 <= frechet(rows, rows) <= 1e-9 * float(moments(rows)[1].trace())


def test_rounding_adds_nothing_where_a_covariance_has_no_rank():
    """The root of 1e-17 is 3e-9, and there are many of them."""
    turn = torch.linalg.qr(normal(64, 64))[0]
    a, b = torch.zeros(2, 64, dtype=torch.float64)
    a[:8] = b[:8] = 1
    b[8:] = 1e-8
    a, b = (turn * x @ turn.T for x in (a, b))
    mean = torch.zeros(64)
    assert frechet_distance(mean, a, mean, b) == pytest.approx(56e-8, rel=RELATIVE)


def test_frechet_distance_with_covariances_of_rank_zero_and_one():
    zero, one = torch.zeros(4, 4), torch.zeros(4, 4)
    one[0, 0] = 9.0
    mean = torch.tensor([1.0, 0, 0, 0])
    assert frechet_distance(mean, zero, mean, zero) == 0
    assert frechet_distance(mean, zero, -mean, zero) == 4
    assert frechet_distance(mean, one, mean, zero) == pytest.approx(9)
    assert frechet_distance(mean, one, mean, torch.eye(4)) == pytest.approx(4 + 3)


def test_float32_moments_are_good_enough():
    """A file in float32 makes zero eigenvalues a little negative."""
    a, b = normal(30, 100, 1), normal(30, 100, 2)
    rough = frechet_distance(*(x.float() for x in (*moments(a), *moments(b))))
    assert rough == pytest.approx(frechet(a, b), rel=1e-2)


def test_bad_moments_are_refused(unchecked):
    mean, cov = torch.zeros(3), torch.eye(3)
    with pytest.raises(InputError, match="two means of one length, got 3 and 2"):
        frechet_distance(mean, cov, torch.zeros(2), torch.eye(2))
    with pytest.raises(InputError, match=r"got \(3,\) and \(2, 2\)"):
        frechet_distance(mean, torch.eye(2), mean, cov)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="finite"):
            frechet_distance(mean, cov, mean + bad, cov)
    with pytest.raises(InputError, match=r"without negative eigenvalues, got -1"):
        frechet_distance(mean, cov, mean, torch.diag(torch.tensor([1.0, 2, -1])))
    with pytest.raises(InputError, match="without negative eigenvalues"):
        frechet_distance(mean, -cov, mean, cov)


# Inception Score


@pytest.mark.parametrize(("rows", "split"), [(50, 50), (50, 20), (41, 20), (6, 1), (10, 5000)])
def test_inception_score_agrees_with_its_definition(rows, split):
    logits = 3 * normal(rows, 11)
    scores = []
    for start in range(0, rows, split):
        p = scipy.special.softmax(logits[start : start + split].numpy(), axis=1)
        divergence = scipy.special.rel_entr(p, p.mean(0)).sum(1)  # p log(p / q)
        scores.append(np.exp(divergence.mean()))
    assert inception_score(logits, split) == pytest.approx(np.mean(scores), rel=RELATIVE)
    assert inception_score(logits.float(), split) == pytest.approx(np.mean(scores), rel=1e-5)


def test_inception_score_is_between_one_and_the_number_of_classes():
    assert inception_score(torch.zeros(30, 7)) == pytest.approx(1)
    assert inception_score(torch.ones(30, 1)) == pytest.approx(1)
    sure = torch.eye(7).repeat(5, 1) * 1e4  # p log p with p = 0 counts zero
    assert inception_score(sure) == pytest.approx(7)
    assert inception_score(sure[:5], 5) == pytest.approx(5)


def test_inception_score_does_not_depend_on_the_block(monkeypatch):
    logits = normal(50, 11)
    expected = inception_score(logits, 20)
    monkeypatch.setattr("convflow.evaluation.metrics.BLOCK_BYTES", 8 * 11 * 3)
    assert inception_score(logits, 20) == pytest.approx(expected, rel=1e-12)


# Precision, recall, density, coverage


@pytest.mark.parametrize(("sizes", "k"), [*zip(PAIRS, (1, 3, 5, 3, 5), strict=True), (PAIRS[0], 5)])
def test_manifold_scores_agree_with_their_definitions(sizes, k):
    real, fake = pair(*sizes)
    expected = manifold_scores(real, fake, k)
    found = precision_recall(real, fake, k) + density_coverage(real, fake, k)
    assert found == pytest.approx(expected, rel=RELATIVE)
    if min(sizes[:2]) > 10 and sizes[2] > 1:  # and say more than none or all
        assert min(found) > 0
        assert found[0] + found[1] < 2


@pytest.mark.parametrize("block_bytes", [1, 8 * 41 * 7, 8 * 90, 2**40])
def test_manifold_scores_do_not_depend_on_the_block(block_bytes):
    for real, fake in (pair(90, 41, 33), (normal(90, 3), normal(90, 3)[:41])):
        for metric in (precision_recall, density_coverage):
            assert metric(real, fake, block_bytes=block_bytes) == metric(real, fake)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_far_mean_changes_no_neighbour(k):
    real, fake = pair(90, 60, 8)
    shift = torch.full((8,), 2.0**20, dtype=torch.float64)
    real, fake = (real * 2**10).round(), (fake * 2**10).round()  # so that shifting is exact
    assert precision_recall(real + shift, fake + shift, k) == precision_recall(real, fake, k)
    near = (real * 2**-30 + 1, fake * 2**-30 + 1)  # |a|^2 - 2 a.b + |b|^2 alone gives zeros
    assert density_coverage(*near, k) == density_coverage(real, fake, k)


@given(
    rows=st.integers(8, 40), width=st.integers(1, 70), copies=st.integers(1, 8), k=st.integers(1, 5)
)
def test_a_set_against_itself_is_perfect(rows, width, copies, k):
    """Also where copies make all radii zero, and whichever way the rows are ordered."""
    real = normal(rows, width).float().repeat(copies, 1)
    fake = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(1))]
    assert precision_recall(real, fake, k) == (1.0, 1.0)
    density, coverage = density_coverage(real, fake, k)
    assert coverage == 1.0
    if copies == 1 or copies > k:  # the vector and its k neighbours; zero radii hold all copies
        assert density == pytest.approx(max(k + 1, copies) / k)


def test_copies_count_as_neighbours_and_the_rim_is_inside():
    line = torch.tensor([[0.0], [0.0], [3.0], [10.0]])
    # Radii with k = 1: 0, 0, 3, 7. The balls: {0}, {0}, [0, 6], [3, 17].
    fake = torch.tensor([[0.0], [6.0], [2.9], [-0.1], [17.0]])
    assert density_coverage(line, fake, 1) == ((3 + 2 + 1 + 0 + 1) / 5, 1.0)
    assert precision_recall(line, fake, 1)[0] == 4 / 5
    assert density_coverage(line, fake[1:], 1) == ((2 + 1 + 0 + 1) / 4, 2 / 4)
    assert precision_recall(line[:1].repeat(4, 1), line[:1].repeat(4, 1) + 1, 1) == (0, 0)


def test_blocks_stay_within_their_bytes():
    for columns in (1, 10_000, 50_000, 2**25):
        assert rows_in_block(columns, 2**28) * columns * 8 <= 2**28
    assert rows_in_block(50_000, 2**28) == 671
    assert rows_in_block(2**25 + 1, 2**28) == 1


class Largest(TorchDispatchMode):
    """Watches every operation for the bytes of the largest tensor it gives."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.num_bytes = max(self.num_bytes, tensor.numel() * tensor.element_size())
        return out


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_no_table_of_all_distances_is_ever_in_memory(metric):
    real, fake = normal(900, 4), normal(700, 4, 1)
    with Largest() as largest:
        metric(real, fake, block_bytes=2**16)
    assert 2**15 < largest.num_bytes <= 2**16  # that table would have 5 MB


# Kernel distance


@pytest.mark.parametrize("sizes", PAIRS)
def test_kernel_distance_of_whole_sets_agrees_with_its_definition(sizes):
    real, fake = (rows[: min(sizes[:2])] for rows in pair(*sizes))
    mean, deviation = kernel_distance(real, fake, num_subsets=3)
    assert mean == pytest.approx(mmd(real.numpy(), fake.numpy()), rel=RELATIVE)
    assert deviation == pytest.approx(0, abs=1e-9 * abs(mean) + 1e-9)


def test_kernel_distance_draws_its_subsets_as_it_says():
    real, fake = pair(90, 40, 5)
    words, values = np.random.PCG64(7), []
    for _ in range(4):
        x, y = (r[np.argsort(words.random_raw(len(r)))[:30]].numpy() for r in (real, fake))
        values.append(mmd(x, y))
    found = kernel_distance(real, fake, seed=7, num_subsets=4, subset_size=30)
    assert found == pytest.approx((np.mean(values), np.std(values)), rel=RELATIVE)
    assert found == kernel_distance(real, fake, seed=7, num_subsets=4, subset_size=30)
    assert found != kernel_distance(real, fake, seed=8, num_subsets=4, subset_size=30)


def test_kernel_distance_is_unbiased():
    a, b = normal(4000, 4, 1), normal(4000, 4, 2)
    mean, deviation = kernel_distance(a, b, num_subsets=200, subset_size=50)
    assert abs(mean) < 4 * deviation / 200**0.5
    assert deviation > 0


# Other libraries


class Flat(torch.nn.Module):
    """What torchmetrics takes for a network: an image's own numbers."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("sizes", [(60, 60, 8), (40, 90, 3), (90, 41, 33)])
def test_manifold_scores_agree_with_prdc(sizes):
    real, fake = pair(*sizes)
    theirs = compute_prdc(real.numpy(), fake.numpy(), nearest_k=4)
    expected = [theirs[name] for name in ("precision", "recall", "density", "coverage")]
    found = precision_recall(real, fake, 4) + density_coverage(real, fake, 4)
    assert list(found) == pytest.approx(expected, rel=RELATIVE)


def test_frechet_distance_agrees_with_torchmetrics():
    real, fake = pair(200, 150, 12)
    theirs = FrechetInceptionDistance(Flat(12)).set_dtype(torch.float64)
    theirs.update(real.view(-1, 3, 2, 2), real=True)
    theirs.update(fake.view(-1, 3, 2, 2), real=False)
    assert frechet(real, fake) == pytest.approx(float(theirs.compute()), rel=RELATIVE)


def test_kernel_distance_agrees_with_torchmetrics():
    real, fake = pair(80, 80, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = KernelInceptionDistance(Flat(12), subsets=2, subset_size=80)
    theirs.update(real.view(-1, 3, 2, 2), real=True)
    theirs.update(fake.view(-1, 3, 2, 2), real=False)
    found, _ = kernel_distance(real, fake, num_subsets=2)
    assert found == pytest.approx(float(theirs.compute()[0]), rel=RELATIVE)


def test_inception_score_agrees_with_torchmetrics():
    logits = 2 * normal(80, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = InceptionScore(Flat(12), splits=1)  # it shuffles: only one split compares
        theirs.update(logits.view(-1, 3, 2, 2))
        expected = float(theirs.compute()[0])
    assert inception_score(logits) == pytest.approx(expected, rel=RELATIVE)


# Common sense


def modes(number: int, seed: int, rows: int = 400, width: int = 6) -> Tensor:
    """A mixture of `number` of eight narrow modes."""
    centres = 10 * torch.randn(8, width, generator=torch.Generator().manual_seed(5)).double()
    which = torch.arange(rows) % number
    return centres[which] + normal(rows, width, seed, scale=0.3)


DAMAGE = {
    "noise": [
        modes(8, 2) + x * torch.randn(400, 6, generator=torch.Generator().manual_seed(9))
        for x in (0, 2, 4, 8)
    ],
    "shrinkage": [modes(8, 2) * x for x in (1, 0.85, 0.6, 0.2)],
    "lost modes": [modes(number, 2) for number in (8, 6, 4, 2)],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_scores_get_worse_with_the_damage(damage):
    real = modes(8, 1)
    table = [
        (frechet(real, fake), kernel_distance(real, fake, num_subsets=1)[0])
        for fake in DAMAGE[damage]
    ]
    for before, after in itertools.pairwise(table):
        assert after[0] > 1.2 * before[0], table
        assert after[1] > before[1], table


def test_lost_modes_lower_recall_and_coverage_but_not_precision():
    real = modes(8, 1)
    table = [
        precision_recall(real, fake) + density_coverage(real, fake) for fake in DAMAGE["lost modes"]
    ]
    for before, after in itertools.pairwise(table):
        assert after[0] > 0.8, table
        assert after[1] < before[1] - 0.1, table
        assert after[3] < before[3] - 0.1, table


def test_noise_lowers_precision_and_density():
    real = modes(8, 1)
    table = [
        precision_recall(real, fake) + density_coverage(real, fake) for fake in DAMAGE["noise"]
    ]
    assert table[0][0] > 0.8 > 0.4 > table[1][0] > table[-1][0]
    assert table[0][2] > 0.8 > 0.4 > table[1][2] > table[-1][2]


# What is refused, and what is not

ROWS = normal(10, 4)


@pytest.mark.parametrize("metric", [precision_recall, density_coverage, kernel_distance])
def test_bad_features_are_refused(metric, unchecked):
    bad = ROWS.clone()
    bad[7, 2], bad[4, 1] = torch.nan, torch.inf
    with pytest.raises(InputError, match=r"expected finite fake features, got NaN .* in row 4"):
        metric(ROWS, bad)
    with pytest.raises(InputError, match=r"expected finite real features, .* row 4"):
        metric(bad, ROWS)
    with pytest.raises(InputError, match="one width, got 4 and 3"):
        metric(ROWS, ROWS[:, :3])
    with pytest.raises(InputError, match=r"real features of shape \(N, F\), got \(10,\)"):
        metric(ROWS[:, 0], ROWS)
    with pytest.raises(InputError, match=r"fake features of shape \(N, F\), got \(10, 0\)"):
        metric(ROWS, ROWS[:, :0])


def test_too_few_rows_are_refused_with_the_number_needed():
    with pytest.raises(InputError, match="at least 4 real features, got 3"):
        precision_recall(ROWS[:3], ROWS)
    with pytest.raises(InputError, match="at least 4 fake features, got 3"):
        precision_recall(ROWS, ROWS[:3])
    with pytest.raises(InputError, match="at least 6 real features, got 5"):
        density_coverage(ROWS[:5], ROWS)
    with pytest.raises(InputError, match="at least 1 fake features, got 0"):
        density_coverage(ROWS, ROWS[:0])
    with pytest.raises(InputError, match="at least 2 fake features, got 1"):
        kernel_distance(ROWS, ROWS[:1])
    with pytest.raises(InputError, match="at least 1 logits, got 0"):
        inception_score(ROWS[:0])
    precision_recall(ROWS[:4], ROWS[:4])
    density_coverage(ROWS[:6], ROWS[:1])
    kernel_distance(ROWS[:2], ROWS[:2], num_subsets=1)
    inception_score(ROWS[:1])


def test_settings_out_of_range_are_refused():
    for settings in ({"seed": -1}, {"num_subsets": 0}, {"subset_size": 1}):
        (name,) = settings
        with pytest.raises(InputError, match=f"expected {name} of at least"):
            kernel_distance(ROWS, ROWS, **settings)
    for metric in (precision_recall, density_coverage):
        with pytest.raises(InputError, match="expected k of at least 1, got 0"):
            metric(ROWS, ROWS, 0)
    with pytest.raises(InputError, match="expected split_size of at least 1, got 0"):
        inception_score(ROWS, 0)
    bad = ROWS.clone()
    bad[3, 0] = torch.nan
    with pytest.raises(InputError, match="expected finite logits, got NaN or infinity in row 3"):
        inception_score(bad)


def test_arguments_are_left_alone_and_need_no_gradient():
    real, fake = (rows.requires_grad_() for rows in pair(20, 20, 4))
    before = real.detach().clone(), fake.detach().clone()
    precision_recall(real, fake)
    density_coverage(real, fake)
    kernel_distance(real, fake, num_subsets=2)
    inception_score(real)
    frechet(real, fake)
    assert real.equal(before[0])
    assert fake.equal(before[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same():
    real, fake = pair(90, 60, 8)
    there = real.to("cuda"), fake.to("cuda")
    assert precision_recall(*there) == precision_recall(real, fake)
    assert density_coverage(there[0], fake) == density_coverage(real, fake)
    assert kernel_distance(*there) == pytest.approx(kernel_distance(real, fake), rel=RELATIVE)
    assert frechet(*there) == pytest.approx(frechet(real, fake), rel=RELATIVE)
    assert inception_score(there[0]) == pytest.approx(inception_score(real), rel=RELATIVE)
