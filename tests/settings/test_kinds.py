"""Names of parts: this package's, and those of a user's module."""

import sys

import pytest

from convflow.settings.kinds import Table, import_module
from convflow.types import InputError


class Part:
    """What all parts of the table are."""


class Ours(Part):
    """One of them."""


TABLE = Table("part", Part, {"ours": Ours})


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a user's module into the working directory, forgotten again after the test."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="my_parts"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


OBJECTS = Table("part", Part, {"ours": Ours()})

MINE = """
from tests.settings.test_kinds import Part
class Mine(Part): ...
class Other: ...
made, number = Mine(), 1
def make(): return Mine()
"""


def test_names_of_the_package_are_found():
    assert TABLE.find("ours") is Ours
    assert list(TABLE) == ["ours"]
    with pytest.raises(InputError, match="unknown part"):
        TABLE.find("our")


def test_names_of_a_user_are_found_from_the_working_directory(module):
    module(MINE)
    paths = list(sys.path)
    assert TABLE.find("my_parts:Mine").__name__ == "Mine"
    assert isinstance(OBJECTS.find("my_parts:made"), Part)
    assert sys.path == paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.parts:Mine", "expected a module nowhere.parts that Python can import, got none"),
        ("my_parts:Min", "unknown name in my_parts 'Min'; did you mean 'Mine'"),
        ("my_parts:Other", "expected a subclass of .*:Part, got a class; derive a class from Part"),
        ("my_parts:Part", "expected a subclass of .*:Part, got a class; derive a class from Part"),
        ("my_parts:made", "expected a subclass of .*:Part, got an object of type Mine; deri"),
        ("my_parts:number", "expected a subclass of .*:Part, got an object of type int; der"),
        ("my_parts:make", "expected a subclass of .*:Part, got an object of type function; "),
    ],
)
def test_what_is_no_part_is_refused(module, name, message):
    module(MINE)
    with pytest.raises(InputError, match=f"part '{name}': {message}"):
        TABLE.find(name)


@pytest.mark.parametrize("name", ["Mine", "Other", "number", "make"])
def test_a_table_of_objects_refuses_classes_and_functions(module, name):
    module(MINE)
    got = "a class" if name[0].isupper() else "an object of type (int|function)"
    with pytest.raises(InputError, match=f"expected an object of .*:Part, got {got}; make it a Pa"):
        OBJECTS.find(f"my_parts:{name}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1 / 0", "ZeroDivisionError"), ("import absent_package", "ModuleNotFoundError")],
)
def test_code_that_fails_is_named(module, text, reason):
    module(text)
    with pytest.raises(InputError, match=f"got {reason} .* from its code; mend it"):
        TABLE.find("my_parts:Mine")


def test_a_name_from_a_file_runs_no_code(module, tmp_path):
    module(f"open({str(tmp_path / 'ran')!r}, 'w')\n{MINE}")
    with pytest.raises(InputError, match="add --import my_parts if you trust it"):
        TABLE.find("my_parts:Mine", trusted=False)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="expected a subclass of"):
        TABLE.find("os:system", trusted=False)
    import_module("my_parts", "a test")
    assert (tmp_path / "ran").exists()
    assert TABLE.find("my_parts:Mine", trusted=False).__name__ == "Mine"
