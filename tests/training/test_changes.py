"""What a resumed run may change, and where it is noted."""

import dataclasses
import json
import shlex
from shlex import split

import pytest
from PIL import Image

from convflow.cli.main import main
from convflow.codecs import LatentCodec
from convflow.processes.process import PROCESSES, create_process
from convflow.settings.read import flatten, to_dict
from convflow.texts import PretrainedText
from convflow.training import launch
from convflow.training.changes import (
    ON_RESUME,
    check_changes,
    find_changes,
    free_name,
    record_changes,
)
from convflow.training.config import TrainConfig
from convflow.training.overrides import override
from convflow.types import InputError


def changes_of(words, before=None):
    before = before or TrainConfig()
    return find_changes(before, override(before, split(words)))


def test_every_key_has_a_rule_and_every_rule_a_key():
    processes = map(create_process, PROCESSES)
    configs = [dataclasses.replace(TrainConfig(), process=process) for process in processes]
    configs.append(dataclasses.replace(TrainConfig(), codec=LatentCodec()))
    configs.append(dataclasses.replace(TrainConfig(), text=PretrainedText()))
    keys = {key for config in configs for key in flatten(to_dict(config))}
    groups = {field.name for field in dataclasses.fields(TrainConfig)}
    assert groups <= ON_RESUME.keys() <= keys | groups


@pytest.mark.parametrize(
    ("words", "recorded"),
    [
        ("--device cpu --monitor.log-every 3 --checkpoint.keep 9 --micro-batch 2", 0),
        ("--sampling.steps 3", 0),
        ("--images 5", 1),
        ("--optim.lr 1 --optim.schedule linear --optim.clip none --optim.weight-decay 1", 4),
        ("--ema.decay 0.5 --label-dropout 0 --precision bfloat16 --data /moved", 4),
    ],
)
def test_what_changes_no_meaning_may_change(tmp_path, words, recorded):
    changes = changes_of(words)
    check_changes(changes, tmp_path)
    assert len(changes) == len(words.split()) // 2
    assert len(record_changes(changes, tmp_path, 3, 24)) == recorded
    assert (tmp_path / "changes.jsonl").exists() == bool(recorded)


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (
            "--seed 3 --optim.lr 0.5 --data.size 8x16 --data.flip false",
            "convflow train --init 'RUN' --data.flip false --data.size 8x16 --optim.lr 0.5 "
            "--seed 3 --run 'NEW'",
        ),
        (
            "--model.width 8 --optim.lr 0.5",
            "or repeat the command that began it, with --model.width 8 --optim.lr 0.5 --run 'NEW'",
        ),
        (
            "--model.name dico",
            "or repeat the command that began it, with --model.name dico --run 'NEW'",
        ),
        ("--init there", "or repeat the command that began it, with --init there --run 'NEW'"),
    ],
)
def test_the_message_is_a_command_that_does_what_was_wanted(tmp_path, words, way):
    run = tmp_path / "a run"
    way = way.replace("RUN", str(run)).replace("NEW", f"{run}-2")
    with pytest.raises(InputError) as error:
        check_changes(changes_of(words), run)
    assert str(error.value).endswith(way)
    assert f"{run} was started with other settings: " in str(error.value)


def test_the_words_of_a_change_make_it():
    words = "--data.size 8x16 --optim.clip none --optim.betas 0.8,0.9 --images 5 --data 'a b'"
    before = TrainConfig()
    for change in changes_of(words):
        assert find_changes(before, override(before, split(change.words))) == [change]


def test_a_run_from_weights_may_be_repeated_without_them():
    before = TrainConfig(init="there")
    (change,) = changes_of("--init ''", before)
    assert find_changes(before, override(before, split(change.words))) == [change]


def test_a_name_that_is_free(tmp_path):
    assert free_name(tmp_path / "a").name == "a-2"
    (tmp_path / "a-2").mkdir()
    assert free_name(tmp_path / "a").name == "a-3"


def lines(run):
    found = (run / "changes.jsonl").read_text().splitlines()
    return [tuple(json.loads(line).values()) for line in found]


def rates_of(run):
    found = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["learning_rate"] for line in found]


def test_attempts_that_saved_nothing_leave_no_line(tmp_path):
    record_changes(changes_of("--optim.lr 1"), tmp_path, 3, 24)
    record_changes(changes_of("--optim.lr 2"), tmp_path, 3, 24)
    record_changes(changes_of("--optim.lr 3"), tmp_path, 5, 40)
    record_changes([], tmp_path, 9, 72)
    assert lines(tmp_path) == [(3, 24, "optim.lr", 1e-4, 2.0), (5, 40, "optim.lr", 1e-4, 3.0)]


def test_a_run_goes_on_with_another_rate_and_its_state(tiny, tmp_path, caplog):
    """failures/13: refused, with the only advice of a run from nothing."""
    run = tmp_path / "run"
    given = "--optim.warmup-images 0 --optim.lr 1e-3 --optim.weight-decay"
    assert launch.train(tiny(f"{given} 0 --images 16"), run)
    with caplog.at_level("INFO", "convflow"):
        assert launch.train(tiny(f"{given} 0.5 --images 32"), run)
    assert rates_of(run) == [1e-3] * 4
    assert "changed, noted in changes.jsonl: images (16, now 32), optim.weight_decay" in caplog.text
    assert main(["train", "--resume", str(run), "--images", "48", "--optim.lr", "1e-5"]) == 0
    assert rates_of(run) == [1e-3] * 4 + [1e-5] * 2
    assert lines(run) == [
        (2, 16, "images", 16, 32),
        (2, 16, "optim.weight_decay", 0.0, 0.5),
        (4, 32, "images", 32, 48),
        (4, 32, "optim.lr", 1e-3, 1e-5),
    ]
    assert launch.read_run_config(run).optim.lr == 1e-5
    caplog.clear()
    with caplog.at_level("INFO", "convflow"):  # finished: nothing is trained with another rate
        assert main(["train", "--resume", str(run), "--optim.lr", "1e-6"]) == 0
    assert "already finished" in caplog.text
    assert "changed, noted" not in caplog.text
    assert len(lines(run)) == 4


def test_other_pictures_need_another_run_and_its_command_is_told(tiny, tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    assert launch.train(tiny("--images 16"), run)
    for name in ("new", "two"):
        (other / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(other / name / "0.png")
    assert main(["train", "--resume", str(run), "--images", "24", "--data", str(other)]) == 2
    command = capsys.readouterr().err.rpartition("weights: convflow ")[2]
    assert main(shlex.split(command)) == 0
    assert launch.read_run_config(tmp_path / "run-2").data.path == str(other)


def test_the_command_of_the_message_begins_another_run(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    assert launch.train(tiny("--images 16"), run)
    assert main(["train", "--resume", str(run), "--images", "24", "--seed", "9"]) == 2
    command = capsys.readouterr().err.rpartition("weights: convflow ")[2]
    assert main(shlex.split(command)) == 0
    wanted = tiny(f"--images 24 --seed 9 --init {run}")
    model = wanted.model | {"time_scale": 1000}  # of the weights
    assert launch.read_run_config(tmp_path / "run-2") == dataclasses.replace(wanted, model=model)
    assert main(["train", "--init", str(run), "--images", "24"]) == 2
    assert "expected --run FOLDER beside --init" in capsys.readouterr().err
