"""The optimizer of a run, its learning rate as a function of images seen, its state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from convflow.training.optimizers import Optimizer, trained_parameters
from convflow.types import InputError


def create_optimizer(model: nn.Module, config: Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters of `model` that are trained.

    Raises:
        InputError: an optimizer of a user that cannot be built, or that misses a parameter.
    """
    place, own = f"--optim.kind {config.kind}", ":" not in config.kind
    try:
        optimizer = config.create(model)
    except (TypeError, ValueError, NotImplementedError) as error:
        if own:
            raise
        raise InputError(f"{place}: cannot be built ({error}); change it") from error
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trained_parameters(model).items():
        if id(parameter) not in held:
            raise InputError(
                f"{place}: expected it to take all that is trained, got none for {name}; build it "
                "of self.groups(model)"
            )
    return optimizer


def learning_rate(config: Optimizer, images_seen: int, batch: int, images: int) -> float:
    """Return the rate of the step on `batch` images after `images_seen` of a run of `images`.

    The fall counts the images seen before the step, so that the last step still learns; the rise
    those seen after the step, so that the first one does.
    """
    seen = images_seen + batch
    warm = min(1.0, seen / config.warmup_images) if config.warmup_images else 1.0
    left = 1.0
    if config.schedule in ("linear", "cosine"):
        left = max(0.0, 1 - images_seen / images)
    elif config.schedule == "wsd":
        left = min(1.0, max(0.0, (images - images_seen) / config.decay_images))
    if config.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return config.lr * warm * left


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as `parameter/entry` -> tensor, for safetensors."""
    return {
        f"{name}/{entry}": torch.as_tensor(value)
        for name, parameter in trained_parameters(model).items()
        for entry, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], step: int
) -> None:
    """Put the state of `optimizer_tensors` after `step` steps back.

    Raises:
        InputError: a state that is incomplete, or not this model's.
    """
    state: dict[int, dict[str, Tensor]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(held)}
    given: dict[str, list[str]] = {}
    for key in tensors:
        given.setdefault(key.rpartition("/")[0], []).append(key.rpartition("/")[2])
    for name, parameter in trained_parameters(model).items():
        place, shape = places[id(parameter)], tuple(parameter.shape)
        entries = groups[place].get("keeps")
        if entries is None:  # of a user's optimizer, which alone knows
            entries = given.get(name, [])
            expected |= {f"{name}/{e}": tuple(tensors[f"{name}/{e}"].shape) for e in entries}
        else:
            expected |= {f"{name}/{e}": () if e == "step" else shape for e in entries}
        state[place] = {e: tensors[key] for e in entries if (key := f"{name}/{e}") in tensors}
    got = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if got != (expected if step else {}):
        odd = sorted(dict(got.items() ^ expected.items()))
        raise InputError(f"the optimizer's state does not fit the network, first at {odd[0]}")
    if step:
        settings = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": settings})
