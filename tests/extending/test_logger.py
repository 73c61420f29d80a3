"""A logger of a user takes the metrics of a run, beside the usual file."""

import json

from benchmarks.reliability import kills
from convflow.cli.main import main


def test_it_gets_what_the_usual_file_gets(tmp_path, capsys):
    data, run = kills.make_pictures(tmp_path / "pictures"), tmp_path / "run"
    words = ["pictures.flowdcn", "--data", str(data), *kills.SETTINGS, "--device", "cpu"]
    words += ["--run", str(run), "--images", "16", "--monitor.logger", "tests.extending.logger"]
    assert main(["train", *words]) == 2
    assert "unknown logger 'tests.extending.logger'" in capsys.readouterr().err
    words[-1] += ":Table"
    assert main(["train", *words]) == 0
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    expected = "".join(f"{line['step']},{line['loss']}\n" for line in lines)
    assert (run / "loss.csv").read_text() == expected != ""
