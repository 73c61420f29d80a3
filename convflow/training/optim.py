"""AdamW (Loshchilov & Hutter 2019), its learning rate as a function of images seen, its state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convflow.training.config import OptimConfig
from convflow.types import InputError


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over all parameters of `model` that are trained.

    Weights that multiply features decay, where a decay is set. Biases, norms and priors, all of one
    dimension, and the tables of embeddings do not.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in trained_parameters(model).values():
        spared = parameter.ndim < 2 or id(parameter) in tables
        groups.setdefault(0.0 if spared else config.weight_decay, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay} for decay, group in groups.items()],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained by name; in `Losses` the network's own names stay."""
    named = model.named_parameters()
    return {name.removeprefix("network."): p for name, p in named if p.requires_grad}


def learning_rate(config: OptimConfig, images_seen: int, batch: int, images: int) -> float:
    """Return the rate of the step on `batch` images after `images_seen` of a run of `images`.

    The fall counts the images seen before the step, so that the last step still learns; the rise
    those seen after the step, so that the first one does.
    """
    seen = images_seen + batch
    warm = min(1.0, seen / config.warmup_images) if config.warmup_images else 1.0
    left = max(0.0, 1 - images_seen / images) if config.schedule == "linear" else 1.0
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
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {id(parameter): place for place, parameter in enumerate(held)}
    for name, parameter in trained_parameters(model).items():
        shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        expected |= {f"{name}/{entry}": tuple(shape) for entry, shape in shapes.items()}
        state[places[id(parameter)]] = {
            entry: tensors[key] for entry in shapes if (key := f"{name}/{entry}") in tensors
        }
    got = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if got != (expected if step else {}):
        odd = sorted(dict(got.items() ^ expected.items()))
        raise InputError(f"the optimizer's state does not fit the network, first at {odd[0]}")
    if step:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
