"""A cache of the Hugging Face Hub filled by hand, on a machine without a way to the Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub

REVISION = "0" * 40


def use(cache: Path, monkeypatch) -> None:
    """Let downloads find a cache and nothing else."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def put(cache: Path, repository: str, folder: Path) -> None:
    """Store the files of a folder as those of a repository, large ones by their SHA-256."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(REVISION)
    (place / "blobs").mkdir()
    for path in folder.rglob("*.*"):
        content = path.read_bytes()
        blob = place / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = place / "snapshots" / REVISION / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
