"""Drawing a part of an image anew: at each step the known part is put back, as noisy as the rest.

Imputation by replacement: Song et al. 2021 (arXiv 2011.13456), appendix I.2. RePaint (Lugmayr et
al. 2022, arXiv 2201.09865) repeats steps besides, which this does not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from convflow.processes.contract import Field, Process, over
from convflow.processes.schedule import Schedule
from convflow.samplers.solver import Solver
from convflow.storage import hash_tensors
from convflow.types import InputError


@dataclass(frozen=True, eq=False)
class Known:
    """The known part of an image, the same for all samples.

    Attributes:
        pixels: the image; what is drawn anew may hold anything.
        kept: True where pixels are known.
        data: the image in model space, of known pixels alone.
        cells: True where numbers of model space are known, all pixels of a cell with them.
    """

    pixels: UInt8[Tensor, "1 K H W"]
    kept: Bool[Tensor, "1 1 H W"]
    data: Float[Tensor, "1 C h w"]
    cells: Bool[Tensor, "1 1 h w"]

    def paste(self, pixels: UInt8[Tensor, "B K H W"]) -> UInt8[Tensor, "B K H W"]:
        """Return images with the known pixels in their places."""
        return torch.where(self.kept.to(pixels.device), self.pixels.to(pixels.device), pixels)

    def describe(self) -> dict[str, str]:
        """Return the hash of what is known, ready for JSON."""
        kept = torch.where(self.kept, self.pixels, 0)
        return {"sha256": hash_tensors({"pixels": kept, "kept": self.kept})}


def put_back(field: Field, path: Schedule, known: Known, noise: Float[Tensor, "B C h w"]) -> Field:
    """Return a field that sees the known part in place of what the solver has there.

    At flow time t that is alpha(t) data + sigma(t) noise, with the noise that a sample started
    from. So every solver can be used, and one without noise of its own stays a fixed map. What the
    solver itself makes of the known part counts for nothing.

    Nothing tells the network that the known part will not change. It fits the rest to what it sees
    of the known part, which is little at first. With few steps a seam shows, or the rest goes its
    own way.

    Args:
        field: what moves the states, with guidance.
        path: of the process.
        known: the known part.
        noise: that the samples start from.
    """
    data, cells = known.data.to(noise), known.cells.to(noise.device)

    def predict(x: Any, t: Any, y: Any) -> Any:
        time = over(field.clock(t), x)
        given = path.alpha(time) * data + path.sigma(time) * noise
        return field.predict(torch.where(cells, given.to(x.dtype), x), t, y)

    return dataclasses.replace(field, predict=predict)


def check_known(process: Process, solver: Solver) -> None:
    """Raise InputError where a part of an image cannot be drawn anew.

    Args:
        process: that the model was trained with.
        solver: that samples it.
    """
    if process.multiscale:
        raise InputError(
            f"expected a model of the process flow or ddpm to draw a part of an image anew, got "
            f"{process.kind}, which makes images from coarse to fine; choose another model"
        )
    if not solver.guides:
        raise InputError(
            f"expected a solver of many steps to draw a part of an image anew, got {solver.kind}, "
            "whose few steps see nothing of the rest; choose one such as heun"
        )
