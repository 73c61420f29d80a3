"""Processes that are about to train different things stop together, and say in what they differ."""

import dataclasses
import shutil

import pytest

from benchmarks.reliability import kills
from convflow import distributed
from convflow.codecs import LatentCodec
from convflow.training import checkpoint
from convflow.training.agreement import agree, agree_on_start
from convflow.types import InputError
from tests.two_processes import start_two

DISKS = """
import logging, os, shutil, sys
from pathlib import Path
import torch
from torch.optim import AdamW
from benchmarks.reliability import kills
from convflow import distributed as d
from convflow.data.loader import Images
from convflow.recipes import create_config
from convflow.training import build, launch
from convflow.training.checkpoint import EMA_FILE
from convflow.training.overrides import override
from convflow.training.trainer import Trainer

torch.set_num_threads(1)
logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)

def attempt(name, run, *words):
    given = ["--data", "data", *kills.SETTINGS, "--device", "cpu", "--precision", "float32"]
    config = override(create_config("pictures.flowdcn"), [*given, "--images", "32", *words])
    print(f"[{name}]")
    try:
        print(launch.train(config, Path(run)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

def failing(call, error, due):
    calls = []
    def wrapped(*words, **named):
        calls.append(1)
        if len(calls) == due:
            raise error
        return call(*words, **named)
    return wrapped

shared = Path(sys.argv[1])
with d.process_group(torch.device("cpu")):
    rank = d.rank()
    os.chdir(shared / f"disk{rank}")
"""

DIFFERENT = """
    attempt("unseen", "new")
    attempt("step", "new", "--images", "48")
    attempt("settings", shared / "one", "--seed", str(rank))
    with open("data/odd/1.png", "rb") as file:
        image = file.read()
    if rank:
        os.remove("data/odd/1.png")
    attempt("pictures", shared / "two")
    if rank:
        Path("data/odd/1.png").write_bytes(image)
    copy = shutil.copytree(shared / "disk0/new", Path("flipped"))
    path = copy / "checkpoints/step_000000004" / EMA_FILE
    if rank:
        content = bytearray(path.read_bytes())
        content[-40] ^= 1
        path.write_bytes(content)
    attempt("weights", Path("flipped"), "--checkpoint.verify", "false")
"""

FAILING = """
    batch, losses, samples = Images.batch, Trainer.losses_of, Trainer.write_samples
    step = AdamW.step
    if rank:
        Images.batch = failing(batch, launch.InputError("odd/1.png: damaged; replace it"), 3)
    attempt("batch", shared / "batch")
    Images.batch = batch
    if rank:
        Trainer.losses_of = failing(losses, MemoryError("too much"), 4)
    attempt("losses", shared / "losses")
    if rank:  # before the first forward pass of the second step, where DDP exchanges messages
        Trainer.losses_of = failing(losses, MemoryError("too much"), 2)
    attempt("second", shared / "second")
    Trainer.losses_of = losses
    if rank:  # after the exchange of gradients, with a loss of two terms
        AdamW.step = failing(AdamW.step, MemoryError("too much"), 3)
    align = ["--objectives.align.kind", "tests.extending.align:Align"]
    attempt("optimizer", shared / "optimizer", *align)
    AdamW.step = step
    Trainer.write_samples = failing(samples, launch.InputError("no space; free some"), 1)
    attempt("samples", shared / "samples", "--monitor.samples-minutes", "1e-9")
    Trainer.write_samples = samples
    attempt("batch", shared / "batch")
    if rank:
        image = Images._image
        def sometimes(self, index, *words):
            if index % 2:
                raise launch.InputError("damaged")
            return image(self, index, *words)
        Images._image = sometimes
    logging.getLogger("convflow").setLevel("INFO")
    attempt("replaced", shared / "replaced", "--data.on-bad", "skip")
    if rank:
        Images._image = image
        build._measure = lambda *given: 1 / 0  # the first measures for all
    scales = ["--process.factors", "2", "--process.standardize", "true", "--sampling.steps", "2"]
    attempt("scales", shared / "scales", "--process", "dfm", *scales)
names = [place.read_text() for place in Path("/proc/self/task").glob("*/comm")]  # of its threads
print("[threads]")
print(sum("gloo" in name for name in names))
"""


@pytest.fixture
def disks(tmp_path):
    """A folder for all, and the disks of two processes, each with the same images."""
    for rank in range(2):
        kills.make_pictures(tmp_path / f"disk{rank}" / "data")
    return tmp_path


def answers(script, shared):
    """What each process said in each attempt."""
    both = start_two(["-c", DISKS + script, str(shared)], **kills.BYTECODE)
    assert [code for code, _, _ in both] == [0, 0], both
    parts = ([part.strip().split("]\n") for part in said.split("[")[1:]] for _, said, _ in both)
    return [dict(some) for some in parts]


@pytest.mark.slow
def test_processes_that_differ_stop_together(disks):
    first, second = answers(DIFFERENT, disks)
    assert "rank 1 does not see new" in first.pop("unseen")
    assert second.pop("unseen") == "True"
    assert first.pop("pictures") == "InputError: rank 1 stopped; see its message"
    assert "that the first process sees, got 21 on process 1" in second.pop("pictures")
    assert first == second
    assert first["step"].startswith(
        "InputError: expected the same step in all processes, got 4 on "
    )
    assert "rank 0, 0 on rank 1; let all processes see the same run folder" in first["step"]
    assert "the same --seed in all processes, got 0 on rank 0, 1 on rank 1" in first["settings"]
    assert f"the same hash of {checkpoint.EMA_FILE} in all" in first["weights"]


@pytest.mark.slow
def test_what_fails_in_one_process_stops_all_after_saving(disks):
    first, second = answers(FAILING, disks)
    for name in ("batch", "losses", "second", "optimizer", "samples"):
        assert (checkpoint.list_steps(disks / name) or [0])[-1] > 0
    other = "InputError: rank 1 stopped; see its message"
    for name in ("losses", "second"):
        assert first[name].startswith(f"{other}; saved before")
    assert first["optimizer"] == other
    for name in ("losses", "second", "optimizer"):
        assert second[name] == "MemoryError: too much"
    assert first["samples"].startswith("InputError: no space; free some; saved before")
    assert second["samples"] == "InputError: rank 0 stopped; see its message"
    assert first["batch"] == second["batch"] == "True"  # it went on to its end
    assert "images could not be read; others stood in their places" in first["replaced"]
    assert second["scales"] == "True"
    assert first["scales"].endswith("True")
    assert first["threads"] == second["threads"] == "0"  # they would outlive the group, and Python


def test_an_autoencoder_is_known_by_its_weights(
    tiny, trainer_of, autoencoder, tmp_path, monkeypatch
):
    trainer, seen = trainer_of(tiny()), []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda facts: seen[-1].update(facts) or [facts])
    copy = str(shutil.copytree(autoencoder, tmp_path / "copy"))
    for place, factor in ((autoencoder, 1), (copy, 1), (copy, 2)):
        trainer.codec = LatentCodec(place)
        next(trainer.codec.network.parameters()).mul_(factor)
        codec = LatentCodec(autoencoder=place)
        trainer.config = dataclasses.replace(trainer.config, codec=codec)
        seen.append({})
        agree_on_start(trainer)
    here, there, other = seen
    assert here == there
    differing = {name for name in here if here[name] != other[name]}
    assert differing == {"hash of the autoencoder"}


@pytest.mark.parametrize("values", [(1, 1, 1), (1, 2, 1), (1, None, 2)])
def test_values_are_told_with_their_ranks(monkeypatch, values):
    seen = [{"a": "same"} | ({} if v is None else {"step": str(v)}) for v in values]
    monkeypatch.setattr(distributed, "gather", lambda _: seen)
    if len(set(values)) == 1:
        agree("mend it", {"a": "same", "step": 1})
        return
    expected = {2: "1 on ranks 0, 2, 2 on rank 1", None: "1 on rank 0, none on rank 1, 2 on rank 2"}
    with pytest.raises(InputError, match=f"got {expected[values[1]]}; mend it"):
        agree("mend it", {"a": "same", "step": 1})
