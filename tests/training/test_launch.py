"""From settings to a run: what is checked, what is written, and who may write."""

import dataclasses
import fcntl
import json
import logging
import re
import shutil

import pytest

from convflow import distributed, storage
from convflow.bundle.config import read_pipeline
from convflow.models.memory import MemoryEstimate
from convflow.models.zoo import load_model
from convflow.storage import claimed
from convflow.training import checkpoint, launch
from convflow.types import InputError


def digest(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def run(tiny, tmp_path):
    assert launch.train(tiny(), tmp_path / "run")
    return tmp_path / "run"


def test_a_run_folder_holds_what_is_promised(tiny, run):
    assert json.loads((run / "config.json").read_text())["images"] == 160
    model = tiny().model | {"time_scale": 1000}  # of a new flow
    assert launch.read_run_config(run) == dataclasses.replace(tiny(), model=model)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 21))
    assert len(list((run / "samples").glob("*.png"))) == 2
    assert checkpoint.list_steps(run) == [20]


def test_a_finished_run_is_found_done(tiny, run):
    before = digest(run)
    assert launch.train(tiny(), run)
    assert digest(run) == before


def test_a_longer_run_goes_on(tiny, run, tmp_path):
    assert launch.train(tiny("--images 240"), run)
    assert launch.train(tiny("--images 240"), tmp_path / "straight")
    assert (run / "metrics.jsonl").read_bytes() == (
        tmp_path / "straight/metrics.jsonl"
    ).read_bytes()
    for name in ("raw/model.safetensors", "ema/model.safetensors", "optimizer.safetensors"):
        one, other = (checkpoint.folder_of(r, 30) / name for r in (run, tmp_path / "straight"))
        assert one.read_bytes() == other.read_bytes()


PROCESSES = [
    "--process flow --process.schedule cosine --process.prediction noise",
    "--process flow --process.schedule vp --process.prediction score",
    "--process flow --process.prediction data",
    "--process ddpm",
    "--process ddpm --process.variance small",
]


@pytest.mark.parametrize("words", PROCESSES)
def test_every_process_trains_samples_and_is_remembered(tiny, tmp_path, words):
    config = tiny(f"--data digits {words} --images 16 --sampling.steps 3")
    assert launch.train(config, tmp_path / "run")
    assert len(list((tmp_path / "run/samples").glob("*.png"))) == 2
    folder = checkpoint.folder_of(tmp_path / "run", 2) / "ema"
    described = read_pipeline(json.loads((folder / "pipeline.json").read_text()))
    assert described.process == config.process
    learned = described.process.learned_variance
    assert load_model(folder).learned_variance == learned == words.endswith("ddpm")


def test_a_longer_run_of_ddpm_goes_on(tiny, tmp_path):
    for run, lengths in (("parts", (24, 56)), ("straight", (56,))):
        for images in lengths:
            assert launch.train(tiny(f"--process ddpm --images {images}"), tmp_path / run)
    for name in ("raw/model.safetensors", "ema/model.safetensors", "optimizer.safetensors"):
        one, other = (
            checkpoint.folder_of(tmp_path / run, 7) / name for run in ("parts", "straight")
        )
        assert one.read_bytes() == other.read_bytes()


def test_another_process_is_another_run(tiny, tmp_path):
    assert launch.train(tiny("--images 8"), tmp_path / "run")
    with pytest.raises(InputError, match=r"other settings: process\.kind \(flow, now ddpm\)"):
        launch.train(tiny("--images 8 --process ddpm"), tmp_path / "run")


def test_changed_settings_are_named_and_nothing_changes(tiny, run):
    before = digest(run)
    message = "was started with other settings: batch_size (8, now 4), seed (0, now 1); give"
    with pytest.raises(InputError, match=re.escape(message)):
        launch.train(tiny("--optim.lr 1 --seed 1 --batch-size 4"), run)
    assert digest(run) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data.size 9x9", "multiples of 4"),
        ("--model.in-channels 3", "--model.in-channels: expected 1 as in the data, got 3"),
        ("--model.num-classes 5", "--model.num-classes: expected 2 as in the data, got 5"),
        ("--model.num-groups 3", "num_groups"),
        ("--data /nowhere/at/all", "expected data at"),
        ("--data=", "--data: expected a folder of images"),
        ("--device toaster", "expected a usable device"),
        ("--model.name flowdnc", "did you mean"),
        ("--process ddpm --process.schedule vp", "the process ddpm has no schedule; leave it out"),
        ("--process.variance small", "the process flow has no variance; leave it out"),
        ("--process ddpm --model.learned-variance false", "expected True as in the process"),
        ("--model.learned-variance true", "expected False as in the process, got True"),
    ],
)
def test_nothing_is_written_before_all_is_checked(tiny, tmp_path, words, message):
    with pytest.raises(InputError, match=re.escape(message)):
        launch.train(tiny(words), tmp_path / "new/run")
    assert not (tmp_path / "new").exists()


def test_a_second_training_in_the_folder_is_refused(tiny, run):
    with (run / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = digest(run)
        with pytest.raises(InputError, match="another training is writing to"):
            launch.train(tiny(), run)
        assert digest(run) == before


def test_a_disk_that_knows_no_locks_is_no_obstacle(tiny, run, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert launch.train(tiny(), run)
    assert "cannot be locked (No locks available)" in caplog.text


def test_a_system_without_locks_is_no_obstacle(tiny, run, monkeypatch):
    monkeypatch.setattr(storage, "fcntl", None)
    assert launch.train(tiny(), run)


def test_other_processes_neither_claim_nor_write(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with claimed(tmp_path / "run", "training", "--run", first=False):
        assert not (tmp_path / "run").exists()


def test_the_older_checkpoint_takes_over_when_the_newest_is_moved_away(tiny, tmp_path):
    run = tmp_path / "run"
    assert launch.train(tiny("--checkpoint.every-minutes 0 --images 40"), run)
    newest = checkpoint.folder_of(run, 5)
    (newest / "optimizer.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"move .*step_000000005 elsewhere to go on"):
        launch.train(tiny("--images 40"), run)
    assert newest.is_dir()
    shutil.move(newest, tmp_path / "elsewhere")
    assert launch.train(tiny("--images 40"), run)
    good = (newest / "raw/model.safetensors").read_bytes()
    assert good == (tmp_path / "elsewhere/raw/model.safetensors").read_bytes()


def test_a_run_whose_only_state_was_removed_does_not_start_over(tiny, run):
    folder = checkpoint.folder_of(run, 20)
    state = (folder / "state.json").read_bytes()
    (folder / "state.json").unlink()
    before = digest(run)
    message = f"in {run}, got {folder.name} without state.json; restore .*remove the folder {run}/"
    with pytest.raises(InputError, match=message):
        launch.train(tiny("--images 240"), run)
    assert digest(run) == before
    (folder / "state.json").write_bytes(state)
    assert launch.train(tiny("--images 240"), run)
    shutil.rmtree(run / "checkpoints")  # as the message says, to begin anew
    assert launch.train(tiny(), run)
    assert checkpoint.list_steps(run) == [20]


@pytest.mark.parametrize("draft", [None, "checkpoints", "checkpoints/.writing-step_000000003"])
def test_a_run_killed_before_its_first_checkpoint_begins_again(tiny, run, draft, caplog):
    expected = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").write_bytes(expected[:500])
    if draft:
        (run / draft).mkdir(parents=True)
    caplog.clear()
    with caplog.at_level(logging.INFO, "convflow"):
        assert launch.train(tiny(), run)
    assert f"no checkpoint in {run} yet; beginning again from the start" in caplog.text
    assert (run / "metrics.jsonl").read_bytes() == expected
    assert checkpoint.list_steps(run) == [20]


def test_a_newer_folder_without_a_state_is_named_and_moved_aside(tiny, tmp_path, caplog):
    run = tmp_path / "run"
    assert launch.train(tiny("--checkpoint.every-minutes 0 --images 40"), run)
    folder = checkpoint.folder_of(run, 5)
    state = (folder / "state.json").read_bytes()
    (folder / "state.json").unlink()
    shutil.copytree(checkpoint.folder_of(run, 4), odd := folder.with_name("step_999"))
    assert launch.train(tiny("--images 40"), run)
    assert f"{odd} has no name of a checkpoint (step_000000010) and is passed over" in caplog.text
    assert f"{folder} has no state.json and is passed over" in caplog.text
    assert folder.with_name("step_000000005.aside").is_dir()
    assert json.loads((folder / "state.json").read_bytes())["files"] == json.loads(state)["files"]


def test_device_precision_and_data_are_said_at_the_start(tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "convflow"):
        launch.train(tiny("--images 8"), tmp_path / "a run")
    said = caplog.text
    assert "22 images, 8x8" in said
    assert "parameters on cpu in float32; batch 8, 8 images to see" in said
    assert "done; try: convflow sample '" in said


def test_memory_is_asked_for_a_batch_of_the_largest_size(tiny, trainer_of, monkeypatch):
    asked = []
    monkeypatch.setattr(MemoryEstimate, "check", lambda work, *_: asked.append(work))
    trainer_of(tiny("--micro-batch none --data.sizes 8x8,16x16"))
    trainer_of(tiny("--micro-batch none"))
    assert [(work.size, work.batch) for work in asked] == [((16, 16), 2), ((8, 8), 8)]


def test_the_disk_that_checkpoints_take_is_said_before_the_first(tiny, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "convflow"):
        launch.train(tiny("--images 8 --checkpoint.keep 2"), tmp_path / "run")
    folder = checkpoint.folder_of(tmp_path / "run", 1)
    files = ("raw/model.safetensors", "ema/model.safetensors", "optimizer.safetensors")
    true = sum((folder / name).stat().st_size for name in files)
    said = re.search(r"about ([\d.]+) kB each, at most 2 are kept and 1 is being", caplog.text)
    assert float(said[1]) * 1000 == pytest.approx(true, rel=0.2)  # and headers of small files
