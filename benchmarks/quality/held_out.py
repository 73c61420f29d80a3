"""The error of a trained velocity on pictures that it has not seen, by flow time.

    python -m benchmarks.quality.held_out RUN [--data FILE] [--num 1000] [--import MODULE]

A cheap way to compare trainings of flows, whatever they predict and whatever times they drew: all
see the same pictures, noise and times, spread evenly over [0, 1]. The velocity's mean squared error
is reported for each quarter of times, noise first, and over all. Differences between two networks
are less noisy than the errors. Lower is better; at some point pictures do not follow.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from convflow.data.images import to_uint8
from convflow.data.sources import open_source
from convflow.pipeline import Pipeline
from convflow.processes.flow import FlowMatching
from convflow.settings.kinds import import_module
from convflow.storage import write_text

QUARTERS = ("0 to 0.25", "0.25 to 0.5", "0.5 to 0.75", "0.75 to 1")
BATCH = 100


@torch.inference_mode()
def velocity_errors(pipe: Pipeline, data: str, num: int) -> Float[Tensor, " N"]:
    """Return the velocity's mean squared error on each of the first `num` pictures of a file.

    Picture i is seen at flow time (i + 1/2) / num, with its label and noise of its own.
    """
    process = pipe.process
    if type(process) is not FlowMatching:
        raise SystemExit(f"expected a model of flow matching, got one of {process.kind}")
    source = open_source(data, split="test")
    predict = process.as_prediction(pipe.model)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for start in range(0, num, BATCH):
        places = range(start, min(start + BATCH, num))
        pictures = [to_uint8(source.read(i), pipe.model.in_channels) for i in places]
        pixels = torch.from_numpy(np.stack(pictures)).movedim(-1, 1)
        clean = pipe.codec.encode(pixels)
        labels = torch.tensor([source.label(i) for i in places])
        noise = torch.randn(clean.shape, generator=generator)
        t = (torch.tensor(places) + 0.5) / num
        velocity = predict(process.mix(clean, noise, t), t, labels)
        wanted = FlowMatching(schedule=process.schedule).target(clean, noise, t)
        errors.append((velocity - wanted).square().flatten(1).mean(1))
    return torch.cat(errors)


def describe(pipe: Pipeline, data: str, num: int) -> dict[str, str]:
    """Return millions of parameters, and the error over all times and in each quarter of them."""
    errors = velocity_errors(pipe, data, num)
    parts = dict(zip(QUARTERS, errors.tensor_split(len(QUARTERS)), strict=True))
    millions = sum(p.numel() for p in pipe.model.parameters()) / 1e6
    means = {name: f"{part.mean():.4f}" for name, part in {"error": errors, **parts}.items()}
    return {"parameters": f"{millions:.2f}", **means}


def main() -> None:
    """Print the errors, and write them if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="../shared/data/cifar10/test.parquet")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--weights", default="ema")
    parser.add_argument("--import", dest="module", help="module of a network of a user")
    parser.add_argument("--out", type=Path, help="file to write, JSON")
    options = parser.parse_args()
    if options.module:
        import_module(options.module, "--import")
    pipe = Pipeline.from_pretrained(options.run, weights=options.weights, device="cpu")
    found = describe(pipe, options.data, options.num)
    print(*(f"{name} {value}" for name, value in found.items()), sep=", ")
    if options.out:
        write_text(options.out, json.dumps(found))


if __name__ == "__main__":
    main()
