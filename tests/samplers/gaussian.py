"""Images from a normal distribution, whose scales have an exact velocity field.

The packed scales p of such an image are normal too, with mean m and covariance K. With the times
T on the diagonal x = T p + (1 - T) n is normal, and given x the expected part and noise are

    E[p | x] = m + K T M^-1 (x - T m),   E[n | x] = (1 - T) M^-1 (x - T m),
    M = T K T + (1 - T)^2:

plain linear algebra over the packed vector, in float64, that knows nothing of stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convflow.processes.decomposition import pack, unpack
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.stages import spread


class Gaussian:
    """Grey images N(mean, covariance) of `size`, and what a perfect network says of their scales.

    Args:
        process: splits them.
        size: height and width.
        extra: standard deviation of numbers added to every part on its own. Without them the parts
            of an image are more numbers than it has, so that M has no inverse at t = 1.
    """

    def __init__(self, process: MultiscaleFlow, size: tuple[int, int], extra: float = 0.0) -> None:
        self.process, self.sizes, self.calls = process, process.sizes(size), 0
        pixels = size[0] * size[1]
        generator = torch.Generator().manual_seed(5)
        root = torch.randn(pixels, pixels, generator=generator, dtype=torch.float64) / pixels**0.5
        self.root = 0.5 * torch.eye(pixels, dtype=torch.float64) + 0.5 * root  # scales correlate
        self.mean = torch.randn(pixels, generator=generator, dtype=torch.float64)
        basis = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, *size)
        linear = process.split(basis).view(pixels, -1).T
        self.part_mean = linear @ self.mean
        self.part_covariance = linear @ self.root @ self.root.T @ linear.T
        self.part_covariance += extra**2 * torch.eye(len(linear), dtype=torch.float64)
        self.size = size

    def draw(self, count: int) -> Tensor:
        """Pictures."""
        white = torch.randn(count, len(self.mean), dtype=torch.float64)
        return (self.mean + white @ self.root.T).view(count, 1, *self.size)

    def __call__(
        self, scales: Sequence[Tensor], t: Tensor, y: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The velocities of the scales shown; those not active hold nothing and tell nothing."""
        self.calls += 1
        x = pack(scales)[:, 0, 0]
        n = x.shape[1]
        if len(t) and t.equal(t[:1].expand_as(t)):  # one matrix for all
            t = t[:1]
        time = spread(t.double(), self.sizes)[:, 0, 0]
        gain = time[:, :, None] * self.part_covariance[:n, :n]  # T K
        matrix = gain * time[:, None, :] + torch.diag_embed((1 - time).square())
        centred = x - time * self.part_mean[:n]
        if len(matrix) == 1:
            solved = torch.linalg.solve(matrix[0], centred.T).T
            part = self.part_mean[:n] + solved @ gain[0]
        else:
            solved = torch.linalg.solve(matrix, centred)
            part = self.part_mean[:n] + (gain.mT @ solved[..., None])[..., 0]
        velocity = part - (1 - time) * solved
        return unpack(velocity[:, None, None], self.sizes)

    def count(self, scales: int) -> int:
        """How many numbers the first scales hold."""
        return sum(height * width for height, width in self.sizes[:scales])


def moments_of(run, count: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what an affine map makes of white noise of `count` numbers, exactly.

    `run` takes packed noise (B, 1, 1, count). It is shown zero and every unit vector.
    """
    basis = torch.cat([torch.zeros(1, count), torch.eye(count)]).double()
    out = run(basis[:, None, None]).flatten(1)
    linear = (out[1:] - out[0]).T
    return out[0], linear @ linear.T
