"""`convflow bench solvers` searches, compares and writes a table beside the weights."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from convflow.bundle.folder import find_weights
from convflow.cli.main import main
from convflow.samplers.multistep import read_table, table_path

FEW = "--iterations 2 --teacher-steps 8 --num 3 --batch-size 2 --device cpu".split()


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_the_table_lies_beside_the_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "solvers", str(run), "--steps", "3", "--guidance", "2", *FEW]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    path = table_path(find_weights(run, "ema"), 3)
    assert str(path) in out
    assert len(read_table(path).coefficients) == 3
    content = json.loads(path.read_text())
    assert content["guidance"]["scale"] == 2
    rows = [line.split() for line in out.splitlines()[1:-1]]
    assert {name: int(calls) for name, calls, _ in rows} == {
        name: row["calls"] for name, row in content["errors"].items()
    }
    assert {"searched", "euler", "ab2"} <= content["errors"].keys()
    assert ("unipc" in content["errors"]) == bool(find_spec("diffusers"))
    errors = [float(error) for *_, error in rows]
    assert errors == sorted(errors)
    assert content["weights_sha256"]


@pytest.mark.slow
def test_the_same_command_finds_the_same_elsewhere(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        out = str(tmp_path / f"{name}.json")
        assert main(["bench", "solvers", str(run), "--steps", "2", "--out", out, *FEW]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert not table_path(find_weights(run, "ema"), 2).exists()


@pytest.mark.slow
def test_it_searches_with_the_guidance_that_is_sampled_with(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    words = "--guidance 2 --channels-guided 1 --interval 0,0.5 --label-policy random".split()
    words += ["--guidance-kind", "auto", "--weaker", str(tiny_run), "--out", str(out)]
    words += ["--size", "10x6"]
    assert main(["bench", "solvers", str(tiny_run), "--steps", "2", *words, *FEW]) == 0
    described = json.loads(out.read_text())
    wanted = {"kind": "auto", "scale": 2.0, "channels": 1, "interval": [0.0, 0.5]}
    assert wanted.items() <= described["guidance"].items()
    assert described["guidance"]["weaker"]
    assert described["size"] == [10, 6]
    assert described["labels"]["policy"] == "random"


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_names_what_there_is(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 0
    assert "solvers MODEL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("solver x", "unknown benchmark 'solver'; did you mean 'solvers'?"),
        ("solvers", "the following arguments are required: model"),
        ("solvers RUN --steps 1", "--steps: expected at least 2, got 1"),
        ("solvers RUN --teacher-steps 1 --steps 3", "expected at least twice the 3 of --steps"),
        ("solvers RUN --out RUN", "--out: expected a file, got the folder"),
        ("solvers RUN --out RUN/config.json/a.json", "could not write"),
        ("solvers RUN --guidance-kind auto", "--weaker"),
        ("solvers RUN --step 3", "did you mean '--steps'"),
        ("solvers RUN --guidance much", "expected a number, got 'much'"),
        ("solvers RUN --labels cat", "unknown label 'cat'"),
        ("solvers RUN/none", "none"),
    ],
)
def test_bad_input_is_one_line(
    words: str,
    message: str,
    tiny_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("convflow.samplers.search.teach", None)  # noticed before any work
    assert main(["bench", *words.replace("RUN", str(tiny_run)).split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
