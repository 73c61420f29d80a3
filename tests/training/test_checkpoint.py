"""The newest checkpoint is found by its step, and a damaged one says how to go on."""

import json
from types import SimpleNamespace

import pytest

from convflow.bundle.folder import find_weights
from convflow.training import checkpoint
from convflow.types import InputError

STATE = {"step": 3, "images_seen": 24, "config": {}}


def make(run, step, content=None):
    folder = checkpoint.folder_of(run, step)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(STATE if content is None else content))
    return folder


def test_old_ones_and_drafts_are_removed(tmp_path):
    for step in range(1, 6):
        make(tmp_path, step)
    (tmp_path / "checkpoints/.writing-step_000000009").mkdir()
    checkpoint.remove_old(tmp_path, keep=2)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_000000004", "step_000000005"]


def test_the_first_checkpoint_after_each_so_many_steps_stays(tmp_path):
    left = []
    for step in (3, 9, 12, 19, 20, 21, 47, 48, 49):  # removed as a run would, one by one
        make(tmp_path, step, STATE | {"step": step})
        checkpoint.remove_old(tmp_path, keep=2, keep_every=10)
        left.append(checkpoint.list_steps(tmp_path))
    assert left[2:5] == [[9, 12], [12, 19], [12, 19, 20]]
    assert left[-1] == [12, 20, 47, 48, 49]


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
        find_weights(tmp_path, "ema")
    make(tmp_path, 2)
    checkpoint.require_no_remains(tmp_path)


def test_a_good_state(tmp_path):
    assert checkpoint.read_state(make(tmp_path, 3)) == STATE


@pytest.mark.parametrize(
    ("kept", "free", "fits"), [(0, 4.8e9, True), (0, 4.7e9, False), (2, 2.4e9, True)]
)
def test_disk_that_is_needed_is_said_and_too_little_is_noticed(
    tmp_path, monkeypatch, kept, free, fits
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    line, found = checkpoint.describe_disk(300_000_000, 3, kept, tmp_path)
    longer, _ = checkpoint.describe_disk(300_000_000, 3, kept, tmp_path, 10_000)
    assert "4.8 GB, and 1 for each 10,000 steps; " in longer
    assert line.startswith(
        "checkpoints take about 1.2 GB each, at most 3 are kept and 1 is being written: 4.8 GB; "
    )
    assert found == fits
    assert ("too little; free some, lower --checkpoint.keep" in line) == (not fits)
