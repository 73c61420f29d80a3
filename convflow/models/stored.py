"""The files of a stored network: its settings, and its weights in one file or in shards.

A folder of this library has them at its top, as `config.json` and `model.safetensors`. A folder for
diffusers with a `pipeline.json` of this library (`convflow export --to diffusers`) has them in
`transformer`, under the names of diffusers. Shards lie beside an index, as everywhere on the Hub.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import save_torch_state_dict
from torch import Tensor

from convflow.models.published import list_shards
from convflow.storage import check_sums_of, read_finite, read_json, read_tensors
from convflow.types import InputError

SHARD_BYTES = 5 * 10**9
"""The most that a file of weights holds on the Hub, whose page advises against larger ones."""

PIPELINE_NAME = "pipeline.json"


class StoredFiles(NamedTuple):
    """Where a stored network is.

    Attributes:
        folder: with both files.
        stem: name of the weights without its ending.
    """

    folder: Path
    stem: str = "model"

    @property
    def settings(self) -> Path:
        """The file of settings."""
        return self.folder / "config.json"

    @property
    def weights(self) -> Path:
        """The file of weights, or the index of its shards where there are some."""
        whole = self.folder / f"{self.stem}.safetensors"
        index = whole.with_name(f"{whole.name}.index.json")
        return index if index.is_file() and not whole.is_file() else whole


def find_stored(folder: Path) -> StoredFiles | None:
    """Return the files of the network in a folder, None where there is none."""
    if (folder / "config.json").is_file():
        return StoredFiles(folder)
    inside = StoredFiles(folder / "transformer", "diffusion_pytorch_model")
    return inside if is_exported(folder) and inside.settings.is_file() else None


def is_exported(folder: Path) -> bool:
    """Return whether a folder is one that this library has written for diffusers."""
    return all((folder / name).is_file() for name in (PIPELINE_NAME, "model_index.json"))


def read_settings(files: StoredFiles) -> dict[str, Any]:
    """Return the settings of a network, and its family; raise InputError for a damaged file."""
    tree = read_json(files.settings)
    if "family" not in tree and isinstance(tree.get("_class_name"), str):
        tree["family"] = tree["_class_name"].lower()
        tree = {name: value for name, value in tree.items() if not name.startswith("_")}
    return tree


def read_stored(files: StoredFiles, verify: bool) -> dict[str, Tensor]:
    """Return the weights of a network.

    Raises:
        InputError: an absent or damaged file; with `verify` also NaN, infinity, or a wrong checksum
            in a checkpoint.
    """
    path = files.weights
    if verify:
        check_sums_of(files.folder, "config.json", path.name)
    read = read_finite if verify else read_tensors
    if path.name.endswith(".index.json"):
        return {name: t for shard in list_shards(path) for name, t in read(shard).items()}
    return read(path)


def write_stored(
    folder: Path, weights: Mapping[str, Tensor], stem: str = "model", most: int = SHARD_BYTES
) -> None:
    """Write weights into an existing folder, in shards where they are larger than `most` bytes."""
    tensors: dict[str, Tensor] = {}
    places = set()
    for name, tensor in weights.items():
        tensors[name] = tensor.detach().cpu().contiguous()
        place = tensors[name].untyped_storage().data_ptr()
        if place in places:  # a writer of shards would leave out one of two that share their memory
            tensors[name] = tensors[name].clone()
        places.add(place)
    pattern = f"{stem}{{suffix}}.safetensors"
    save_torch_state_dict(tensors, folder, filename_pattern=pattern, max_shard_size=most)


def import_code(folder: Path, names: Mapping[str, Any]) -> None:
    """Import the files of a folder that settings name as `module:Name`, which runs their code.

    Args:
        folder: of a repository that the user trusts.
        names: settings in which such names may stand, at any depth.

    Raises:
        InputError: a name that is none of a module, a file that cannot be imported, or another
            module of its name that is loaded already.
    """
    for module in own_modules(names):
        if not all(part.isidentifier() for part in module.split(".")):
            raise InputError(
                f"expected code under a name like my_net:Net in {folder}, got the module "
                f"{module!r}; mend the name"
            )
        path = folder / f"{module}.py"
        if "." in module or not path.is_file() or _is_loaded(module, path):
            continue
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except (Exception, SystemExit) as error:
            del sys.modules[module]
            raise InputError(
                f"expected code that can be imported in {path}, got {type(error).__name__} "
                f"({error}); mend it"
            ) from error


def _is_loaded(module: str, path: Path) -> bool:
    """Return whether the code of a file is loaded; InputError for other code under its name."""
    if module not in sys.modules:
        return False
    place = getattr(sys.modules[module], "__file__", None)
    if place is None or Path(place).read_bytes() != path.read_bytes():
        raise InputError(
            f"expected the code of {path}, got other code that is loaded already as the module "
            f"{module} (from {place or 'Python itself'}); use a new process, or rename the file"
        )
    return True


def own_modules(tree: Any) -> list[str]:
    """Return the modules of all names `module:Name` that stand for a family or a kind, once."""
    if isinstance(tree, Mapping):
        named = [str(tree.get(key)) for key in ("family", "kind")]
        own = [name.partition(":")[0] for name in named if ":" in name]
        return [*dict.fromkeys([*own, *own_modules([*tree.values()])])]
    parts = tree if isinstance(tree, list | tuple) else []
    return [*dict.fromkeys(module for part in parts for module in own_modules(part))]
