"""From published checkpoints to our networks: key maps, and sizes read off the tensors."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.models.layouts import (
    COPIED,
    DIT_FIXED,
    ENTRY,
    FAMILY_OF,
    LAYOUTS,
    SIGNS,
    is_spare,
    our_name,
    published_name,
)
from convflow.models.published import StoredNetwork, find_file, read_config, read_file, take_network
from convflow.models.zoo import RELEASED_SETTINGS, SIZES, create_model
from convflow.nn.positions import sincos_positions
from convflow.storage import find_nonfinite
from convflow.types import InputError, unknown_name

log = logging.getLogger("convflow")

DIT_HEADS = {
    size.settings["width"]: size.settings["num_heads"]
    for size in SIZES.values()
    if size.family == "dit"
}
"""Heads by width, at the published sizes."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Numbers that stand for themselves: those of fewer bits, or whole ones, have a scale beside."""

FREQUENCIES_NOTE = (
    "taken for published weights, which DiT's own code has trained with other frequencies of time "
    "than diffusers has; for what diffusers itself has trained give time_spacing=127"
)

Import = tuple[dict[str, Any], dict[str, Tensor]]
"""Settings of a network, and its tensors under our names."""


class Official(NamedTuple):
    """A published network, what there is to say of it, its size in words ("dit-xl/2"), and the rows
    of the square grid of latents that it was trained on, None where its file does not tell."""

    model: Backbone
    said: str
    size: str
    cells: int | None


def load_official(
    weights: str | Path | Mapping[str, Any],
    family: str | None = None,
    *,
    keep_half: bool = False,
    num_heads: int | None = None,
    part: str | None = None,
    time_spacing: int | None = None,
) -> Backbone:
    """Return our network with published weights; sizes are inferred from the tensors.

    Args:
        weights: a state dict, the dict of a checkpoint that holds one, a `.safetensors`, `.pt`,
            `.pth`, `.bin` or `.ckpt` file, or a folder of diffusers with a DiT. Pickles are read
            with `weights_only=True`: a file that wants to run code is refused. Averaged weights
            are taken where they lie beside the raw ones. What training has added before names and
            beside weights is left out, which a line of the log says.
        family: "flowdcn", "dico", "dit" or "sit"; by default that of the tensors. Those of DiT and
            SiT are alike, so there it is told by the stored command of training, or by the name of
            the file.
        keep_half: keep the half of FlowDCN's or SiT's head that its forward pass throws away. The
            predictions are the same with and without.
        num_heads: heads of a DiT or SiT, which no tensor tells; needed for widths that are not
            published, unless the config.json of diffusers lies beside the file.
        part: which network of a checkpoint, where several could be meant, such as "ema_0.999".
        time_spacing: of a DiT or SiT, by default that of their own code; 127 for what diffusers
            itself has trained.

    Raises:
        InputError: no such file or family, an unsafe pickle, or tensors that do not fit.
    """
    found = read_official(weights, family, keep_half, num_heads, part, time_spacing)
    if found.said:
        origin = "the state dict" if isinstance(weights, Mapping) else weights
        log.info(f"{origin}: {found.model.family}{found.said}")
    return found.model


def read_official(
    weights: str | Path | Mapping[str, Any],
    family: str | None = None,
    keep_half: bool = False,
    num_heads: int | None = None,
    part: str | None = None,
    time_spacing: int | None = None,
) -> Official:
    """Return what `load_official` does, with what the file says besides; see there."""
    if family is not None and family not in LAYOUTS:
        raise InputError(unknown_name("family of published weights", family, LAYOUTS))
    if not isinstance(weights, str | Path | Mapping):
        raise InputError(f"expected a file of weights or a state dict, got {weights!r}; give one")
    origin, content, config = _read(weights)
    found = take_network(content, origin, LAYOUTS[family] if family else tuple(SIGNS), part)
    family, reason = (family, "") if family else _family_of(found.part, content, origin)
    heads = num_heads or config.get("num_attention_heads")
    settings, tensors = _import(found.part, family, origin, keep_half, heads)
    if time_spacing is not None:
        settings["time_spacing"] = time_spacing
    model = create_model(family, **settings)
    if misfits := _misfits(model, tensors, found.part):
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise InputError(
            f"{origin} does not fit {family}: {'; '.join(misfits[:3])}{more}; it has "
            f"{found.part.describe()}"
        )
    model.load_state_dict(tensors)
    if found.part.layout == "diffusers" and time_spacing is None:
        log.info(f"{origin}: {FREQUENCIES_NOTE}")
    said = f"{reason}{found.describe()}"
    cells = config.get("sample_size")
    cells = cells if isinstance(cells, int) else _cells(found.part)
    return Official(model.eval(), said, _size_of(family, settings), cells)


def _cells(part: StoredNetwork) -> int | None:
    """Return the rows of the grid of latents for which a table of positions is stored."""
    tables = [tensor for name, tensor in part.tensors.items() if name == DIT_FIXED]
    patch = next((part.tensors[name].shape[-1] for name in ENTRY if name in part.tensors), 1)
    return math.isqrt(tables[0].shape[-2]) * patch if tables else None


def describe_weights(path: Path, part: str | None = None) -> dict[str, Any]:
    """Return what a file of published weights holds, as far as its tensors tell; builds nothing.

    Args:
        path: as for `load_official`, and so is `part`.
        part: which network of a checkpoint, where several could be meant.

    Raises:
        InputError: no such file, an unsafe pickle, several networks that could be meant, or
            something else than named tensors.
    """
    origin, content, config = _read(path)
    found = take_network(content, origin, part=part)
    chosen = found.part
    described: dict[str, Any] = {
        "file": origin,
        "holds": sorted(map(str, content)) if chosen.path else ["a state dict"],
        **({"part": chosen.name} if chosen.name else {}),
        "averaged": chosen.averaged,
        **({"left_out": found.dropped} if found.dropped else {}),
        "tensors": len(chosen.tensors),
        "parameters": sum(t.numel() for n, t in chosen.tensors.items() if not is_spare(n)),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in chosen.tensors.values()}),
    }
    if chosen.layout is None:
        return described | {"family": "unknown"}
    family = FAMILY_OF[chosen.layout]
    words = {"dit": "dit or sit, whose tensors are alike", "diffusers": "dit, of diffusers"}
    described["family"] = words.get(chosen.layout, family)
    try:  # no shape depends on the heads
        settings, tensors = _import(chosen, family, origin, keep_half=True, num_heads=1)
        with torch.device("meta"):
            model = create_model(family, **settings)
    except InputError as error:  # without its advice, which is for those who load
        return described | {"problem": str(error).partition("; ")[0]}
    if misfits := _misfits(model, tensors, chosen):
        described["problem"] = "; ".join(misfits[:3])
    if "num_heads" in settings:
        known = DIT_HEADS.get(settings["width"], "not told by the tensors")
        settings["num_heads"] = config.get("num_attention_heads", known)
    return described | {"size": _size_of(family, settings), "model": settings}


def _read(weights: str | Path | Mapping[str, Any]) -> tuple[str, Any, dict[str, Any]]:
    """Return what to call given weights, what they hold, and the settings diffusers put beside."""
    if isinstance(weights, Mapping):
        return "the state dict", weights, {}
    file = find_file(Path(weights))
    return str(weights), read_file(file), read_config(file)


def _family_of(part: StoredNetwork, content: Any, origin: str) -> tuple[str, str]:
    """Return the family of published weights, and how it is known where the tensors do not tell."""
    if part.layout is None:
        if {"embed_patches.weight", "embed_condition.label.0.weight"} & part.tensors.keys():
            raise InputError(
                f"{origin} holds a network of convflow; open the folder that it lies in with "
                "load_model"
            )
        raise InputError(
            f"{origin} holds no published weights of {', '.join(LAYOUTS)}, but "
            f"{part.describe()}; give another file"
        )
    if part.layout != "dit":
        return FAMILY_OF[part.layout], ""
    command = content.get("args")
    named = command.get("model") if isinstance(command, Mapping) else getattr(command, "model", "")
    for words, where in ((named, "the command of its training"), (Path(origin).stem, "its name")):
        if found := re.search(r"(?<![a-z])(dit|sit)(?![a-z])", str(words).lower()):
            return found[1], f" by {where}"
    raise InputError(
        f"{origin}: expected a family, for the tensors of DiT and SiT are alike; give family='dit' "
        "or family='sit' (convflow import --family), or put it in the file name"
    )


def _size_of(family: str, settings: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(settings))  # lists and tuples alike
    for name, size in SIZES.items():
        if size.family == family and plain | json.loads(json.dumps(size.settings)) == plain:
            return name
    return "not a published one"


def _import(
    part: StoredNetwork, family: str, origin: str, keep_half: bool, num_heads: int | None
) -> Import:
    """Return settings and tensors of a family, or raise InputError in the file's own names."""
    if part.layout and part.layout not in LAYOUTS[family]:
        other = FAMILY_OF[part.layout]
        raise InputError(
            f"{origin} holds no published {family} weights, but those of {other}; leave out the "
            f"family, or give {other!r}"
        )
    _check_numbers(part, origin)
    layout = part.layout or LAYOUTS[family][0]
    try:
        own = _merged(part) if layout == "diffusers" else part.tensors
        named = {our_name(n, layout): t for n, t in own.items() if not is_spare(n)}
        for name in own:
            if name.endswith(DIT_FIXED):
                _check_positions(own[name], len(named["embed_patches.weight"]), part.files[name])
        if family == "flowdcn":
            return _flowdcn(named, keep_half)
        if family == "dico":
            return _dico(named)
        return _dit(named, num_heads) if family == "dit" else _sit(named, num_heads, keep_half)
    except InputError:
        raise
    except (LookupError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        words = str(error).splitlines() or [type(error).__name__]  # torch tells of its frames too
        reason = f"its shapes are others: {words[0]}"
        if isinstance(error, KeyError):
            absent = part.prefix + published_name(error.args[0], layout)
            reason = f"expected {absent}, which is not there"
        raise InputError(
            f"{origin} holds no published {family} weights ({reason}); it has {part.describe()}"
        ) from error


def _check_numbers(part: StoredNetwork, origin: str) -> None:
    """Raise InputError unless all tensors of a network hold finite floating-point numbers."""
    for name, tensor in part.tensors.items():
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
            form = "on no device" if tensor.is_meta else f"as {tensor.dtype}, {tensor.layout}"
            raise InputError(
                f"{origin}: expected dense floating-point numbers of 16 bits or more in "
                f"{part.files[name]}, got it {form.replace('torch.', '')}; give another file"
            )
    if bad := find_nonfinite(part.tensors):
        raise InputError(
            f"{origin} holds numbers that are not finite, first in {part.files[bad]}; copy it "
            "again or use another"
        )


def _misfits(model: Backbone, tensors: Mapping[str, Tensor], part: StoredNetwork) -> list[str]:
    """Return what is missing, unknown or of another shape, by the names of the file."""
    layout = part.layout or LAYOUTS[model.family][0]
    expected = model.state_dict()
    files = {our_name(name, layout): file for name, file in part.files.items()}
    missing = [
        f"expected {part.prefix + published_name(name, layout)}, which is not there"
        for name in expected.keys() - tensors.keys()
    ]
    others = [
        f"{files[name]} of shape {tuple(tensor.shape)} is unknown"
        if name not in expected
        else f"{files[name]} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name not in expected or tensor.shape != expected[name].shape
    ]
    return [*sorted(missing), *sorted(others)]


def _merged(part: StoredNetwork) -> dict[str, Tensor]:
    """Return tensors in diffusers' names, queries, keys and values as one named as the queries.

    Raises:
        InputError: embeddings of time or label that differ between blocks.
    """
    tensors = dict(part.tensors)
    for name, tensor in part.tensors.items():
        _, copied, rest = name.partition(COPIED)
        if copied and not tensor.equal(tensors[first := f"transformer_blocks.0{COPIED}{rest}"]):
            raise InputError(
                "expected a DiT of diffusers in which all blocks share the embeddings of time and "
                f"label, as published ones do, got {part.files[name]} unlike {part.files[first]}; "
                "give another file"
            )
        if ".attn1.to_q." in name:
            three = [name.replace(".to_q.", f".to_{which}.") for which in "qkv"]
            tensors[name] = torch.cat([tensors.pop(each) for each in three])
    return tensors


def _flowdcn(tensors: dict[str, Tensor], keep_half: bool) -> Import:
    tensors |= {n: t.flatten() for n, t in tensors.items() if n.endswith("prior_scale")}
    settings = _patch_settings(tensors) | RELEASED_SETTINGS["flowdcn"]
    settings["num_groups"] = len(tensors["blocks.0.mix.prior_scale"])
    return settings, tensors if keep_half else _drop_half(settings, tensors)


def _dico(tensors: dict[str, Tensor]) -> Import:
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


def _dit(tensors: dict[str, Tensor], num_heads: int | None) -> Import:
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
    return settings, tensors


def _sit(tensors: dict[str, Tensor], num_heads: int | None, keep_half: bool) -> Import:
    settings, tensors = _dit(tensors, num_heads)
    settings["discard_half"] = settings.pop("learned_variance")
    drops = settings["discard_half"] and not keep_half
    return settings, _drop_half(settings, tensors) if drops else tensors


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


def _check_positions(table: Tensor, width: int, name: str) -> None:
    """Raise InputError unless a stored table of positions, which we drop, is the one we compute."""
    side = math.isqrt(table.shape[-2])
    ours = sincos_positions(side, side, width, table).flatten(0, 1)
    limit = 1e-5 if table.dtype in (torch.float32, torch.float64) else 1e-2
    if ours.shape != table.shape[-2:] or (table.float() - ours).abs().max() > limit:
        raise InputError(
            f"{name} of shape {tuple(table.shape)} is not the fixed table of a square grid; "
            "learned positions are not supported"
        )
