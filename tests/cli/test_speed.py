"""`convflow bench ops | models | training | samplers`: what is printed is measured and written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from convflow.bench import harness, models, ops, samplers, utilisation
from convflow.cli.main import main
from convflow.models.zoo import create_model
from convflow.nn.linear import fastest_engine
from tests.cases import TINY, TINY_DIT

SETTINGS = {"in_channels": 4, "num_classes": 1000}
FEW = "--rounds 2 --device cpu"
WORDS = {
    "ops": f"ops --size 4x5 --batch-size 1 {FEW}",
    "models": f"models flowdcn-s/2 --size 32x48 --batch-size 3 {FEW}",
    "training": f"training flowdcn-s/2 --size 32 --batch-size 1 --precision bfloat16 {FEW}",
    "samplers": f"samplers --steps 3 --batch-size 2 --solver euler,ab4 {FEW}",
    "run": f"samplers RUN --steps 2 --guidance 2 --size 8x16 {FEW}",
}
PLAIN = ["dit-s/2 nn.Linear"] if fastest_engine()[0] != "blas" else []
RIVALS = {
    "ops": [*ops.RIVALS, "L2 limit"] * 4,
    "models": ["eager", "floor", "product limit", "dit-s/2", *PLAIN],
    "training": ["eager", "floor", "product limit", "dit-s/2"],
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks under the names of published ones, and small operators."""
    tiny = {"flowdcn-s/2": ("flowdcn", TINY), "dit-s/2": ("dit", TINY_DIT)}

    def create(name: str, **given: object) -> object:
        family, settings = tiny.get(name, (name, {}))
        return create_model(family, **settings | (SETTINGS if name in tiny else given))

    monkeypatch.setattr(models, "create_model", create)
    monkeypatch.setitem(utilisation.SIDES, True, 128)
    monkeypatch.setattr(ops, "OP_SHAPES", [(1, 4, 4, 2, 8), (1, 4, 4, 3, 4)])


def run(words: str, tiny_run: Path) -> int:
    return main(["bench", *words.replace("RUN", str(tiny_run)).split()])


@pytest.mark.parametrize("name", WORDS)
def test_the_file_holds_what_is_printed(
    name: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new/table.csv"
    assert run(f"{WORDS[name]} --csv {path}", tiny_run) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert str(path) in out
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    machine = {"cpu", "threads", "python", "torch", "convflow", "revision", "date", "precision"}
    assert machine <= rows[0].keys()
    assert rows[0]["device"] == "cpu"
    columns = [c for c in rows[0] if c not in machine | {"gpu", "device"}]
    printed = {tuple(line.split()) for line in out.splitlines()}
    assert tuple(columns) in printed
    for row in rows:
        assert tuple(" ".join(row[column] for column in columns).split()) in printed
    if name in RIVALS:
        assert [row["rival"] for row in rows] == RIVALS[name]
        assert ("L2 limit" if name == "ops" else "times its floor") in out
    if name in ("models", "training"):
        assert "times its product limit" in out
        assert all(float(row["utilisation"]) > 0 for row in rows)
    if name not in RIVALS:
        solvers = ["euler", "ab4"] if name == "samplers" else samplers.USUAL_SOLVERS
        assert [row["solver"] for row in rows] == solvers * 2
        assert {row["guidance"] for row in rows} == {"1", "2" if name == "run" else "1.5"}
    if name == "training":
        assert {row["precision"] for row in rows} == {"bfloat16"}


@pytest.mark.parametrize("name", ["ops", "models", "training", "samplers"])
def test_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", name, "--help"])
    out = capsys.readouterr().out
    assert f"usage: convflow bench {name}" in out
    assert "--csv FILE" in out
    assert max(map(len, out.splitlines())) <= 100


BROKEN = [
    ("ops", ops.RIVALS, "gather", lambda v, o, w: 2 * v + 0 * (o.sum() + w.sum())),
    ("models", models.THROUGH_NETWORK, torch.float32, -1.0),
    ("training", models.THROUGH_NETWORK, torch.bfloat16, -1.0),
]


@pytest.mark.parametrize(("name", "table", "key", "fault"), BROKEN, ids=[b[0] for b in BROKEN])
def test_no_number_is_printed_when_rivals_disagree(
    name: str,
    table: dict[object, object],
    key: object,
    fault: object,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(table, key, fault)
    monkeypatch.setattr(harness, "seconds", lambda call, device: 1.0)
    assert run(f"{WORDS[name]} --csv {tmp_path / 'table.csv'}", tiny_run) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "expected the same numbers" in err
    assert "median_ms" not in out
    assert not any(tmp_path.iterdir())


def test_ctrl_c_ends_cleanly(
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(call: object, device: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "seconds", interrupt)
    assert run(f"{WORDS['ops']} --csv {tmp_path / 'table.csv'}", tiny_run) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ops word", "expected no further word, got 'word'"),
        ("ops --size 4xx5", "expected HEIGHTxWIDTH such as 48x32"),
        ("ops --size 0x5", "--size: expected sides of at least 1 cell, got 0x5"),
        ("ops --batch-size 0", "--batch-size: expected a whole number of at least 1, got '0'"),
        ("ops --rounds 0", "--rounds: expected a whole number of at least 1, got '0'"),
        ("ops --precision float8", "--precision: invalid choice: 'float8'"),
        ("ops --device toaster", "expected a usable device, got 'toaster'"),
        ("ops --csv RUN", "--csv: expected a file, got the folder"),
        ("ops --csv RUN/config.json/a.csv", "could not write"),
        ("ops --bach-size 3", "did you mean '--batch-size'?"),
        ("models dit-s/2 --compile quickly", "--compile: invalid choice: 'quickly'"),
        ("models dit-q/2", "unknown model 'dit-q/2'; did you mean"),
        ("models dit-s/2 --size 40x32", "multiples of 16, got 40x32"),
        ("training dit-s/2 --size 0x32", "multiples of 16, got 0x32"),
        ("models dit-s/2 --batch-size 999999999999", "expected work that fits into"),
        ("samplers RUN/none", "none"),
        ("samplers RUN --solver hein", "--solver: unknown solver of fixed cost 'hein'; did you"),
        ("samplers RUN --solver dopri5", "unknown solver of fixed cost 'dopri5'"),
        ("samplers RUN --size 9x8", "multiples of 2, got 9x8"),
        ("samplers RUN --guidance 0", "--guidance: expected a number above 0, got '0'"),
        ("samplers RUN --steps 0", "--steps: expected a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_line(
    words: str,
    message: str,
    tiny_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Noticed before any work.
    monkeypatch.setattr(harness, "measure", None)
    monkeypatch.setattr(samplers, "measure_samplers", None)
    if "--size 9x8" in words:
        monkeypatch.undo()
    assert run(words, tiny_run) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
