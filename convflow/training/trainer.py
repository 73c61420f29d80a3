"""The training loop: one iteration fits a screen, and every number in it is a function of
(settings, images seen), so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convflow import distributed
from convflow.codecs import Codec
from convflow.conditions.labels import take
from convflow.data.loader import Batch, Images, Order, batches
from convflow.models.blocks import recompute_blocks
from convflow.models.resolution import Resolution, read_arguments
from convflow.models.zoo import check_process
from convflow.objectives.objective import Inputs
from convflow.parallel.ddp import create_parallel
from convflow.processes.process import Process
from convflow.seeds import TRAINING_KEYS, generator_of
from convflow.training import checkpoint
from convflow.training.compiling import BatchShapes, compile_network, uncompiled
from convflow.training.config import TrainConfig
from convflow.training.divergence import (
    first_nonfinite_gradient,
    first_nonfinite_module,
)
from convflow.training.ema import EMA
from convflow.training.lookout import Lookout, StepTaken, go_back
from convflow.training.monitor import IntervalTimer, Monitor
from convflow.training.optim import create_optimizer, learning_rate
from convflow.training.previews import Previews, samples_of
from convflow.training.state import kept, restore, save_before, store
from convflow.training.step import Losses
from convflow.training.stopping import Stop, asked_to_stop
from convflow.types import Diverged, InputError

log = logging.getLogger("convflow")


class Trainer:
    """Trains one network on one set of pictures in one run folder.

    Args:
        config: the complete settings; also stored with every checkpoint.
        losses: the network and its objectives, on their device.
        process: that the network is trained for.
        codec: from uint8 pictures to model space, on the network's device.
        images: the training pictures.
        run: the run folder; it exists.
        order: of the pictures; None for one size.
    """

    def __init__(
        self,
        config: TrainConfig,
        losses: Losses,
        process: Process,
        codec: Codec,
        images: Images,
        run: Path,
        order: Order | None = None,
    ) -> None:
        model = losses.network
        self.config, self.process, self.codec = config, process, codec
        self.losses, self.model = losses, model
        self.images, self.run_folder = images, run
        check_process(model, process)
        self.order = order or Order(len(images), config.seed, config.data.flip)
        self.data_fingerprint = images.fingerprint + self.order.fingerprint
        height, width = images.shape[1:]
        self.shape = (model.in_channels, height // codec.factor, width // codec.factor)
        self.device = next(model.parameters()).device
        self.ema, self.objectives_ema = (
            EMA(module, config.ema.decay, config.ema.warmup, config.ema.every)
            for module in (model, losses.objectives)
        )
        recompute_blocks(model, config.memory.recompute)  # not of the average, a copy
        compile_network(model, config.compile, bool(losses.blocks))
        self.shapes = BatchShapes()
        self.parallel = create_parallel()
        self.prepared = self.parallel.prepare(losses, unused=losses.of_users)
        self.optimizer = create_optimizer(losses, config.optim)
        self.model_kwargs = read_arguments(model, config.resolution.arguments())
        Resolution(self.shape[1:], self.shape[1:]).check(model, self.model_kwargs)
        self.precision = distributed.choose_precision(config.precision, self.device)
        samples = samples_of(
            config, model, process, codec, self.precision == "bfloat16", self.model_kwargs
        )
        self.previews = Previews(run / "samples", samples, config.monitor.num_samples)
        self.step, self.images_seen = 0, 0
        self.lookout = Lookout(self.optimizer, self.device, config.monitor.log_every)
        self.begun_from: Path | None = None  # the checkpoint that was loaded
        self.saved: Path | None = None  # the checkpoint that was loaded or written last
        self.savable = True  # between two whole steps, and no save has failed
        self.interrupted = False  # by a signal, on any process
        self.saving = False  # is due, by the clock of the first process

    def train_step(
        self, images: Tensor, labels: Tensor, indices: Any, total: int, full: int
    ) -> dict[str, float]:
        """Take one step on our share of `total` pictures, where `full` fill a batch.

        Returns the metrics, or nothing where the device is not waited for; see `Lookout`.
        """
        config, divisor = self.config, float(full)
        given = (images, labels, indices, total, full)
        if not len(images):  # fewer than there are processes: a blank one, which adds nothing
            images, labels = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1)
            divisor = math.inf
        mean, terms = torch.zeros((), device=self.device), dict[str, Tensor]()
        *others, last = _slices(len(images), config.micro_batch)

        def loss_of(rows: slice) -> Tensor:
            losses, found = self._losses(images[rows], take(labels, rows), draws, rows, noise)
            for name, values in found.items():
                terms[name] = terms.get(name, 0) + values.detach().sum() / divisor
            loss = losses.sum() / divisor
            mean.add_(loss.detach())
            return loss

        def mine(failed: bool) -> list[Tensor]:
            if failed:
                self.parallel.empty_forward(self.prepared)
            return [mean]

        with distributed.all_or_none(self.device, mine):
            shape = (total, *self._shape(images))
            labels, draws = self._draw(labels, shape)
            noise = self._draw_encoding(shape)
            for rows in others:
                with self.parallel.accumulate(self.prepared):
                    loss_of(rows).backward()
            loss = loss_of(last)
        known = {"loss": mean} | (terms if len(terms) > 1 else {})
        distributed.sum_over_processes(list(known.values())[1:])  # while none can have failed
        self.parallel.backward(loss)
        norm = self.parallel.clip(self.losses.parameters(), config.optim.clip)
        self.lookout.note([mean, norm], StepTaken(self.images_seen, given))
        if (looking := self.lookout.due(self.step + 1)) and self.lookout.first_bad() is not None:
            go_back(self)
            raise self._diverged(images, labels, draws, indices, noise, total)

        self.savable = False  # until this step is whole
        rate = learning_rate(config.optim, self.images_seen, total, config.images)
        self.step, self.images_seen = self.step + 1, self.images_seen + total
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.step)
        self.objectives_ema.update(self.losses.objectives, self.step)
        self.savable = True
        if not looking:
            return {}
        self.lookout.restart()
        metrics = {name: float(value) * full / total for name, value in known.items()}
        return {**metrics, "gradient_norm": float(norm), "learning_rate": rate}

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
        clock = IntervalTimer(gap, gap)
        saving_due = (lambda: False) if distributed.rank() else clock.due
        began = self.step
        deadline = None if distributed.rank() else deadline
        self.model.train()
        with distributed.all_or_none(self.device), ExitStack() as held:
            with distributed.all_or_none(self.device):
                monitor = held.enter_context(self._monitor(deadline))
            held.enter_context(closing(stream))
            stop = held.enter_context(asked_to_stop(deadline))
            try:
                while batch := self._next(stream, stop, saving_due):
                    if self.saving:
                        with distributed.all_or_none(self.device):
                            self.save(monitor)
                    metrics = self.train_step(
                        batch.pixels, batch.labels, batch.indices, batch.total, batch.full
                    )
                    if monitor is None:
                        continue
                    monitor.step(self.step, self.images_seen, metrics)
                    if monitor.samples_due.due():
                        self.write_samples(partial(self._agree, stop, busy=True))
                        monitor.samples_due.restart()
            except Exception as error:
                raise self._stop_all(error, monitor, stop) from error.__cause__
            finished = self.images_seen >= config.images
            folder = self.save(monitor)
            if monitor is not None:
                if finished and self.step > began:
                    self.write_samples(stop)
                if not finished and not stop():
                    log.info(f"saved before: {folder}")
        return finished or not self.interrupted

    def _next(
        self, stream: Iterator[Batch], stop: Stop, saving_due: Callable[[], bool]
    ) -> Batch | None:
        """Return the next batch; None at the end, or where any process is to stop.

        No process goes on before all have their batch, and know whether to save before it.
        """
        batch = next(stream) if self.images_seen < self.config.images else None
        return None if self._agree(stop, saving_due()) else batch

    def _stop_all(self, error: Exception, monitor: Monitor | None, stop: Stop) -> Exception:
        """Save before an error ends the run, where that can be; return what to raise.

        The other processes are told where they ask each other, and save as if asked to stop.
        """
        if monitor is not None and self.savable and not isinstance(error, Diverged):
            error = save_before(error, partial(self.save, monitor))
        stop.failed = True
        with suppress(InputError):  # a process that is gone
            self._agree(stop)
        return error

    def save(self, monitor: Monitor | None = None) -> Path:
        """Write a checkpoint of this moment, after its metrics; return its folder, see `store`.

        All processes come here.
        """
        self.savable = False  # an error here is no reason to try again
        go_back(self)
        if monitor is not None:
            monitor.flush()
        folder = store(self)
        self.savable = True
        return folder

    def load(self, folder: Path) -> None:
        """Go back to the moment of a checkpoint; see `restore`."""
        restore(self, folder)
        self.lookout.restart()

    def write_samples(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Write a grid of samples from raw weights and one from their average, unless stopped."""
        networks: dict[str, Any] = {"raw": self.model, "ema": self.ema.model}
        self.model.eval()
        with uncompiled(self.config.compile != "off"):  # other shapes, and few batches
            written = self.previews.write(networks, self.images_seen, stop)
        if written:
            log.info(f"samples after {self.images_seen:,} images: {self.previews.folder}")
        self.model.train()

    def _shape(self, images: Tensor) -> tuple[int, int, int]:
        """Return the shape of pictures in model space."""
        height, width = images.shape[2:]
        return self.model.in_channels, height // self.codec.factor, width // self.codec.factor

    def _draw(self, labels: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, dict[str, Any]]:
        """Return labels, some of them dropped, and the draws of each objective for our rows.

        They are drawn for the whole batch, so that they do not depend on the number of processes.
        The first objective and the labels share a generator; each further one has its own.
        """
        config, mine, draws = self.config, self._rows(shape[0]), dict[str, Any]()
        key = (config.seed, *TRAINING_KEYS, self.images_seen)
        generator = generator_of(*key, device=self.device)
        for place, (name, objective) in enumerate(self.losses.objectives.items()):
            own = generator_of(*key, 1 + place, device=self.device) if place else generator
            draws[name] = take(objective.draw(shape, own), mine)  # type: ignore[operator]
        dropped = torch.rand(shape[0], generator=generator, device=self.device)
        dropped = dropped < config.label_dropout
        labels = labels.to(self.device)
        return self.model.conditions.drop(labels, dropped[mine]), draws

    def _draw_encoding(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return the codec's noise for this process's rows, drawn for the whole batch too."""
        generator = generator_of(
            self.config.seed, *TRAINING_KEYS, self.images_seen, 1, device=self.device
        )
        noise = self.codec.draw(shape, generator)
        return None if noise is None else noise[self._rows(shape[0])]

    def _losses(
        self,
        images: Tensor,
        labels: Tensor,
        draws: Mapping[str, Any],
        rows: slice,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each picture and its terms, see `Losses`."""
        noise = None if noise is None else noise[rows]
        data = self.codec.encode(images.to(self.device), noise=noise)
        if self.config.compile != "off":
            self.shapes.add(data.shape)
        losses = self.losses
        batch = Inputs(
            data,
            labels,
            average=self._network(self.ema.model, data) if losses.wants_average else None,
            pixels=images.to(self.device) if losses.wants_pixels else None,
        )
        with self._autocast():
            mine = {name: take(drawn, rows) for name, drawn in draws.items()}
            return self.prepared(self._network(self.model, data), batch, mine)

    def _network(self, model: Any, data: Tensor) -> Any:
        """Return a network with what it is told at the size of `data`."""
        if not self.model_kwargs:
            return model
        resolution = Resolution((data.shape[2], data.shape[3]), self.shape[1:])
        return resolution.network(model, self.model_kwargs, self.process.flow_time)

    def _share(self) -> slice:
        return slice(distributed.rank(), None, distributed.world_size())

    def _rows(self, total: int) -> slice:
        """Return our rows of a batch of `total`; where there are none, one for a blank picture."""
        share = self._share()
        return share if range(total)[share] else slice(0, 1)

    def _autocast(self) -> torch.autocast:
        on = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _agree(self, stop: Stop, save: bool = False, busy: bool = False) -> bool:
        """Return whether any process is to stop; note whether for a signal, and whether to save.

        While the first process draws pictures it asks as one who is busy, again and again; the
        others, which have come to the next step, then answer and wait.
        """
        while True:
            flags = [stop(), busy, stop.signalled(), save]
            alone = distributed.world_size() == 1  # then the device is not waited for
            agreed = self.parallel.agree(flags, torch.device("cpu") if alone else self.device)
            stopped, waited_for, self.interrupted, self.saving = agreed
            if busy or not waited_for:
                return stopped

    def _monitor(self, deadline: float | None) -> AbstractContextManager[Monitor | None]:
        if distributed.rank():
            return nullcontext()
        config = self.config
        monitor = Monitor(
            self.run_folder, config.monitor, self.step, self.images_seen, config.images, deadline
        )
        return closing(monitor)

    def _diverged(
        self,
        images: Tensor,
        labels: Tensor,
        draws: Mapping[str, Any],
        indices: Any,
        noise: Tensor | None,
        total: int,
    ) -> Diverged:
        """Return the error that names the first module and the pictures that are not finite."""
        parts = [torch.zeros(0, device=self.device)]

        def forward() -> None:
            for rows in _slices(len(images), self.config.micro_batch):
                parts.append(self._losses(images[rows], take(labels, rows), draws, rows, noise)[0])

        with uncompiled(self.config.compile != "off"):
            module = first_nonfinite_module(self.losses, forward)
        bad = (~torch.cat(parts).isfinite()).nonzero().flatten().tolist()
        names = ", ".join(
            self.images.item_name(int(indices[i])) for i in bad[:3] if i < len(indices)
        )
        gradient = first_nonfinite_gradient(self.losses)
        where = module or (f"the gradient of {gradient}" if gradient else "the gradient's norm")
        begun = self.begun_from
        if begun == checkpoint.folder_of(self.run_folder, self.step):
            good = kept(self.run_folder, before=self.step)
            cure = f"the first step after {begun} was read, which may be bad: move it elsewhere"
        else:
            good, cure = kept(self.run_folder), "try a lower --optim.lr in a new run"
        return Diverged(
            f"the loss or its gradient is not finite at step {self.step + 1} (images "
            f"{self.images_seen:,} to {self.images_seen + total:,}); first in "
            f"{where}{f', with {names}' if names else ''}{', ...' if len(bad) > 3 else ''}; "
            f"kept: {good}; {cure}"
        )


def _slices(count: int, most: int | None) -> list[slice]:
    """Cut `count` rows into pieces of at most `most`."""
    most = most or max(count, 1)
    return [slice(start, start + most) for start in range(0, count, most)]
