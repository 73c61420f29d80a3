"""The newest checkpoint is found by its step, and a damaged one says how to go on."""

import json
from types import SimpleNamespace

import pytest

from convflow.training import checkpoint
from convflow.types import InputError

STATE = {"step": 3, "images_seen": 24, "config": {}}


def make(run, step, content=None):
    folder = checkpoint.folder_of(run, step)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(STATE if content is None else content))
    return folder


def test_steps_are_sorted_as_numbers_and_incomplete_ones_passed_over(tmp_path):
    for step in (12, 2, 1_000_000_000_0):
        make(tmp_path, step)
    (tmp_path / "checkpoints/step_000000050").mkdir()
    (tmp_path / "checkpoints/.writing-step_000000060").mkdir()
    (tmp_path / "checkpoints/step_77").write_text("a file")
    for name in ("step_999", "step_0000000013", "step_000000014.aside"):
        make(tmp_path, 14).rename(tmp_path / "checkpoints" / name)
    assert checkpoint.list_steps(tmp_path) == [2, 12, 10_000_000_000]
    assert checkpoint.list_steps(tmp_path / "nowhere") == []


def test_old_ones_and_drafts_are_removed(tmp_path):
    for step in range(1, 6):
        make(tmp_path, step)
    (tmp_path / "checkpoints/.writing-step_000000009").mkdir()
    checkpoint.remove_old(tmp_path, keep=2)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_000000004", "step_000000005"]


@pytest.mark.parametrize(
    "content",
    [
        *([], {}, "text", STATE | {"images_seen": None}),
        *(STATE | {"step": step} for step in ("3", -1, 2)),
    ],
)
def test_a_damaged_state_says_how_to_go_on(tmp_path, content):
    folder = make(tmp_path, 3, content)
    with pytest.raises(
        InputError, match=r"move .*step_000000003 elsewhere to begin anew; there is"
    ):
        checkpoint.read_state(folder)
    make(tmp_path, 2)
    with pytest.raises(
        InputError, match=r"move .*step_000000003 elsewhere to go on from the check"
    ):
        checkpoint.read_state(folder)


@pytest.mark.parametrize(
    ("left", "some"),
    [
        (["step_000000010"], "step_000000010 without state.json"),
        (["step_000000010.aside"], "step_000000010.aside without state.json"),
        (["step_000000010", "step_9"], "step_000000010 without state.json and 1 more"),
        ([], None),
        ([".writing-step_000000010", ".writing-old-4"], None),
    ],
)
def test_what_is_left_of_checkpoints_is_no_new_run(tmp_path, left, some):
    for name in left:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    if some is None:
        checkpoint.require_no_remains(tmp_path)
        return
    with pytest.raises(InputError, match=f"or none in {tmp_path}, got {some}; restore its name"):
        checkpoint.require_no_remains(tmp_path)
    folder = tmp_path / "checkpoints" / left[0] / "ema"
    with pytest.raises(InputError, match=f"got {some}; .*, or give the model folder {folder}"):
        checkpoint.find_weights(tmp_path, "ema")
    make(tmp_path, 2)
    checkpoint.require_no_remains(tmp_path)


def test_a_checkpoint_without_its_network_is_named(tmp_path):
    make(tmp_path, 2)
    folder = make(tmp_path, 3)
    for place in (tmp_path, folder):
        with pytest.raises(InputError, match=f"a network in {folder}/ema, found .*; move {folder}"):
            checkpoint.find_weights(place, "ema")


def test_a_newer_checkpoint_without_its_state_is_passed_over_with_a_line(tmp_path, caplog):
    good, newer = make(tmp_path, 2), make(tmp_path, 3)
    for folder in (good, newer):
        (folder / "ema").mkdir(exist_ok=True)
        (folder / "ema" / "config.json").write_text("{}")
    (newer / "state.json").unlink()
    assert checkpoint.find_weights(tmp_path, "ema") == good / "ema"
    assert f"{newer} has no state.json and is passed over" in caplog.text


def test_a_good_state(tmp_path):
    assert checkpoint.read_state(make(tmp_path, 3)) == STATE


@pytest.mark.parametrize(
    ("kept", "free", "fits"), [(0, 4.8e9, True), (0, 4.7e9, False), (2, 2.4e9, True)]
)
def test_disk_that_is_needed_is_said_and_too_little_is_noticed(
    tmp_path, monkeypatch, kept, free, fits
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    line, found = checkpoint.describe_disk(75_000_000, 3, kept, tmp_path)
    assert line.startswith(
        "checkpoints take about 1.2 GB each, at most 3 are kept and 1 is being written: 4.8 GB; "
    )
    assert found == fits
    assert ("too little; free some, lower --checkpoint.keep" in line) == (not fits)
