"""A checkpoint as several processes that share a network would have written it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from convflow.parallel.shards import LAYOUT, TensorFile, note_rows, shard_folder
from convflow.storage import checksum, read_tensors
from convflow.training import checkpoint


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], num: int) -> None:
    """Write the rows of each of `num` processes; of few rows the last ones have none."""
    for rank in range(num):
        rows, first = {}, {}
        for name, tensor in tensors.items():
            parts = tensor.chunk(num) if tensor.dim() else (tensor,)
            if rank < len(parts):
                rows[name] = parts[rank].clone()
                first[name] = [sum(map(len, parts[:rank]))] + [0] * (tensor.dim() - 1)
                first[name] = first[name][: tensor.dim()]
        TensorFile(f"shard-{rank}.safetensors", rows, note_rows(first)).write(folder)


def cut(folder: Path, num: int = 2) -> None:
    """Turn the files of a checkpoint into the shards of `num` processes."""
    state = checkpoint.read_state(folder)
    for name in checkpoint.PARTS:
        if (folder / name).is_file():
            write_shards(folder / shard_folder(name), read_tensors(folder / name), num)
            (folder / name).unlink()
    files = [p for p in sorted(folder.rglob("*")) if p.suffix == ".safetensors"]
    files += [folder / name for name in checkpoint.FILES if name.endswith("config.json")]
    sums = {p.relative_to(folder).as_posix(): checksum(p) for p in files}
    facts = state | {"files": sums, "shards": LAYOUT}
    facts["sha256"] = checkpoint.sum_of(facts)
    (folder / "state.json").write_text(json.dumps(facts))
