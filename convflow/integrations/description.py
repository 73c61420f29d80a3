"""What a file for other programs says of its model, so that others can sample with it."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from convflow import __version__
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.processes.process import Process
from convflow.settings.read import to_dict

KEY = "convflow"
"""The key of the description among the metadata of a file."""


def describe_model(pipe: Pipeline, name: str) -> dict[str, Any]:
    """Return what must be known to sample with the network of a pipeline, ready for JSON.

    Its keys are explained in docs/deployment.md.

    Args:
        pipe: of any process with one scale.
        name: what the model is called.
    """
    model, pixels = pipe.model, isinstance(pipe.codec, PixelCodec)
    return {
        "convflow": __version__,
        "name": name,
        "network": model.settings,
        "process": to_dict(pipe.process),
        "prediction": pipe.process.prediction,
        "time": told_times(pipe.process),
        "channels": model.in_channels,
        "multiple": math.lcm(model.multiple, pipe.process.multiple),
        "size": list(pipe.codec.cells(pipe.size)),
        "codec": to_dict(pipe.codec),
        "value_range": [-1.0, 1.0] if pixels else None,
        "num_classes": model.num_classes,
        "null_label": model.num_classes,
        "class_names": list(pipe.class_names),
        **({"text": to_dict(pipe.text)} if pipe.text.used else {}),
        "sampling": to_dict(pipe.sampling),
    }


def write_description(pipe: Pipeline, name: str) -> dict[str, str]:
    """Return the description as metadata of a file: text by key."""
    return {KEY: json.dumps(describe_model(pipe, name), sort_keys=True)}


def told_times(process: Process) -> dict[str, float]:
    """Return the times that a network is told where all is noise, and where all is data.

    Between the two a time is told in proportion to flow time, but never below 0.
    """
    pair = [[0.0, 0.0], [1.0, 1.0]] if process.second_time else [0.0, 1.0]
    times = torch.tensor(pair, dtype=torch.float64)
    at_zero, at_one = process.flow_time(times).tolist()
    first, last = ((flow - at_zero) / (at_one - at_zero) for flow in (0.0, 1.0))
    return {"noise": round(first, 6), "data": max(0.0, round(last, 6))}
