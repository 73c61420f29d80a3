"""From any picture to uint8 of the wanted size, and a check that finds the ones that cannot.

The resizing follows Dhariwal and Nichol (2021), "Diffusion Models Beat GANs on Image Synthesis":
halve with a box filter, then bicubic to the covering size, then crop.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from convflow.data.pictures import Drawn, Source
from convflow.types import InputError, Size

_BLOCK = 64  # pictures per task: small pictures decode faster than a task is handed over


def to_uint8(picture: Image.Image | np.ndarray, channels: int) -> np.ndarray:
    """Pixels of any picture as (H, W, channels) uint8.

    Pillow pictures are turned as their EXIF says, laid on white where transparent, and changed
    between grey and colour as needed. 16-bit grey (modes I;16 and I) is divided by 257; mode F is
    read as [0, 1]. Arrays keep their channels.

    Args:
        picture: A Pillow picture, or an array (H, W) or (H, W, channels): uint8, uint16,
            bool, or float in [0, 1].
        channels: 1 or 3 for Pillow pictures, any number for arrays.

    Raises:
        InputError: The channels, the type or the range of the values do not fit.
    """
    if isinstance(picture, np.ndarray):
        return _array_to_uint8(picture, channels)
    if channels not in (1, 3):
        raise InputError(f"expected 1 or 3 channels for pictures, got {channels}; use arrays")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture)
        if picture.mode == "I":
            if values.min() < 0 or values.max() > 65535:
                raise InputError(
                    "expected 32-bit integer pixels in 0..65535 (16 bits), "
                    f"got {values.min()}..{values.max()}; save as 8 or 16 bits"
                )
            values = values.astype(np.uint16)
        return np.repeat(_array_to_uint8(values, 1), channels, axis=2)
    try:
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        picture = picture.convert("L" if channels == 1 else "RGB")
    except ValueError as error:
        raise InputError(f"expected grey or colour, got mode {picture.mode}") from error
    pixels = np.asarray(picture)
    return pixels[:, :, None] if channels == 1 else pixels


def _array_to_uint8(values: np.ndarray, channels: int) -> np.ndarray:
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] != channels or 0 in values.shape:
        raise InputError(
            f"expected an array (height, width, {channels}), got {tuple(values.shape)}"
        )
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # of either byte order
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype == np.bool_:
        return values * np.uint8(255)
    if values.dtype.kind != "f":
        raise InputError(f"expected uint8, uint16 or float in [0, 1], got {values.dtype}")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):
        raise InputError(f"expected float pixels in [0, 1], got {low:.4g}..{high:.4g}")
    return np.rint(values * 255).astype(np.uint8)


def resize_and_crop(
    picture: np.ndarray,
    size: Size,
    *,
    crop: Literal["center", "random"] = "center",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """The picture at exactly `size`, its shape kept and the overhang cut off.

    Halved with a box filter while it is at least twice the target both ways, then bicubic by
    max(H / h, W / w), then cropped. A picture that already has the size comes back untouched.

    Args:
        picture: (h, w, C) uint8.
        size: Target height and width H, W in pixels.
        crop: Keep the middle, or a place drawn from `rng`.
        rng: Needed for random crops.

    Returns:
        (H, W, C) uint8.

    Raises:
        InputError: `crop` is unknown, or random without `rng`.
    """
    if crop not in ("center", "random") or (crop == "random" and rng is None):
        raise InputError(f"expected crop 'center', or 'random' with an rng, got {crop!r}")
    height, width = size
    h, w = picture.shape[:2]
    if (h, w) == (height, width):
        return picture
    while min(h / height, w / width) >= 2:
        h, w = h // 2, w // 2
        picture = _resize(picture, (h, w), Image.Resampling.BOX)
    scale = max(height / h, width / w)
    h, w = max(round(h * scale), height), max(round(w * scale), width)
    picture = _resize(picture, (h, w), Image.Resampling.BICUBIC)
    top, left = (h - height) // 2, (w - width) // 2
    if crop == "random" and rng is not None:
        top, left = (int(rng.integers(n + 1)) for n in (h - height, w - width))
    return picture[top : top + height, left : left + width]


def _resize(picture: np.ndarray, size: Size, how: Image.Resampling) -> np.ndarray:
    height, width = size
    if picture.shape[2] == 3:
        return np.asarray(Image.fromarray(picture).resize((width, height), how))
    planes = [Image.fromarray(plane) for plane in np.moveaxis(picture, 2, 0)]
    return np.stack([np.asarray(plane.resize((width, height), how)) for plane in planes], axis=2)


@dataclass
class Report:
    """What a look at every picture found.

    Args:
        count: Usable pictures.
        per_class: Usable pictures by class name; empty for unconditional data.
        sizes: Smallest, median and largest (height, width), each side for itself.
        modes: Pictures by Pillow mode or array type.
        num_smaller: Usable pictures that must be enlarged to the wanted size.
        unreadable: (item name, reason) of every picture that cannot be used.
        num_ignored: Files passed over because they are no pictures.
    """

    count: int
    per_class: dict[str, int] = field(default_factory=dict)
    sizes: tuple[Size, ...] = ((0, 0), (0, 0), (0, 0))
    modes: dict[str, int] = field(default_factory=dict)
    num_smaller: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    num_ignored: int = 0

    def __str__(self) -> str:
        least, median, most = (f"{height}x{width}" for height, width in self.sizes)
        size = least if least == most else f"{least} to {most}, median {median}"
        modes = ", ".join(f"{count:,} {mode}" for mode, count in self.modes.items())
        lines = [f"{self.count:,} pictures, {size} (height x width); {modes}"]
        if self.per_class:
            fewest, largest = (
                f(self.per_class, key=self.per_class.__getitem__) for f in (min, max)
            )
            low, high = self.per_class[fewest], self.per_class[largest]
            span = f"{low:,} ({fewest}) to {high:,} ({largest}) pictures"
            each = f"{low:,} pictures each" if low == high else span
            lines.append(f"{len(self.per_class)} classes: {each}")
        if self.num_smaller:
            lines.append(f"{self.num_smaller:,} are smaller than wanted and will be enlarged")
        if self.num_ignored:
            lines.append(f"{self.num_ignored:,} files that are no pictures are ignored")
        if self.unreadable:
            names = ", ".join(name for name, _ in self.unreadable[:5])
            more = ", ..." if len(self.unreadable) > 5 else ""
            lines.append(f"{len(self.unreadable):,} cannot be used: {names}{more}")
        return "\n".join(lines)


def check(
    source: Source,
    *,
    channels: int,
    size: Size,
    on_bad: Literal["stop", "skip"] = "stop",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, np.ndarray]:
    """Decode every picture once, on all cores, and say what is there.

    Drawn pictures cannot be bad: only the first of them is drawn.

    Args:
        source: The pictures.
        channels: Wanted channels.
        size: Wanted height and width in pixels.
        on_bad: `stop` raises if any picture is bad; `skip` leaves bad ones out.
        progress: Called with (pictures looked at, pictures in all) now and then.

    Returns:
        The report, and the sorted indices (int64) of the usable pictures.

    Raises:
        InputError: A picture is bad and `on_bad` is `stop`, all are, or there are none.
    """
    if on_bad not in ("stop", "skip"):
        raise InputError(f"expected on-bad 'stop' or 'skip', got {on_bad!r}")
    total = len(source)
    if total == 0:
        raise InputError(f"expected pictures in {source.name}, got none")
    if isinstance(source, Drawn):
        to_uint8(source.draw(0, size), channels)
        labels = Counter(source.class_names[source.label(i)] for i in range(total))
        return Report(total, dict(labels), (size,) * 3, {"drawn": total}), np.arange(total)
    num_labels = max(len(source.class_names), 1)

    def inspect(index: int) -> tuple[str, Size] | str:
        """Mode and size, or why the picture is bad."""
        try:
            picture = source.read(index)
            pixels = to_uint8(picture, channels)
        except InputError as error:
            return str(error).removeprefix(f"{source.item_name(index)}: ")
        # Whatever else decoding trips over belongs to this picture, not to the program.
        except Exception as error:
            return f"expected a usable picture, got {' '.join(str(error).split())}"
        label = source.label(index)
        if not 0 <= label < num_labels:
            return f"expected a label in 0..{num_labels - 1}, got {label}"
        mode = picture.mode if isinstance(picture, Image.Image) else str(picture.dtype)
        return mode, (pixels.shape[0], pixels.shape[1])

    def inspect_block(start: int) -> list[tuple[str, Size] | str]:
        return [inspect(index) for index in range(start, min(start + _BLOCK, total))]

    found: list[tuple[str, Size] | str] = []
    # Odd metadata and huge pictures make Pillow warn once per picture; a bad one is reported.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_cores()) as pool:
        warnings.filterwarnings("ignore", module="PIL")
        for block in pool.map(inspect_block, range(0, total, _BLOCK)):
            found += block
            if progress is not None:
                progress(len(found), total)

    bad = [(source.item_name(i), what) for i, what in enumerate(found) if isinstance(what, str)]
    good = [(i, *what) for i, what in enumerate(found) if not isinstance(what, str)]
    if bad and (on_bad == "stop" or not good):
        name, reason = bad[0]
        more = f" (and {len(bad) - 1:,} more of {total:,})" if len(bad) > 1 else ""
        cure = "repair it or pass --data.on-bad skip" if good else "none of the pictures is usable"
        raise InputError(f"{source.name}, {name}: {reason}{more}; {cure}")
    sides = np.array([side for _, _, side in good])
    counts = Counter(source.class_names[source.label(i)] for i, _, _ in good if source.class_names)
    extremes = [f(sides, axis=0).astype(int).tolist() for f in (np.min, np.median, np.max)]
    report = Report(
        count=len(good),
        per_class={name: counts[name] for name in source.class_names},
        sizes=tuple((height, width) for height, width in extremes),
        modes=dict(Counter(mode for _, mode, _ in good).most_common()),
        num_smaller=int((sides < np.array(size)).any(axis=1).sum()),
        unreadable=bad,
        num_ignored=getattr(source, "num_ignored", 0),
    )
    return report, np.array([i for i, _, _ in good], np.int64)


def num_cores() -> int:
    """Processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
