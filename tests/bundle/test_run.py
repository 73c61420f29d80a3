"""A run folder: its checkpoints are found by their steps."""

import pytest

from convflow.bundle.run import folder_of, list_remains, list_steps, readable
from convflow.types import InputError


def make(run, step):
    folder = folder_of(run, step)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    return folder


def test_steps_are_sorted_as_numbers_and_incomplete_ones_passed_over(tmp_path):
    for step in (12, 2, 1_000_000_000_0):
        make(tmp_path, step)
    (tmp_path / "checkpoints/step_000000050").mkdir()
    (tmp_path / "checkpoints/.writing-step_000000060").mkdir()
    (tmp_path / "checkpoints/step_77").write_text("a file")
    for name in ("step_999", "step_0000000013", "step_000000014.aside"):
        make(tmp_path, 14).rename(tmp_path / "checkpoints" / name)
    assert list_steps(tmp_path) == [2, 12, 10_000_000_000]
    assert list_steps(tmp_path / "nowhere") == []
    remains = [path.name for path in list_remains(tmp_path)]
    assert remains == ["step_0000000013", "step_000000014.aside", "step_000000050", "step_999"]


@pytest.mark.parametrize(
    ("steps", "end"),
    [([3], "begin anew; there is no other"), ([2, 3], "go on from the checkpoint before it")],
)
def test_an_error_says_how_to_go_on_without_the_checkpoint(tmp_path, steps, end):
    *_, folder = [make(tmp_path, step) for step in steps]
    message = f"^damaged; move {folder} elsewhere to {end}$"
    with pytest.raises(InputError, match=message), readable(folder):
        raise InputError("damaged; mend it")
