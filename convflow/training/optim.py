"""AdamW (Loshchilov & Hutter 2019), its learning rate as a function of images seen, its state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convflow.training.config import OptimConfig
from convflow.types import InputError


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over all parameters of `model`."""
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: OptimConfig, images_seen: int, images: int) -> float:
    """Return the rate of the step that ends at `images_seen` of a run of `images`."""
    warm = min(1.0, images_seen / config.warmup_images) if config.warmup_images else 1.0
    left = max(0.0, 1 - images_seen / images) if config.schedule == "linear" else 1.0
    return config.lr * warm * left


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as `parameter/entry` -> tensor, for safetensors."""
    return {
        f"{name}/{entry}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put the state of `optimizer_tensors` back; raise InputError when it is not this model's."""
    state: dict[int, dict[str, Tensor]] = {}
    index = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in index:
            raise InputError(f"the optimizer's state holds {name!r}, which the model does not have")
        state.setdefault(index[name], {})[entry] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
