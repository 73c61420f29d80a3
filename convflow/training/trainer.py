"""The training loop: one iteration fits a screen, and every number in it is a function of
(settings, images seen), so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from convflow import distributed
from convflow.codecs import Codec
from convflow.conditions.labels import take
from convflow.data.latents import Latents
from convflow.data.loader import Batch, Images, Order, batches
from convflow.models.backbone import Backbone
from convflow.models.blocks import recompute_blocks
from convflow.models.resolution import Resolution, read_arguments
from convflow.models.zoo import check_process
from convflow.parallel.single import Single
from convflow.processes.process import Process
from convflow.seeds import TRAINING_KEYS
from convflow.training import averages
from convflow.training.captions import CaptionSet
from convflow.training.compiling import BatchShapes, compile_network, uncompiled
from convflow.training.config import TrainConfig
from convflow.training.draws import Draws, draw_changes, draw_encoding, draw_labels, draw_terms
from convflow.training.ending import Ending
from convflow.training.inputs import inputs_of
from convflow.training.lookout import Lookout, StepTaken, diverged, go_back
from convflow.training.monitor import DataWait, IntervalTimer, Monitor, open_monitor
from convflow.training.optim import create_optimizer, learning_rate
from convflow.training.pace import Pace
from convflow.training.previews import Previews, samples_of
from convflow.training.saving import Writing, finish, store
from convflow.training.speed import ProductRate
from convflow.training.state import restore
from convflow.training.step import Losses, blank, passes
from convflow.training.stopping import Stop, asked_to_stop, stop_after
from convflow.training.watch import Watch

log = logging.getLogger("convflow")


class Trainer:
    """Trains one network on one set of images in one run folder.

    Args:
        config: the complete settings; also stored with every checkpoint.
        losses: the network and its objectives, on their device.
        process: that the network is trained for.
        codec: from uint8 images to model space, on the network's device.
        images: the training images, or their stored latents.
        run: the run folder; it exists.
        order: of the images; None for one size.
        parallel: what the processes share; None for one process.
        captions: of the images, which stand in place of labels; None for labels.
    """

    def __init__(
        self,
        config: TrainConfig,
        losses: Losses,
        process: Process,
        codec: Codec,
        images: Images | Latents,
        run: Path,
        order: Order | None = None,
        parallel: Single | None = None,
        captions: CaptionSet | None = None,
    ) -> None:
        model = losses.network
        self.config, self.process, self.codec = config, process, codec
        self.losses, self.model = losses, model
        self.images, self.run_folder, self.captions = images, run, captions
        check_process(model, process)
        self.order = order or Order(len(images), config.seed, config.data.flip)
        self.data_fingerprint = images.fingerprint + self.order.fingerprint
        self.shape = (model.in_channels, *codec.cells(images.shape[1:]))
        self.parallel = parallel or Single(next(model.parameters()).device)
        self.device = self.parallel.device
        self.ema, self.objectives_ema = averages.create_averages(losses, config.ema)
        recompute_blocks(model, config.memory.recompute)  # not of the average, a copy
        compile_network(model, config.compile, bool(losses.blocks))
        self.shapes = BatchShapes()
        self.prepared = self.parallel.prepare(losses, unused=losses.of_users)
        self.parallel.prepare_average(self.ema.model, model, called=True)
        averaged = self.objectives_ema.model
        self.parallel.prepare_average(averaged, losses.objectives, called=False)
        self.averages = averages.Averages(model, config.ema)
        self.optimizer = create_optimizer(losses, config.optim)
        self.model_kwargs = read_arguments(model, config.resolution.arguments())
        Resolution(self.shape[1:], self.shape[1:]).check(model, self.model_kwargs)
        self.precision = distributed.choose_precision(config.precision, self.device)
        samples = samples_of(
            config, model, process, codec, self.precision == "bfloat16", self.model_kwargs, captions
        )
        self.previews = Previews(run / "samples", samples, config.monitor.num_samples)
        self.step, self.images_seen = 0, 0
        self.lookout = Lookout(self.optimizer, self.device, config.monitor.log_every)
        self.data_wait = DataWait()
        self.watch = Watch(self)
        self.product_rate: ProductRate | None = None  # without it utilisation is not measured
        self.ending = Ending(config)
        self.pace: Pace | None = None  # without it the length is that of the settings
        self.begun_from: Path | None = None  # the checkpoint that was loaded
        self.saved: Path | None = None  # the checkpoint that was loaded or written last
        self.writing: Writing | None = None  # a checkpoint, in the background
        self.written = False  # by all processes, which are to finish it
        self.savable = True  # between two whole steps, and no save has failed
        self.interrupted = False  # by a signal, on any process
        self.late = False  # the time is over, and no process has failed
        self.saving = False  # is due, by the clock of the first process
        self.drawing = False  # of samples is due, likewise
        self.broken = False  # between two whole steps, or by a failed save, on any process

    def train_step(
        self, images: Tensor, labels: Tensor, indices: Any, total: int, full: int, *more: Any
    ) -> dict[str, float]:
        """Take one step on our share of `total` images, a `Batch`, of which `more` is the rest.

        `full` fill a batch. Returns the metrics, or nothing without a wait for it, see `Lookout`.
        """
        config, missing, (there, features) = self.config, not len(images), (*more, None, None)[:2]
        given = images, labels, indices, total, full, None, features
        images = images if there is None else there
        if missing:  # fewer than there are processes: a blank one, which adds nothing
            images, labels, features = map(blank, (images, labels, features))
        mean, terms = torch.zeros((), device=self.device), dict[str, Tensor]()
        *others, last = self.passes(len(images), total)

        def loss_of(rows: slice, idle: bool) -> Tensor:
            divisor = math.inf if idle or missing else float(full)
            losses, found = self.losses_of(images[rows], take(labels, rows), draws, rows, noise)
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
            shape = (total, *self.shape_of(images))
            labels, draws = self._draw(labels, shape, features)
            noise = self._draw_encoding(shape)
            for one in others:
                with self.parallel.accumulate(self.prepared):
                    loss_of(*one).backward()
            loss = loss_of(*last)
        known = {"loss": mean} | (terms if len(terms) > 1 else {})
        distributed.sum_over_processes(list(known.values())[1:])  # while none can have failed
        self.parallel.backward(loss)
        self.losses.forget_ended(self.images_seen)
        norm = self.parallel.clip(self.losses.parameters(), config.optim.clip)
        self.lookout.note([mean, norm], StepTaken(self.images_seen, given))
        looking = self.lookout.due(self.step + 1, config.images)
        if looking and self.lookout.first_bad() is not None:
            raise diverged(self, images, labels, draws, indices, noise, total)
        self.savable = False  # until this step is whole
        rate = learning_rate(config.optim, self.images_seen, total, config.images)
        self.step, self.images_seen = self.step + 1, self.images_seen + total
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        averages.update_averages(self, total)
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
        given = self.images, self.order, self.images_seen, config.batch_size
        stream: Any = batches(*given, share=self.share(), device=self.device)
        gap = 60 * config.checkpoint.every_minutes
        clock = IntervalTimer(gap, gap)
        began = self.step
        deadline = None if distributed.rank() else deadline
        self.ending.begin(deadline)
        self.model.train()
        with distributed.all_or_none(self.device), ExitStack() as held:
            with distributed.all_or_none(self.device):
                monitor = held.enter_context(open_monitor(self, deadline))

            def due() -> tuple[bool, bool]:
                draw = monitor is not None and self.step > began and monitor.samples_due.due()
                return monitor is not None and clock.due(), draw

            held.enter_context(closing(stream))
            stop = held.enter_context(asked_to_stop(deadline, self.ending))
            try:
                while batch := self._next(stream, stop, due):
                    if self.saving or self.written:
                        with distributed.all_or_none(self.device):
                            self._save_meanwhile(monitor)
                    if self.drawing and self._draw_samples(monitor, stop):
                        break
                    metrics = self.train_step(*batch)
                    self.ending.note(self.images_seen)
                    averages.store_snapshot(self)  # before what may end the run
                    metrics |= self.watch.measure(stop)
                    if monitor is not None:
                        monitor.step(self.step, self.images_seen, metrics)
                    if self.pace is not None:
                        self.pace(self, monitor)
            except Exception as error:
                raise stop_after(error, self, monitor, stop) from error.__cause__
            finished = self.images_seen >= self.config.images
            if self.broken and self.parallel.sharded:  # a process cannot save its share
                return False
            stop.reserve = float  # what was kept for the end is there for it
            folder = self.save(monitor, ending=True)
            due_now = self.step > began and self.ending.drawn != self.images_seen
            if (finished or self.late) and due_now and self.parallel.takes_part:
                shared = self.parallel.sharded
                self.write_samples(partial(self.agree, stop, busy=True) if shared else stop)
            if monitor is not None and not (finished or self.late or stop()):
                log.info(f"saved before: {folder}")
        return finished or not self.interrupted

    def _next(
        self, stream: Iterator[Batch], stop: Stop, due: Callable[[], tuple[bool, bool]]
    ) -> Batch | None:
        """Return the next batch; None at the end, or where any process is to stop.

        No process goes on before all have their batch, and know whether to save or to draw
        samples before it.
        """
        with self.data_wait:
            batch = next(stream) if self.images_seen < self.config.images else None
        return None if self.agree(stop, *due()) else batch

    def _draw_samples(self, monitor: Monitor | None, stop: Stop) -> bool:
        """Write samples while other processes wait, or help; return whether any is to stop."""
        if self.parallel.takes_part:
            self.write_samples(partial(self.agree, stop, busy=True))
        if monitor is not None:
            monitor.samples_due.restart()
        return self.agree(stop)

    def save(
        self, monitor: Monitor | None = None, background: bool = False, ending: bool = False
    ) -> Path:
        """Write a checkpoint of this moment, after its metrics; return its folder, see `store`.

        All processes come here. `ending` writes the metrics of the last step too.
        """
        self.savable, begun = False, self.ending.clock()  # an error here is no reason to try again
        with self.parallel.all_or_none():
            if monitor is not None and ending:
                monitor.end()
            go_back(self)
            if monitor is not None:
                monitor.flush()
        folder = store(self, background)
        if not background:
            self.ending.took("saving", begun)
        self.savable = True
        return folder

    def _save_meanwhile(self, monitor: Monitor | None) -> None:
        """Save while training goes on, or end the save before."""
        if self.saving:
            self.save(monitor, self.config.checkpoint.background)
            return
        self.savable = False
        finish(self)
        self.savable = True

    def load(self, folder: Path) -> None:
        """Go back to the moment of a checkpoint; see `restore`."""
        restore(self, folder)
        self.lookout.restart()

    def write_samples(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Write a grid of samples from raw weights and one from their average, unless stopped."""
        networks: dict[str, Any] = {"raw": self.model, "ema": self.ema.model}
        begun = self.ending.clock()
        with self.not_training():
            written = self.previews.write(networks, self.images_seen, stop)
        if written:
            self.ending.took("drawing", begun)
        if written and not distributed.rank():
            log.info(f"samples after {self.images_seen:,} images: {self.previews.folder}")

    @contextmanager
    def not_training(self) -> Iterator[None]:
        """Give a context in which networks are called as they were written, without gradients."""
        self.model.eval()
        with torch.no_grad(), self.parallel.together(), uncompiled(self.config.compile != "off"):
            yield
        self.model.train()

    def shape_of(self, images: Tensor) -> tuple[int, ...]:
        """Return the shape of images or videos in model space."""
        if isinstance(self.images, Latents):  # they are there
            return self.model.in_channels, *images.shape[3:]
        return self.model.in_channels, *self.codec.cells(tuple(images.shape[2:]))

    def _draw(
        self, labels: Tensor, shape: tuple[int, ...], features: Tensor | None = None
    ) -> tuple[Tensor, Draws]:
        """Return labels, some of them changed, and the draws of each objective for our rows."""
        key = (*TRAINING_KEYS, self.images_seen)
        draws, generator = draw_terms(self, shape, key)
        draws.update(draw_changes(self, shape[0], key))
        draws.features = features
        return draw_labels(self, labels, shape[0], key, generator), draws

    def _draw_encoding(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return the codec's noise for our rows."""
        return draw_encoding(self, shape, (*TRAINING_KEYS, self.images_seen))

    def losses_of(
        self,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        rows: slice,
        noise: Tensor | None = None,
        averaged: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of each image and its terms, see `Losses`; or those of the average."""
        mine, noise = draws.rows(rows), None if noise is None else noise[rows]
        batch = inputs_of(self, images, labels, mine, noise)
        if self.config.compile != "off" and torch.is_grad_enabled():
            self.shapes.add(batch.data.shape)
        model = cast(Backbone, self.ema.model) if averaged else self.model
        with self._autocast():
            return self.prepared(self.told_size(model, batch.data), batch, mine, model)

    def told_size(self, model: Any, data: Tensor) -> Any:
        """Return a network with what it is told at the size of `data`."""
        if not self.model_kwargs:
            return model
        resolution = Resolution(tuple(data.shape[2:]), self.shape[1:])
        return resolution.network(model, self.model_kwargs, self.process.flow_time)

    def passes(self, count: int, total: int) -> list[tuple[slice, bool]]:
        """Return the forward passes over our `count` rows of `total`, see `passes`."""
        return passes(count, total, self.config.micro_batch, self.parallel)

    def share(self) -> slice:
        """Return which rows of a batch are ours."""
        return slice(distributed.rank(), None, distributed.world_size())

    def own_rows(self, total: int) -> slice:
        """Return our rows of a batch of `total`; where there are none, one for a blank image."""
        share = self.share()
        return share if range(total)[share] else slice(0, 1)

    def _autocast(self) -> torch.autocast:
        on = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def agree(self, stop: Stop, save: bool = False, draw: bool = False, busy: bool = False) -> bool:
        """Return whether any process is to stop; note why, and what is due before the next step.

        While the first process draws images it asks as one who is busy, again and again; the
        others, which have come to the next step, then answer and wait.
        """
        while True:
            broken = stop.failed and not self.savable
            done = self.writing and self.writing.done()
            flags = [stop(), busy, stop.signalled(), save, draw, broken, done is True]
            flags += [done is False, stop.late(), stop.failed]
            alone = distributed.world_size() == 1  # then the device is not waited for
            agreed = self.parallel.agree(flags, torch.device("cpu") if alone else self.device)
            stopped, waited_for, self.interrupted, self.saving, self.drawing, *rest = agreed
            self.broken, some, others, late, failed = rest
            self.written, self.late = some and not others, late and not failed
            if busy or not waited_for:
                return stopped
