"""The training loop: one iteration fits a screen, and every number in it is a function of
(settings, images seen), so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from convflow import __version__, distributed
from convflow.codecs import PixelCodec
from convflow.data.grid import tile
from convflow.data.loader import Images, Order, batches
from convflow.models.backbone import Backbone
from convflow.models.zoo import load_strictly, read_tensors
from convflow.processes.flow import Draws, FlowMatching
from convflow.samplers.guidance import ClassifierFreeGuidance
from convflow.samplers.ode import integrate, time_grid
from convflow.samplers.seeds import assign_labels, draw_noise, generator_of
from convflow.training import checkpoint
from convflow.training.config import TrainConfig, to_dict
from convflow.training.ema import EMA
from convflow.training.monitor import Monitor
from convflow.training.optim import (
    create_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)

log = logging.getLogger("convflow")

TRAINING = 1 << 40
"""Keeps the random numbers of training apart from those of samples."""


class Diverged(RuntimeError):
    """The loss or the gradient stopped being finite; the last checkpoint is still good."""


class Trainer:
    """Trains one network on one set of pictures in one run folder.

    Args:
        config: the complete settings; also stored with every checkpoint.
        model: the network, on its device.
        process: draws times, mixes data with noise, measures the loss.
        codec: from uint8 pictures to model space.
        images: the training pictures.
        run: the run folder; it exists.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Backbone,
        process: FlowMatching,
        codec: PixelCodec,
        images: Images,
        run: Path,
    ) -> None:
        self.config, self.model, self.process, self.codec = config, model, process, codec
        self.images, self.run_folder = images, run
        self.device = next(model.parameters()).device
        self.ema = EMA(model, config.ema.decay, config.ema.warmup)
        self.optimizer = create_optimizer(model, config.optim)
        self.step, self.images_seen = 0, 0
        self.first = distributed.rank() == 0

    def train_step(self, pictures: Tensor, labels: Tensor, indices: Any) -> dict[str, float]:
        """Take one optimizer step on this process's share of the global batch."""
        config, process = self.config, self.process
        generator = generator_of(config.seed, TRAINING, self.images_seen, device=self.device)
        draws = process.draw((config.batch_size, *self.images.shape), generator)
        dropped = torch.rand(config.batch_size, generator=generator, device=self.device)
        mine = self._share()
        draws = Draws(*(part[mine] for part in draws))
        labels = labels.to(self.device, non_blocking=True)
        labels = labels.masked_fill(dropped[mine] < config.label_dropout, self.model.num_classes)

        total = torch.zeros((), device=self.device)
        for rows in _slices(len(pictures), config.micro_batch):
            data = self.codec.encode(pictures[rows].to(self.device, non_blocking=True))
            micro = Draws(*(part[rows] for part in draws))
            with self._autocast():
                losses = process.loss_at(self.model, data, labels[rows], micro)
            loss = losses.sum() / config.batch_size
            loss.backward()
            total += loss.detach()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        distributed.sum_over_processes([total, *gradients])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip)
        if not math.isfinite(float(total) + float(norm)):
            self._explain_divergence(pictures, labels, draws, indices)

        seen = self.images_seen + config.batch_size
        rate = learning_rate(config.optim, seen, config.images)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step, self.images_seen = self.step + 1, seen
        self.ema.update(self.model, self.step)
        return {"loss": float(total), "gradient_norm": float(norm), "learning_rate": rate}

    def run(self) -> bool:
        """Train to the end of the settings; return False when Ctrl-C or SIGTERM came first."""
        config, monitor = self.config, None
        if self.first:
            monitor = Monitor(
                self.run_folder, config.monitor, self.step, self.images_seen, config.images
            )
        order = Order(len(self.images), config.seed, config.data.flip)
        stream = batches(
            self.images, order, self.images_seen, config.batch_size, share=self._share()
        )
        saved = time.monotonic()
        self.model.train()
        with _asked_to_stop() as asked:
            try:
                while self.images_seen < config.images and not self._agree(asked()):
                    metrics = self.train_step(*next(stream))
                    if monitor is None:
                        continue
                    monitor.step(self.step, self.images_seen, metrics)
                    if monitor.samples_due.due():
                        self.write_samples()
                    if time.monotonic() - saved >= 60 * config.checkpoint.every_minutes:
                        monitor.flush()
                        self.save()
                        saved = time.monotonic()
                if monitor is not None:
                    monitor.flush()
                    self.save()
                    self.write_samples()
            finally:
                stream.close()
                if monitor is not None:
                    monitor.close()
        distributed.barrier()
        return self.images_seen >= config.images

    def save(self) -> Path:
        """Write a checkpoint of this moment and return its folder."""
        folder = checkpoint.folder_of(self.run_folder, self.step)
        state = {
            "step": self.step,
            "images_seen": self.images_seen,
            "config": to_dict(self.config),
            "version": __version__,
        }
        with checkpoint.writing_folder(folder) as draft:
            for name, weights in (("raw", None), ("ema", self.ema.model.state_dict())):
                (draft / name).mkdir()
                self.model.save_weights(draft / name, weights)
                text = json.dumps(self.describe_pipeline(), indent=2)
                (draft / name / "pipeline.json").write_text(text, encoding="utf-8")
            tensors = optimizer_tensors(self.model, self.optimizer)
            safetensors.torch.save_file(tensors, draft / "optimizer.safetensors")
            (draft / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        checkpoint.remove_old(self.run_folder, self.config.checkpoint.keep)
        return folder

    def load(self, folder: Path) -> None:
        """Go back to the moment of a checkpoint."""
        state = checkpoint.read_state(folder)
        for name, network in (("raw", self.model), ("ema", self.ema.model)):
            path = folder / name / "model.safetensors"
            load_strictly(network, read_tensors(path), path)  # type: ignore[arg-type]
        tensors = read_tensors(folder / "optimizer.safetensors")
        restore_optimizer(self.model, self.optimizer, tensors)
        self.step, self.images_seen = state["step"], state["images_seen"]

    def describe_pipeline(self) -> dict[str, Any]:
        """Return what a Pipeline needs to know beside the network."""
        sampling = to_dict(self.config)["sampling"]
        names = list(self.images.class_names)
        return {"codec": "pixel", "size": self.images.shape[1:], "class_names": names, **sampling}

    def write_samples(self) -> None:
        """Write a grid of samples from the raw weights and one from their average."""
        sampling, count = self.config.sampling, self.config.monitor.num_samples
        null = self.model.num_classes
        labels = assign_labels(range(count), range(null) if null else [null]).to(self.device)
        noise = draw_noise(self.config.seed, range(count), self.images.shape).to(self.device)
        folder = self.run_folder / "samples"
        folder.mkdir(exist_ok=True)
        for name, network in (("raw", self.model), ("ema", self.ema.model)):
            guided = ClassifierFreeGuidance(network, null, sampling.guidance if null else 1.0)
            with self._autocast():
                x = integrate(guided, noise, labels, time_grid(sampling.steps), sampling.solver)
            draft = folder / f"{checkpoint.UNFINISHED}{name}.png"
            zoom = max(1, 64 // max(self.images.shape[1:]))
            tile(self.codec.decode(x), zoom=zoom).save(draft)
            draft.replace(folder / f"images_{self.images_seen:010d}_{name}.png")
        log.info(f"samples after {self.images_seen:,} images: {folder}")

    def _share(self) -> slice:
        return slice(distributed.rank(), None, distributed.world_size())

    def _autocast(self) -> torch.autocast:
        fast = self.config.precision == "auto" and distributed.has_fast_bfloat16(self.device)
        on = fast or self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _agree(self, stop: bool) -> bool:
        flag = torch.tensor(float(stop), device=self.device)
        distributed.sum_over_processes([flag])
        return bool(flag)

    def _explain_divergence(
        self, pictures: Tensor, labels: Tensor, draws: Draws, indices: Any
    ) -> None:
        """Raise Diverged, naming the first module whose output is not finite and the batch."""
        culprit: list[str] = []

        def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(module: nn.Module, inputs: Any, output: Any) -> None:
                parts = output if isinstance(output, tuple) else (output,)
                if not culprit and not all(bool(part.isfinite().all()) for part in parts):
                    culprit.append(f"{name} ({type(module).__name__})")

            return look

        hooks = [m.register_forward_hook(watch(n)) for n, m in self.model.named_modules() if n]
        with torch.no_grad(), self._autocast():
            for rows in _slices(len(pictures), self.config.micro_batch):
                data = self.codec.encode(pictures[rows].to(self.device))
                micro = Draws(*(part[rows] for part in draws))
                self.process.loss_at(self.model, data, labels[rows], micro)
        for hook in hooks:
            hook.remove()
        names = [self.images.item_name(int(i)) for i in indices[:3]]
        where = culprit[0] if culprit else "the backward pass"
        raise Diverged(
            f"the loss or its gradient is not finite at step {self.step + 1} (images "
            f"{self.images_seen:,} to {self.images_seen + self.config.batch_size:,}: "
            f"{', '.join(names)}, ...); the first module with a non-finite output is {where}; "
            "the last checkpoint is kept, try a lower --optim.lr in a new run"
        )


def _slices(count: int, most: int | None) -> list[slice]:
    """Cut `count` rows into pieces of at most `most`."""
    most = most or max(count, 1)
    return [slice(start, start + most) for start in range(0, count, most)]


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag for the length of the block; a second Ctrl-C is final."""
    asked: list[int] = []

    def note(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
