"""Sets of uint8 images of one size: a data source, or a samples file of the ADM suite."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from convflow import distributed
from convflow.arrays import list_arrays, map_array
from convflow.data.files import one_large_at_a_time
from convflow.data.images import num_cores
from convflow.data.pieces import as_uint8, cut, kept
from convflow.data.source import Source, SyntheticSource, holds_videos
from convflow.data.sources import open_source
from convflow.data.timeline import Clips
from convflow.storage import writing_file
from convflow.types import LONGEST_SIDE, InputError, Progress, Size, size_text

log = logging.getLogger("convflow")

RESIZE_CHAIN = "halve by box filter, bicubic to the covering size, centre crop (ADM)"
DRAWN = "none: drawn at this size"


@runtime_checkable  # for the shape checks in tests
class ImageSet(Protocol):
    """Images or videos of one size by number."""

    @property
    def reproducible(self) -> bool:
        """Whether the same number always gives the same image."""
        ...

    @property
    def size(self) -> Size:
        """Height and width in pixels, of videos frames before them."""
        ...

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        ...

    def read(
        self, indices: Sequence[int], progress: Progress | None = None
    ) -> UInt8[Tensor, "B C *size"]:
        """Return the images `indices`, on the CPU; `progress` is told of each as it is done."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return how the images came about, ready for JSON."""
        ...


class SourceImages:
    """Images of a folder, zip, table or dataset, or drawn ones; videos likewise.

    Args:
        source: where they come from.
        size: height and width to bring them to, or to draw them at, of videos frames before them;
            None demands that all have the size of the first.
        channels: 1 for grey, 3 for colour.
        num: how many of them, drawn without replacement; None for all.
        seed: of that draw.

    Raises:
        InputError: fewer than `num` images, a first image that cannot be read, or a size of
            no pixels or absurdly many.
    """

    reproducible: ClassVar[bool] = False

    def __init__(
        self,
        source: Source,
        *,
        size: Size | None = None,
        channels: int = 3,
        num: int | None = None,
        seed: int = 0,
    ) -> None:
        if size is not None and not all(1 <= side <= LONGEST_SIDE for side in size):
            raise InputError(
                f"expected a height and width of 1 to {LONGEST_SIDE} pixels, got "
                f"{size_text(size)}; give a size such as 64x48"
            )
        video = holds_videos(source)
        if size is not None and len(size) != 2 + video:
            wanted = "16x48x32 for the videos" if video else "48x32 for the images"
            raise InputError(
                f"expected a size such as {wanted} of {source.name}, got {size_text(size)}; "
                "give --size"
            )
        self._source, self.channels = source, channels
        self._indices = choose_indices(len(source), num or len(source), seed, source.name)
        self._drawn_at = size if isinstance(source, SyntheticSource) else None
        self._resizes = size is not None and self._drawn_at is None
        self.clips: Clips | None = getattr(source, "clips", None)
        self._wanted = size or (1,) * (2 + video)
        self.size: Size = size or self._pixels(0).shape[:-1]
        self._seed = seed

    def __len__(self) -> int:
        return len(self._indices)

    def read(
        self, indices: Sequence[int], progress: Progress | None = None
    ) -> UInt8[Tensor, "B C *size"]:
        """Return the images `indices`, decoded on all cores.

        Raises:
            InputError: one cannot be read, or has another size than the first.
        """
        with ThreadPoolExecutor(num_cores()) as pool:
            pixels = np.stack(list(pool.map(self._at_size, indices)))
        if progress is not None:
            progress(len(indices))
        return torch.from_numpy(pixels).movedim(-1, 1).contiguous()

    def describe(self) -> dict[str, Any]:
        """Return name, selection and resize chain."""
        chain = RESIZE_CHAIN if self._resizes else DRAWN if self._drawn_at else "none"
        return _describe(self, self._source.name, len(self._source), self._seed, chain)

    def _pixels(self, index: int) -> np.ndarray:
        item, source = int(self._indices[index]), self._source
        try:
            if self._drawn_at is not None and isinstance(source, SyntheticSource):
                return as_uint8(source.draw(item, self._drawn_at), self.channels, self._drawn_at)
            return as_uint8(source.read(item), self.channels, self._wanted)
        except InputError as error:
            name, reason = source.item_name(item), str(error)
            reason = reason.removeprefix(f"{name}: ")
            raise InputError(f"{source.name}, {name}: {reason}; repair or remove it") from error

    def _at_size(self, index: int) -> np.ndarray:
        with one_large_at_a_time():
            pixels = self._pixels(index)
            if self._resizes:
                return cut(kept(pixels, self.size, None), self.size, None, None)
        if pixels.shape[:-1] != self.size:
            item = self._source.item_name(int(self._indices[index]))
            raise InputError(
                f"{self._source.name}, {item}: expected {size_text(self.size)} like the first "
                f"image, got {size_text(pixels.shape[:-1])}; give --size to bring all to one size"
            )
        return pixels


class NpzImages:
    """Images of an .npz file as the ADM suite writes it: `arr_0`, (N, H, W, C) uint8.

    An uncompressed file is mapped, so that fifty thousand samples need no memory.

    Args:
        path: of the file.
        num: how many of its images, drawn without replacement; None for all.
        seed: of that draw.
        most: take no more than these when `num` is None.

    Raises:
        InputError: the file is damaged, or `arr_0` is missing or something else.
    """

    reproducible: ClassVar[bool] = False

    def __init__(
        self, path: Path, num: int | None = None, seed: int = 0, most: int | None = None
    ) -> None:
        self._path, self._seed = path, seed
        self._pixels = _images_of(path)
        shape, dtype = self._pixels.shape, self._pixels.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
            raise InputError(
                f"{path}: expected arr_0 to be uint8 images (N, height, width, 1 or 3), got "
                f"{dtype} {shape}; save them with numpy.savez(path, arr_0=pixels)"
            )
        num = num or min(shape[0], most or shape[0])
        self._indices = choose_indices(shape[0], num, seed, str(path))
        self.size: Size = (shape[1], shape[2])
        self.channels = shape[3]

    def __len__(self) -> int:
        return len(self._indices)

    def read(
        self, indices: Sequence[int], progress: Progress | None = None
    ) -> UInt8[Tensor, "B C H W"]:
        """Return the images `indices`."""
        pixels = self._pixels[self._indices[np.asarray(indices)]]
        if progress is not None:
            progress(len(indices))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def describe(self) -> dict[str, Any]:
        """Return name, selection and resize chain."""
        return _describe(self, str(self._path), len(self._pixels), self._seed, "none")


def open_image_set(
    path: str,
    *,
    split: str = "train",
    image_column: str = "",
    size: Size | None = None,
    channels: int = 3,
    num: int | None = None,
    seed: int = 0,
    clips: Clips | None = None,
) -> SourceImages | NpzImages:
    """Return the images that `path` names: an .npz file, or anything `open_source` reads.

    With a size of three sides they are clips of videos, taken as `clips` says. What was understood
    of the data is logged: the split, files that are not read.

    Raises:
        InputError: nothing usable there, or another size asked of an .npz file than it has.
    """
    if not path.endswith(".npz"):
        if size is not None and len(size) == 3:
            clips = (clips or Clips(size[0]))._replace(frames=size[0])
        source = open_source(
            path,
            split,
            labels="none",
            image_column=image_column,
            clips=clips if size is not None and len(size) == 3 else None,
        )
        said = [note for note in getattr(source, "notes", ()) if not note.startswith("no classes")]
        for note in said if distributed.rank() == 0 else ():
            log.info(f"{path}: {note}")
        return SourceImages(source, size=size, channels=channels, num=num, seed=seed)
    images = NpzImages(Path(path), num, seed)
    if size is not None and size != images.size:
        raise InputError(
            f"expected images of {size_text(size)} in {path}, got "
            f"{size_text(images.size)}; an .npz is scored at its own size"
        )
    return images


def choose_indices(total: int, num: int, seed: int, name: str) -> np.ndarray:
    """Return `num` of the numbers below `total` in rising order, drawn without replacement.

    Raises:
        InputError: there are fewer.
    """
    if num > total:
        raise InputError(f"expected at least {num:,} images in {name}, got {total:,}; ask less")
    if num == total:
        return np.arange(total)
    return np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(total)[:num])


def write_samples(path: Path, batches: Iterable[UInt8[Tensor, "B C H W"]], count: int) -> None:
    """Write images as the ADM suite reads them: `arr_0`, (N, H, W, 3) uint8, uncompressed.

    Args:
        path: of the .npz file; parent folders are made.
        batches: the images in order; grey ones are repeated to three channels.
        count: their number N.

    Raises:
        InputError: the disk is full or not writable; nothing is left behind then.
    """
    with writing_file(path) as draft:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            zipfile.ZipFile(draft, "w") as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as file,
        ):
            for number, batch in enumerate(batches):
                pixels = batch.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
                if number == 0:
                    header = {
                        "shape": (count, *pixels.shape[1:]),
                        "fortran_order": False,
                        "descr": np.lib.format.dtype_to_descr(pixels.dtype),
                    }
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(pixels.tobytes())


def _describe(
    images: SourceImages | NpzImages, name: str, total: int, seed: int, resize: str
) -> dict[str, Any]:
    chosen = len(images)
    drawn = f"{chosen} of {total}, drawn with seed {seed}"
    return {
        "name": Path(name).name,
        "selection": "all" if chosen == total else drawn,
        "resize": resize,
        "size": list(images.size),
        "channels": images.channels,
    }


def _images_of(path: Path) -> np.ndarray:
    """Return `arr_0` of an .npz, see `map_array`."""
    members = list_arrays(path)
    if "arr_0" not in members:
        cure = (
            "give it as --reference" if "mu" in members else "save them as numpy.savez(arr_0=...)"
        )
        raise InputError(
            f"expected the images arr_0 in {path}, got {', '.join(members) or 'nothing'}; {cure}"
        )
    return map_array(path, "arr_0")
