"""Tiny pipelines with seeded weights that are not zero, for folders of other libraries."""

from __future__ import annotations

from pathlib import Path

import torch

import convflow
from convflow.codecs import LatentCodec, PixelCodec
from convflow.evaluation.card import Card
from convflow.pipeline import Pipeline

SMALL = {
    "dico": {"width": 8, "depths": [1, 1, 1, 1, 1]},
    "fcdm": {"width": 8, "depths": [1, 1, 1, 1, 1]},
    "dit": {"width": 16, "depth": 2, "num_heads": 2},
    "sit": {"width": 16, "depth": 2, "num_heads": 2},
    "flowdcn": {"width": 16, "depth": 2, "num_groups": 2},
}
CLASSES = ("cat", "dog", "hen")


def create_pipe(family: str, autoencoder: str | None = None, **more) -> Pipeline:
    """Return a pipeline of a tiny network whose weights are all drawn."""
    settings = dict(more.pop("settings", {}))
    channels = 3 if autoencoder is None else 4
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        chosen = {"name": family, "in_channels": channels, "num_classes": 3}
        chosen = {**chosen, **SMALL[family], **settings}
        if "process" in more and more["process"].multiscale:
            chosen = more["process"].adapt(chosen)
        model = convflow.create_model(chosen.pop("name"), **chosen)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    codec = PixelCodec() if autoencoder is None else LatentCodec(autoencoder)
    size = more.pop("size", (16, 12) if autoencoder is None else (64, 32))
    return Pipeline(model, codec, size, class_names=CLASSES, device="cpu", **more)


def write_card(path: Path, **scores: float) -> None:
    """Write a result card of 8 images compared with a data set called pets."""
    Card({}, None, {"count": 8}, {}, {"name": "pets"}, {}, {}, {}, scores).write(path)
