"""Latents of other programs to a store, and back: what `convflow encode --format` does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from convflow.bundle.folder import describe_codec
from convflow.data.latent_formats import READERS, export_latents
from convflow.data.latents import Latents, find_stores
from convflow.data.store import StoreIndex, write_store
from convflow.settings.read import to_dict
from convflow.storage import writing_folder
from convflow.training.encoding import EncodeConfig
from convflow.training.latents import codec_of_store
from convflow.types import InputError, check_name

log = logging.getLogger("convflow")


def convert(config: EncodeConfig, kind: str, out: Path) -> StoreIndex | None:
    """Bring latents of another program into a store, or those of a store into its files.

    Args:
        config: `data.path` names the latents, `codec` the autoencoder that they come from.
        kind: one of `READERS`.
        out: folder to write, which is not there yet.

    Returns:
        The index of the new store; None where a store was written as another program's files.

    Raises:
        InputError: latents that are not of this kind; autoencoder and latents of other channels.
    """
    place = Path(config.data.path).expanduser()
    check_name("format of latents", kind, READERS)
    if stores := find_stores(place):
        theirs: Any = codec_of_store(stores[0])
        if (latents := Latents(str(place), stores)).videos:
            raise InputError(f"expected a store of images, got the store of videos {place}")
        export_latents(latents, kind, out, *_arrays(theirs.constants))
        return None
    codec: Any = config.codec.prepare()
    found = READERS[kind](place)
    log.info(f"taken for latents of {getattr(codec, 'autoencoder', codec.kind)} (--codec)")
    with writing_folder(out) as draft:
        return write_store(
            draft,
            found.shards(config.records.dtype, *_arrays(codec.constants)),
            found.labels,
            codec=to_dict(describe_codec(codec, out)),
            factor=codec.factor,
            class_names=found.class_names,
            names=found.names,
            contents=found.contents,
            images=config.data.path,
        )


def _arrays(constants: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift as arrays that fit latents (..., C, h, w)."""
    scale, shift = (np.array(n, np.float32) for n in constants)
    return tuple(n[:, None, None] if n.ndim else n for n in (scale, shift))  # type: ignore[return-value]
