"""Distances between two sets of features, and scores of one, as pure functions in float64.

Frechet distance (Heusel et al. 2017), Inception Score (Salimans et al. 2016), precision and
recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), kernel distance
(Binkowski et al. 2018). They run where the first argument lies, or on the CPU where that device has
no float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from convflow.evaluation.statistics import as_float64, check_moments, check_rows, float64_device
from convflow.types import InputError

BLOCK_BYTES = 2**28
"""How much of a table of distances is in memory at once."""

_EPS = torch.finfo(torch.float64).eps


def frechet_distance(
    mean_a: Float[Tensor, " F"],
    covariance_a: Float[Tensor, "F F"],
    mean_b: Float[Tensor, " F"],
    covariance_b: Float[Tensor, "F F"],
) -> float:
    """Return the squared 2-Wasserstein distance of two normal distributions, the FID's formula.

        |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2

    The last trace is the sum of the singular values of A^1/2 B^1/2. Taken so, rounding adds
    F eps at most; the root of an eigenvalue that is zero but for rounding would be 1e-8. Hence
    too the square roots leave out eigenvalues below F eps times the largest.

    Args:
        mean_a: of the one set.
        covariance_a: symmetric, positive semi-definite; of any rank, zero too.
        mean_b: of the other, on any device.
        covariance_b: likewise.

    Returns:
        At least 0, and 0 up to 1e-9 of the traces for equal arguments.

    Raises:
        InputError: shapes that do not fit, NaN or infinity, or no covariance.

    Source:
        Dowson and Landau 1982, eq. 4; Heusel et al. 2017, eq. 6.
    """
    mean_a, covariance_a = check_moments(mean_a, covariance_a)
    mean_b, covariance_b = check_moments(mean_b.to(mean_a.device), covariance_b.to(mean_a.device))
    if mean_a.shape != mean_b.shape:
        raise InputError(
            f"expected two means of one length, got {len(mean_a)} and {len(mean_b)}; use the same "
            "detector for both"
        )
    shared = torch.linalg.svdvals(_root(covariance_a).T @ _root(covariance_b)).sum()
    apart = (mean_a - mean_b).square().sum()
    return max(float(apart + covariance_a.trace() + covariance_b.trace() - 2 * shared), 0.0)


def inception_score(logits: Float[Tensor, "N C"], split_size: int = 5000) -> float:
    """Return the mean over splits of exp(mean_i KL(p(y | x_i) || p(y))), p(y) the split's own.

    Splits are consecutive, `range(0, N, split_size)`. A last, shorter one counts like the others,
    as in the evaluation of Dhariwal and Nichol; it is biased down, so choose N as a multiple.

    Args:
        logits: of C classes, before the softmax, in the order of the samples.
        split_size: rows of a split, at least 1.

    Returns:
        In [1, C], higher for samples that are recognised and varied.

    Raises:
        InputError: no rows, NaN or infinity, or a split below 1.

    Source:
        Salimans et al. 2016, section 4; splits of 5,000: Dhariwal and Nichol 2021.
    """
    check_rows(logits, "logits")
    _check_at_least("split_size", split_size, 1)
    device = float64_device(logits.device)
    step = rows_in_block(logits.shape[1], BLOCK_BYTES)
    scores = []
    for split in logits.detach().split(split_size):
        # KL = H(mean of p) - mean of H(p), so that one pass over the rows is enough.
        entropy = torch.zeros((), dtype=torch.float64, device=device)
        marginal = torch.zeros(logits.shape[1], dtype=torch.float64, device=device)
        for rows in split.split(step):
            p = as_float64(rows).softmax(1)
            entropy += torch.special.entr(p).sum()
            marginal += p.sum(0)
        divergence = torch.special.entr(marginal / len(split)).sum() - entropy / len(split)
        scores.append(float(divergence.exp()))
    return float(np.mean(scores))


def precision_recall(
    real: Float[Tensor, "N F"],
    fake: Float[Tensor, "M F"],
    k: int = 3,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[float, float]:
    """Return the share of fake vectors near a real one, and of real vectors near a fake one.

    Near a vector is the closed ball up to the k-th nearest other vector of its own set; a copy of
    it in the set counts as another vector. Besides a float64 copy of both sets, this takes about
    two blocks of memory; time grows as (N^2 + N M + M^2) F.

    Args:
        real: features of real images, more than k.
        fake: features of generated ones, more than k.
        k: which neighbour, at least 1.
        block_bytes: of distances in memory at once; any number gives the same result.

    Returns:
        Precision and recall, in [0, 1].

    Raises:
        InputError: too few rows, other widths, NaN or infinity, or k below 1.

    Source:
        Kynkaanniemi et al. 2019, eq. 1 and 2.
    """
    real, fake = _prepare(real, fake, k, k + 1)
    real_radii, fake_radii = (_radii(rows, k, block_bytes) for rows in (real, fake))
    precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled = 0
    for rows, distances in _squared_distances(real, fake, block_bytes, _slack(real)):
        precise |= (distances <= real_radii[rows, None]).any(0)
        recalled += int((distances <= fake_radii).any(1).sum())
    return int(precise.sum()) / len(fake), recalled / len(real)


def density_coverage(
    real: Float[Tensor, "N F"],
    fake: Float[Tensor, "M F"],
    k: int = 5,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[float, float]:
    """Return how many real balls hold a fake vector, over k, and the share of balls that hold one.

        density = sum_ij [fake_j in ball_i] / (k M)     coverage = sum_i max_j [...] / N

    The balls are those of `precision_recall` around the real vectors.

    Args:
        real: features of real images, more than k.
        fake: features of generated ones, at least 1.
        k: which neighbour, at least 1.
        block_bytes: as in `precision_recall`.

    Returns:
        Density, at least 0, about 1 for fakes distributed like the reals and above where they
        gather in the thick of them ((k + 1) / k for a set against itself); coverage, in [0, 1].

    Raises:
        InputError: too few rows, other widths, NaN or infinity, or k below 1.

    Source:
        Naeem et al. 2020, eq. 4 and 5.
    """
    real, fake = _prepare(real, fake, k, 1)
    radii = _radii(real, k, block_bytes)
    inside = covered = 0
    for rows, distances in _squared_distances(real, fake, block_bytes, _slack(real)):
        near = distances <= radii[rows, None]
        inside += int(near.sum())
        covered += int(near.any(1).sum())
    return inside / (k * len(fake)), covered / len(real)


def kernel_distance(
    real: Float[Tensor, "N F"],
    fake: Float[Tensor, "M F"],
    *,
    seed: int = 0,
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy with a cubic kernel (KID), and how it varies.

        k(x, y) = (x . y / F + 1)^3
        mmd^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j)

    taken over random subsets. Being unbiased, it may fall below zero.

    Args:
        real: features of real images, at least 2.
        fake: features of generated ones, at least 2.
        seed: at least 0. A subset takes the `subset_size` smallest of as many raw words of
            NumPy's PCG64(seed) as the set has rows, first of `real`, then of `fake`: without
            replacement, and the same with every version of NumPy.
        num_subsets: at least 1.
        subset_size: at least 2; reduced to the size of the smaller set, which is then always
            taken whole.

    Returns:
        Mean and standard deviation over the subsets, the latter divided by their number; it says
        nothing of the sets as a whole where a subset is nearly the set.

    Raises:
        InputError: too few rows, other widths, NaN or infinity, or a setting out of range.

    Source:
        Binkowski et al. 2018, eq. 4 and section 4.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("num_subsets", num_subsets, 1),
        ("subset_size", subset_size, 2),
    ):
        _check_at_least(name, value, least)
    _check_pair(real, fake, 2, 2)
    size = min(subset_size, len(real), len(fake))
    words = np.random.PCG64(seed)

    def draw(rows: Tensor) -> Tensor:
        chosen = torch.from_numpy(np.argsort(words.random_raw(len(rows)), kind="stable")[:size])
        return as_float64(rows[chosen.to(rows.device)].to(real.device))

    values = []
    for _ in range(num_subsets):
        x, y = draw(real), draw(fake)
        within = sum(_kernel(z, z).fill_diagonal_(0).sum() for z in (x, y)) / (size * (size - 1))
        values.append(float(within - 2 * _kernel(x, y).mean()))
    return float(np.mean(values)), float(np.std(values))


def rows_in_block(num_columns: int, block_bytes: int) -> int:
    """Return how many rows of a float64 table fit into a block; at least 1."""
    return max(1, block_bytes // (8 * num_columns))


def _root(covariance: Float[Tensor, "F F"]) -> Float[Tensor, "F R"]:
    """Return a matrix whose product with its transpose is the covariance, R its rank."""
    values, vectors = torch.linalg.eigh(covariance)
    if values[0] < -1e-3 * values[-1].abs():  # a float32 file's rounding gives -1e-6
        raise InputError(
            f"expected a covariance without negative eigenvalues, got {float(values[0]):.3g}; "
            "gather the statistics again"
        )
    kept = values > len(values) * _EPS * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def _kernel(x: Float[Tensor, "N F"], y: Float[Tensor, "M F"]) -> Float[Tensor, "N M"]:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def _slack(rows: Float[Tensor, "N F"]) -> float:
    """Return a bound of the rounding of |a|^2 + |b|^2 - 2 a.b, relative to |a|^2 + |b|^2.

    It covers that of a radius too. Copies, and vectors that lie on the ball because they define
    it, are then inside whichever way the products round. Below 1e-11, it is less than features
    that were computed in float32 are worth.
    """
    return 4 * (rows.shape[1] + 4) * _EPS


def _squared_distances(
    a: Float[Tensor, "N F"], b: Float[Tensor, "M F"], block_bytes: int, slack: float = 0.0
) -> Iterator[tuple[slice, Float[Tensor, "R M"]]]:
    """Give the squared distances of some rows of `a` to all of `b`, block by block.

    They are (1 - slack) (|a|^2 + |b|^2) - 2 a.b: with `slack`, surely no larger than the truth.
    """
    norms_a, norms_b = (
        torch.linalg.vector_norm(rows, dim=1).square() * (1 - slack) for rows in (a, b)
    )
    step = rows_in_block(len(b), block_bytes)
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        block = (a[rows] @ b.T).mul_(-2).add_(norms_a[rows, None]).add_(norms_b)
        yield rows, block


def _radii(rows: Float[Tensor, "N F"], k: int, block_bytes: int) -> Float[Tensor, " N"]:
    """Return each row's squared distance to its k-th nearest other row."""
    radii = torch.empty(len(rows), dtype=rows.dtype, device=rows.device)
    for part, distances in _squared_distances(rows, rows, block_bytes):
        distances[:, part].fill_diagonal_(torch.inf)  # by index: a copy is a neighbour
        radii[part] = distances.topk(k, largest=False).values[:, -1]
    return radii


def _prepare(real: Tensor, fake: Tensor, k: int, least_fake: int) -> tuple[Tensor, Tensor]:
    """Return float64 copies of both sets on one device, seen from the mean of the real one.

    Distances do not change by that, and their rounding, which goes with the norms, shrinks.
    """
    _check_at_least("k", k, 1)
    _check_pair(real, fake, k + 1, least_fake)
    device = float64_device(real.device)
    real, fake = (rows.detach().to(device).to(torch.float64, copy=True) for rows in (real, fake))
    centre = real.mean(0)
    return real.sub_(centre), fake.sub_(centre)


def _check_pair(real: Tensor, fake: Tensor, least_real: int, least_fake: int) -> None:
    check_rows(real, "real features", least_real)
    check_rows(fake, "fake features", least_fake)
    if real.shape[1] != fake.shape[1]:
        raise InputError(
            f"expected real and fake features of one width, got {real.shape[1]} and "
            f"{fake.shape[1]}; use the same detector for both"
        )


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"expected {name} of at least {least}, got {value}; give a larger one")
