"""`convflow export` says where the weights are, and writes files for other programs."""

import pytest

from convflow.cli.main import main
from convflow.integrations.files import open_weights
from convflow.pipeline import Pipeline


def test_folders_are_named_and_can_be_used(tiny_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(tiny_run), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/raw  <- the weights",
        f"{out}/ema  <- their average",
    ]
    Pipeline.from_pretrained(out / "ema")
    assert main(["export", str(tmp_path)]) == 2
    assert "expected a run or a checkpoint of convflow train, got" in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_file_holds_the_weights_asked_for(tiny_run, tmp_path, capsys, weights):
    out = tmp_path / "it.safetensors"
    words = ["export", str(tiny_run), "--to", "safetensors", "--out", str(out)]
    assert main([*words, *(["--weights", "raw"] if weights == "raw" else [])]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{out}  <- weights and settings, float32, ")
    expected = Pipeline.from_pretrained(tiny_run, weights=weights).model.state_dict()
    found = open_weights(out).state_dict()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
