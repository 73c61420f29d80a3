"""Grids of samples that a training draws now and then: made between two steps, few kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convflow import distributed
from convflow.codecs import Codec, LatentCodec
from convflow.data.grid import tile
from convflow.generate import Samples
from convflow.models.backbone import Backbone
from convflow.processes.process import Process
from convflow.storage import writing_file
from convflow.training.captions import CaptionSet
from convflow.training.config import TrainConfig
from convflow.types import InputError
from convflow.videos import SHEET_FRAMES, USUAL_RATE, sheet, tile_videos, write_video

log = logging.getLogger("convflow")

FILE_NAME = re.compile(r"images_(\d{10,})_(raw|ema)\.(png|gif)")


class _Stopped(Exception):
    """Drawing ends here."""


@dataclass(frozen=True)
class Previews:
    """Draws the same samples again and again while a network learns.

    Args:
        folder: for the grids; made when the first is written.
        samples: the series of which the first are drawn; small images are enlarged.
        num: how many.
    """

    folder: Path
    samples: Samples
    num: int

    def write(
        self, networks: Mapping[str, Backbone], images_seen: int, stop: Callable[[], bool]
    ) -> bool:
        """Write a grid from each network, thin the folder, and return True.

        Of videos it is a GIF, with a sheet of some frames beside it, a video in each row.

        Where the autoencoder of stored latents cannot be read, a warning says so instead.

        Where processes share the networks all come here, and the first writes.

        Args:
            networks: by the name that the file gets, "raw" or "ema".
            images_seen: so far.
            stop: asked before every call of a network; once it is true nothing is written and the
                answer is False.
        """

        def check(*_: object) -> None:
            if stop():
                raise _Stopped

        pixels = {}
        for name, network in networks.items():
            hook = network.register_forward_pre_hook(check, prepend=True)
            try:
                x = replace(self.samples, model=network).sample(range(self.num))
            except _Stopped:
                return False
            finally:
                hook.remove()
            try:
                pixels[name] = self.samples.codec.decode(x)
            except InputError as error:  # an autoencoder that only samples need
                log.warning(f"no grid of samples: {error}")
                return False
        if distributed.rank():
            return True
        self.folder.mkdir(exist_ok=True)
        zoom = max(1, 64 // max(self.samples.size[-2:]))
        for name, grid in pixels.items():
            path = self.folder / f"images_{images_seen:010d}_{name}.png"
            video = grid.ndim == 5
            shown = sheet(grid, num_frames=SHEET_FRAMES) if video else tile(grid, zoom=zoom)
            with writing_file(path) as draft:
                shown.save(draft, format="png")
            if video:
                write_video(path.with_suffix(".gif"), tile_videos(grid, zoom=zoom), USUAL_RATE)
        thin(self.folder)
        return True


def samples_of(
    config: TrainConfig,
    model: Backbone,
    process: Process,
    codec: Codec,
    half: bool,
    arguments: dict[str, Any],
    captions: CaptionSet | None = None,
) -> Samples:
    """Return the series that `convflow sample` draws from a trained model by default.

    Args:
        config: says how to sample, and from which seed.
        model: the network.
        process: that it is trained with.
        codec: from model space to images.
        half: whether the network computes in bfloat16.
        arguments: of the network at every call, as `read_arguments` returns them.
        captions: of the images; None for labels.
    """
    prompts = None if captions is None else captions.prompts(config.monitor.num_samples)
    codec = grid_codec(config.monitor.decoder, codec)
    sampling, null, size = config.sampling, model.num_classes, config.data.size
    solver, guided = sampling.solver.beside(None), sampling.channels_guided
    return Samples(
        model,
        codec,
        process,
        classes=tuple(range(null if prompts is None else len(prompts.texts))) or (null,),
        size=solver.size(process, size, codec.factor, codec.frame_factor),
        trained_size=size,
        solver=solver,
        guidance=sampling.guidance if model.conditional else 1.0,
        guidance_kind=sampling.guidance_kind,
        interval=sampling.interval,
        channels_guided=guided and min(guided, model.in_channels),
        weaker=None,
        seed=config.seed,
        label_policy=sampling.label_policy,
        precision="bfloat16" if half else "float32",
        model_kwargs=arguments,
        prompts=prompts,
    )


def grid_codec(decoder: str, codec: Codec) -> Codec:
    """Return the codec that decodes grids of samples.

    Args:
        decoder: folder or Hub id of an `AutoencoderTiny`; empty for the codec of the training.
        codec: of the training.

    Raises:
        InputError: another kind of autoencoder, or one of other latents.
    """
    if not decoder:
        return codec
    tiny = LatentCodec(decoder)
    wanted = getattr(getattr(codec, "space", None), "channels", 0), codec.factor
    if tiny.space.kind != "AutoencoderTiny" or (tiny.space.channels, tiny.factor) != wanted:
        raise InputError(
            f"--monitor.decoder: expected an AutoencoderTiny of {wanted[0]} channels and "
            f"{wanted[1]}x{wanted[1]} pixels a cell, got the {tiny.space.kind} {decoder} of "
            f"{tiny.space.channels} and {tiny.factor}x{tiny.factor}; leave it out"
        )
    return tiny.prepare(getattr(codec, "device", None))


def thin(folder: Path) -> None:
    """Remove grids so that of each name the first, the last and few between are kept.

    Between are the first at or after each power of two of images seen: about as many as the
    length of a run has binary digits. One that is removed is never missed later, and files that
    are not called as grids are stay.
    """
    seen: dict[tuple[str, str], dict[int, Path]] = {}
    for path in folder.iterdir():
        if match := FILE_NAME.fullmatch(path.name):
            seen.setdefault((match[2], match[3]), {})[int(match[1])] = path
    for grids in seen.values():
        kept = {count.bit_length(): count for count in sorted(grids, reverse=True)}
        for count in grids.keys() - kept.values() - {max(grids, default=0)}:
            with suppress(OSError):  # a grid too many is no reason to end a training
                grids[count].unlink()
