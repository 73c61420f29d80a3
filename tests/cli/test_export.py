"""`convflow export` says where the weights are, and writes files for other programs."""

import pytest

from convflow.cli.main import main
from convflow.models.zoo import load_model
from convflow.pipeline import Pipeline


def test_other_libraries_get_folders_of_their_own(tiny_run, tmp_path, capsys):
    for target, file in (("diffusers", "model_index.json"), ("safetensors", "model.safetensors")):
        out = tmp_path / target
        assert main(["export", str(tiny_run), "--to", target, "--out", str(out)]) == 0
        assert capsys.readouterr().out.startswith(f"{out}  <- ")
        assert (out / file).is_file()
    ours, theirs = (
        Pipeline.from_pretrained(p, device="cpu") for p in (tiny_run, tmp_path / "diffusers")
    )
    assert ours([0], num=1).images[0].tobytes() == theirs([0], num=1).images[0].tobytes()


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
def test_a_folder_holds_the_weights_asked_for(tiny_run, tmp_path, capsys, weights):
    out = tmp_path / "it"
    words = ["export", str(tiny_run), "--to", "safetensors", "--out", str(out)]
    assert main([*words, *(["--weights", "raw"] if weights == "raw" else [])]) == 0
    assert capsys.readouterr().out == f"{out}  <- the weights and settings of {tiny_run.name}\n"
    expected = Pipeline.from_pretrained(tiny_run, weights=weights).model.state_dict()
    found = load_model(out).state_dict()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
