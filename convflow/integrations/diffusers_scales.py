"""From labels to images from coarse to fine, as a pipeline of diffusers without convflow.

`single_file` writes this class into a folder for diffusers whose model was trained by decomposable
flow matching (Haji-Ali et al. 2025, arXiv 2506.19839).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

from convflow.integrations.diffusers_pipeline import FlowPipeline
from convflow.processes.decomposition import Decomposition, fill, pack, unpack
from convflow.processes.stages import StageField, run_stages


class ScalesPipeline(FlowPipeline):
    """Generates images of classes, one scale after the other, with a network of all scales.

    Its settings are those of a `FlowPipeline` and decomposition, factors, deviations (of each
    scale, none = 1), stage_steps and thresholds. The scheduler runs once in each stage.
    """

    @property
    def multiple(self) -> int:
        """What divides the height and width of every image, in pixels."""
        return self._factor * math.lcm(self.transformer.multiple, self._scales.multiple)

    @property
    def _scales(self) -> Decomposition:
        return Decomposition(self.config.settings["decomposition"], self.config.settings["factors"])

    def _run(
        self,
        noise: Tensor,
        labels: Tensor,
        scale: float,
        steps: int | None,
        draw: Callable[[int], Tensor],
    ) -> Tensor:
        """Return images in model space: each stage moves one scale more."""
        told, scales = self.config.settings, self._scales
        sizes = scales.sizes((noise.shape[2], noise.shape[3]))
        counts = told["stage_steps"] if steps is None else ()
        stages = run_stages(
            scales.num_scales, steps or told["steps"], counts, tuple(told["thresholds"])
        )
        state: Tensor | None = None
        for stage in stages:
            shown = sizes[: len(stage.start)]

            def predict(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
                return pack(self.transformer(unpack(x, sizes), t, y))

            field = StageField.over(stage, predict, shown, noise)
            state = fill(state, noise, draw, shown)
            self._begin(stage.steps)
            state = self._solve(field.guided(partial(self._guide, scale=scale)), state, labels)
        assert state is not None, "there is a stage"
        parts = unpack(state, sizes)
        deviations = told["deviations"] or (1.0,) * len(parts)
        return scales.join([part * by for part, by in zip(parts, deviations, strict=True)])
