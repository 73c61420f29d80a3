"""From published checkpoints to our networks: key maps, and sizes read off the tensors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.models.zoo import PUBLISHED, SIZES, create_model, load_strictly
from convflow.nn.positions import sincos_positions
from convflow.storage import find_misfits, read_weights
from convflow.types import InputError, unknown_name

PATCH_KEYS = {
    r"x_embedder\.proj\.": "embed_patches.",
    r"t_embedder\.mlp\.0\.": "embed_time.hidden.",
    r"t_embedder\.mlp\.2\.": "embed_time.out.",
    r"y_embedder\.embedding_table\.": "embed_label.",
    r"final_layer\.adaLN_modulation\.": "project.modulation.",
    r"final_layer\.linear\.": "project.out.",
    r"\.adaLN_modulation\.": ".modulation.",
}
"""Names that the networks on patches share, as regular expressions, and ours."""

FLOWDCN_KEYS = PATCH_KEYS | {
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

DIT_KEYS = PATCH_KEYS | {
    r"\.attn\.qkv\.": ".mix.qkv.",
    r"\.attn\.proj\.": ".mix.out.",
    r"\.mlp\.fc1\.": ".mlp.0.",
    r"\.mlp\.fc2\.": ".mlp.2.",
}
DIT_FIXED = "pos_embed"
DIT_HEADS = {
    size.settings["width"]: size.settings["num_heads"]
    for size in SIZES.values()
    if size.family == "dit"
}
"""Heads by width, at the published sizes."""

DICO_KEYS = {
    r"x_embedder\.proj\.": "embed.",
    r"t_embedder_1\.": "embed_condition.time.0.",
    r"t_embedder_2\.": "embed_condition.time.1.",
    r"t_embedder_3\.": "embed_condition.time.2.",
    r"(time\.\d)\.mlp\.0\.": r"\1.hidden.",
    r"(time\.\d)\.mlp\.2\.": r"\1.out.",
    r"y_embedder\.embedding_table_": "embed_condition.label.",
    r"encoder_level_1\.": "body.stages.0.",
    r"encoder_level_2\.": "body.stages.1.",
    r"latent\.": "body.stages.2.",
    r"decoder_level_2\.": "body.stages.3.",
    r"decoder_level_1\.": "body.stages.4.",
    r"\.conv1\.": ".mix.expand.",
    r"\.conv2\.": ".mix.depthwise.",
    r"\.ca\.1\.": ".mix.attention.score.",
    r"\.conv3\.": ".mix.out.",
    r"\.conv4\.": ".mlp.0.",
    r"\.conv5\.": ".mlp.2.",
    r"down1_2\.body\.0\.": "body.down.0.conv.",
    r"down2_3\.body\.0\.": "body.down.1.conv.",
    r"up3_2\.body\.0\.": "body.up.0.conv.",
    r"up2_1\.body\.0\.": "body.up.1.conv.",
    r"reduce_chan_level2\.": "body.join.0.linear.",
    r"reduce_chan_level1\.": "body.join.1.linear.",
    r"final_layer\.out_proj\.": "project.out.",
    r"final_layer\.adaLN_modulation\.": "project.modulation.",
    r"\.adaLN_modulation\.": ".modulation.",
}

SIGNS = {
    "flowdcn": "blocks.0.attn.qk_deformables.weight",
    "dico": "encoder_level_1.0.ca.1.weight",
    "dit": "blocks.0.attn.qkv.weight",
}
"""One name by which the tensors of a family are known; those of SiT are called as in DiT."""

Import = tuple[dict[str, Any], dict[str, Tensor]]
"""Settings of a network, and its tensors under our names."""
Importer = Callable[[dict[str, Tensor]], Import]


def load_official(
    weights: str | Path | Mapping[str, Any],
    family: str = "flowdcn",
    *,
    keep_half: bool = False,
    num_heads: int | None = None,
) -> Backbone:
    """Return our network with published weights; sizes are inferred from the tensors.

    Args:
        weights: a state dict, the dict of a checkpoint that holds one, or a `.safetensors`, `.pt`,
            `.pth` or `.ckpt` file. Pickles are read with `weights_only=True`: a file that wants to
            run code is refused. Averaged weights are taken where they lie beside the raw ones.
        family: "flowdcn", "dico", "dit" or "sit".
        keep_half: keep the half of FlowDCN's or SiT's head that its forward pass throws away. The
            predictions are the same with and without.
        num_heads: heads of a DiT or SiT, which no tensor tells; needed for widths that are not
            published.

    Raises:
        InputError: no such file or family, an unsafe pickle, or tensors that do not fit.
    """
    importers = _importers(keep_half, num_heads)
    if family not in importers:
        raise InputError(unknown_name("family of published weights", family, importers))
    if not isinstance(weights, str | Path | Mapping):
        raise InputError(f"expected a file of weights or a state dict, got {weights!r}; give one")
    origin = "the state dict" if isinstance(weights, Mapping) else str(weights)
    content = weights if isinstance(weights, Mapping) else read_weights(Path(weights))
    settings, tensors = _import(_unwrap(content, origin), family, importers[family], origin)
    model = create_model(family, **settings)
    load_strictly(model, tensors, origin)
    return model.eval()


def describe_weights(path: Path) -> dict[str, Any]:
    """Return what a file of published weights holds, as far as its tensors tell; builds nothing.

    Raises:
        InputError: no such file, an unsafe pickle, or something else than named tensors.
    """
    content = read_weights(path)
    state = _unwrap(content, str(path))
    part = _chosen(content)
    found: dict[str, Any] = {
        "file": str(path),
        "holds": sorted(map(str, content)) if part else ["a state dict"],
        "averaged": part == "ema",
        "tensors": len(state),
        "parameters": sum(
            t.numel() for n, t in state.items() if not n.endswith((FLOWDCN_FIXED, DIT_FIXED))
        ),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in state.values()}),
    }
    family = next((name for name, sign in SIGNS.items() if sign in state), None)
    if family is None:
        return found | {"family": "unknown"}
    found["family"] = "dit or sit, whose tensors are alike" if family == "dit" else family
    importer = _importers(keep_half=True, num_heads=1)[family]  # no shape depends on the heads
    try:
        settings, tensors = _import(state, family, importer, str(path))
        with torch.device("meta"):
            model = create_model(family, **settings)
    except InputError as error:  # without its advice, which is for those who load
        return found | {"problem": str(error).partition("; ")[0]}
    if misfits := find_misfits(model.state_dict(), tensors):
        found["problem"] = "; ".join(misfits[:3])
    if "num_heads" in settings:
        settings["num_heads"] = DIT_HEADS.get(settings["width"], "not told by the tensors")
    return found | {"size": _size_of(family, settings), "model": settings}


def _size_of(family: str, settings: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(settings))  # lists and tuples alike
    for name, size in SIZES.items():
        if size.family == family and plain | json.loads(json.dumps(size.settings)) == plain:
            return name
    return "not a published one"


def _importers(keep_half: bool, num_heads: int | None) -> dict[str, Importer]:
    return {
        "flowdcn": partial(_flowdcn, keep_half=keep_half),
        "dico": _dico,
        "dit": partial(_dit, num_heads=num_heads),
        "sit": partial(_sit, num_heads=num_heads, keep_half=keep_half),
    }


def _import(state: dict[str, Tensor], family: str, importer: Importer, origin: str) -> Import:
    try:
        return importer(state)
    except InputError:
        raise
    except (LookupError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        words = str(error).splitlines() or [type(error).__name__]  # torch tells of its frames too
        reason = f"missing {error.args[0]}" if isinstance(error, KeyError) else words[0]
        raise InputError(
            f"{origin} holds no published {family} weights ({reason}); name another family"
        ) from error


def _unwrap(content: Any, origin: str) -> dict[str, Tensor]:
    """Return the state dict within a checkpoint, the averaged one where there are two."""
    if part := _chosen(content):
        content = content[part]
    if not isinstance(content, Mapping) or not content:
        empty = "an empty " if isinstance(content, Mapping) else ""
        raise InputError(f"{origin}: expected a state dict, got {empty}{type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise InputError(
                f"{origin}: expected a state dict of names and tensors, but it holds the {kind} "
                f"{name!r}; give the part of it that is one"
            )
    return dict(content)


def _chosen(content: Any) -> str | None:
    """Return which part of a checkpoint counts, or None where it is all one state dict."""
    parts = ("ema", "model", "state_dict") if isinstance(content, Mapping) else ()
    return next((part for part in parts if isinstance(content.get(part), Mapping)), None)


def _flowdcn(state: dict[str, Tensor], keep_half: bool) -> Import:
    tensors = _rename(state, FLOWDCN_KEYS, FLOWDCN_FIXED)
    tensors |= {n: t.flatten() for n, t in tensors.items() if n.endswith("prior_scale")}
    settings = _patch_settings(tensors) | PUBLISHED["flowdcn"]
    settings["num_groups"] = len(tensors["blocks.0.mix.prior_scale"])
    return settings, tensors if keep_half else _drop_half(settings, tensors)


def _dico(state: dict[str, Tensor]) -> Import:
    tensors = _rename(state, DICO_KEYS)
    for name, tensor in tensors.items():
        if tensor.shape[2:] == (1, 1):
            tensors[name] = tensor.flatten(1)  # their 1x1 convolutions are our linear layers
    width, in_channels, _, _ = tensors["embed.weight"].shape
    stages = [name.split(".")[2:4] for name in tensors if name.startswith("body.stages.")]
    settings = {
        "width": width,
        "in_channels": in_channels,
        "num_classes": len(tensors["embed_condition.label.0.weight"]) - 1,
        "depths": [len({n for s, n in stages if s == str(stage)}) for stage in range(5)],
        "mlp_ratio": len(tensors["body.stages.0.0.mlp.0.bias"]) / width,
        "kernel_size": tensors["body.stages.0.0.mix.depthwise.weight"].shape[-1],
        "learned_variance": len(tensors["project.out.bias"]) == 2 * in_channels,
    }
    return settings, tensors


def _dit(state: dict[str, Tensor], num_heads: int | None) -> Import:
    tensors = _rename(state, DIT_KEYS, DIT_FIXED)
    settings = _patch_settings(tensors)
    width = settings["width"]
    if num_heads is None and width not in DIT_HEADS:
        raise InputError(
            f"expected a published width, one of {', '.join(map(str, DIT_HEADS))}, got {width}: "
            "no tensor tells the number of heads, so give num_heads"
        )
    settings["num_heads"] = num_heads or DIT_HEADS[width]
    settings["mlp_ratio"] = len(tensors["blocks.0.mlp.0.bias"]) / width
    numbers = settings["patch_size"] ** 2 * settings["in_channels"]
    settings["learned_variance"] = len(tensors["project.out.bias"]) == 2 * numbers
    if DIT_FIXED in state:
        _check_positions(state[DIT_FIXED], width)
    return settings, tensors


def _sit(state: dict[str, Tensor], num_heads: int | None, keep_half: bool) -> Import:
    settings, tensors = _dit(state, num_heads)
    settings["discard_half"] = settings.pop("learned_variance")
    drops = settings["discard_half"] and not keep_half
    return settings, _drop_half(settings, tensors) if drops else tensors


def _rename(
    state: dict[str, Tensor], keys: dict[str, str], fixed: str | None = None
) -> dict[str, Tensor]:
    """Return the tensors under our names, without the `fixed` ones that we compute."""
    tensors = {}
    for name, tensor in state.items():
        if fixed and name.endswith(fixed):
            continue
        for pattern, replacement in keys.items():
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor
    return tensors


def _patch_settings(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the settings that all networks on patches have, read off tensors of our names."""
    width, in_channels, patch_size, _ = tensors["embed_patches.weight"].shape
    return {
        "width": width,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "num_classes": tensors["embed_label.weight"].shape[0] - 1,
        "depth": len({m[1] for n in tensors if (m := re.match(r"blocks\.(\d+)\.", n))}),
    }


def _drop_half(settings: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a head without the half that is thrown away, and say so in `settings`."""
    settings["discard_half"] = False
    halved = {}
    for name in ("project.out.weight", "project.out.bias"):
        pixels = tensors[name].unflatten(0, (settings["patch_size"] ** 2, -1))
        halved[name] = pixels[:, : settings["in_channels"]].flatten(0, 1)
    return tensors | halved


def _check_positions(table: Tensor, width: int) -> None:
    """Raise InputError unless a stored table of positions, which we drop, is the one we compute."""
    side = math.isqrt(table.shape[-2])
    ours = sincos_positions(side, side, width, table).flatten(0, 1)
    limit = 1e-5 if table.dtype in (torch.float32, torch.float64) else 1e-2
    if ours.shape != table.shape[-2:] or (table.float() - ours).abs().max() > limit:
        raise InputError(
            f"{DIT_FIXED} of shape {tuple(table.shape)} is not the fixed table of a square grid; "
            "learned positions are not supported"
        )
