"""`convflow export` says where the weights are, and what is no run."""

from convflow.cli.main import main
from convflow.pipeline import Pipeline


def test_other_libraries_get_folders_of_their_own(tiny_run, tmp_path, capsys):
    for target, file in (("diffusers", "model_index.json"), ("safetensors", "model.safetensors")):
        out = tmp_path / target
        assert main(["export", str(tiny_run), "--to", target, "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"{out}  <- {tiny_run} for {target}\n"
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
