"""convflow: train, sample and score efficient image generators at any resolution.

The public names load on first use, so that `import convflow` itself costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

_HOMES = {
    "create_model": "convflow.models.zoo",
    "export_onnx": "convflow.models.export",
    "load_model": "convflow.models.zoo",
    "load_official": "convflow.models.convert",
    "Pipeline": "convflow.pipeline",
    "InputError": "convflow.types",
    "ops": "convflow.ops",
}

__all__ = [
    "InputError",
    "Pipeline",
    "__version__",
    "create_model",
    "export_onnx",
    "load_model",
    "load_official",
    "ops",
]

if TYPE_CHECKING:
    from convflow import ops
    from convflow.models.convert import load_official
    from convflow.models.export import export_onnx
    from convflow.models.zoo import create_model, load_model
    from convflow.pipeline import Pipeline
    from convflow.types import InputError


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'convflow' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if name == "ops" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
