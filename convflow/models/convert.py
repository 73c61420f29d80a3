"""From published checkpoints to our networks: key maps, and sizes read off the tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.models.zoo import PUBLISHED, create_model, load_strictly
from convflow.storage import read_weights
from convflow.types import InputError, unknown_name

FLOWDCN_KEYS = {
    r"x_embedder\.proj\.": "embed_patches.",
    r"t_embedder\.mlp\.0\.": "embed_time.hidden.",
    r"t_embedder\.mlp\.2\.": "embed_time.out.",
    r"y_embedder\.embedding_table\.": "embed_label.",
    r"final_layer\.adaLN_modulation\.": "project.modulation.",
    r"final_layer\.linear\.": "project.out.",
    r"\.adaLN_modulation\.": ".modulation.",
    r"\.attn\.v\.": ".mix.value.",
    r"\.attn\.qk_deformables\.": ".mix.direction.",
    r"\.attn\.qk_scales\.": ".mix.scale.",
    r"\.attn\.qk_weights\.": ".mix.weight.",
    r"\.attn\.out\.": ".mix.out.",
    r"\.attn\.deformables_scale$": ".mix.prior_scale",
    r"\.mlp\.w1\.": ".mlp.gate.",
    r"\.mlp\.w2\.": ".mlp.out.",
    r"\.mlp\.w3\.": ".mlp.up.",
}
FLOWDCN_FIXED = "attn.deformables_prior"


def load_official(
    weights: str | Path | Mapping[str, Any], family: str = "flowdcn", *, keep_half: bool = False
) -> Backbone:
    """Return our network with published weights; sizes are inferred from the tensors.

    Args:
        weights: a state dict, the dict of a checkpoint that holds one, or a `.safetensors`, `.pt`,
            `.pth` or `.ckpt` file. Pickles are read with `weights_only=True`: a file that wants to
            run code is refused. Averaged weights are taken where they lie beside the raw ones.
        family: "flowdcn".
        keep_half: keep the half of FlowDCN's head that its forward pass throws away. The
            predictions are the same with and without.

    Raises:
        InputError: no such file or family, an unsafe pickle, or tensors that do not fit.
    """
    importers = {"flowdcn": _flowdcn}
    if family not in importers:
        raise InputError(unknown_name("family of published weights", family, importers))
    origin = "the state dict" if isinstance(weights, Mapping) else str(weights)
    content = weights if isinstance(weights, Mapping) else read_weights(Path(weights))
    state = _unwrap(content, origin)
    try:
        settings, tensors = importers[family](state, keep_half)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{origin} holds no published {family} weights ({error}); name another family"
        ) from error
    model = create_model(family, **settings)
    load_strictly(model, tensors, origin)
    return model.eval()


def _unwrap(content: Any, origin: str) -> dict[str, Tensor]:
    """Return the state dict within a checkpoint, the averaged one where there are two."""
    for key in ("ema", "model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{origin}: expected a state dict, got {type(content).__name__}")
    if strangers := [key for key, value in content.items() if not isinstance(value, Tensor)]:
        raise InputError(
            f"{origin}: expected a state dict of tensors, but {strangers[0]!r} is none"
        )
    return dict(content)


def _flowdcn(state: dict[str, Tensor], keep_half: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors = {}
    for name, tensor in state.items():
        if name.endswith(FLOWDCN_FIXED):
            continue
        for pattern, replacement in FLOWDCN_KEYS.items():
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor.flatten() if name.endswith("prior_scale") else tensor
    width, in_channels, patch_size, _ = tensors["embed_patches.weight"].shape
    settings = {
        "width": width,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "num_classes": tensors["embed_label.weight"].shape[0] - 1,
        "depth": 1 + max(int(m[1]) for n in tensors if (m := re.match(r"blocks\.(\d+)\.", n))),
        "num_groups": len(tensors["blocks.0.mix.prior_scale"]),
        **PUBLISHED["flowdcn"],
    }
    if not keep_half:
        settings["discard_half"] = False
        for name in ("project.out.weight", "project.out.bias"):
            pixels = tensors[name].unflatten(0, (patch_size**2, -1))
            tensors[name] = pixels[:, :in_channels].flatten(0, 1)
    return settings, tensors
