"""What all processes of a training must have in common before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from convflow import distributed
from convflow.data.latents import Latents
from convflow.models.adapter import base_tensors, has_adapter
from convflow.settings.read import flatten, to_dict
from convflow.storage import hash_tensors, read_json
from convflow.training.state import checkpoint_tensors
from convflow.types import InputError

if TYPE_CHECKING:
    from convflow.training.trainer import Trainer

FOLDER = "let all processes see the same run folder"

LOCAL = ("data.path", "codec.autoencoder", "init", "monitor.score.reference")
"""Settings that each process may have its own of: what lies there is compared, not where."""


def agree_on_start(trainer: Trainer) -> None:
    """Raise InputError on every process unless all are about to train the same from here on.

    One process agrees with itself at no cost. Several compare their settings, their place in the
    run, their images, and a SHA-256 of autoencoder, weights, average and optimizer, which takes
    about 0.6 s for each GiB (AMD EPYC with SHA instructions).
    """
    if distributed.world_size() == 1:
        return
    settings = {
        f"--{key.replace('_', '-')}": value
        for key, value in flatten(to_dict(trainer.config)).items()
        if key not in LOCAL
    }
    agree("give all processes the same command", settings | {"precision": trainer.precision})
    place: dict[str, object] = {"step": trainer.step, "number of images seen": trainer.images_seen}
    if trainer.saved is not None:  # whose checksums of files say what each has read its share of
        state = read_json(trainer.saved / "state.json")
        place["SHA-256 in state.json"] = state.get("sha256")
    agree(FOLDER, place)
    data = {"number of images": len(trainer.images), "images": trainer.data_fingerprint}
    agree("let all processes read the same data", data)
    if isinstance(trainer.images, Latents):
        known = str(trainer.images.index.codec_sha256)
        agree("give all processes the same store", {"hash of the autoencoder": known})
    elif trainer.codec.network is not None:
        known = hash_tensors(trainer.codec.network.state_dict())
        agree("give all processes the same autoencoder", {"hash of the autoencoder": known})
    weights = {
        f"hash of {name}": hash_tensors(trainer.parallel.alike(held))
        for name, held in checkpoint_tensors(trainer).items()
    }
    if has_adapter(trainer.model):
        weights["hash of the base"] = hash_tensors(base_tensors(trainer.model))
    agree(f"{FOLDER} and run the same versions", weights)


def agree(cure: str, facts: Mapping[str, object]) -> None:
    """Raise InputError on every process where one of them has another fact; it says which.

    Args:
        cure: what to do then.
        facts: short values by name.
    """
    everywhere = distributed.gather({name: str(value) for name, value in facts.items()})
    for name in dict.fromkeys(name for theirs in everywhere for name in theirs):
        ranks: dict[str, list[int]] = {}
        for rank, theirs in enumerate(everywhere):
            ranks.setdefault(theirs.get(name, "none"), []).append(rank)
        if len(ranks) > 1:
            got = ", ".join(
                f"{value[:80]} on {distributed.name_ranks(some)}" for value, some in ranks.items()
            )
            raise InputError(f"expected the same {name} in all processes, got {got}; {cure}")
