"""Where the weights of a new run come from: those of a trained network, on one scale or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from convflow.bundle.config import PipelineConfig, read_pipeline
from convflow.bundle.diffusers_models import (
    describe_transformer,
    find_transformer,
    settings_of_transformer,
)
from convflow.bundle.folder import DESCRIPTION_FILE, find_text, find_weights
from convflow.bundle.paths import find_place
from convflow.bundle.published import is_published, read_published
from convflow.class_names import composed, imagenet_classes
from convflow.codecs import LatentCodec
from convflow.models.backbone import Backbone
from convflow.models.diffusers_network import EMPTY_TEXT
from convflow.models.families import INSIDE, PRETRAINED
from convflow.models.pyramid import Pyramid
from convflow.models.text import OF_TEXT
from convflow.models.zoo import load_model
from convflow.nn.embed import LabelEmbedding
from convflow.processes.contract import MoreChannels
from convflow.processes.process import Process
from convflow.storage import read_json
from convflow.texts import PretrainedText
from convflow.training.config import TrainConfig
from convflow.training.data import training_sizes
from convflow.training.likeness import check_same
from convflow.training.partial import take_what_fits
from convflow.types import InputError, Size

NAMED_CLASSES = 6
"""Classes that a line names."""
OF_DATA = (
    *("num_classes", "in_channels", "learned_variance", "position_grid", "second_time"),
    "told_guidance",
    *OF_TEXT,
)
"""Settings of a network that follow from data, codec, process or size."""
DDPM_TIMES = "steps from 0 (data) to 999 (noise)"
FLOW_TIMES = "times from 0 (noise) to 1 (data)"


class Origin(NamedTuple):
    """A trained network to begin from."""

    name: str
    """What the user calls it."""
    model: Backbone
    """With averaged weights."""
    class_names: tuple[str, ...] = ()
    """Of its labels; empty where nothing tells them."""
    partial: bool = False
    """Whether what does not fit is drawn anew."""
    notes: tuple[str, ...] = ()
    """Lines on what differs besides the network."""
    same_time: bool = True
    """Whether it was told a time that means what it means in the new run."""
    size: Size | None = None
    """Of its images in pixels; None where nothing tells it."""
    predictions: tuple[str, str] = ("", "")
    """What the run's process predicts and what that of the weights does, where both are known."""
    more_channels: MoreChannels = Process.more_channels
    """Of the run's process."""


def read_origin(config: TrainConfig) -> Origin:
    """Return the trained network that `config.init` names, with averaged weights.

    Raises:
        InputError: nothing there, damaged files, or a network trained by another process.
    """
    stored: PipelineConfig | None
    try:
        with torch.random.fork_rng(devices=[]):  # a new network draws its first weights
            if is_published(config.init):
                _, stored, model = read_published(config.init)
            else:
                folder = find_weights(config.init, "ema")
                model = load_model(folder, verify=config.checkpoint.verify)
                stored = _read_stored(folder)
    except InputError as error:
        raise InputError(f"--init: {error}") from error
    notes, partial = [], config.init_partial
    misfits = config.process.misfits(stored.process) if stored else {}
    for key, (ours, theirs) in misfits.items():
        if partial:
            notes.append(f"process {key}: {ours} here, {theirs} in {config.init}")
        elif not (key == "kind" and theirs in config.process.begins_from):
            raise InputError(
                f"--init: expected weights trained with the process {key} {ours}, got "
                f"{config.init} with {theirs}; give others, or --process.{key} {theirs}, or "
                "--init-partial true for a mere start"
            )
    more_channels = config.process.more_channels
    if stored is None:
        return Origin(
            config.init, model, partial=partial, notes=tuple(notes), more_channels=more_channels
        )
    if "kind" in misfits and partial:
        notes += _times(config.process, stored.process, config.init)
    known = stored.process.kind in config.process.begins_from
    return Origin(
        config.init,
        model,
        stored.class_names,
        partial,
        tuple(notes),
        same_time=known or (stored.process.kind == "ddpm") == (config.process.kind == "ddpm"),
        size=stored.size,
        predictions=(config.process.prediction, stored.process.prediction),
        more_channels=more_channels,
    )


def _times(ours: Process, theirs: Process, name: str) -> list[str]:
    """Return a line on the times that a network is told, where those of two processes differ."""
    said = [DDPM_TIMES if process.kind == "ddpm" else FLOW_TIMES for process in (ours, theirs)]
    if said[0] == said[1]:
        return []
    return [f"times: {said[0]} here, {said[1]} in {name}; the embedding of times learns these anew"]


def _read_stored(folder: Path) -> PipelineConfig | None:
    """Return what a model folder says of its model, None where it says nothing."""
    described = folder / DESCRIPTION_FILE
    return read_pipeline(read_json(described)) if described.is_file() else None


def adopt(config: TrainConfig, init: str) -> TrainConfig:
    """Return settings with the network, process, codec and text encoder of trained weights.

    A recipe of several scales keeps its own, and so does one that begins from those. The number of
    classes and channels is that of the data.

    Args:
        config: of a recipe, before the user's own words.
        init: a run, a checkpoint, a model folder or published weights.

    Raises:
        InputError: nothing there, or damaged files.
    """
    found: PipelineConfig | None
    try:
        if (transformer := find_transformer(init)) is not None:
            place, found = transformer.folder, describe_transformer(transformer)
            settings = settings_of_transformer(transformer)
        elif is_published(init):
            place, found, model = read_published(init)
            settings = dict(model.settings)
        else:
            place = find_weights(init, "ema")
            settings, found = read_json(place / "config.json"), _read_stored(place)
    except InputError as error:
        raise InputError(f"--init: {error}") from error
    family = settings.pop("family", None)
    network = {name: value for name, value in settings.items() if name not in OF_DATA}
    if config.process.multiscale and family in PRETRAINED and config.model["name"] == family:
        return _beside_scales(replace(config, model=config.model | network), found)
    if config.process.multiscale or family not in INSIDE:
        return config
    if family not in PRETRAINED:
        network.setdefault("time_scale", 1.0)  # where an earlier version has stored none
    wanted = config.model.get("temporal", "none")
    if family == config.model["name"] and network.get("temporal", "none") == "none" != wanted:
        network["temporal"] = wanted  # a recipe of videos begins from pictures
    config = replace(config, model={"name": family, **network})
    return config if found is None else _adopt_pipeline(config, found, place, settings)


def _adopt_pipeline(
    config: TrainConfig, found: PipelineConfig, place: Path, settings: Mapping[str, Any]
) -> TrainConfig:
    """Return settings with the process, codec and text encoder of trained weights at `place`.

    Args:
        config: whose network is theirs.
        found: what they are sampled with.
        place: where they lie.
        settings: of their network.
    """
    channels: Literal[1, 3] = 3
    codec = found.codec
    if isinstance(codec, LatentCodec):
        where = find_place(codec.autoencoder, place, inside=True)
        codec = replace(codec, autoencoder=where)
    elif codec.kind == "pixel" and settings.get("in_channels") == 1:
        channels = 1
    theirs = found.process.second_time or config.model["name"] in PRETRAINED
    sampling = found.sampling if theirs else config.sampling
    try:
        sampling.check(found.process)
    except InputError:
        sampling = found.sampling
    return replace(
        config,
        process=found.process,
        codec=codec,
        text=find_text(found.text, place),
        data=replace(config.data, channels=channels),
        sampling=sampling,
    )


def _beside_scales(config: TrainConfig, found: PipelineConfig | None) -> TrainConfig:
    """Return settings of scales with the codec of weights, and their text encoder if they have one.

    The arithmetic of the encoder stays that of the recipe.
    """
    if found is None:
        return config
    ours, theirs = config.text, found.text
    if isinstance(ours, PretrainedText) and isinstance(theirs, PretrainedText):
        theirs = replace(theirs, dtype=ours.dtype)
    return replace(config, codec=found.codec, text=theirs if theirs.used else ours)


def fit_settings(config: TrainConfig, origin: Origin, factor: int) -> TrainConfig:
    """Return settings in which a network sees what the trained one has learned.

    The coarsest scale enters as it does there; on one scale that is the image with its cells
    repeated. Positions of DiT and SiT lie within the grid of training, where a run has larger ones.
    Nothing changes where the settings say it themselves.

    Args:
        config: the complete settings.
        origin: the trained network.
        factor: pixels along a side of a cell of model space.
    """
    trained, given = origin.model.settings, config.model
    if config.process.multiscale:
        known = {"coarse": trained.get("coarse", "upsample")}
        return replace(config, model=known | given)
    if "position_grid" not in trained or "position_grid" in given:
        return config
    grid = trained["position_grid"]
    if grid is None and origin.size is not None:
        cells = factor * origin.model.multiple
        seen = [side // cells for side in origin.size[-2:]]
        sizes = config.data.size, *training_sizes(config.data, cells)
        sides = zip(*(size[-2:] for size in sizes), strict=True)
        if any(max(wanted) // cells > most for wanted, most in zip(sides, seen, strict=True)):
            grid = seen
    return config if grid is None else replace(config, model=given | {"position_grid": grid})


def begin_from(model: Backbone, origin: Origin, class_names: Sequence[str]) -> list[str]:
    """Copy the weights of a trained network into a new one, which then predicts what that did.

    The rows of the label table are those of the classes of the same name, where a synset means the
    name in ImageNet; a new class keeps the row that the new network has drawn. Where the names are
    unknown, or are the numbers that classes without names get, the rows are taken by position if
    there are as many. "No label" is always taken.

    Args:
        model: the new network. A pyramid may begin from a network like the one inside it, see
            `Pyramid.begin_from`.
        origin: with the same settings but for the number of classes, unless it is partial; its
            label table becomes that of the new network.
        class_names: of the new network.

    Returns:
        What became of the label table, in a line, nothing where the classes are the same. Of a
        partial origin, also how many tensors were taken, and a line for each other one.

    Raises:
        InputError: networks that differ in more than classes; the message names what does.
    """
    trained, name = origin.model, origin.name
    if trained.num_scales > 1 and model.num_scales == 1:
        raise InputError(
            f"--init: expected a network of one scale, got {name}, a pyramid; add --process dfm"
        )
    inner = model.num_scales > 1 and trained.num_scales == 1
    partial = origin.partial and model.num_scales == 1 and model.family == trained.family
    if not partial:
        check_same(model.inner if inner else model, trained, name, origin.more_channels)
    rows = _rows(tuple(class_names), model.num_classes, origin)
    note = _note(tuple(class_names), model.num_classes, origin, rows)
    for new, old in zip(_tables(model), _tables(trained), strict=not partial):
        if new.weight.shape[1] == old.weight.shape[1]:
            old.weight = nn.Parameter(_mapped(new.weight.detach(), old.weight.detach(), rows))
    lines = [*origin.notes, *_positions(model), *([note] if note else [])]
    if partial:
        return [*lines, *take_what_fits(model, trained, name, origin.predictions)]
    model.begin_from(trained)
    return lines


def drawn_anew(model: Backbone, origin: Origin, class_names: Sequence[str]) -> list[str]:
    """Return the modules of a new network that `begin_from` will not fill from the origin alone.

    Those are label tables with a new row and, of a partial origin, what owns a tensor that does not
    fit. Of scales around a network of one they are the stems, time embeddings and heads.
    """
    if model.num_scales > 1 and origin.model.num_scales == 1:
        return cast(Pyramid, model).scale_parts()
    rows = _rows(tuple(class_names), model.num_classes, origin)
    tables = {name for name, part in model.named_modules() if isinstance(part, LabelEmbedding)}
    names, given = tables if None in rows else set(), origin.model.state_dict()
    for key, tensor in model.state_dict().items():
        owner, known = key.rpartition(".")[0], given.get(key)
        if key.startswith(EMPTY_TEXT):
            continue
        same = 1 if owner in tables else 0  # rows of another number of classes are found by name
        if known is None or known.shape[same:] != tensor.shape[same:]:
            names.add(owner)
    return sorted(names - {""})


def _positions(model: Backbone) -> list[str]:
    """Return a line on positions that are brought into a smaller grid."""
    if not (grid := model.settings.get("position_grid")):
        return []
    return [
        f"positions: larger grids are brought into {grid[0]}x{grid[1]} cells, those of the weights "
        "(--model.position-grid none does not)"
    ]


def _tables(model: nn.Module) -> list[LabelEmbedding]:
    return [module for module in model.modules() if isinstance(module, LabelEmbedding)]


def _rows(names: tuple[str, ...], num_classes: int, origin: Origin) -> list[int | None]:
    """Return for each class its row in the label table of the origin, None for a new one."""
    if not _tell(origin.class_names) or not _tell(names):
        by_position = origin.model.num_classes == num_classes
        return [*range(num_classes)] if by_position else [None] * num_classes
    exact = {name: row for row, name in enumerate(origin.class_names)}
    alike = {_normal(name): row for name, row in exact.items()}
    return [exact.get(name, alike.get(_normal(name))) for name in names]


def _tell(names: Sequence[str]) -> bool:
    """Return whether names tell classes apart from others: 0, 1, ... stand for unknown ones."""
    return tuple(names) != tuple(map(str, range(len(names))))


def _normal(name: str) -> str:
    return composed(imagenet_classes().get(name, name))


def _mapped(new: Tensor, old: Tensor, rows: Sequence[int | None]) -> Tensor:
    """Return a table whose rows are old ones where there is one, and the old "no label"."""
    table = new.clone()
    table[-1] = old[-1]
    for place, row in enumerate(rows):
        if row is not None:
            table[place] = old[row]
    return table


def _note(
    names: tuple[str, ...], num_classes: int, origin: Origin, rows: Sequence[int | None]
) -> str:
    """Return what becomes of the label table in a line, empty where the classes are the same."""
    num_before = origin.model.num_classes
    if not num_before and not num_classes:
        return ""
    if not num_classes:
        return f"label table: no classes here, {num_before} of {origin.name} left out"
    if not num_before:
        return f"label table: {num_classes} classes drawn anew, for {origin.name} has none"
    if not _tell(origin.class_names) or not _tell(names):
        why = "numbers are no names" if origin.class_names else "it has no names"
        how = f"{num_classes} classes taken from {origin.name} by position"
        if num_before != num_classes:
            how = f"{num_classes} classes drawn anew, for {origin.name} has {num_before}"
        return f"label table: {how}; {why}"
    if rows == [*range(num_before)]:
        return ""
    taken = [name for name, row in zip(names, rows, strict=True) if row is not None]
    new = [name for name, row in zip(names, rows, strict=True) if row is None]
    lost = [name for row, name in enumerate(origin.class_names) if row not in rows]
    said = f"label table: {len(taken)} of {num_classes} classes taken from {origin.name} by name"
    said += _listed(taken) + (f", {len(new)} drawn anew{_listed(new)}" if new else "")
    return said + (f", {len(lost)} left out{_listed(lost)}" if lost else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    return f" ({', '.join(names[:NAMED_CLASSES])}{more})" if names else ""
