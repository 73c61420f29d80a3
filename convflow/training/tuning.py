"""What of a network is trained: all, all but frozen parameters, or low-rank adapters beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from convflow.bundle.config import PipelineConfig
from convflow.bundle.folder import write_description
from convflow.models.adapter import (
    add_adapter,
    base_tensors,
    choose_layers,
    has_adapter,
    import_peft,
)
from convflow.models.backbone import Backbone
from convflow.models.zoo import load_strictly
from convflow.nn.norm import Modulation
from convflow.parallel.single import Single
from convflow.seeds import TRAINING_KEYS, generator_of
from convflow.settings.patterns import chosen_names, fits_any, split_patterns
from convflow.storage import checksum, read_finite, read_json, writing_folder
from convflow.training.averages import names_of
from convflow.training.config import LoRAConfig, TrainConfig
from convflow.types import InputError

BASE = "base"
"""The folder of a run of adapters that holds the network without them."""
BASE_FROM_WEIGHTS = f"../../../{BASE}"
"""The way to it from `raw` and `ema` of a checkpoint."""
BASE_SUMS = "checksums.json"
ADAPTER_KEY = 2
"""Of the seed: what adapters are drawn from."""


def check_tuning(config: TrainConfig, parallel: Single, origin: Backbone | None) -> None:
    """Raise InputError where settings of what is trained do not fit together.

    Args:
        config: the complete settings.
        parallel: what the processes share.
        origin: the trained network, where a new run begins from one.
    """
    if config.freeze and parallel.sharded:
        raise InputError(
            "--parallel: expected auto or ddp with --freeze, got fsdp, where frozen parameters "
            "have not been tried; choose --parallel ddp"
        )
    if not config.lora.rank:
        return
    if not config.init:
        raise InputError(
            "--lora.rank: expected trained weights to adapt, got none; add --init, or leave it out"
        )
    if config.freeze:
        raise InputError(
            f"--freeze: expected none with --lora.rank, got {config.freeze}: all but adapters and "
            "--lora.modules-to-save stays as it is; leave it out"
        )
    if parallel.sharded:
        raise InputError(
            "--parallel: expected auto or ddp with --lora.rank, got fsdp, which cannot share a "
            "network with adapters yet; choose --parallel ddp"
        )
    if config.optim.kind == "muon":
        raise InputError(
            "--optim.kind: expected an optimizer for matrices of few rows with --lora.rank, got "
            "muon; choose adamw"
        )
    if names := names_of(config.ema):
        raise InputError(
            f"--ema: expected no more averages with --lora.rank, got {names[0]}; leave out "
            "--ema.half-lives and --ema.sigma-rel"
        )
    import_peft()


def limit_training(
    config: TrainConfig, network: Backbone, anew: Sequence[str], run: Path | None
) -> tuple[TrainConfig, list[str]]:
    """Freeze parameters or add adapters, as settings say.

    Args:
        config: the complete settings.
        network: changed in place.
        anew: modules that were drawn anew beside trained weights.
        run: the run folder, where training goes on there; its base is read. None for a new run.

    Returns:
        Settings in which nothing is "auto" any more, and lines on what is trained.

    Raises:
        InputError: patterns that fit nothing, nothing left to train, or a damaged base.
    """
    if config.lora.rank:
        return _adapt(config, network, anew, run)
    named = dict(network.named_parameters())
    frozen = chosen_names(split_patterns(config.freeze), named, "--freeze", "a parameter")
    for name in frozen:
        named[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise InputError(
            f"--freeze: expected some parameters to train, got {config.freeze}, which fits all of "
            "them; freeze fewer"
        )
    return config, [_count(network, f"{len(frozen)} of {len(named)} tensors frozen")] * bool(frozen)


def _adapt(
    config: TrainConfig, network: Backbone, anew: Sequence[str], run: Path | None
) -> tuple[TrainConfig, list[str]]:
    lora = config.lora
    if run is not None:
        path = run / BASE / "model.safetensors"
        if not path.is_file():
            raise InputError(
                f"expected the network that adapters were trained for in {path}, found none; copy "
                "the whole run"
            )
        load_strictly(network, read_finite(path), path)
    layers = choose_layers(network, split_patterns(lora.target), "--lora.target")
    whole = _saved_modules(lora, network, anew)
    if both := [name for name in layers if any(f"{name}.".startswith(f"{w}.") for w in whole)]:
        raise InputError(
            f"--lora.modules-to-save: expected modules without adapters, got {both[0]} in both; "
            "name other layers as --lora.target, or other modules"
        )
    alpha = float(lora.rank if lora.alpha is None else lora.alpha)
    with torch.random.fork_rng(devices=[]):
        key = (*TRAINING_KEYS, 0, 0, 0, ADAPTER_KEY)
        torch.manual_seed(generator_of(config.seed, *key).initial_seed())
        add_adapter(network, layers, whole, lora.rank, alpha)
    said = f"adapters of rank {lora.rank} on {len(layers)} layers"
    said += f", trained whole: {', '.join(whole)}" if whole else ""
    stored = replace(lora, alpha=alpha, modules_to_save=",".join(whole) or "none")
    return replace(config, lora=stored), [_count(network, said)]


def _saved_modules(lora: LoRAConfig, network: Backbone, anew: Sequence[str]) -> list[str]:
    """Return the modules that are trained whole: no tables of positions, no modules in others."""
    if lora.modules_to_save in ("auto", "none"):
        return sorted(anew) if lora.modules_to_save == "auto" else []
    names = [name for name, module in network.named_modules() if name and [*module.parameters()]]
    patterns = split_patterns(lora.modules_to_save)
    chosen = chosen_names(patterns, names, "--lora.modules-to-save", "a module with parameters")
    chosen = [n for n in chosen if not any(n.startswith(f"{other}.") for other in chosen)]
    heads = (network.inner.parts.head, *getattr(network, "heads", ()))
    head = {module for part in heads for module in part.modules()}
    for name in chosen:
        inside = {*network.get_submodule(name).modules()} - head
        if any(isinstance(module, Modulation) for module in inside):
            raise InputError(
                f"--lora.modules-to-save: expected modules without the modulation of a block, got "
                f"{name}; name layers inside it, such as {name}.mlp"
            )
    return chosen


def _count(network: Backbone, said: str) -> str:
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    whole = sum(tensor.numel() for tensor in base_tensors(network).values())
    return f"{said}: {trained:,} numbers are trained beside {whole:,} of the network"


def spared_bytes(config: TrainConfig, build: Callable[[], Backbone]) -> int:
    """Return the bytes of averages, gradients and moments that frozen parameters do not have."""
    with torch.device("meta"):
        named = {name: p.numel() for name, p in build().named_parameters()}
    patterns = ["*"] if config.lora.rank else split_patterns(config.freeze)
    return 16 * sum(count for name, count in named.items() if fits_any(name, patterns))


def stored_numbers(network: Backbone) -> int:
    """Return how many numbers a checkpoint holds: weights, average and two moments."""
    named = [*network.parameters()]
    trained = sum(p.numel() for p in named if p.requires_grad)
    kept = trained if has_adapter(network) else sum(p.numel() for p in named)
    return 2 * kept + 2 * trained


def write_base(network: Backbone, run: Path, description: PipelineConfig) -> None:
    """Write the network without its adapters into a run folder that has no checkpoint yet."""
    folder = run / BASE
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before its first one
    with writing_folder(folder) as draft:
        tensors = {n: t.detach().cpu().contiguous() for n, t in base_tensors(network).items()}
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        network.save_settings(draft)
        write_description(draft, description)
        names = ("model.safetensors", "config.json")
        sums = {f"../../{BASE}/{name}": checksum(draft / name) for name in names}
        (draft / BASE_SUMS).write_text(json.dumps(sums, indent=2), encoding="utf-8")


def base_sums(network: Backbone, run: Path) -> dict[str, object]:
    """Return the checksums of the base of a run by their names in a checkpoint, if it has one."""
    return read_json(run / BASE / BASE_SUMS) if has_adapter(network) else {}
