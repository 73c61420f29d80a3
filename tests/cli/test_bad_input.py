"""Whatever is wrong with the input: one line that says so, exit code 2, and nothing is damaged."""

import hashlib
import logging
import os
import pickle
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

import convflow
from benchmarks.reliability import kills
from convflow.cli.main import main
from tests.cli import bad_sizes
from tests.cli.bad_input import CASES, RESUME, SAMPLE, TRAIN, newest, nothing

TABLE = [*CASES, *bad_sizes.CASES]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_run):
    """A folder with images and a finished run, to be copied."""
    place = tmp_path_factory.mktemp("world")
    kills.make_pictures(place / "data")
    shutil.copytree(tiny_run, place / "run")
    return place


@pytest.fixture
def place(tmp_path, world):
    shutil.copytree(world, tmp_path / "P")
    return tmp_path / "P"


def tree(place):
    """Every file and folder with a digest of its content."""
    return {
        str(path.relative_to(place)): path.is_file() and hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(place.rglob("*"))
    }


def one_line(said):
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("words", "message", "prepare"),
    [pytest.param(*rest, *([nothing] if len(rest) == 2 else [])) for _, *rest in TABLE],
    ids=[case[0] for case in TABLE],
)
def test_one_line_and_nothing_damaged(
    place, words, message, prepare, capsys, caplog, monkeypatch, unchecked
):
    prepare(place)
    monkeypatch.chdir(place)
    monkeypatch.setattr("convflow.distributed.free_memory", lambda device: bad_sizes.FREE_MEMORY)
    before = tree(place)
    with caplog.at_level(logging.INFO, "convflow"):
        code = main([word.replace("P/", f"{place}/") for word in words.split(" ")])
    out, err = capsys.readouterr()
    assert message in one_line(err)
    assert code == 2
    assert out == ""
    assert caplog.records == []
    assert tree(place) == before


def test_there_are_many_kinds():
    assert len({name for name, *_ in TABLE}) == len(TABLE) > 100


class Evil:
    def __reduce__(self):
        return (os.system, ("touch $EVIDENCE",))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIDENCE", str(tmp_path / "ran"))
    for name, save in (("a.pt", torch.save), ("b.ckpt", None)):
        path = tmp_path / name
        if save:
            save({"model": Evil()}, path)
        else:
            path.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(convflow.InputError, match=r"run code|damaged"):
            convflow.load_official(path)
    assert not (tmp_path / "ran").exists()


def child(words, place, limit=None):
    """Run the command line in a process of its own; `limit` is the largest file in bytes."""
    # Under a limit even the bytecode that Python caches would be cut off.
    environment = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "convflow", *words.replace("P/", f"{place}/").split()],
        cwd=place,
        env=os.environ | environment | ({} if limit else kills.BYTECODE),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
    )


def test_a_real_process_says_the_same(place):
    before = tree(place)
    done = child(f"{TRAIN} --data P/no", place)
    one_line(done.stderr)
    assert (done.returncode, done.stdout) == (2, "")
    assert tree(place) == before


@pytest.mark.slow
def test_a_full_disk_leaves_the_older_checkpoints_usable(place):
    before = tree(place)
    limit = max(p.stat().st_size for p in newest(place).rglob("*")) // 2
    done = child(f"{RESUME} --images 16 --monitor.tensorboard false", place, limit)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "could not write" in errors[0]
    assert "File too large" in errors[0]
    assert "Traceback" not in done.stderr
    after = tree(place)
    checkpoints = {name: digest for name, digest in after.items() if "/checkpoints" in name}
    assert checkpoints == {n: digest for n, digest in before.items() if "/checkpoints" in n}
    assert not any(".writing-" in name for name in after)
    assert main(["train", "--resume", str(place / "run"), "--images", "16"]) == 0


def test_a_full_disk_leaves_the_older_picture(place, monkeypatch, capsys):
    (place / "out.png").write_bytes(b"precious")
    before = tree(place)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    assert main([word.replace("P/", f"{place}/") for word in SAMPLE.split()]) == 2
    assert "No space left on device" in one_line(capsys.readouterr().err)
    assert tree(place) == before
