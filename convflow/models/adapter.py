"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) of networks, by the package peft.

A layer `W x` becomes `W x + alpha / rank * B A x`, of which A and B alone are trained. A folder of
an adapter is one of peft, with the settings of the network beside it:

adapter_config.json         peft's settings; base_model_name_or_path leads from here to the network
adapter_model.safetensors   A and B of each layer, and the modules that are trained whole
config.json                 the settings of the network
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from convflow.models.backbone import Backbone
from convflow.nn.linear import Linear
from convflow.settings.patterns import chosen_names
from convflow.storage import check_sums, find_misfits, read_finite, read_json, read_tensors
from convflow.types import InputError

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_SETTINGS = "adapter_config.json"
PREFIX = "base_model.model."
"""What peft puts before the names of tensors in its files."""
ADAPTER = "default"
"""The name of the one adapter of a network, as peft has it in memory."""
LAYERS = (nn.Linear, Linear, nn.Conv2d)
"""Layers that can have adapters; a subclass with a forward pass of its own cannot."""


def import_peft() -> ModuleType:
    """Return the package peft, or raise InputError where it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import peft
    except ImportError as error:
        raise InputError(
            "expected the package peft for low-rank adapters, found none; "
            "pip install 'convflow[lora]'"
        ) from error
    return peft


def adaptable_layers(network: nn.Module) -> list[str]:
    """Return the names of the layers of a network that can have an adapter: linear and 1x1."""
    return [name for name, layer in network.named_modules() if _is_adaptable(layer)]


def _is_adaptable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d) and (layer.kernel_size != (1, 1) or layer.groups != 1):
        return False
    return type(layer) in LAYERS


def choose_layers(network: nn.Module, patterns: Sequence[str], option: str) -> list[str]:
    """Return the names of layers that are to have an adapter.

    Args:
        network: without adapters.
        patterns: of names; none for all adaptable layers in the blocks.
        option: of the command line, for messages.

    Raises:
        InputError: a pattern that fits no adaptable layer, or blocks without any.
    """
    names = adaptable_layers(network)
    if patterns:
        return chosen_names(patterns, names, option, "a linear or 1x1 layer")
    blocks = network.trunk_blocks if isinstance(network, Backbone) else []
    inside = {id(layer) for block in blocks for layer in block.modules()}
    found = [name for name in names if id(network.get_submodule(name)) in inside]
    if not found:
        raise InputError(
            f"{option}: expected blocks with linear or 1x1 layers, got {type(network).__name__} "
            "without; name other layers"
        )
    return found


def add_adapter(
    network: nn.Module, layers: Sequence[str], whole: Sequence[str], rank: int, alpha: float
) -> None:
    """Put an adapter into a network, which then is trained alone; B is zero, so nothing changes.

    Args:
        network: changed in place; A is drawn from torch's generator.
        layers: names of layers.
        whole: names of modules that are trained as they are, and stored with the adapter.
        rank: rows of A.
        alpha: the update is scaled by alpha / rank.

    Raises:
        InputError: peft is missing.
    """
    peft = import_peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(layers),
        modules_to_save=sorted(whole) or None,
    )
    peft.inject_adapter_in_model(config, network, ADAPTER)


def has_adapter(network: nn.Module) -> bool:
    """Return whether a network has an adapter that is not merged."""
    return hasattr(network, "peft_config")


def adapter_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of an adapter by the names of peft's files."""
    peft = import_peft()
    state = peft.get_peft_model_state_dict(network, adapter_name=ADAPTER, **NO_TABLES)
    return {PREFIX + name: tensor for name, tensor in state.items()}


NO_TABLES: dict[str, Any] = {"save_embedding_layers": False}
"""Tables of embeddings are stored where they are trained, not where peft guesses so."""


def load_adapter(network: nn.Module, tensors: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copy the tensors of an adapter into a network that has one, or raise InputError."""
    if problems := find_misfits(adapter_tensors(network), tensors):
        raise InputError(
            f"{origin} does not fit its {ADAPTER_SETTINGS}: {'; '.join(problems[:3])}; use the one "
            "that was saved with it"
        )
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    import_peft().set_peft_model_state_dict(network, own, adapter_name=ADAPTER)


def base_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network with an adapter by the names that they have without it."""
    return {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in network.state_dict().items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }


def write_adapter_settings(network: Backbone, folder: Path, base: str) -> None:
    """Write peft's settings of the adapter of a network, and the network's own, into a folder.

    Args:
        network: with an adapter.
        folder: exists.
        base: where the network without adapter lies, as a path from `folder`.
    """
    config = cast(Any, network).peft_config[ADAPTER].to_dict()
    whole = sorted(config["modules_to_save"] or [])
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    # Names in full and in one order: peft holds a set of endings.
    layers = [name for name, layer in network.named_modules() if hasattr(layer, "lora_A")]
    config |= {"target_modules": layers, "modules_to_save": whole or None}
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (folder / ADAPTER_SETTINGS).write_text(text, encoding="utf-8")
    network.save_settings(folder)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter in place of whole weights."""
    whole = (folder / "model.safetensors").is_file()
    return (folder / ADAPTER_SETTINGS).is_file() and not whole


def find_base(folder: Path) -> str | Path:
    """Return where the network of an adapter lies: a folder, or what its settings call it.

    Raises:
        InputError: the settings name none.
    """
    base = read_json(folder / ADAPTER_SETTINGS).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{folder / ADAPTER_SETTINGS}: expected base_model_name_or_path, the folder of the "
            f"network without adapter, got {base!r}; add it"
        )
    beside = folder / base
    if base.startswith(".") and not beside.is_dir():
        raise InputError(
            f"expected the network of the adapter {folder} in {beside.resolve()}, found none; copy "
            "the whole run, or change base_model_name_or_path in its adapter_config.json"
        )
    return beside if beside.is_dir() else base


def describe_adapter(folder: Path) -> dict[str, Any]:
    """Return what an adapter is, in a few words and numbers."""
    settings, file = read_json(folder / ADAPTER_SETTINGS), folder / ADAPTER_FILE
    return {
        "rank": settings.get("r"),
        "alpha": settings.get("lora_alpha"),
        "layers": len(settings.get("target_modules") or ()),
        "trained whole": settings.get("modules_to_save") or [],
        "base": str(find_base(folder)),
        "bytes": file.stat().st_size if file.is_file() else 0,
    }


def check_adapter(folder: Path) -> None:
    """Raise InputError where an adapter or its base is not what its checkpoint has the sums of."""
    state = folder.parent / "state.json"
    if state.is_file():
        content = read_json(state)
        own = [f"{folder.name}/{name}" for name in (ADAPTER_SETTINGS, ADAPTER_FILE, "config.json")]
        base = [name for name in content.get("files", {}) if name.startswith("../")]
        check_sums(folder.parent, content, [*own, *base])


def merge_adapter(network: Backbone, folder: Path, *, verify: bool = True) -> Backbone:
    """Return a network with the adapter of a folder added to its weights.

    Args:
        network: the base, which is used up.
        folder: of the adapter.
        verify: look for NaN and infinity.

    Raises:
        InputError: peft is missing, or an adapter that is no LoRA, is damaged or does not fit.
    """
    peft, path = import_peft(), folder / ADAPTER_FILE
    tensors = read_finite(path) if verify else read_tensors(path)
    given = read_json(folder / ADAPTER_SETTINGS)
    if (kind := given.get("peft_type")) != "LORA":
        raise InputError(
            f"{folder / ADAPTER_SETTINGS}: expected the peft_type LORA, got {kind!r}; merge it "
            "with peft and give the whole network"
        )
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
            config = peft.LoraConfig.from_peft_type(**given | {"init_lora_weights": True})
            wrapped = peft.get_peft_model(network, config, adapter_name=ADAPTER)
            load_adapter(wrapped.base_model.model, tensors, path)
            merged = wrapped.merge_and_unload()
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder} holds no adapter of {network.family} that peft can read ({words}); use the "
            "network that it was trained for"
        ) from error
    return merged.requires_grad_(True).eval()
