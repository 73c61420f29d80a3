"""A tiny model in the place of a shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest

from convflow import shipped
from convflow.bench.models import perturb
from convflow.bundle.config import SamplingConfig
from convflow.codecs import PixelCodec
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.samplers.solvers import create_solver
from convflow.texts import TrainedText
from tests.cases import TINY


def put_stand_in(models: Path, patch: pytest.MonkeyPatch, name: str = "cifar10") -> Path:
    """Write a model of random weights as a shipped one into a folder, and have it found there."""
    row = shipped.SHIPPED[name]
    text = None if row.class_names else TrainedText(max_tokens=4, width=8, depth=1, rows=64)
    told = text.network_settings() if text else {"num_classes": len(row.class_names)}
    model = perturb(create_model("flowdcn", **TINY | told).eval())
    sampling = SamplingConfig(create_solver("euler", steps=2))
    pipe = Pipeline(model, PixelCodec(), row.sizes[0], row.class_names, sampling, "cpu", text=text)
    pipe.model.bfloat16()
    pipe.save_pretrained(models / name)
    patch.setattr(shipped, "SHIPPED_FOLDER", models)
    return models / name
