"""`convflow export` says where the weights are, and what is no run."""

from convflow.cli.main import main
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
