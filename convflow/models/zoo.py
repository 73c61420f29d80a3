"""The published sizes, one line each, and the functions that build and load networks."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convflow import hub
from convflow.models.adapter import check_adapter, find_base, is_adapter, merge_adapter
from convflow.models.backbone import Backbone
from convflow.models.families import BACKBONES, build
from convflow.models.pyramid import Pyramid
from convflow.models.stored import (
    StoredFiles,
    find_stored,
    import_code,
    read_settings,
    read_stored,
)
from convflow.processes.contract import Process
from convflow.settings.kinds import Table
from convflow.settings.read import defaults
from convflow.shipped import resolve
from convflow.storage import find_misfits
from convflow.types import InputError, unknown_name

FAMILIES: Table[type[Backbone]] = Table(
    "model family", Backbone, {**BACKBONES, Pyramid.family: Pyramid}
)


class PublishedSize(NamedTuple):
    """A published size: its settings, and the counts of the released module with 1000 classes.

    `params` are the released module's trainable parameters, with `RELEASED_SETTINGS[family]`;
    `gmacs` its matrix products and convolutions in 10^9 multiply-accumulates at 256, 512 and 1024
    pixels (8x latents), those of attention included. Deformable sampling is not in `gmacs`.
    """

    family: str
    settings: dict[str, Any]
    params: int
    gmacs: tuple[float, ...]


TABLE = {
    "flowdcn": ("width", "depth", "num_groups"),
    "dico": ("width", "depths", "mlp_ratio"),
    "fcdm": ("width", "depths"),
    "dit": ("width", "depth", "num_heads", "patch_size"),
    "sit": ("width", "depth", "num_heads", "patch_size"),
}
"""The settings in a row of each family, before parameters and GMACs at 256, 512 and 1024."""

# fmt: off
CONVOLUTIONAL: dict[str, tuple[Any, ...]] = {
    "flowdcn-s/2":  (384,  12, 6,   30_300_416, (4.801, 19.169, 76.641)),
    "flowdcn-b/2":  (768,  12, 12, 120_099_296, (19.192, 76.637, 306.413)),
    "flowdcn-l/2":  (1024, 24, 16, 421_503_520, (68.203, 272.348, 1088.929)),
    "flowdcn-xl/2": (1152, 28, 16, 618_947_616, (100.125, 399.816, 1598.584)),
    "dico-s":  (128, (5, 4, 4, 4, 4),      2.0, 33_137_672,    (4.236, 16.904, 67.572)),
    "dico-b":  (256, (5, 4, 4, 4, 4),      2.0, 129_992_712,   (16.856, 67.255, 268.852)),
    "dico-l":  (352, (9, 8, 9, 8, 9),      2.0, 463_897_992,   (60.169, 240.004, 959.346)),
    "dico-xl": (416, (9, 9, 10, 9, 9),     2.0, 701_151_368,   (87.221, 347.860, 1390.416)),
    "dico-h":  (416, (14, 12, 10, 12, 14), 4.0, 1_037_408_328, (194.029, 774.915, 3098.460)),
    # the counts are our own, published are those of `models/fcdm.py`
    "fcdm-s":  (128, (2, 4, 8, 4, 2),  32_699_912,  (3.073, 12.268, 49.044)),
    "fcdm-b":  (256, (2, 4, 8, 4, 2),  127_675_400, (12.136, 48.443, 193.668)),
    "fcdm-l":  (512, (2, 4, 8, 4, 2),  504_453_128, (48.231, 192.516, 769.656)),
    "fcdm-xl": (512, (3, 6, 12, 6, 3), 698_754_056, (64.530, 257.519, 1029.474)),
}
TRANSFORMERS: dict[str, tuple[Any, ...]] = {
    "s/2":  (384,  12, 6,  2,  32_865_056, (6.056, 31.437, 241.679)),
    "s/4":  (384,  12, 6,  4,  32_920_448, (1.413, 6.070, 31.494)),
    "s/8":  (384,  12, 6,  8,  33_142_016, (0.358, 1.427, 6.126)),
    "b/2":  (768,  12, 12, 2, 130_315_808, (23.005, 106.383, 657.325)),
    "b/4":  (768,  12, 12, 4, 130_426_496, (5.565, 23.033, 106.496)),
    "b/8":  (768,  12, 12, 8, 130_869_248, (1.418, 5.593, 23.147)),
    "l/2":  (1024, 24, 16, 2, 457_840_672, (80.698, 360.982, 2061.940)),
    "l/4":  (1024, 24, 16, 4, 457_988_224, (19.696, 80.735, 361.133)),
    "l/8":  (1024, 24, 16, 8, 458_578_432, (5.011, 19.733, 80.886)),
    "xl/2": (1152, 28, 16, 2, 674_834_720, (118.621, 524.538, 2909.220)),
    "xl/4": (1152, 28, 16, 4, 675_000_704, (29.044, 118.664, 524.708)),
    "xl/8": (1152, 28, 16, 8, 675_664_640, (7.392, 29.086, 118.834)),
}
"""DiT and SiT: all twelve are published; the counts at /2 are those of the released modules, the
counts at /4 and /8 and all at 1024 pixels are our own."""
# fmt: on


def _size(name: str, row: tuple[Any, ...]) -> PublishedSize:
    family, (*values, params, gmacs) = name.partition("-")[0], row
    return PublishedSize(family, dict(zip(TABLE[family], values, strict=True)), params, gmacs)


SIZES = {name: _size(name, row) for name, row in CONVOLUTIONAL.items()}
for _family in ("dit", "sit"):
    SIZES |= {(n := f"{_family}-{name}"): _size(n, row) for name, row in TRANSFORMERS.items()}

RELEASED_SETTINGS: dict[str, dict[str, Any]] = {
    "flowdcn": {"border": "truncate", "discard_half": True},
    "dico": {"learned_variance": True},
    "fcdm": {"learned_variance": True},
    "dit": {"learned_variance": True},
    "sit": {"discard_half": True},
}
"""Settings that make a family equal to its released code, faults included."""


def create_model(name: str, **settings: Any) -> Backbone:
    """Return a new network of a published size, or of any size of a family.

    Args:
        name: a size such as "flowdcn-s/2", a family such as "flowdcn" for its defaults, or a
            `Backbone` of your own as `package.module:Name`, whose module is imported.
        **settings: arguments of the network that replace those of the size, e.g. `num_classes=10`,
            `in_channels=3`, `width=256`. "pyramid" takes the name of its network as `backbone`, and
            settings that are not its own are those of that network.
            A new network that a flow is to train should have `time_scale=1000`.

    Raises:
        InputError: an unknown name or setting; the message names the nearest one.

    Examples:
        >>> model = create_model("flowdcn-s/2", num_classes=10, in_channels=3)
        >>> model.num_classes
        10
    """
    if name == Pyramid.family and isinstance(settings.get("backbone"), str):
        settings = _split(settings)
    size = _find(name)
    return build(size.family, size.settings | settings, FAMILIES)


def settings_of(name: str, *, trusted: bool = True) -> dict[str, Any]:
    """Return the settings that a size or family takes, by name, with their values there.

    Args:
        name: as in `create_model`.
        trusted: whether a user's module may be imported; not by a name that a file holds.

    Raises:
        InputError: an unknown name; the message has the nearest.
    """
    size = _find(name, trusted)
    return defaults(FAMILIES.find(size.family).Config) | size.settings


def describe_settings(name: str) -> dict[str, str]:
    """Return what each setting of a size or family means, as the docstring of its `Config` says."""
    text = inspect.getdoc(FAMILIES.find(_find(name, True).family).Config) or ""
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text.partition("Attributes:\n")[2], re.M)
    return {name: " ".join(meaning.split()).removesuffix(".") for name, meaning in entries}


def load_model(
    folder_or_id: str | Path,
    *,
    verify: bool = True,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Return the network stored in a folder by `save_pretrained`, or on the Hugging Face Hub.

    Args:
        folder_or_id: a folder with `config.json` and `model.safetensors`, maybe in shards; one that
            was exported for diffusers; a model of the package such as "shipped:cifar10"; or a Hub
            id "who/what", "who/what@revision". An adapter of peft is added to the weights of its
            base.
        verify: look for NaN and infinity, and compare the files of a checkpoint with its checksums.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: import the files beside the weights that the settings name, which runs
            their code. Otherwise no code of a folder or repository ever runs.

    Raises:
        InputError: nothing there, a damaged file, or weights that do not fit their settings.
    """
    folder = find_folder(hub.at_revision(folder_or_id, revision), code=trust_remote_code)
    if trust_remote_code:
        import_code(folder, read_settings(find_stored(folder) or StoredFiles(folder)))
    if is_adapter(folder):
        return _load_adapted(folder, verify)
    files = find_stored(folder) or StoredFiles(folder)
    settings = read_settings(files)
    if "optim" in settings:
        raise InputError(
            f"expected a model folder, got the run {folder}; give {folder}/checkpoints/step_.../ema"
        )
    family = settings.pop("family", None)
    try:
        FAMILIES.find(family, trusted=False)
    except InputError as error:
        raise InputError(f"{files.settings}: {error}") from error
    weights, path = read_stored(files, verify), files.weights
    with torch.device("meta"):  # no memory for a network that the weights do not fit
        _check_fit(build(family, settings, FAMILIES), weights, path)
    model = build(family, settings, FAMILIES)
    load_strictly(model, weights, path)
    return model.eval()


def _load_adapted(folder: Path, verify: bool) -> Backbone:
    """Return the network of an adapter with the adapter added to its weights."""
    base = find_folder(find_base(folder))
    if verify:
        check_adapter(folder)
    if is_adapter(base):
        raise InputError(f"expected whole weights in {base}, got another adapter; merge it first")
    return merge_adapter(load_model(base, verify=verify), folder, verify=verify)


def load_strictly(model: Backbone, weights: dict[str, Tensor], origin: Path | str) -> None:
    """Copy weights into a network, or raise InputError that names what is missing or unused."""
    _check_fit(model, weights, origin)
    model.load_state_dict(weights)


def _check_fit(model: Backbone, weights: dict[str, Tensor], origin: Path | str) -> None:
    problems = find_misfits(model.state_dict(), weights)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{origin} does not fit {model.family}: {'; '.join(problems[:3])}{more}; "
            "use the config.json that was saved with it"
        )


def check_process(model: Backbone, process: Process) -> None:
    """Raise InputError unless a network is asked and answers as one trained by a process.

    What no shape tells, such as the schedule, is taken on trust.
    """
    both = (process, model)
    downsamplings = [list(of.downsampling[:-1]) for of in both]
    frames = [list(of.frame_downsampling[:-1]) for of in both]
    if downsamplings[0] != downsamplings[1] or frames[0] != frames[1]:
        ours, theirs = map(_scales, downsamplings, frames)
    elif process.second_time != model.second_time or process.tells_guidance != model.told_guidance:
        ours = _told(process.second_time, process.tells_guidance)
        theirs = _told(model.second_time, model.told_guidance)
    else:
        ours, theirs = (
            f"with{'' if learned else 'out'} channels for {process.more_channels.purpose}"
            for learned in (process.learned_variance, model.learned_variance)
        )
    if ours != theirs:
        raise InputError(
            f"expected a network {ours}, as the process {process.kind} has, got one {theirs}; give "
            "the process that the network was trained with"
        )


def _told(two: bool, guidance: bool) -> str:
    said = "that is told two times" if two else "that is told one time"
    return said + " and a scale of guidance" * guidance


def _scales(downsampling: Sequence[int], frames: Sequence[int]) -> str:
    if not downsampling:
        return "of one scale"
    factors, along = (
        [int(a / b) for a, b in itertools.pairwise([*shares, 1])]
        for shares in (downsampling, frames)
    )
    said = f", along time {along}" if set(along) > {1} else ""
    return f"of scales with the factors {factors}{said}"


def find_folder(folder_or_id: str | Path, *, code: bool = False) -> Path:
    """Return a local folder with a model, downloading it from the Hub when it is an id.

    `shipped:NAME` is a model that comes with the package, see `convflow.shipped`.

    Args:
        folder_or_id: as of `load_model`.
        code: whether files of Python are downloaded too.

    Raises:
        InputError: a folder without a model, nothing at a path, or no such repository.
    """
    folder_or_id = resolve(str(folder_or_id))
    folder = Path(folder_or_id)
    if find_stored(folder) is not None:
        return folder
    if folder.is_file():
        endings = ", ".join(hub.WEIGHTS)
        raise InputError(
            f"expected a run, a model folder or a file of weights ({endings}), got the file "
            f"{str(folder_or_id)!r}; give one of these"
        )
    if folder.exists():
        raise InputError(
            f"expected a folder with config.json and model.safetensors, got {str(folder_or_id)!r}; "
            "save a model there with save_pretrained"
        )
    wanted = "a run, a checkpoint or a model folder"
    patterns = ["*.json", "*.safetensors", *(["*.py"] if code else [])]
    return hub.download(str(folder_or_id), patterns, wanted)


def _split(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a pyramid, those that are not its own given to its backbone."""
    pyramid = {name: settings[name] for name in settings_of(Pyramid.family) if name in settings}
    size = _find(pyramid["backbone"])
    rest = {name: value for name, value in settings.items() if name not in pyramid}
    return pyramid | {"backbone": {"family": size.family, **size.settings, **rest}}


def _find(name: str, trusted: bool = True) -> PublishedSize:
    """Return a published size, or a family as a size without settings."""
    if name in SIZES:
        return SIZES[name]
    if name not in FAMILIES and ":" not in name:
        known = unknown_name("model", name, [*SIZES, *FAMILIES])
        raise InputError(f"{known}; or give package.module:Name")
    FAMILIES.find(name, trusted=trusted)
    return PublishedSize(name, {}, 0, ())
