"""Files and folders appear complete or not at all."""

import pytest

from convflow.storage import write_text, writing_file, writing_folder
from convflow.types import InputError


def test_a_folder_appears_in_one_move(tmp_path):
    final = tmp_path / "deep/er/final"
    with writing_folder(final) as draft:
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
        write_half(writing_folder(tmp_path / "final"), "file", OSError(28, "No space left"))
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_and_leave_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing_folder(tmp_path / "final"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_text_has_the_same_bytes_everywhere(tmp_path):
    write_text(tmp_path / "text", "a\nb\r\n")
    assert (tmp_path / "text").read_bytes() == b"a\nb\r\n"


def test_a_folder_that_exists_is_never_replaced(tmp_path):
    final = tmp_path / "final"
    final.mkdir()
    write_text(final / "file", "old")
    with pytest.raises(InputError, match="exists"), writing_folder(final):
        pass
    assert (final / "file").read_text() == "old"


def test_a_draft_of_a_killed_process_does_not_get_in(tmp_path):
    (tmp_path / ".writing-final").mkdir()
    (tmp_path / ".writing-final/stale").write_text("")
    with writing_folder(tmp_path / "final") as draft:
        (draft / "file").write_text("")
    assert [p.name for p in (tmp_path / "final").iterdir()] == ["file"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(InputError, match="File too large"):
        write_half(writing_file(path), "", OSError(27, "File too large"))
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
