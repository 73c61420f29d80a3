"""The user's code by name; what a detector makes of it is tested in test_detectors."""

import sys

import pytest

from convflow.evaluation.user_code import folder_of, import_place
from convflow.types import InputError


def test_a_file_is_read_anew_each_time_and_trusted_once_it_has_run(tmp_path):
    path = tmp_path / "mine.py"
    name = f"{path}:create"
    assert folder_of("package.module") is None
    assert folder_of(str(path)) == tmp_path
    path.write_text("value = 1\n")
    with pytest.raises(InputError, match="a file alone runs no code"):
        import_place(name, trusted=False)
    assert import_place(name).value == 1
    path.write_text("value = 2\n")
    again = import_place(name)
    assert again.value == 2
    assert import_place(name, trusted=False) is again
    del sys.modules[again.__name__]


def test_a_module_is_trusted_once_it_was_imported():
    assert import_place("json:loads", trusted=False).loads("1") == 1
    with pytest.raises(InputError, match="add --import nowhere if you trust it"):
        import_place("nowhere:create", trusted=False)
