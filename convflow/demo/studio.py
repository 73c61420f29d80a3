"""A trained model behind the web page: pictures with previews, and their neighbours."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from convflow.data.grid import tile, to_picture
from convflow.demo.request import Limits, PictureRequest, read_request
from convflow.evaluation.card import Card, read_card
from convflow.evaluation.nearest import Distance, find_nearest, pixel_features
from convflow.generate import Samples
from convflow.pipeline import Pipeline
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS
from convflow.samplers.solvers import SOLVERS
from convflow.settings.read import setting_hints
from convflow.training.shown import ShownImages, find_run, open_shown
from convflow.types import InputError, Progress, Size, nearest_size

T = TypeVar("T")

MOST_COMPARED, MOST_PIXELS = 20_000, 2**27
"""Training images that the pictures of a visitor are held against, the first of the set, and the
pixels of all of them at the size of the pictures."""

NEEDED = dict.fromkeys(EXPONENTIAL_SOLVERS, "diffusers")
"""What solvers of many steps need besides."""

PRESETS = {
    "as trained": (1, 1),
    "wide": (1, 1.5),
    "tall": (1.5, 1),
    "panorama": (1, 2),
    "large": (2, 2),
}
"""Sizes to choose from, as shares of the trained height and width."""

OTHER_SIZE = "other"
"""Any size that has no name."""


class Moment(NamedTuple):
    """The pictures after a step; those after the last step are finished.

    Attributes:
        step: its number, from 1.
        of: number of steps.
        pixels: of the pictures.
    """

    step: int
    of: int
    pixels: UInt8[Tensor, "B C H W"]


class Neighbour(NamedTuple):
    """The training image nearest to a picture.

    Attributes:
        image: mirrored where its mirror image is nearer.
        distance: root mean square of the differences between levels, 0 to 255.
    """

    image: UInt8[Tensor, "C H W"]
    distance: float


class _Left(Exception):
    """Nobody waits for the pictures any more."""


class Studio:
    """A trained model and everything that visitors ask of it.

    The network works in one thread, for one visitor at a time.

    Args:
        pipe: the model.
        model: what the command line calls it.
        data: the training images; None for those of the run, where it is one and they are there.
        limits: that no visitor may pass.

    Attributes:
        compares: whether there are training images.

    Raises:
        InputError: a model of videos, or no images in `data`.
    """

    def __init__(
        self, pipe: Pipeline, model: str, data: str | None = None, limits: Limits | None = None
    ) -> None:
        if pipe.model.video:
            raise InputError(
                f"expected a model of images for the page, got {model} of videos; draw them with "
                "convflow sample"
            )
        self.pipe, self.model, self.data = pipe, model, data
        self.limits = limits or Limits()
        self._shown: dict[Size, ShownImages] = {}
        self._worker, self._closed = ThreadPoolExecutor(1), threading.Event()
        try:
            self.compares = data is not None or find_run(Path(model)) is not None
            if self.compares:
                self._images(pipe.size)
        except InputError:
            if data is not None:
                raise
            self.compares = False

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, or their numbers; of a model of texts, examples of these."""
        if self.pipe.text.used:
            return list(self.pipe.prompts)
        return [self.pipe.name_of(label) for label in range(self.pipe.model.num_classes)]

    @cached_property
    def solvers(self) -> list[str]:
        """The solvers that can be chosen here, that of the model first.

        Only that of the model may lack a number of steps, which bounds its work.
        """
        return [self.pipe.sampling.solver.kind, *filter(self._fits, SOLVERS)]

    def _fits(self, name: str) -> bool:
        """Return whether a solver other than the model's own can sample it here."""
        needed = NEEDED.get(name)
        own = name in ("searched", self.pipe.sampling.solver.kind)
        if own or "steps" not in setting_hints(SOLVERS[name]):
            return False
        if needed and importlib.util.find_spec(needed) is None:
            return False
        try:
            self.pipe.choose(self.pipe.size, {"solver": name})
        except InputError:
            return False
        return True

    def sizes(self) -> dict[str, Size]:
        """Return sizes to choose from, by name; all of them can be drawn."""
        height, width = self.pipe.size
        found = {
            name: nearest_size((round(height * high), round(width * wide)), self.pipe.multiple)
            for name, (high, wide) in PRESETS.items()
        }
        return {n: size for n, size in found.items() if max(size) <= self.limits.side}

    def size_name(self, height: float | None, width: float | None) -> str:
        """Return the name of a size that is typed, `OTHER_SIZE` where it has none."""
        names = (name for name, size in self.sizes().items() if size == (height, width))
        return next(names, OTHER_SIZE)

    def read(self, labels: Any, size: tuple[Any, Any], **numbers: Any) -> PictureRequest:
        """Return what a form asks for, see `read_request`."""
        return read_request(self.pipe, self.limits, labels, size, solvers=self.solvers, **numbers)

    def samples(self, request: PictureRequest, **images: Any) -> Samples:
        """Return the series of pictures that a visitor asks for.

        Args:
            request: that was read.
            **images: `image` and `mask` of inpainting.

        Raises:
            InputError: what the model does not take, or what does not fit into memory.
        """
        samples = self.pipe.samples(**request.options, **images)
        self.pipe.check_batch(samples, request.num)
        return samples

    def nearest(self, pixels: UInt8[Tensor, "B C H W"]) -> Iterator[int | list[Neighbour]]:
        """Yield how many training images were looked at, then the one nearest to each picture.

        Whoever closes this iterator early ends the search with the images that are being read.

        Raises:
            InputError: no training images, or none of this size.
        """

        def search(give: Callable[[int | list[Neighbour] | None], None]) -> None:
            looked_at = 0

            def tell(count: float) -> None:
                nonlocal looked_at
                looked_at += int(count)
                give(looked_at)

            give(self._find(pixels, tell))

        found: Iterator[int | list[Neighbour]] = self._run(search)
        yield from found

    def _find(self, pixels: UInt8[Tensor, "B C H W"], tell: Progress) -> list[Neighbour]:
        size = (pixels.shape[2], pixels.shape[3])
        shown = self._images(size)
        by = Distance("pixels", "root mean square of levels, 0 to 255", pixel_features)
        training = shown.shown[: self.num_compared(size)]
        ((found,),) = find_nearest(
            [(pixels, None)], training, shown.read, [by], keep=2, progress=tell
        )
        images = shown.read(found.places[:, 0].tolist())
        images = torch.where(found.mirrored[:, :1, None, None], images.flip(3), images)
        distances = found.distances[:, 0].tolist()
        return [Neighbour(*pair) for pair in zip(images, distances, strict=True)]

    def num_compared(self, size: Size | None = None) -> int:
        """Return how many training images pictures of a size, by default the model's, meet."""
        height, width = size = size or self.pipe.size
        most = min(MOST_COMPARED, max(1, MOST_PIXELS // (height * width)))
        return min(most, len(self._images(size).shown))

    def looks_at_all(self) -> bool:
        """Return whether pictures of the model's size meet all training images."""
        return self.num_compared() == len(self._images(self.pipe.size).shown)

    def _images(self, size: Size) -> ShownImages:
        """Return the training images at a size; few sizes are kept open."""
        if size not in self._shown:
            channels: Any = self.pipe.samples().channels
            codec, device = self.pipe.codec, self.pipe.device
            found = open_shown(Path(self.model), self.data, codec, channels, size, device)
            self._shown = {**dict([*self._shown.items()][-3:]), size: found}
        return self._shown[size]

    def card(self) -> Card | None:
        """Return the result card beside the model, `card.json`, if there is one."""
        path = None if self.pipe.folder is None else self.pipe.folder / "card.json"
        return read_card(path) if path is not None and path.is_file() else None

    def make(self, samples: Samples, num: int) -> Iterator[Moment]:
        """Yield running pictures after some steps, then the finished ones.

        Whoever closes this iterator early ends the work with the step that goes on.

        Args:
            samples: to make the first of.
            num: how many.

        Raises:
            InputError: the model gives NaN or infinity.
        """
        due = set(samples.preview_steps())

        def draw(give: Callable[[Moment | None], None]) -> None:
            def watch(step: int, of: int, x: Tensor) -> None:
                give(Moment(step, of, samples.show(x)) if step in due or step == of else None)

            samples.read(range(num), watch=watch)

        yield from self._run(draw)

    def _run(self, work: Callable[[Callable[[T | None], None]], None]) -> Iterator[T]:
        """Yield what some work gives away while it goes on in the thread of the network.

        Args:
            work: gives away results, or None to be ended here once nobody waits for them.
        """
        found: SimpleQueue[tuple[T] | None] = SimpleQueue()
        left = threading.Event()

        def give(result: T | None) -> None:
            if left.is_set() or self._closed.is_set():
                raise _Left
            if result is not None:
                found.put((result,))

        def run() -> None:
            try:
                with suppress(_Left):
                    work(give)
            finally:
                found.put(None)

        working = self._worker.submit(run)
        try:
            while result := found.get():
                yield result[0]
        finally:
            left.set()
            wait([working])
        working.result()

    def close(self) -> None:
        """End the work with the step that goes on."""
        self._closed.set()
        self._worker.shutdown(cancel_futures=True)


def strips(moments: list[Moment], zoom: int = 1) -> Image.Image:
    """Return an image with a row for each picture, its tiles after the steps of `moments`."""
    tiles = torch.stack([moment.pixels for moment in moments], 1)
    return tile(tiles.flatten(0, 1), columns=len(moments), zoom=zoom)


def known_images(samples: Samples) -> tuple[Any, Any]:
    """Return image and mask of inpainting as the model sees them, to make the same with them."""
    known = samples.known
    assert known is not None, "asked of inpainting alone"
    return to_picture(known.pixels[0]), to_picture((~known.kept[0]).to(torch.uint8) * 255)
