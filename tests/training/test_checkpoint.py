"""Checkpoints appear complete or not at all, and the newest is found by its step."""

import json

import pytest

from convflow.training import checkpoint
from convflow.types import InputError

STATE = {"step": 3, "images_seen": 24, "config": {}}


def make(run, step, content=None):
    folder = checkpoint.folder_of(run, step)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(STATE if content is None else content))
    return folder


def test_a_folder_appears_in_one_move(tmp_path):
    final = tmp_path / "deep/er/final"
    with checkpoint.writing_folder(final) as draft:
        (draft / "inner").mkdir()
        (draft / "inner/file").write_text("all")
        assert not final.exists()
    assert (final / "inner/file").read_text() == "all"
    assert [p.name for p in final.parent.iterdir()] == ["final"]


def write_half(writer, name, error):
    with writer as draft:
        (draft / name).write_text("half")
        raise error


def test_an_error_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"could not write .*final: No space left"):
        write_half(
            checkpoint.writing_folder(tmp_path / "final"), "file", OSError(28, "No space left")
        )
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_and_leave_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), checkpoint.writing_folder(tmp_path / "final"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_text_has_the_same_bytes_everywhere(tmp_path):
    checkpoint.write_text(tmp_path / "text", "a\nb\r\n")
    assert (tmp_path / "text").read_bytes() == b"a\nb\r\n"


def test_a_folder_that_exists_is_never_replaced(tmp_path):
    final = make(tmp_path, 3)
    with pytest.raises(InputError, match="exists"), checkpoint.writing_folder(final):
        pass
    assert (final / "state.json").exists()


def test_a_draft_of_a_killed_process_does_not_get_in(tmp_path):
    (tmp_path / ".writing-final").mkdir()
    (tmp_path / ".writing-final/stale").write_text("")
    with checkpoint.writing_folder(tmp_path / "final") as draft:
        (draft / "file").write_text("")
    assert [p.name for p in (tmp_path / "final").iterdir()] == ["file"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    checkpoint.write_text(path, "old")
    with pytest.raises(InputError, match="File too large"):
        write_half(checkpoint.writing_file(path), "", OSError(27, "File too large"))
    assert path.read_text() == "old"
    checkpoint.write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_steps_are_sorted_as_numbers_and_incomplete_ones_passed_over(tmp_path):
    for step in (12, 2, 1_000_000_000_0):
        make(tmp_path, step)
    (tmp_path / "checkpoints/step_000000050").mkdir()
    (tmp_path / "checkpoints/.writing-step_000000060").mkdir()
    (tmp_path / "checkpoints/step_77").write_text("a file")
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
    [[], {}, STATE | {"step": "3"}, STATE | {"images_seen": None}, STATE | {"step": -1}, "text"],
)
def test_a_damaged_state_says_how_to_go_on(tmp_path, content):
    folder = make(tmp_path, 3, content)
    with pytest.raises(InputError, match=r"move .*step_000000003 elsewhere to go on"):
        checkpoint.read_state(folder)


def test_a_good_state(tmp_path):
    assert checkpoint.read_state(make(tmp_path, 3)) == STATE
