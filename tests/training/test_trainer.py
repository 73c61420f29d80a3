"""The loop: what one step computes, and that going on is exact."""

import dataclasses
import itertools
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
import safetensors.torch
import torch

from convflow.data.loader import batches
from convflow.nn.reach import ReachSchedule
from convflow.parallel.single import Single
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.training import checkpoint
from convflow.training.optim import optimizer_tensors
from convflow.training.stopping import Stop
from convflow.training.trainer import Trainer
from convflow.types import Diverged, InputError
from tests.tolerance import assert_close_rms


def stream_of(trainer):
    config = trainer.config
    return batches(trainer.images, trainer.order, trainer.images_seen, config.batch_size)


def weights(trainer):
    parts = {"raw": trainer.model.state_dict(), "ema": trainer.ema.model.state_dict()}
    parts["optimizer"] = optimizer_tensors(trainer.model, trainer.optimizer)
    flat = {f"{part}/{name}": t for part, tensors in parts.items() for name, t in tensors.items()}
    return {name: tensor.clone() for name, tensor in flat.items()}


def files_of(run):
    last = checkpoint.folder_of(run, checkpoint.list_steps(run)[-1])
    names = ["raw/model", "ema/model", "optimizer"]
    content = {name: (last / f"{name}.safetensors").read_bytes() for name in names}
    return content | {"metrics": (run / "metrics.jsonl").read_bytes(), "step": last.name}


@pytest.mark.parametrize(
    ("process", "micro"), [("flow", "1"), ("ddpm", "3"), ("flow", "7"), ("ddpm", "100")]
)
def test_micro_batches_add_up_to_the_batch(tiny, trainer_of, micro, process):
    whole, parts = (
        trainer_of(tiny(f"--process {process} --micro-batch {size}")) for size in ("none", micro)
    )
    for batch in itertools.islice(stream_of(whole), 3):
        first, second = whole.train_step(*batch), parts.train_step(*batch)
        assert first == pytest.approx(second, rel=1e-4)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_loss_is_the_mean_over_the_global_batch(tiny, trainer_of):
    trainer = trainer_of(tiny("--micro-batch 3"))
    batch = next(stream_of(trainer))
    labels, draws = trainer._draw(batch.labels, (batch.total, *trainer.shape))
    with torch.no_grad():
        expected = trainer.losses_of(batch[0], labels, draws, slice(None))[0].mean()
    assert trainer.train_step(*batch)["loss"] == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("rate", "low", "high"), [(0, 0, 0), (0.1, 0.08, 0.12), (1, 1, 1)])
def test_labels_are_dropped_at_the_rate_asked_for(tiny, trainer_of, rate, low, high):
    trainer = trainer_of(tiny(f"--label-dropout {rate} --batch-size 4000"))
    labels, _ = trainer._draw(torch.zeros(4000, dtype=torch.int64), (4000, *trainer.shape))
    assert set(labels.tolist()) <= {0, 2}
    assert low <= float((labels == 2).float().mean()) <= high


def test_the_learning_rate_counts_images(tiny, trainer_of):
    trainer = trainer_of(tiny("--optim.warmup-images 32 --optim.lr 0.001"))
    rates = [
        trainer.train_step(*b)["learning_rate"] for b in itertools.islice(stream_of(trainer), 5)
    ]
    assert rates == pytest.approx([0.00025, 0.0005, 0.00075, 0.001, 0.001])


def test_gradients_are_clipped_and_their_norm_reported_before(tiny, trainer_of):
    loose, tight = trainer_of(tiny("--optim.clip 1e9")), trainer_of(tiny("--optim.clip 1e-3"))
    batch = next(stream_of(loose))
    assert tight.train_step(*batch)["gradient_norm"] == loose.train_step(*batch)["gradient_norm"]
    averages = [
        sum(float(v["exp_avg"].square().sum()) for v in t.optimizer.state.values()) ** 0.5
        for t in (loose, tight)
    ]
    assert averages[1] < averages[0]
    assert averages[1] == pytest.approx(1e-3 * (1 - loose.config.optim.betas[0]), rel=1e-2)


def test_gradients_stay_as_they_are_without_a_limit(tiny, trainer_of):
    config = tiny("--optim.clip none")
    assert config.optim.clip is None
    free, loose = trainer_of(config), trainer_of(tiny("--optim.clip 1e9"))
    batch = next(stream_of(free))
    assert free.train_step(*batch) == loose.train_step(*batch)
    assert all(torch.equal(w, weights(loose)[name]) for name, w in weights(free).items())


@pytest.mark.parametrize("process", ["flow", "ddpm"])
def test_a_share_sees_its_rows_of_the_same_draws(tiny, trainer_of, monkeypatch, process):
    trainer = trainer_of(tiny(f"--process {process}"))
    labels = torch.tensor([0, 1] * 4)
    whole_labels, whole = trainer._draw(labels, (8, *trainer.shape))
    for rank in range(3):
        monkeypatch.setattr(Trainer, "share", lambda self, rank=rank: slice(rank, None, 3))
        mine_labels, mine = trainer._draw(labels[rank::3], (8, *trainer.shape))
        assert torch.equal(mine_labels, whole_labels[rank::3])
        pairs = zip(mine["process"], whole["process"], strict=True)
        assert all(torch.equal(part, all_of_it[rank::3]) for part, all_of_it in pairs)


@pytest.mark.parametrize(("stop", "precision"), [(3, "float32"), (4, "bfloat16"), (11, "float32")])
def test_going_on_is_exact_within_and_across_epochs(tiny, trainer_of, tmp_path, stop, precision):
    config = tiny(f"--precision {precision}")  # 22 images, batches of 8: every third straddles
    straight = trainer_of(config, tmp_path / "straight")
    stream = stream_of(straight)
    for _ in range(stop):
        straight.train_step(*next(stream))
    folder = straight.save()
    resumed = trainer_of(config, tmp_path / "resumed")
    resumed.load(folder)
    assert (resumed.step, resumed.images_seen) == (stop, 8 * stop)
    again = stream_of(resumed)
    for _ in range(6):
        assert straight.train_step(*next(stream)) == resumed.train_step(*next(again))
    expected, got = weights(straight), weights(resumed)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_a_stopped_run_goes_on_to_the_same_files(tiny, trainer_of, tmp_path, monkeypatch):
    config = tiny()
    straight, first = trainer_of(config, tmp_path / "a"), trainer_of(config, tmp_path / "b")
    assert straight.run()
    monkeypatch.setattr(first, "agree", lambda stop, *due: first.step == 7)
    assert first.run()  # as where the time is over; no signal came
    assert checkpoint.list_steps(tmp_path / "b") == [7]
    assert not (tmp_path / "b/samples").exists()
    second = trainer_of(config, tmp_path / "b")
    second.load(checkpoint.folder_of(tmp_path / "b", 7))
    assert second.run()
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_signal_saves_and_stops(tiny, trainer_of, tmp_path):
    trainer = trainer_of(tiny())
    step, before = trainer.train_step, signal.getsignal(signal.SIGTERM)

    def step_and_signal(*batch):
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)  # torchrun sends a second one at once
        return step(*batch)

    trainer.train_step = step_and_signal
    assert not trainer.run()
    assert checkpoint.list_steps(tmp_path / "run") == [3]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_deadline_saves_and_ends_well_and_going_on_is_exact(tiny, trainer_of, tmp_path):
    config = tiny()
    straight, first = trainer_of(config, tmp_path / "a"), trainer_of(config, tmp_path / "b")
    assert straight.run(time.monotonic() + 1000)
    assert len(list((tmp_path / "a/samples").iterdir())) == 2
    assert first.run(time.monotonic())
    assert (first.step, checkpoint.list_steps(tmp_path / "b")) == (0, [0])
    assert not (tmp_path / "b/samples").exists()
    first.model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    assert first.run(time.monotonic() + 0.1)
    assert 0 < first.step < 20
    second = trainer_of(config, tmp_path / "b")
    second.load(checkpoint.folder_of(tmp_path / "b", first.step))
    assert second.run()
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize("signal_came", [0, 1])
def test_who_waits_for_previews_answers_until_they_end(tiny, trainer_of, monkeypatch, signal_came):
    trainer, stop, others = trainer_of(tiny()), Stop(), []
    quiet = (0,) * 8

    def add_another(tensors):
        tensors[0] += torch.tensor(others.pop(0))

    monkeypatch.setattr("convflow.distributed.sum_over_processes", add_another)
    others[:] = [(0, 1, *quiet), (1, 1, *quiet), (1, 0, signal_came, 1, *quiet[2:])]
    assert trainer.agree(stop)
    assert others == []
    assert (trainer.interrupted, trainer.saving) == (bool(signal_came), True)
    others[:] = [(1, 0, 1, *quiet[1:]), (0, 0, *quiet)]  # who draws is told, or goes on
    assert trainer.agree(stop, busy=True)
    assert not trainer.agree(stop, busy=True)


def test_a_thread_that_gets_no_signals_can_train(tiny, trainer_of):
    trainer, ends = trainer_of(tiny("--images 16")), []
    thread = threading.Thread(target=lambda: ends.append(trainer.run()))
    thread.start()
    thread.join()
    assert ends == [True]


def test_eight_pictures_are_learnt(tiny, trainer_of):
    words = "--optim.lr 0.01 --optim.warmup-images 0 --model.width 32 --data.flip false"
    trainer = trainer_of(tiny(f"{words} --label-dropout 0"))
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 2, (8, 1, 1, 1)).repeat(64, axis=1)) * 255
    images = images.reshape(8, 1, 8, 8).to(torch.uint8)
    labels = (images[:, 0, 0, 0] > 0).long()
    batch = (images, labels, np.arange(8), 8, 8)
    losses = [trainer.train_step(*batch)["loss"] for _ in range(120)]
    assert np.mean(losses[-20:]) < 0.3 * losses[0]


def test_poisoned_weights_stop_the_run_and_are_named(tiny, trainer_of, tmp_path):
    trainer = trainer_of(tiny())
    stream = stream_of(trainer)
    trainer.train_step(*next(stream))
    folder = trainer.save()
    with torch.no_grad():
        trainer.model.blocks[0].mlp.out.weight[0, 0] = torch.nan
    pattern = (
        r"not finite at step 2 \(images 8 to 16\); first in blocks\.0\.mlp\.out \(Linear\), "
        r"with (even|odd)/\d+\.png, .*kept: .*step_000000001; try a lower --optim\.lr"
    )
    with pytest.raises(Diverged, match=pattern):
        trainer.train_step(*next(stream))
    with pytest.raises(Diverged, match=r"first in blocks\.0\.mlp\.out\.weight"):
        trainer.save()
    assert checkpoint.list_steps(tmp_path / "run") == [1]
    trainer.load(folder)
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())


def test_the_one_bad_picture_is_named(tiny, trainer_of, monkeypatch):
    trainer = trainer_of(tiny())
    batch = next(stream_of(trainer))
    draw = trainer._draw

    def poisoned(labels, *more):
        labels, draws = draw(labels, *more)
        draws["process"].noise[5] = torch.nan
        return labels, draws

    monkeypatch.setattr(trainer, "_draw", poisoned)
    name = trainer.images.item_name(batch[2][5])
    with pytest.raises(Diverged, match=rf"with {name}; kept: no good checkpoint"):
        trainer.train_step(*batch)


def test_a_save_holds_what_others_read(tiny, trainer_of):
    trainer = trainer_of(tiny())
    trainer.train_step(*next(stream_of(trainer)))
    folder = trainer.save()
    state = json.loads((folder / "state.json").read_text())
    assert (state["step"], state["images_seen"], state["num_pictures"]) == (1, 8, 22)
    pipeline = json.loads((folder / "ema/pipeline.json").read_text())
    assert pipeline["class_names"] == ["even", "odd"]
    assert pipeline["size"] == [8, 8]
    raw = safetensors.torch.load_file(folder / "raw/model.safetensors")
    assert all(torch.equal(raw[n], t) for n, t in trainer.model.state_dict().items())


def test_the_same_moment_is_saved_once_with_the_newest_way_to_sample(tiny, trainer_of):
    trainer = trainer_of(tiny())
    folder = trainer.save()
    files = [folder / name for name in ("state.json", "raw/pipeline.json", checkpoint.RAW_FILE)]
    before = [path.stat().st_mtime_ns for path in files]
    assert trainer.save() == folder
    assert [path.stat().st_mtime_ns for path in files] == before
    later = trainer_of(tiny("--sampling.steps 9"))
    later.load(folder)
    assert later.save() == folder
    assert files[2].stat().st_mtime_ns == before[2]
    assert (
        json.loads((folder / "raw/pipeline.json").read_text())["sampling"]["solver"]["steps"] == 9
    )


def test_other_pictures_are_refused(tiny, trainer_of):
    trainer = trainer_of(tiny())
    folder = trainer.save()
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"num_pictures": 23}))
    with pytest.raises(InputError, match="was trained on 23 images, got 22"):
        trainer.load(folder)


def test_renamed_classes_are_refused(tiny, trainer_of):
    folder = trainer_of(tiny()).save()
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"pictures": "others"}))
    with pytest.raises(InputError, match="trained on other images, classes, labels or captions"):
        trainer_of(tiny()).load(folder)


def test_auto_precision_stays_what_it_was(tiny, trainer_of):
    trainer = trainer_of(tiny("--precision auto"))
    folder = trainer.save()
    other = {"float32": "bfloat16", "bfloat16": "float32"}[trainer.precision]
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"precision": other, "sha256": None}))
    trainer.load(folder)
    assert trainer.precision == other
    asked = trainer_of(tiny("--precision bfloat16"))
    asked.load(folder)
    assert asked.precision == "bfloat16"


def test_the_gradient_that_broke_is_named_before_clipping_spreads_it(tiny, trainer_of):
    trainer = trainer_of(tiny())
    weight = trainer.model.blocks[0].mlp.out.weight
    weight.register_hook(lambda grad: torch.full_like(grad, torch.nan))
    with pytest.raises(Diverged, match=r"the gradient of blocks\.0\.mlp\.out\.weight; kept"):
        trainer.train_step(*next(stream_of(trainer)))


def test_a_checkpoint_from_before_pictures_were_counted_loads(tiny, trainer_of):
    trainer = trainer_of(tiny())
    folder = trainer.save()
    state = json.loads((folder / "state.json").read_text())
    del state["num_pictures"], state["sha256"]
    (folder / "state.json").write_text(json.dumps(state))
    trainer.load(folder)


@pytest.mark.parametrize("process", ["flow", "ddpm"])
def test_bfloat16_stays_near_float32(tiny, trainer_of, process):
    exact, fast = (
        trainer_of(tiny(f"--process {process} --precision {precision}"))
        for precision in ("float32", "bfloat16")
    )
    for batch in itertools.islice(stream_of(exact), 5):
        first, second = exact.train_step(*batch), fast.train_step(*batch)
        one, other = (torch.tensor([m["loss"]]) for m in (first, second))
        assert_close_rms(other, one, torch.bfloat16)
    kinds = {tensor.dtype for tensor in weights(fast).values()}
    assert kinds == {torch.float32}


BUCKETS = "--data.sizes 8x8,8x16,16x8,16x16"


@pytest.mark.parametrize(("micro", "ranks"), [("none", 1), ("3", 1), ("none", 2), ("2", 2)])
def test_a_small_batch_of_a_bucket_is_a_part_of_a_step(tiny, trainer_of, monkeypatch, micro, ranks):
    """Its gradients are divided by a full batch; the loss in the curves is that of an image."""
    trainer = trainer_of(tiny(f"{BUCKETS} --batch-size 32 --micro-batch {micro}"))
    batch = next(b for b in stream_of(trainer) if b.total < b.full)
    pixels, labels, indices, total, full, *_ = batch
    labels_drawn, draws = trainer._draw(labels, (total, *trainer.shape_of(pixels)))
    expected = trainer.losses_of(pixels, labels_drawn, draws, slice(None))[0].sum()
    gradients = torch.autograd.grad(expected / full, list(trainer.model.parameters()))
    losses, found = [], []
    clip = Single.clip

    def keep(self, parameters, most):
        held = list(parameters)
        found.append([parameter.grad.clone() for parameter in held])
        return clip(self, held, most)

    monkeypatch.setattr(Single, "clip", keep)
    for rank in range(ranks):
        share = slice(rank, None, ranks)
        worker = trainer_of(trainer.config)
        monkeypatch.setattr(Trainer, "share", lambda self, share=share: share)
        step = worker.train_step(pixels[share], labels[share], indices[share], total, full)
        losses.append(step["loss"])
    assert sum(losses) == pytest.approx(float(expected.detach()) / total, rel=1e-5)
    for parts, known in zip(zip(*found, strict=True), gradients, strict=True):
        torch.testing.assert_close(sum(parts), known, rtol=1e-4, atol=1e-7)


def test_going_on_is_exact_with_an_average_every_few_steps(tiny, trainer_of, tmp_path):
    config = tiny("--ema.every 4")
    straight = trainer_of(config, tmp_path / "straight")
    stream = stream_of(straight)
    for _ in range(6):
        straight.train_step(*next(stream))
    resumed = trainer_of(config, tmp_path / "resumed")
    resumed.load(straight.save())
    again = stream_of(resumed)
    for _ in range(3):
        straight.train_step(*next(stream))
        resumed.train_step(*next(again))
    first, second = weights(straight), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_computed_again_train_the_same_bits(tiny, trainer_of, precision):
    words = f"--precision {precision} --model.depth 3"
    plain, saving = (
        trainer_of(tiny(f"{words} --memory.recompute {which}")) for which in ("none", "every-2")
    )
    for batch in itertools.islice(stream_of(plain), 3):
        assert plain.train_step(*batch) == saving.train_step(*batch)
    first, second = weights(plain), weights(saving)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stop", [1, 7])
def test_going_on_is_exact_with_buckets_and_random_crops(tiny, trainer_of, tmp_path, stop):
    config = tiny(f"{BUCKETS} --data.crop random --data.flip true")
    straight = trainer_of(config, tmp_path / "straight")
    stream = stream_of(straight)
    for _ in range(stop):
        straight.train_step(*next(stream))
    resumed = trainer_of(config, tmp_path / "resumed")
    resumed.load(straight.save())
    assert resumed.images_seen == straight.images_seen
    again = stream_of(resumed)
    for _ in range(4):
        assert straight.train_step(*next(stream)) == resumed.train_step(*next(again))
    first, second = weights(straight), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_going_on_is_exact_for_a_convolutional_network(tiny, trainer_of, tmp_path):
    model = {"name": "dico", "width": 4, "depths": [1, 1, 1, 1, 1]}
    config = dataclasses.replace(tiny(), model=model)
    straight = trainer_of(config, tmp_path / "straight")
    stream = stream_of(straight)
    straight.train_step(*next(stream))
    resumed = trainer_of(config, tmp_path / "resumed")
    resumed.load(straight.save())
    again = stream_of(resumed)
    for _ in range(2):
        assert straight.train_step(*next(stream)) == resumed.train_step(*next(again))
    first, second = weights(straight), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_with_buckets_ends_and_draws_pictures_of_the_plain_size(tiny, trainer_of, tmp_path):
    trainer = trainer_of(tiny(f"{BUCKETS} --images 60"))
    assert trainer.run()
    assert trainer.images_seen >= 60
    assert trainer.images_seen - 60 < trainer.order.largest(8)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["images"] == trainer.images_seen


def test_a_process_without_a_picture_takes_part(tiny, trainer_of, monkeypatch):
    trainer, gradients = trainer_of(tiny()), []
    pixels, labels, indices, *_ = next(stream_of(trainer))
    monkeypatch.setattr(Trainer, "share", lambda self: slice(3, None, 4))
    for parameter in trainer.model.parameters():
        parameter.register_hook(gradients.append)
    step = trainer.train_step(pixels[:0], labels[:0], indices[:0], 2, 2)
    assert (step["loss"], step["gradient_norm"]) == (0, 0)
    assert len(gradients) == len(list(trainer.model.parameters()))


def test_larger_sizes_favour_noise_and_reach_farther(tiny, trainer_of, monkeypatch):
    words = "--resolution.shift true --model.depth 10 --resolution.reach auto"
    plain, adapted = trainer_of(tiny("--model.depth 10")), trainer_of(tiny(words))
    labels = torch.zeros(6, dtype=torch.int64)
    for shape, shift in (((6, 1, 8, 8), 1.0), ((6, 1, 16, 16), 2.0), ((6, 1, 8, 16), 2**0.5)):
        t, later = (trainer._draw(labels, shape)[1]["process"].t for trainer in (plain, adapted))
        torch.testing.assert_close(later, t / (t + (1 - t) * shift))
    seen = []
    trunk = type(adapted.model).trunk

    def spy(self, features, c, reach=None):
        seen.append(reach)
        return trunk(self, features, c, reach)

    monkeypatch.setattr(type(adapted.model), "trunk", spy)
    for size in ((8, 8), (8, 16)):
        pixels, _ = adapted.images.batch(np.arange(4), size=size)
        assert adapted.train_step(pixels, labels[:4], np.arange(4), 4, 4)["loss"] > 0
    same, wider = seen
    assert (same == adapted.model.reach).all()
    assert (wider[..., 1] == adapted.model.reach).all()
    assert wider[:, 5, 0].max() > adapted.model.reach


def test_what_a_network_was_told_in_training_it_is_told_in_sampling(tiny, trainer_of):
    trainer = trainer_of(tiny("--resolution.reach auto --resolution.reach-blocks 0,0"))
    pipe = Pipeline.from_pretrained(trainer.save())
    assert pipe.samples().model_kwargs == {"reach": ReachSchedule(blocks=(0, 0))}
    assert pipe.samples(reach=3.0).model_kwargs == {"reach": 3.0}
    assert pipe.samples(reach="none").model_kwargs == {}
    pipe.save_pretrained(trainer.run_folder / "saved")
    again = Pipeline.from_pretrained(trainer.run_folder / "saved")
    assert again.resolution == trainer.config.resolution


def test_pictures_that_go_to_other_buckets_are_other_pictures(tiny, trainer_of):
    trainer = trainer_of(tiny(BUCKETS))
    folder = trainer.save()
    trainer.load(folder)
    trainer.data_fingerprint += "0"
    with pytest.raises(InputError, match="was trained on other images"):
        trainer.load(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--process ddpm --resolution.shift true", "expected the process flow"),
        ("--resolution.position-scaling pi", "flowdcn has no position_scaling"),
        ("--resolution.reach auto", "expected more than 9 blocks for the published reach-blocks"),
        ("--resolution.reach-blocks 0,1", "expected first,last and --resolution.reach auto"),
        ("--data.ratios 0.25,4", "expected --data.buckets of at least 2"),
        ("--data.sizes 16x16,16x8", "expected a size such as --data.sizes 16x16,.*got 8x8"),
    ],
)
def test_what_is_not_told_of_sizes_is_refused(tiny, trainer_of, words, message):
    with pytest.raises(InputError, match=message):
        trainer_of(tiny(words))


def test_a_process_that_does_not_fit_the_network_is_refused(tiny, trainer_of):
    t = trainer_of(tiny())
    with pytest.raises(InputError, match="with channels for a variance, as the process ddpm has"):
        Trainer(t.config, t.losses, DDPM(), t.codec, t.images, t.run_folder)
