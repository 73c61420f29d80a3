"""Velocity direction: the predicted velocity is to point where the true one points.

Yao et al. 2024 (FasterDiT, arXiv 2410.10356), section 3.4: a cosine beside the squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from convflow.models.backbone import Backbone
from convflow.objectives.objective import Inputs, Objective, Wants
from convflow.objectives.taps import require_flow
from convflow.processes.flow import FlowMatching
from convflow.processes.prediction import convert
from convflow.processes.process import Process
from convflow.settings.fields import doc
from convflow.types import InputError


class Direction(Objective):
    """1 - cos(v, predicted v), between the channels of each cell or between whole images.

    A network that predicts something else is taken at its word, see `convert`.

    Raises:
        InputError: another process than flow matching, or one channel whose cosine is a sign.
    """

    wants = Wants(first=True)

    def __init__(
        self,
        network: Backbone,
        process: Process,
        over: Annotated[
            Literal["channels", "image"], doc("numbers of one vector: channels of a cell, or image")
        ] = "channels",
    ) -> None:
        super().__init__()
        self.process, self.over = require_flow(process, "direction"), over
        if over == "channels" and network.in_channels == 1:
            raise InputError(
                "expected --objectives.NAME.over image for data of one channel, got channels, of "
                "which a cosine would tell the sign alone; add it"
            )

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return `direction` of each image, from 0 (best) to 2."""
        assert batch.first is not None
        noise, t = batch.first.draws
        process, kind = self.process, self.process.prediction
        x = process.mix(batch.data, noise, t)
        found = convert(batch.first.output.float(), x, t, process.path, kind, "velocity")
        velocity = FlowMatching(schedule=process.schedule).target(batch.data, noise, t)
        if self.over == "image":
            found, velocity = found.flatten(1), velocity.flatten(1)
        cosine: Tensor = F.cosine_similarity(found, velocity, dim=1)
        return {"direction": 1 - torch.flatten(cosine.unsqueeze(1), 1).mean(1)}
