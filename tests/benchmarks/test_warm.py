"""A warm process runs commands as new ones would, one after the other."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from benchmarks.quality.warm import failure, run


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that notes in which process it ran, or fails as it is told."""
    code = """
import os, sys
where, way = sys.argv[1:]
print("not an answer")
os.system("echo not an answer either")
with open(where, "a") as file:
    file.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\\n")
if way == "raise":
    raise ValueError("it was told so")
os.system("echo last words >&2") if way == "die" else None
os._exit(7) if way == "die" else sys.exit(0 if way == "well" else "a bad end")
"""
    (tmp_path / "told.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return tmp_path


def test_a_thread_has_one_process_until_it_dies(module):
    notes = module / "notes"
    with ThreadPoolExecutor(1) as pool:

        def ask(way):
            return pool.submit(run, "told", str(notes), way, threads=1)

        ask("well").result()
        for way, message in {
            "badly": r"told .*badly\na bad end",
            "raise": "ValueError: it was told so",
            "die": r"last words\nits process ended with 7",
        }.items():
            with pytest.raises(SystemExit, match=message):
                ask(way).result()
        ask("well").result()
    first, *others, last = (line.split() for line in notes.read_text().splitlines())
    assert others == [first] * 3
    assert first[0] != last[0]
    assert (first[1], last[1]) == ("1", "1")


def test_a_command_that_ends_well_fails_in_nothing(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    dropped = []
    graphs = SimpleNamespace(reset=lambda: dropped.append(sys.argv[-1]))
    monkeypatch.setitem(sys.modules, "torch._dynamo", graphs)
    assert failure(["json.tool", "--help"]) == ""
    assert "unknown option '--wrong'" in failure(["convflow", "info", "flowdcn", "--wrong"])
    assert dropped == ["--help", "--wrong"]
    assert capsys.readouterr().out == ""
