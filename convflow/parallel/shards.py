"""Shards of a checkpoint: each process writes the rows that it holds, and any number read them.

A shard is a safetensors file whose header says where its rows begin, in the words of torch's
`torch.distributed.checkpoint.HuggingFaceStorageReader`, which reads it. Torch's own writer of such
files copies them in memory and sends messages between processes; safetensors does neither. Torch's
default format is read by unpickling, which can run code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from convflow.storage import checksum, find_nonfinite, flush, whole_tensors
from convflow.types import InputError

SHARDS = "shards"
"""The folder of a checkpoint that holds its shards, in a folder for each file they stand for."""
LAYOUT = 1
"""The version of what is in it, which a later convflow may change."""
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors call the dtypes that networks have."""


class TensorFile(NamedTuple):
    """A safetensors file to write: its name in a folder, its tensors, and notes in its header."""

    name: str
    tensors: dict[str, Tensor]
    notes: dict[str, str]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the file and return its `checksum`, read again from the page cache."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        safetensors.torch.save_file(tensors, path, metadata=self.notes)
        flush(path)
        return checksum(path)


def stream_tensors(
    path: Path,
    shapes: Mapping[str, Tensor],
    read: Callable[[list[str]], Mapping[str, Tensor]],
    most: int = 2**28,
) -> None:
    """Write a safetensors file of tensors that are never all in memory.

    Args:
        path: the file.
        shapes: tensors without numbers, by name.
        read: from some names to their tensors.
        most: bytes of tensors in memory, beyond which a single one is alone.
    """
    names = sorted(shapes, key=lambda name: (-shapes[name].element_size(), name))  # aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    groups, end = list[list[str]](), 0
    for name in names:
        size, begin = shapes[name].nbytes, end
        end += size
        if not groups or begin // most < (end - 1) // most:
            groups.append([])
        groups[-1].append(name)
        dtype, shape = DTYPE_NAMES[shapes[name].dtype], list(shapes[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for group in groups:
            found = read(group)
            for name in group:
                file.write(found[name].contiguous().flatten().view(torch.uint8).numpy().data)


def shard_folder(name: str) -> str:
    """Return the folder of the shards that stand for a file, such as "raw/model.safetensors"."""
    return f"{SHARDS}/{Path(name).parts[0].removesuffix('.safetensors')}"


def note_rows(first: Mapping[str, list[int]]) -> dict[str, str]:
    """Return the header of a shard: where its part of each tensor begins, along each axis.

    It is one note, for safetensors writes several in an order that changes from file to file.
    """
    offsets = {name: {"saved_offsets": begin} for name, begin in first.items()}
    return {"DCP_SHARDING_INFO": json.dumps(offsets)}


class Shards:
    """All tensors of the shards in a folder.

    Args:
        folder: holds the files of all processes that wrote.

    Raises:
        InputError: a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        self.folder, self.reader = folder, HuggingFaceStorageReader(str(folder))
        with whole_tensors(folder):
            try:
                self.found = self.reader.read_metadata()
            except (LookupError, TypeError, AttributeError) as error:
                raise ValueError(f"{type(error).__name__} in a header") from error
            for name, entry in self.found.state_dict_metadata.items():
                held = sum(chunk.sizes.numel() for chunk in entry.chunks)  # type: ignore[union-attr,misc]
                if held != entry.size.numel():  # type: ignore[union-attr]
                    raise ValueError(f"some shards of {name} are missing")
        self.reader.read_metadata = lambda: self.found  # type: ignore[method-assign]
        self.shapes = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")  # type: ignore[union-attr]
            for name, entry in self.found.state_dict_metadata.items()
        }

    def read(
        self, names: list[str], like: Callable[[str], Tensor | None] = lambda name: None
    ) -> dict[str, Tensor]:
        """Return tensors, of some of which this process keeps only rows.

        Args:
            names: of those to read.
            like: from a name to a tensor that is cut as the result is to be; None for one that is
                not cut.

        Raises:
            InputError: a damaged file, or numbers that are not finite.
        """
        import torch.distributed.checkpoint as dcp

        tensors: dict[str, Tensor] = {}
        for name in names:
            cut, shape = like(name), self.shapes[name]
            if isinstance(cut, DTensor) and cut.shape == shape.shape:
                tensors[name] = torch.empty_like(cut)
            else:
                tensors[name] = torch.empty_like(shape, device="cpu")
        with whole_tensors(self.folder), warnings.catch_warnings(action="ignore"):
            try:  # it warns that it asks no other process
                dcp.load(tensors, storage_reader=self.reader, no_dist=True)
            except dcp.CheckpointException as error:
                raise next(iter(error.failures.values()))[0] from error
        held = {n: t.to_local() if isinstance(t, DTensor) else t for n, t in tensors.items()}
        if bad := find_nonfinite(held):
            raise InputError(
                f"{self.folder} holds numbers that are not finite, first in {bad}; copy it again "
                "or use another"
            )
        return tensors
