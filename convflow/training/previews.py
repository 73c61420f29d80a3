"""Grids of samples that a training draws now and then: made between two steps, few kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from convflow.codecs import Codec
from convflow.data.grid import tile
from convflow.models.backbone import Backbone
from convflow.processes.contract import Field, Process
from convflow.samplers.guidance import guide
from convflow.seeds import assign_labels, draw_noise
from convflow.storage import writing_file
from convflow.training.config import TrainConfig
from convflow.types import Denoiser, Size

NAME = re.compile(r"images_(\d{10,})_(raw|ema)\.png")


class _Stopped(Exception):
    """Drawing ends here."""


@dataclass(frozen=True)
class Previews:
    """Draws the same samples again and again while a network learns.

    Args:
        folder: for the grids; made when the first is written.
        config: says how to sample, from which seed and how many.
        process: that the networks are trained with.
        codec: from model space to pictures.
        shape: (C, H, W) in model space.
        size: height and width of pictures in pixels; small ones are enlarged.
    """

    folder: Path
    config: TrainConfig
    process: Process
    codec: Codec
    shape: tuple[int, int, int]
    size: Size

    def write(
        self,
        networks: Mapping[str, Backbone],
        images_seen: int,
        autocast: Callable[[], AbstractContextManager[object]],
        stop: Callable[[], bool],
    ) -> bool:
        """Write a grid from each network, thin the folder, and return True.

        Args:
            networks: by the name that the file gets, "raw" or "ema".
            images_seen: so far.
            autocast: a new context for the arithmetic.
            stop: asked before every call of a network; once it is true nothing is written and the
                answer is False.
        """
        pixels = {}
        try:
            for name, network in networks.items():
                with autocast():
                    x = self._draw(network, stop)
                pixels[name] = self.codec.decode(x)
        except _Stopped:
            return False
        self.folder.mkdir(exist_ok=True)
        zoom = max(1, 64 // max(self.size))
        for name, grid in pixels.items():
            path = self.folder / f"images_{images_seen:010d}_{name}.png"
            with writing_file(path) as draft:
                tile(grid, zoom=zoom).save(draft, format="png")
        thin(self.folder)
        return True

    def _draw(self, network: Backbone, stop: Callable[[], bool]) -> Tensor:
        config, null = self.config, network.num_classes
        sampling, seed = config.sampling, config.seed
        scale, kind = sampling.guidance if null else 1.0, sampling.guidance_kind
        indices, device = range(config.monitor.num_samples), next(network.parameters()).device

        def guided(field_of: Callable[[Denoiser], Field]) -> Field:
            around = partial(guide, null=null, scale=scale, kind=kind, **sampling.guided())
            field = field_of(network).guided(around)

            def stoppable(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
                if stop():
                    raise _Stopped
                return field.predict(x, t, y)

            return replace(field, predict=stoppable)

        def draw(step: int) -> Tensor:
            return draw_noise(seed, indices, self.shape, step)

        labels = assign_labels(indices, range(null) if null else [null]).to(device)
        noise = draw_noise(seed, indices, self.shape).to(device)
        return sampling.sampler().run(self.process, guided, noise, labels, draw)


def thin(folder: Path) -> None:
    """Remove grids so that of each name the first, the last and few between are kept.

    Between are the first at or after each power of two of images seen: about as many as the
    length of a run has binary digits. One that is removed is never missed later, and files that
    are not called as grids are stay.
    """
    seen: dict[str, dict[int, Path]] = {"raw": {}, "ema": {}}
    for path in folder.iterdir():
        if match := NAME.fullmatch(path.name):
            seen[match[2]][int(match[1])] = path
    for grids in seen.values():
        kept = {count.bit_length(): count for count in sorted(grids, reverse=True)}
        for count in grids.keys() - kept.values() - {max(grids, default=0)}:
            with suppress(OSError):  # a grid too many is no reason to end a training
                grids[count].unlink()
