"""Mean and covariance of feature vectors, gathered batch by batch.

Chan, Golub and LeVeque 1983, eq. 2.1: two groups are merged through their means, so nothing is
ever the small difference of two large sums.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from convflow.types import InputError


class Statistics:
    """Count, mean and covariance of feature vectors, gathered batch by batch in float64.

        mean = sum_i x_i / count        scatter = sum_i (x_i - mean) (x_i - mean)^T

    The numbers lie where the first features were, or on the CPU where that device has no float64.
    Every order of the same batches gives the same result up to rounding.

    Args:
        num_features: F, the length of a feature vector, at least 1.

    Attributes:
        count: how many vectors there were.
        mean: (F,) float64, zero before the first.
        scatter: (F, F) float64, the sum of the outer products of deviations.

    Raises:
        InputError: `num_features` below 1.

    Examples:
        >>> statistics = Statistics(2)
        >>> statistics.update(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        >>> statistics.mean.tolist(), statistics.covariance.tolist()
        ([1.0, 3.0], [[2.0, 4.0], [4.0, 8.0]])
    """

    count: int
    mean: Float[Tensor, " F"]
    scatter: Float[Tensor, "F F"]

    def __init__(self, num_features: int) -> None:
        if num_features < 1:
            raise InputError(f"expected at least 1 feature, got {num_features}; count the columns")
        self.count = 0
        self.mean = torch.zeros(num_features, dtype=torch.float64)
        self.scatter = torch.zeros(num_features, num_features, dtype=torch.float64)

    def update(self, features: Float[Tensor, "B F"]) -> None:
        """Add the vectors of a batch; an empty batch adds nothing.

        Raises:
            InputError: vectors of another length, NaN or infinity; the statistics stay as they
                were.
        """
        check_rows(features, "features", at_least=0)
        if features.shape[1] != len(self.mean):
            raise InputError(
                f"expected {len(self.mean)} features a row, got {features.shape[1]}; use the "
                "detector that these statistics began with"
            )
        if len(features) == 0:
            return
        if self.count == 0:
            device = float64_device(features.device)
            self.mean, self.scatter = self.mean.to(device), self.scatter.to(device)
        rows = as_float64(features.to(self.mean.device))
        mean = rows.mean(0)
        deviations = rows - mean
        self.scatter.addmm_(deviations.T, deviations)
        total = self.count + len(rows)
        shift = mean - self.mean
        self.scatter.addr_(shift, shift, alpha=self.count * (len(rows) / total))
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "F F"]:
        """scatter / (count - 1), the unbiased estimate, float64.

        Raises:
            InputError: fewer than two vectors so far.
        """
        if self.count < 2:
            raise InputError(
                f"expected at least 2 feature vectors for a covariance, got {self.count}; add "
                "images"
            )
        return self.scatter / (self.count - 1)


def float64_device(device: torch.device) -> torch.device:
    """Return `device` if it can compute in float64, else the CPU."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):  # what Apple's GPUs and some of Intel's say
        return torch.device("cpu")
    return device


def as_float64(tensor: Tensor) -> Tensor:
    """Return the numbers in float64 where they lie, or on the CPU; without gradient."""
    return tensor.detach().to(float64_device(tensor.device)).to(torch.float64)


def check_rows(rows: Tensor, name: str, at_least: int = 1) -> None:
    """Refuse what is not one finite vector a row.

    Raises:
        InputError: another shape, too few rows, NaN or infinity; that names the first bad row.
    """
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InputError(
            f"expected {name} of shape (N, F), got {tuple(rows.shape)}; give one row for each image"
        )
    if len(rows) < at_least:
        raise InputError(f"expected at least {at_least} {name}, got {len(rows)}; add images")
    bad = ~torch.isfinite(rows).all(1)
    if bad.any():
        raise InputError(
            f"expected finite {name}, got NaN or infinity in row {int(bad.nonzero()[0])}; look at "
            "that image and at the detector's weights"
        )


def check_moments(
    mean: Float[Tensor, " F"], matrix: Float[Tensor, "F F"], name: str = "covariance"
) -> tuple[Float[Tensor, " F"], Float[Tensor, "F F"]]:
    """Return a mean and its covariance or scatter in float64, on one device that has it.

    Raises:
        InputError: shapes that do not fit, NaN or infinity, or a matrix that no set of vectors
            can have because it is not symmetric.
    """
    if mean.ndim != 1 or len(mean) == 0 or matrix.shape != (len(mean), len(mean)):
        raise InputError(
            f"expected a mean (F,) and a {name} (F, F), got {tuple(mean.shape)} and "
            f"{tuple(matrix.shape)}; use files of the same detector"
        )
    device = float64_device(mean.device)
    mean, matrix = (as_float64(x.to(device)) for x in (mean, matrix))
    if not (torch.isfinite(mean).all() and torch.isfinite(matrix).all()):
        raise InputError(
            f"expected a finite mean and {name}, got NaN or infinity; gather the statistics again"
        )
    largest = matrix.abs().max()
    if (matrix - matrix.T).abs().max() > 1e-3 * largest:  # float32 files are off by 1e-6
        raise InputError(f"expected a symmetric {name}, got another; gather the statistics again")
    return mean, matrix
