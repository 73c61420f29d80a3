"""Paths that are stored in a folder are found from any working directory."""

from pathlib import Path

import pytest

from convflow.bundle.paths import find_place, portable


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data, where one works at first."""
    home = tmp_path / "project"
    (home / "pets").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(home)
    return home


def test_a_place_is_found_from_where_it_is_stored(project, tmp_path, monkeypatch):
    run, far = project / "runs/a", tmp_path / "far/a"
    assert (portable("pets", run), portable("pets", far)) == ("pets", str(project / "pets"))
    (project / "runs/pets").mkdir(parents=True)  # nearer, but another
    assert portable("pets", run) == str(project / "pets")
    assert portable("who/what", run) == "who/what"
    assert find_place("pets", run) == str(project / "runs/pets")
    (project / "runs/pets").rmdir()
    assert find_place("pets", run) == "pets"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_place("pets", far) == "pets"
    for _ in range(2):  # whatever has this name here
        assert find_place("pets", run) == str(project / "pets")
        assert portable(str(project / "pets"), run, "pets") == "pets"
        (tmp_path / "elsewhere/pets").mkdir(exist_ok=True)
    assert portable("pets", run, "pets") == str(tmp_path / "elsewhere/pets")
    assert find_place("pets", far) == "pets"  # from here alone
    assert find_place("tmp", Path("/runs/a")) == "tmp"  # but not the root of all files
    assert find_place("who/what", run) == "who/what"
    assert find_place("~nobody/\0", run) == "~nobody/\0"


def test_what_lies_in_a_folder_is_meant_before_the_same_name_elsewhere(project):
    (project / "model/pets").mkdir(parents=True)
    assert find_place("pets", project / "model") == "pets"
    assert find_place("pets", project / "model", inside=True) == str(project / "model/pets")


@pytest.mark.parametrize("path", ["pets", ".", "runs"])
def test_a_run_never_finds_itself_or_what_it_lies_in(tmp_path, monkeypatch, path):
    run = tmp_path / "runs/pets"
    run.mkdir(parents=True)
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    found = find_place(path, run)
    assert (tmp_path / found).resolve() == (tmp_path / path).resolve()
    monkeypatch.chdir(run)
    if path == "pets":
        assert find_place(path, run) == str(tmp_path / "pets")
