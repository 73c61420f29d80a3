"""The speed of a training on this machine, measured with real steps on random images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch.utils._pytree import tree_map

from convflow import distributed
from convflow.conditions.labels import take
from convflow.models.backbone import Backbone
from convflow.models.memory import TRUST, MemoryEstimate
from convflow.training.build import build_losses, build_network, fitting_sizes, open_process
from convflow.training.config import TrainConfig
from convflow.training.ema import EMA
from convflow.training.optim import create_optimizer
from convflow.training.time_scale import choose_time_scale
from convflow.types import Cond

UNCOUNTED_STEPS = 2
"""Steps that are not counted: kernels are loaded and memory is taken in them."""


def measure_rate(
    config: TrainConfig,
    num_classes: int,
    device: torch.device,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Return the images a second of training steps on random images, at least one step.

    Args:
        config: the complete settings.
        num_classes: of the data.
        device: to train on.
        seconds: to measure for, after the warm-up.
        clock: in seconds.
    """
    process = open_process(config)
    config = choose_time_scale(config)
    codec = config.codec.open(device)
    network = build_network(config, num_classes, codec, process)
    losses = build_losses(config, network, process, codec, stored=False).to(device)
    average = EMA(losses.network, config.ema.decay, config.ema.warmup, config.ema.every)
    optimizer = create_optimizer(losses, config.optim)
    half = _is_half(config, device)
    batch, part = config.batch_size, config.micro_batch or config.batch_size
    parts = [min(part, batch - begun) for begun in range(0, batch, part)]
    generator = torch.Generator(device).manual_seed(config.seed)
    shape = (parts[0], config.data.channels, *config.data.size)
    images = torch.randint(256, shape, generator=generator, device=device).to(torch.uint8)
    labels = _blank_labels(network, parts[0], device)
    if process.unmeasured:
        process = process.measured(process.measure([codec.latents(images)]))
    done, begun = 0, clock()
    while done <= UNCOUNTED_STEPS or clock() - begun < seconds:
        if done == UNCOUNTED_STEPS:
            begun = clock()
        for size in parts:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                data = codec.latents(images[:size])
                draws = process.draw(tuple(data.shape), generator)
                loss = process.loss_at(network, data, take(labels, slice(size)), draws).mean()
            (loss * size / batch).backward()
        torch.nn.utils.clip_grad_norm_(losses.parameters(), config.optim.clip or torch.inf)
        optimizer.step()
        optimizer.zero_grad()
        average.update(network, done + 1)
        loss.item()  # the device is waited for
        done += 1
    return batch * (done - UNCOUNTED_STEPS) / max(clock() - begun, 1e-9)


def _blank_labels(network: Backbone, count: int, device: torch.device) -> Cond:
    """Return conditions of which nothing is known."""
    with torch.device(device):
        blank = tree_map(torch.zeros_like, network.blank_conditions(count))
        return network.conditions.null(blank)


def fit_memory(config: TrainConfig, num_classes: int, device: torch.device) -> TrainConfig:
    """Return settings whose steps fit into free memory: in smaller parts where they must.

    Raises:
        InputError: not even one image fits, or a size does not fit the network.
    """
    free, part = distributed.free_memory(device), config.micro_batch or config.batch_size
    codec, process = config.codec.open(device), open_process(config)
    build = partial(build_network, config, num_classes, codec, process)
    sizes = fitting_sizes(config, build, codec, process)
    if free is None:
        return config
    half, largest = _is_half(config, device), max(sizes, key=math.prod)
    estimate = MemoryEstimate(
        build,
        largest,
        part,
        codec.factor,
        half,
        training=True,
        frame_factor=codec.frame_factor,
    )
    while part > 1 and estimate.bound() > free and TRUST * estimate.needs() > free:
        part //= 2
        estimate = estimate._replace(batch=part)
    if part == 1:
        estimate.check(free, "data.size")
    return config if part == config.batch_size else replace(config, micro_batch=part)


def _is_half(config: TrainConfig, device: torch.device) -> bool:
    return distributed.choose_precision(config.precision, device) == "bfloat16"
