"""What a published file holds: networks under any prefix, averaged or raw, and what lies beside.

Training programs wrap a network in others (`module.`, `_orig_mod.`, `denoiser.`), keep an average
of its weights beside it, and store losses, projectors and counters. A network is known by names of
its own, its signs, whatever stands before them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from convflow.models.diffusers_layouts import ARCHITECTURES
from convflow.models.layouts import ENTRY, SIGNS
from convflow.storage import read_json, read_tensors, read_weights
from convflow.types import InputError, unknown_name

WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Modules that torch puts around others, at any depth."""

AVERAGED = {"ema", "averaged", "average", "avg", "swa", "shadow"}
RAW = {"raw", "online", "noema", "nonema"}
"""Words of a name that tell which of two networks is the average."""
NEGATIONS = {"no", "non", "not", "without"}
"""Words that turn the next one into its opposite."""

EXTRAS = re.compile(
    r"(?:^|[._])(projectors?|optimizers?|opt|schedulers?|loss|losses|criterion|lpips|perceptual|"
    r"discriminator|disc|vae|autoencoder|first_stage_model|text_encoder|metrics?|averaged|decay|"
    r"num_updates|initted|steps?|epochs?|logvar)(?:[._]|$)"
)
"""Words of names that belong to training, not to a network that makes images."""

OPTIMIZER = re.compile(r"(?:^|[._])opt(im|imizers?)?(?:[._]|$)")
"""Words of names under which the averages, such as `exp_avg`, are those of an optimizer."""

DIFFUSERS_CLASS = "DiTTransformer2DModel"
DIFFUSERS_FILES = tuple(
    f"diffusion_pytorch_model.{end}" for end in ("safetensors", "safetensors.index.json", "bin")
)

DEEPEST = 6
"""Dicts within dicts that are looked into."""


@dataclass
class StoredNetwork:
    """One network of a file.

    Attributes:
        path: keys of the dicts around its names.
        prefix: of its names, up to the last dot.
        counted: whether a counter says that it is an average.
        tensors: by the names of its layout.
        files: name in the file of each.
    """

    path: tuple[str, ...]
    prefix: str
    counted: bool
    tensors: dict[str, Tensor] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a user calls it; empty where it is all there is."""
        return ".".join(filter(None, [*self.path, self.prefix.rstrip(".")]))

    @property
    def averaged(self) -> bool:
        """Whether these are averaged weights."""
        return _is_averaged([*self.path, self.prefix], self.counted)

    @property
    def layout(self) -> str | None:
        """Whose names these are, a key of `SIGNS`; None where the sign is missing."""
        return next((layout for layout, sign in SIGNS.items() if sign in self.tensors), None)

    def describe(self) -> str:
        """Return how many tensors there are and some of them, as the file calls them."""
        shapes = [f"{self.files[name]} {tuple(t.shape)}" for name, t in self.tensors.items()]
        if len(shapes) == 1:
            return f"1 tensor, {shapes[0]}"
        return f"{len(shapes)} tensors such as {', '.join(shapes[:3])}"


@dataclass
class Published:
    """The network taken from a file.

    Attributes:
        part: it, without what belongs to training.
        dropped: what was left out, by the file's names; groups as `projectors.*`.
    """

    part: StoredNetwork
    dropped: list[str]

    def describe(self) -> str:
        """Return which weights were taken and what was left out, to follow other words."""
        weights = "averaged weights" if self.part.averaged else "weights"
        taken = f", the {weights} in {self.part.name}" if self.part.name else ""
        return taken + (f"; left out {', '.join(self.dropped)}" if self.dropped else "")


def find_file(path: Path) -> Path:
    """Return the file of weights in a folder of diffusers; any other path as it is."""
    places = (folder / name for folder in (path, path / "transformer") for name in DIFFUSERS_FILES)
    return next((place for place in places if place.is_file()), path)


def read_file(path: Path) -> Any:
    """Return what a file holds, or all files that an index of diffusers names, as one dict.

    Raises:
        InputError: an absent or damaged file, or one that wants to run code.
    """
    if not path.name.endswith(".safetensors.index.json"):
        return read_weights(path)
    return {name: t for file in list_shards(path) for name, t in read_tensors(file).items()}


def list_shards(index: Path) -> list[Path]:
    """Return the files that an index of shards names, or raise InputError."""
    places = read_json(index).get("weight_map")
    files = {*places.values()} if isinstance(places, Mapping) else set()
    if not files or not all(isinstance(f, str) and Path(f).name == f for f in files):
        raise InputError(f"{index} is damaged: expected a weight_map to files; copy it again")
    return [index.with_name(file) for file in sorted(files)]


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of a DiT that diffusers has written beside a file, else nothing.

    Raises:
        InputError: damaged settings, or those of another network.
    """
    place = path.with_name("config.json")
    if path.name not in DIFFUSERS_FILES or not place.is_file():
        return {}
    config = read_json(place)
    if (kind := config.get("_class_name")) != DIFFUSERS_CLASS:
        raise InputError(
            f"{place}: expected the settings of a {DIFFUSERS_CLASS}, "
            f"{', '.join(ARCHITECTURES)}, got {kind}; give another"
        )
    if (activation := config.get("activation_fn", "gelu-approximate")) != "gelu-approximate":
        raise InputError(
            f"{place}: expected the activation gelu-approximate, as a DiT has, got {activation}; "
            "give another"
        )
    return config


def take_network(
    content: Any, origin: str, layouts: tuple[str, ...] = tuple(SIGNS), part: str | None = None
) -> Published:
    """Return the network in a checkpoint, its averaged weights where there are any.

    Where no network is known by its names, the dict with the most tensors counts.

    Raises:
        InputError: no tensors, several networks that could be meant, or tensors beside a network
            that belong to no training.
    """
    if not isinstance(content, Mapping) or not content:
        empty = "an empty " if isinstance(content, Mapping) else ""
        raise InputError(f"{origin}: expected a state dict, got {empty}{type(content).__name__}")
    dicts = dict(_dicts(content))
    parts = [part for path, tensors in dicts.items() for part in _parts(path, tensors, origin)]
    parts = [p for p in parts if p.layout in layouts] or parts or [_largest(dicts, origin)]
    chosen = _choose(parts, origin, part)
    if part is None and not chosen.averaged and (nameless := _nameless(dicts, parts)):
        cure = f"part={chosen.name!r}" if chosen.name else "its state dict alone"
        raise InputError(
            f"{origin}: expected averaged weights under the names of the network, got {nameless}; "
            f"give {cure} to take the raw ones"
        )
    return _clean(chosen, parts, dicts, origin)


def _dicts(
    content: Mapping[Any, Any], path: tuple[str, ...] = (), seen: frozenset[int] = frozenset()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield every dict in a checkpoint with the keys that lead to it, also by places in a list."""
    yield path, content
    for key, value in content.items():
        if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            value = {str(place): item for place, item in enumerate(value)}
        inside = isinstance(value, Mapping) and len(path) < DEEPEST
        if isinstance(key, str) and inside and id(value) not in seen:
            yield from _dicts(value, (*path, key), seen | {id(content)})


def _parts(path: tuple[str, ...], content: Mapping[Any, Any], origin: str) -> list[StoredNetwork]:
    """Return the networks whose names stand in one dict."""
    plain = {n: WRAPPERS.sub("", n) for n, value in content.items() if _is_tensor(n, value)}
    ends = (*SIGNS.values(), *ENTRY)
    prefixes = {
        name.removesuffix(end)
        for name in plain.values()
        for end in ends
        if name == end or name.endswith(f".{end}")
    }
    # Longest first: of ema.x and x the first belongs to ema alone.
    parts = {
        prefix: StoredNetwork(path, prefix, False) for prefix in sorted(prefixes, key=len)[::-1]
    }
    for file, name in plain.items():
        owner = next((part for prefix, part in parts.items() if name.startswith(prefix)), None)
        if owner is None:
            continue
        own = name.removeprefix(owner.prefix)
        if own in owner.tensors:
            raise InputError(
                f"{origin}: expected each tensor once, got {owner.files[own]} and {file}; give a "
                "file with one of them"
            )
        owner.tensors[own], owner.files[own] = content[file], file
    counters = [n.removesuffix("n_averaged") for n in plain.values() if n.endswith("n_averaged")]
    for part in parts.values():
        part.counted = any(part.prefix.startswith(counter) for counter in counters)
    return list(parts.values())[::-1]


def _is_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _is_averaged(names: list[str], counted: bool = False) -> bool:
    """Return whether the last telling word of names says that weights are averaged."""
    words = re.findall("[a-z]+", ".".join(names).lower())
    for before, word in list(itertools.pairwise(["", *words]))[::-1]:
        if word in AVERAGED | RAW:
            return (word in AVERAGED) != (before in NEGATIONS)
    return counted


def _choose(parts: list[StoredNetwork], origin: str, wanted: str | None) -> StoredNetwork:
    names = [part.name for part in parts]
    if wanted is not None:
        found = [p for p in parts if p.name == wanted]
        found = found or [p for p in parts if f".{wanted}." in f".{p.name}."]
    else:
        found = [p for p in parts if p.averaged] or parts
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{origin}: {unknown_name('part', wanted, filter(None, names))}")
    listed = ", ".join(part.name or "the names without a prefix" for part in found)
    raise InputError(
        f"{origin}: expected one network, got {len(found)} that could be meant: {listed}; choose "
        "with part= (--part)"
    )


def _nameless(
    dicts: Mapping[tuple[str, ...], Mapping[Any, Any]], parts: list[StoredNetwork]
) -> str | None:
    """Return where averaged weights lie that are no network by their names, if there are any."""
    known = {(part.path, file) for part in parts for file in part.files.values()}
    for path, content in dicts.items():
        for key, value in content.items() if not OPTIMIZER.search(".".join(path)) else ():
            unknown = (path, key) not in known and _is_averaged([*path, str(key)])
            if unknown and _holds_weights(value):
                return ".".join([*path, str(key)])
    return None


def _holds_weights(value: Any, depth: int = DEEPEST) -> bool:
    """Return whether a value is a tensor of several numbers, or a list with one at any depth."""
    if isinstance(value, (list, tuple)) and depth:
        inner = (v.values() if isinstance(v, Mapping) else [v] for v in value)
        return any(_holds_weights(v, depth - 1) for values in inner for v in values)
    return isinstance(value, Tensor) and value.numel() > 1


def _clean(
    part: StoredNetwork,
    parts: list[StoredNetwork],
    dicts: Mapping[tuple[str, ...], Mapping[Any, Any]],
    origin: str,
) -> Published:
    """Return a part without what belongs to training; a tensor that is neither is an error."""
    extras = [name for name in part.tensors if EXTRAS.search(name.partition(".")[0])]
    for name in extras:
        del part.tensors[name], part.files[name]
    known = {file for p in parts if p.path == part.path for file in p.files.values()}
    for key, value in dicts[part.path].items():
        if key in known or WRAPPERS.sub("", str(key)).removeprefix(part.prefix) in extras:
            continue
        weighs = isinstance(value, Tensor) or not isinstance(key, str)
        if weighs and not EXTRAS.search(str(key)) and not _is_averaged([str(key)]):
            raise InputError(
                f"{origin}: expected a state dict of names and tensors, but it holds the "
                f"{type(value).__name__} {key!r}, which is no part of the network; give the part "
                "of it that is one"
            )
        extras.append(str(key))
    others = [other.name or "the rest" for other in parts if other is not part]
    for depth in range(len(part.path)):  # what lies beside the part, and beside what holds it
        level = part.path[:depth]
        others += [".".join([*level, str(key)]) for key in dicts[level] if key != part.path[depth]]
    modules = [f"{n.partition('.')[0]}.*" if "." in n else n for n in extras]
    return Published(part, list(dict.fromkeys([*others, *modules])))


def _largest(dicts: Mapping[tuple[str, ...], Mapping[Any, Any]], origin: str) -> StoredNetwork:
    """Return the dict with the most tensors as a part of no layout."""
    parts = []
    for path, content in dicts.items():
        tensors = {name: value for name, value in content.items() if _is_tensor(name, value)}
        parts.append(StoredNetwork(path, "", False, tensors, {name: name for name in tensors}))
    largest = max(parts, key=lambda part: len(part.tensors))
    if not largest.tensors:
        held = ", ".join(f"{type(v).__name__} {k!r}" for k, v in [*dicts[()].items()][:3])
        raise InputError(
            f"{origin}: expected a state dict of names and tensors, but it holds the {held}; give "
            "the part of it that is one"
        )
    return largest
