"""The curves of runs, read from their folders and drawn side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convflow.data.source import require
from convflow.settings.read import flatten
from convflow.storage import read_json, writing_file
from convflow.training.loggers import MetricsFile, SpeedFile, lines_up_to
from convflow.types import InputError

LAST_SHARE = 10
"""The last of so many parts of a curve is what its mean is taken over."""

SMOOTH_SHARE = 50
"""A noisy curve is smoothed over one of so many parts of it."""

NOISY = ("loss", "gradient_norm", "images_per_second")
"""Curves that are one step's or a few steps' and are smoothed; terms of losses are too."""

NOT_DRAWN = ("learning_rate", "seconds_left", "images_per_second_per_device", "peak_memory_gib")

AVERAGE = "_ema"
"""The end of a name that is drawn beside the name without it, dashed."""


class Curve(NamedTuple):
    """Values over images seen, both (N,)."""

    images: np.ndarray
    values: np.ndarray


def read_curves(run: Path) -> dict[str, Curve]:
    """Return the curves of a run by name.

    Raises:
        InputError: no run folder, or one without metrics.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for file in (MetricsFile.name, SpeedFile.name):
        for row in map(json.loads, lines_up_to(run / file, math.inf)):
            for name in row.keys() - {"step", "images"}:
                found.setdefault(name, []).append((row["images"], row[name]))
    if not (run / MetricsFile.name).is_file():
        raise InputError(
            f"expected a run folder with {MetricsFile.name}, got {run} without; give the folder "
            "that convflow train wrote"
        )
    if not found:
        raise InputError(
            f"expected logged steps in {run}, got none; let the training go on, or lower "
            "--monitor.log-every"
        )
    return {name: Curve(*map(np.array, zip(*rows, strict=True))) for name, rows in found.items()}


def summarise(curves: Mapping[str, Curve]) -> dict[str, float]:
    """Return what a run has come to: images seen, and the end of each curve by name.

    A noisy curve is averaged over its last tenth, others end in their last value.
    """
    ends = {
        name: float(curve.values[-(len(curve.values) // LAST_SHARE) - 1 :].mean())
        if is_noisy(name)
        else float(curve.values[-1])
        for name, curve in sorted(curves.items(), key=lambda item: _place(item[0]))
        if name not in NOT_DRAWN
    }
    return {"images": max(int(curve.images[-1]) for curve in curves.values())} | ends


def is_noisy(name: str) -> bool:
    """Return whether a curve is smoothed."""
    return name in NOISY or "." in name


def find_differences(runs: Sequence[Path]) -> dict[str, list[object]]:
    """Return the values of every run at each dotted key of `config.json` where they differ.

    Raises:
        InputError: a run without `config.json`.
    """
    trees = [flatten(read_json(run / "config.json")) for run in runs]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    values = {key: [tree.get(key) for tree in trees] for key in keys}
    return {key: found for key, found in values.items() if any(v != found[0] for v in found)}


def draw_curves(runs: Mapping[str, Mapping[str, Curve]], out: Path) -> None:
    """Draw the curves of runs into a PNG, one panel for each name.

    Args:
        runs: curves by name, by what a run is called.
        out: of the file, which is replaced.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    figures = require("matplotlib.figure", "plots", "curves")
    names = dict.fromkeys(name for curves in runs.values() for name in curves)
    drawn = [n for n in sorted(names, key=_place) if n not in NOT_DRAWN]
    panels = [n for n in drawn if n.removesuffix(AVERAGE) == n or n[: -len(AVERAGE)] not in drawn]
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = figures.Figure(figsize=(4.6 * columns, 3.2 * rows + 0.4), constrained_layout=True)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axis in zip(panels, axes, strict=False):  # in this order: no axis is lost
        for number, curves in enumerate(runs.values()):
            for name, style in ((panel, "-"), (panel + AVERAGE, "--")):
                if name in curves:
                    _draw_curve(axis, name, curves[name], f"C{number % 10}", style)
        both = any(panel + AVERAGE in curves for curves in runs.values())
        title = panel.replace("_", " ") + (" (dashed: average)" if both else "")
        axis.set(title=title, xlabel="images seen")
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="y", useOffset=False)
    for axis in list(axes):
        axis.remove()
    lines = [figure.axes[0].plot([], [], color=f"C{i % 10}")[0] for i in range(len(runs))]
    figure.legend(lines, list(runs), loc="outside lower center", ncols=columns)
    with writing_file(out) as draft:
        figure.savefig(draft, format="png", dpi=110)


def _draw_curve(axis: object, name: str, curve: Curve, colour: str, style: str) -> None:
    """Draw one curve; of a noisy one its mean, and the values behind it pale."""
    images, values = curve
    if is_noisy(name) and (window := len(values) // SMOOTH_SHARE) > 1:
        axis.plot(images, values, color=colour, alpha=0.2, linewidth=0.6)  # type: ignore[attr-defined]
        values = np.convolve(values, np.full(window, 1 / window), mode="valid")
        images = images[window - 1 :]
    marker = "o" if len(values) < 40 else ""
    axis.plot(images, values, style, color=colour, marker=marker, markersize=3)  # type: ignore[attr-defined]


def _place(name: str) -> tuple[int, str]:
    """Return where a curve stands among others: losses, then scores, then the machine."""
    order = ("loss", "validation_loss", "validation_loss_ema")
    machine = ("gradient_norm", "images_per_second", "utilisation", "data_wait")
    if name in order:
        return order.index(name), ""
    return (9, str(machine.index(name))) if name in machine else (5, name)
