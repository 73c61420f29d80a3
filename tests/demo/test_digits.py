"""The demo's page: four titled panels, samples of three sizes and the real digits."""

from __future__ import annotations

import numpy as np

from convflow.bundle.config import SamplingConfig
from convflow.codecs import PixelCodec
from convflow.demo.digits import draw_page
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.samplers.solvers import create_solver

ONE_STEP = SamplingConfig(create_solver(steps=1))


def test_page_shows_real_digits_and_three_sizes() -> None:
    settings = {"width": 16, "depth": 1, "num_groups": 2, "in_channels": 1, "num_classes": 10}
    model = create_model("flowdcn", **settings)
    names = [str(digit) for digit in range(10)]
    pipe = Pipeline(
        model, PixelCodec(), (8, 8), names, SamplingConfig(create_solver(steps=1)), "cpu"
    )
    asked: list[tuple[int, ...]] = []
    model.register_forward_hook(lambda _, inputs, output: asked.append(tuple(output.shape[2:])))
    page = np.asarray(draw_page(pipe))
    assert {(8, 8), (10, 10), (12, 8)} == set(asked)
    assert page.ndim == 2
    assert (page == 255).mean() > 0.2
    assert (page < 50).mean() > 0.1
