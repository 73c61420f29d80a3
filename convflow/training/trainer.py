"""The training loop: one iteration fits a screen, and every number in it is a function of
(settings, images seen), so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from convflow import __version__, distributed
from convflow.codecs import Codec
from convflow.data.loader import Images, Order, batches
from convflow.models.backbone import Backbone
from convflow.models.resolution import Resolution, read_arguments
from convflow.models.zoo import load_strictly
from convflow.processes.flow import Draws, shift_of_size, shift_times
from convflow.processes.multiscale import ScaleDraws
from convflow.processes.process import Process
from convflow.samplers.seeds import generator_of
from convflow.storage import read_tensors, write_text, writing_folder
from convflow.training import checkpoint
from convflow.training.config import CodecConfig, PipelineConfig, TrainConfig
from convflow.training.divergence import (
    first_nonfinite_gradient,
    first_nonfinite_module,
    require_finite_weights,
)
from convflow.training.ema import EMA
from convflow.training.keys import to_dict
from convflow.training.monitor import Monitor, Schedule
from convflow.training.optim import (
    create_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)
from convflow.training.previews import Previews
from convflow.training.stopping import Stop, asked_to_stop
from convflow.types import Diverged, InputError

log = logging.getLogger("convflow")

TRAINING = 1 << 40
"""Keeps the random numbers of training apart from those of samples."""


class Trainer:
    """Trains one network on one set of pictures in one run folder.

    Args:
        config: the complete settings; also stored with every checkpoint.
        model: the network, on its device.
        process: draws times, mixes data with noise, measures the loss.
        codec: from uint8 pictures to model space, on the network's device.
        images: the training pictures.
        run: the run folder; it exists.
        order: of the pictures; None for one size.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Backbone,
        process: Process,
        codec: Codec,
        images: Images,
        run: Path,
        order: Order | None = None,
    ) -> None:
        self.config, self.model, self.process, self.codec = config, model, process, codec
        self.images, self.run_folder = images, run
        self.order = order or Order(len(images), config.seed, config.data.flip)
        self.pictures = images.fingerprint + self.order.fingerprint
        height, width = images.shape[1:]
        self.shape = (model.in_channels, height // codec.factor, width // codec.factor)
        self.device = next(model.parameters()).device
        self.ema = EMA(model, config.ema.decay, config.ema.warmup)
        self.optimizer = create_optimizer(model, config.optim)
        self.told = read_arguments(model, config.resolution.arguments())
        Resolution(self.shape[1:], self.shape[1:]).check(model, self.told)
        self.precision = choose_precision(config.precision, self.device)
        self.step, self.images_seen = 0, 0
        self.interrupted = False  # by a signal, to any process

    def train_step(
        self, pictures: Tensor, labels: Tensor, indices: Any, total: int
    ) -> dict[str, float]:
        """Take one optimizer step on this process's share of a global batch of `total`."""
        config = self.config
        shape = (total, *self._shape(pictures))
        labels, draws = self._draw(labels, shape)
        noise = self._draw_encoding(shape)
        mean = torch.zeros((), device=self.device)
        for rows in _slices(len(pictures), config.micro_batch):
            losses = self._losses(pictures[rows], labels[rows], draws, rows, noise)
            loss = losses.sum() / total
            loss.backward()
            mean += loss.detach()
        if not len(pictures):  # fewer than there are processes, which all sum the same tensors
            for p in self.model.parameters():
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        distributed.sum_over_processes([mean, *gradients])
        norm = nn.utils.get_total_norm(gradients)
        if not math.isfinite(float(mean)) or not math.isfinite(float(norm)):
            raise self._diverged(pictures, labels, draws, indices, noise, total)
        if config.optim.clip is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), config.optim.clip, norm)

        self.step, self.images_seen = self.step + 1, self.images_seen + total
        rate = learning_rate(config.optim, self.images_seen, config.images)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.step)
        return {"loss": float(mean), "gradient_norm": float(norm), "learning_rate": rate}

    def run(self, deadline: float | None = None) -> bool:
        """Train to the end of the settings; return False when Ctrl-C or SIGTERM came first.

        Args:
            deadline: on `time.monotonic`, when training ends too; the first process's clock counts.
        """
        config = self.config
        stream: Any = batches(
            self.images, self.order, self.images_seen, config.batch_size, share=self._share()
        )
        gap = 60 * config.checkpoint.every_minutes
        saving_due = Schedule(gap, gap)
        began = self.step
        deadline = None if distributed.rank() else deadline
        self.model.train()
        with closing(stream), self._monitor(deadline) as monitor, asked_to_stop(deadline) as stop:
            # Asked first: after the last step too the others wait for samples there.
            while not self._agree(stop) and self.images_seen < config.images:
                metrics = self.train_step(*next(stream))
                if monitor is None:
                    continue
                monitor.step(self.step, self.images_seen, metrics)
                if monitor.samples_due.due():
                    self.write_samples(partial(self._agree, stop, busy=True))
                    monitor.samples_due.restart()
                if saving_due.due():
                    self.save(monitor)
            finished = self.images_seen >= config.images
            if monitor is not None:
                self.save(monitor)
                if finished and self.step > began:
                    self.write_samples(stop)
        distributed.barrier()
        return finished or not self.interrupted

    def save(self, monitor: Monitor | None = None) -> Path:
        """Write a checkpoint of this moment, after its metrics, and return its folder.

        Raises:
            InputError: the disk is full or not writable; earlier checkpoints are untouched.
            Diverged: the weights are not finite.
        """
        if monitor is not None:
            monitor.flush()
        require_finite_weights(self.model)
        folder = checkpoint.folder_of(self.run_folder, self.step)
        known = PipelineConfig(
            size=self.images.shape[1:],
            class_names=self.images.class_names,
            sampling=self.config.sampling,
            codec=CodecConfig(**self.codec.settings),
            process=self.config.process,
            resolution=self.config.resolution,
        )
        pipeline = json.dumps(to_dict(known), indent=2)
        if folder.is_dir():  # the same moment, saved before; the way to sample may have changed
            for name in ("raw", "ema"):
                write_text(folder / name / "pipeline.json", pipeline)
            return folder
        state = {
            "step": self.step,
            "images_seen": self.images_seen,
            "precision": self.precision,
            "num_pictures": len(self.images),
            "pictures": self.pictures,
            "config": to_dict(self.config),
            "version": __version__,
        }
        with writing_folder(folder) as draft:
            for name, weights in (("raw", None), ("ema", self.ema.model.state_dict())):
                (draft / name).mkdir()
                self.model.save_weights(draft / name, weights)
                (draft / name / "pipeline.json").write_text(pipeline, encoding="utf-8")
            tensors = optimizer_tensors(self.model, self.optimizer)
            safetensors.torch.save_file(tensors, draft / "optimizer.safetensors")
            (draft / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        checkpoint.remove_old(self.run_folder, self.config.checkpoint.keep)
        return folder

    def load(self, folder: Path) -> None:
        """Go back to the moment of a checkpoint.

        Raises:
            InputError: a damaged file, another network, or other pictures.
        """
        state = checkpoint.read_state(folder)
        known = state.get("num_pictures", len(self.images))
        if known != len(self.images):
            raise InputError(
                f"{folder} was trained on {known:,} pictures, got {len(self.images):,} in "
                f"{self.config.data.path}; restore the data, or start another run with --run"
            )
        if state.get("pictures", self.pictures) != self.pictures:
            raise InputError(
                f"{folder} was trained on other pictures, classes or labels than are in "
                f"{self.config.data.path} now; restore the data, or start another run with --run"
            )
        with checkpoint.readable(folder):
            for name, network in (("raw", self.model), ("ema", self.ema.model)):
                path = folder / name / "model.safetensors"
                load_strictly(network, read_tensors(path), path)  # type: ignore[arg-type]
            tensors = read_tensors(folder / "optimizer.safetensors")
            restore_optimizer(self.model, self.optimizer, tensors, state["step"])
        self.step, self.images_seen = state["step"], state["images_seen"]
        if self.config.precision == "auto":  # stays what it was
            self.precision = state.get("precision", self.precision)

    def write_samples(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Write a grid of samples from raw weights and one from their average, unless stopped."""
        place, size = self.run_folder / "samples", self.images.shape[1:]
        previews = Previews(place, self.config, self.process, self.codec, self.shape, size)
        networks: dict[str, Any] = {"raw": self.model, "ema": self.ema.model}
        self.model.eval()
        if previews.write(networks, self.images_seen, self._autocast, stop):
            log.info(f"samples after {self.images_seen:,} images: {place}")
        self.model.train()

    def _shape(self, pictures: Tensor) -> tuple[int, int, int]:
        """Return the shape of pictures in model space."""
        height, width = pictures.shape[2:]
        return self.model.in_channels, height // self.codec.factor, width // self.codec.factor

    def _draw(self, labels: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Draws | ScaleDraws]:
        """Return labels, some of them dropped, noise and times for this process's rows.

        They are drawn for the whole batch, so that they do not depend on the number of processes.
        """
        config, mine = self.config, self._share()
        generator = generator_of(config.seed, TRAINING, self.images_seen, device=self.device)
        draws = self.process.draw(shape, generator)
        if config.resolution.shift:
            shift = shift_of_size((shape[2], shape[3]), self.shape[1:])
            draws = draws._replace(t=shift_times(draws.t, shift))
        dropped = torch.rand(shape[0], generator=generator, device=self.device)
        dropped = dropped < config.label_dropout
        labels = labels.to(self.device)
        labels = labels.masked_fill(dropped[mine], self.model.num_classes)
        return labels, draws.take(mine)

    def _draw_encoding(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return the codec's noise for this process's rows, drawn for the whole batch too."""
        generator = generator_of(
            self.config.seed, TRAINING, self.images_seen, 1, device=self.device
        )
        noise = self.codec.draw(shape, generator)
        return None if noise is None else noise[self._share()]

    def _losses(
        self,
        pictures: Tensor,
        labels: Tensor,
        draws: Draws | ScaleDraws,
        rows: slice,
        noise: Tensor | None = None,
    ) -> Tensor:
        noise = None if noise is None else noise[rows]
        data = self.codec.encode(pictures.to(self.device), noise=noise)
        network: Any = self.model
        if self.told:
            resolution = Resolution((data.shape[2], data.shape[3]), self.shape[1:])
            network = resolution.network(self.model, self.told, self.process.flow_time)
        with self._autocast():
            return self.process.loss_at(network, data, labels, draws.take(rows))

    def _share(self) -> slice:
        return slice(distributed.rank(), None, distributed.world_size())

    def _autocast(self) -> torch.autocast:
        on = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _agree(self, stop: Stop, busy: bool = False) -> bool:
        """Return whether any process is to stop, and note whether for a signal.

        While the first process draws pictures it asks as one who is busy, again and again; the
        others, which have come to the next step, then answer and wait.
        """
        while True:
            flags = torch.tensor([stop(), busy, stop.signalled()], device=self.device).float()
            distributed.sum_over_processes([flags])
            stopped, waited_for, self.interrupted = flags.bool().tolist()
            if busy or not waited_for:
                return stopped

    def _monitor(self, deadline: float | None) -> AbstractContextManager[Monitor | None]:
        if distributed.rank():
            return nullcontext()
        where = (self.step, self.images_seen, self.config.images)
        return closing(Monitor(self.run_folder, self.config.monitor, *where, deadline))

    def _diverged(
        self,
        pictures: Tensor,
        labels: Tensor,
        draws: Draws | ScaleDraws,
        indices: Any,
        noise: Tensor | None,
        total: int,
    ) -> Diverged:
        """Return the error that names the first module and the pictures that are not finite."""
        parts: list[Tensor] = []

        def forward() -> None:
            for rows in _slices(len(pictures), self.config.micro_batch):
                parts.append(self._losses(pictures[rows], labels[rows], draws, rows, noise))

        module = first_nonfinite_module(self.model, forward)
        bad = (~torch.cat(parts).isfinite()).nonzero().flatten().tolist()
        names = ", ".join(self.images.item_name(int(indices[i])) for i in bad[:3])
        gradient = first_nonfinite_gradient(self.model)
        where = module or (f"the gradient of {gradient}" if gradient else "the gradient's norm")
        steps = checkpoint.list_steps(self.run_folder)
        kept = checkpoint.folder_of(self.run_folder, steps[-1]) if steps else "no checkpoint yet"
        return Diverged(
            f"the loss or its gradient is not finite at step {self.step + 1} (images "
            f"{self.images_seen:,} to {self.images_seen + total:,}); first in "
            f"{where}{f', with {names}' if names else ''}{', ...' if len(bad) > 3 else ''}; "
            f"kept: {kept}; try a lower --optim.lr in a new run"
        )


def choose_precision(name: str, device: torch.device) -> str:
    """Return "float32" or "bfloat16"; "auto" takes bfloat16 where the hardware multiplies it."""
    if name != "auto":
        return name
    return "bfloat16" if distributed.has_fast_bfloat16(device) else "float32"


def _slices(count: int, most: int | None) -> list[slice]:
    """Cut `count` rows into pieces of at most `most`."""
    most = most or max(count, 1)
    return [slice(start, start + most) for start in range(0, count, most)]
