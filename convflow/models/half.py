"""Networks whose dense and convolutional weights are in bfloat16 already, for autocast."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def cast_weights(model: AnyModule) -> AnyModule:
    """Return the network with bfloat16 weights where autocast would cast them at every call.

    The result under `torch.autocast` is the same, bit for bit. All other tensors, such as those of
    norms and embeddings, and all hooks are shared with `model`, which stays as it is.
    """
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for layer in model.modules():
        for hook in (*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()):
            shared[id(hook)] = hook
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for weight in layer.parameters(recurse=False):
                half = nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
                shared[id(weight)] = half
    return copy.deepcopy(model, shared)
