"""A contest trains, scores and writes rows; called again, it runs nothing twice."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.quality import contest as module
from benchmarks.quality.contest import Contender, Way


def options_of(tmp_path, **more):
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    options = parser.parse_args(["--runs", str(tmp_path / "runs"), "--jobs", "1"])
    parser.set_defaults()
    vars(options).update({"images": [64, 128], "draws": 1, **more})
    return options


@pytest.fixture
def calls(monkeypatch):
    """Commands in the place of which files are written, as the commands would."""
    found = []

    def convflow(options, verb, what, *words):
        given = dict(zip(words[::2], words[1::2], strict=True))
        found.append((verb, what, given))
        if verb == "train":
            run = Path(given["--run"])
            run.mkdir(parents=True, exist_ok=True)
            with (run / "speed.jsonl").open("a") as file:
                line = {"images": int(given["--images"]), "images_per_second": 32.0}
                file.write(json.dumps(line) + "\n")
        elif verb == "export":
            Path(given["--out"]).mkdir()
        elif "--save-statistics" in given:
            Path(given["--save-statistics"]).touch()
        else:
            scores = {f"{title}-small": 0.5 for title in module.SCORES}
            text = json.dumps({"scores": scores, "library": {"commit": "0123456789"}})
            Path(given["--out"]).write_text(text)

    monkeypatch.setattr(module, "convflow", convflow)
    monkeypatch.setattr(module, "machine", dict)
    monkeypatch.setattr(
        module, "write_table", lambda path, rows, **more: found.append((path, rows))
    )
    return found


def test_everything_is_trained_and_scored_once(tmp_path, calls):
    options = options_of(tmp_path)
    plain = Contender("plain", "cifar10.dico", ["--batch-size", "16"])
    ways = [Way("one", ["--guidance", "1"]), Way("wide", ["--guidance", "1"], sigma_rel="0.1")]
    rows = module.race([plain], ways, options, "contest")
    verbs = [call[0] for call in calls[:-1]]
    assert verbs == ["evaluate", *["train", "evaluate", "export", "evaluate"] * 2, "evaluate"]
    path, written = calls[-1]
    assert (path.name, written) == ("contest.csv", rows)
    assert [(row["images"], row["seconds"], row["way"]) for row in rows[:-1]] == [
        ("64", "2", "one"), ("64", "2", "wide"), ("128", "4", "one"), ("128", "4", "wide")
    ]  # fmt: skip
    averages = [what for verb, what, _ in calls[:-1] if verb == "evaluate" and "sigma" in str(what)]
    assert [Path(what).name for what in averages] == ["sigma-0.1.64", "sigma-0.1.128"]
    assert (rows[-1]["contender"], rows[-1]["seconds"], rows[-1]["FD"]) == (module.FLOOR, "", "0.5")
    again = len(calls)
    assert module.race([plain], ways, options, None) == rows
    assert len(calls) == again


def test_a_network_of_a_user_is_imported_and_a_fall_of_the_rate_waits_for_the_end(tmp_path, calls):
    options = options_of(tmp_path)
    one = Contender("own", "cifar10.dico", module="my.module", at_end=True)
    found = []

    def look(run, contender, images):
        found.append((run.name, contender.name, images))
        return {"more": "1"}

    rows = module.race([one], [Way("plain", [])], options, None, look=look)
    assert [row["images"] for row in rows] == ["128", ""]
    assert rows[0]["more"] == "1"
    assert found == [("own.0", "own", 128)]
    sampled = [given for verb, what, given in calls if verb == "evaluate" and "own" in str(what)]
    assert [given["--import"] for given in sampled] == ["my.module"]


def test_seconds_are_those_of_training_up_to_a_number_of_images(tmp_path):
    rates = {32: 16.0, 64: 32.0, 128: 64.0}
    lines = [json.dumps({"images": n, "images_per_second": rate}) for n, rate in rates.items()]
    (tmp_path / "speed.jsonl").write_text("\n".join(lines))
    assert module.seconds_of(tmp_path, 64) == 3
    assert module.seconds_of(tmp_path, 128) == 4
    assert module.seconds_of(tmp_path, 80) == 3 * 80 / 64
    assert module.seconds_of(tmp_path / "none", 64) == 0


def test_unknown_contenders_are_refused(tmp_path, calls):
    options = options_of(tmp_path, only=["plane"])
    with pytest.raises(SystemExit, match="plain, got plane"):
        module.race([Contender("plain", "cifar10.dico")], [], options, None)
    assert not calls
