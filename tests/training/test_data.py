"""The images of a training: what is refused, replaced, said and remembered of them."""

import dataclasses
import json
import logging
import os
import shutil

import pytest

from convflow.training import checkpoint, launch
from convflow.training import data as training_data
from convflow.types import InputError


@pytest.mark.parametrize("names", [("a", "a"), ("caf\u00e9", "cafe\u0301")])
def test_class_names_must_differ(tiny, tmp_path, monkeypatch, names):
    source = training_data.open_source(tiny().data.path)
    monkeypatch.setattr(
        training_data,
        "open_source",
        lambda path, *split, **options: dataclasses.replace(source, class_names=names),
    )
    with pytest.raises(InputError, match=r"distinct class names in .*, got '.*' more than once"):
        launch.train(tiny(), tmp_path / "run")


@pytest.fixture
def pets(data, tmp_path, monkeypatch):
    """Images that may be damaged, and a memory of their scan."""
    monkeypatch.setattr(training_data, "_memory", lambda: tmp_path / "memory")
    return shutil.copytree(data, tmp_path / "pets")


def damage(path, unseen=True):
    """Make a file unreadable, so that its size and time show nothing or all."""
    before = path.stat()
    path.write_bytes(b"x" * before.st_size if unseen else b"")
    if unseen:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("unseen", "words"), [(True, ""), (False, "--data.sizes 8x8,16x8")])
def test_a_picture_damaged_after_the_look_is_replaced(tiny, pets, tmp_path, caplog, unseen, words):
    def train(images, on_bad):
        given = f"--data {pets} {words} --images {images} --data.on-bad {on_bad}"
        return launch.train(tiny(given), tmp_path / "run")

    damage(pets / "odd/1.png")  # left out from the beginning
    assert train(8, "skip")
    (pets / "odd/1.png").write_bytes((pets / "odd/3.png").read_bytes())  # no matter that it heals
    assert train(8, "skip")  # which is remembered
    damage(pets / "even/0.png", unseen)
    for _ in range(2):  # met at the start where size or time show it, else while training
        with pytest.raises(InputError, match=r"even/0.png: .*; repair it or pass --data.on-bad"):
            train(64, "stop")
    for images in (64, 96):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="convflow"):
            assert train(images, "skip")
        assert caplog.text.count("even/10.png is shown in its place") == 1
        assert "1 image could not be read; another stood in its place" in caplog.text
        assert ("1 cannot be used: even/0.png" in caplog.text) != unseen


def test_a_picture_written_anew_is_said_or_refused(tiny, pets, tmp_path, caplog):
    def train(images, words=""):
        caplog.clear()
        return launch.train(tiny(f"--data {pets} --images {images} {words}"), tmp_path / "run")

    assert train(8)
    assert train(16, "--data.on-change stop")
    assert "written anew" not in caplog.text
    (pets / "even/0.png").write_bytes((pets / "even/2.png").read_bytes())
    with pytest.raises(InputError, match=r"written anew, .*; restore them, or pass --data.on-ch"):
        train(24, "--data.on-change stop")
    assert train(24)
    assert caplog.text.count("written anew") == 1
    assert train(32)
    assert "written anew" not in caplog.text
    state = checkpoint.folder_of(tmp_path / "run", 4) / "state.json"
    old = json.loads(state.read_text())
    del old["stamp"], old["sha256"]
    state.write_text(json.dumps(old))
    (tmp_path / "run" / training_data.SELECTION_FILE).unlink()
    (pets / "even/0.png").touch()
    assert train(40, "--data.on-change stop")  # an older run knows nothing of it
    assert (tmp_path / "run" / training_data.SELECTION_FILE).exists()


def test_the_first_process_looks_for_all(tiny, tmp_path, monkeypatch):
    def as_from_another_disk(compute, device):
        report, good = compute()
        return dataclasses.replace(report, total=21), good

    monkeypatch.setattr(training_data.distributed, "from_first", as_from_another_disk)
    with pytest.raises(InputError, match=r"the 21 images in .* first process sees, got 22"):
        launch.train(tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damage_that_no_header_shows_is_met_when_it_comes(
    tiny, pets, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("convflow.data.check.FEW_IMAGES", 10)
    monkeypatch.setattr("convflow.data.check.SAMPLE_IMAGES", 2)
    spoilt = pets / "even/10.png"
    data = spoilt.read_bytes()
    spoilt.write_bytes(data[:45] + bytes(len(data) - 45))

    def train(run, words):
        given = f"--data {pets} --images 22 {words}"
        with caplog.at_level(logging.INFO, logger="convflow"):
            return launch.train(tiny(given), tmp_path / run)

    with pytest.raises(InputError, match=r"even/10.png: .*--data.on-bad skip; saved before: "):
        train("run", "")
    assert "2 were decoded, of 20 the header was read" in caplog.text
    assert train("run", "--data.on-bad skip")
    assert "1 image could not be read; another stood in its place" in caplog.text
    assert train("sizes", "--data.sizes 8x8,16x8 --data.check some --data.on-bad skip")
    with pytest.raises(InputError, match=r"even/10.png: .*--data.on-bad skip.*"):
        train("all", "--data.check all")
    assert not (tmp_path / "all").exists()
