"""Finding the verb, and turning every error into one line and an exit code."""

import os
import subprocess
import sys

import pytest

import convflow
from convflow.cli import main as cli
from convflow.cli import sample
from convflow.types import Diverged, InputError


def fail(monkeypatch, error):
    def run(words):
        raise error

    monkeypatch.setattr(sample, "main", run)
    return cli.main(["sample", "x"])


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(words, capsys):
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert all(f"  {verb} " in out for verb in cli.VERBS)
    assert err == ""


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"convflow {convflow.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("expected a,\n got b"), 2, "error: expected a, got b\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied; check"),
        (OSError("odd"), 2, "error: odd; check that the place exists"),
        (MemoryError(), 1, "error: out of memory; try a smaller --batch-size"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            1,
            "error: out of memory; try",
        ),
        (RuntimeError("CUDA out of memory. Tried"), 1, "error: out of memory; try"),
        (Diverged("the loss is not finite"), 1, "error: the loss is not finite\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_one_line_and_a_code(error, code, said, monkeypatch, capsys):
    assert fail(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_faults_of_ours_are_not_hidden(monkeypatch):
    with pytest.raises(RuntimeError, match="a bug"):
        fail(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(TypeError):
        fail(monkeypatch, TypeError("a bug"))


def test_every_verb_has_help_that_imports_neither_torch_nor_numba():
    code = """
import sys
from contextlib import suppress
from convflow.cli.bench import BENCHES
from convflow.cli.demo import DEMOS
from convflow.cli.main import VERBS, main
every = [*(f"bench {name}" for name in BENCHES), *(f"demo {name}" for name in DEMOS)]
for words in ["", *VERBS, *every]:
    with suppress(SystemExit):  # argparse leaves after its help
        assert main([*words.split(), "--help"]) == 0
    heavy = {"torch", "numba", "numpy"} & sys.modules.keys()
    assert not heavy, (words, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for verb in cli.VERBS:
        assert f"usage: convflow {verb}" in done.stdout


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    cli.prepare("train")
    assert (os.environ["GOMP_SPINCOUNT"], os.environ.get("THP_MEM_ALLOC_ENABLE")) == ("7", None)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    cli.prepare("sample")
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
