"""The short form of benchmarks/reliability/kills.py, which kills twenty times."""

import random
import subprocess

import pytest

from benchmarks import harness
from benchmarks.reliability import kills


@pytest.mark.slow
def test_a_training_killed_four_times_ends_like_an_undisturbed_one(tmp_path):
    data = str(kills.make_pictures(tmp_path / "data"))
    given = ["pictures.flowdcn", "--data", data, "--images", "800", *kills.SETTINGS]
    often = ["--checkpoint.every-minutes", "0"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    undisturbed = kills.start([*given, "--run", str(straight)])
    arguments = [*given, *often, "--run", str(killed)]
    deaths = list(kills.train_with_kills(arguments, killed, 100, 4, random.Random(0)))
    kills.finish(undisturbed)
    assert kills.differences(straight, killed) == []
    assert [death.moment for death in deaths] == ["training", "writing", "starting", "training"]
    assert [death.step_aimed for death in deaths] == [20, 40, None, 80]
    assert all(death.step_after >= (death.step_aimed or death.step_before) for death in deaths)
    assert kills.newest(straight) == 100
    leftovers = [path.name for path in killed.rglob(".writing-*")]
    assert leftovers == []


@pytest.mark.slow
def test_processes_are_killed_alone_and_together_and_torchrun_goes_on(tmp_path):
    data = str(kills.make_pictures(tmp_path / "data"))
    given = ["pictures.flowdcn", "--data", data, "--images", "320", *kills.SETTINGS]
    given += ["--parallel", "fsdp"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    kills.finish(kills.start([*given, "--run", str(straight)], processes=2))
    arguments = [*given, "--checkpoint.every-minutes", "0", "--run", str(killed)]
    deaths = list(kills.train_with_kills(arguments, killed, 40, 3, random.Random(0), 1, 2))
    assert kills.differences(straight, killed) == []
    assert [death.victim for death in deaths] == ["1", "all", "1"]
    assert max(death.seconds_to_end for death in deaths) < 60


def test_a_difference_is_noticed(tmp_path):
    for name, weights in (("one", b"1"), ("other", b"2")):
        last = tmp_path / name / "checkpoints/step_000000001"
        for file in ("raw/model", "ema/model", "optimizer"):
            (last / file).parent.mkdir(parents=True, exist_ok=True)
            (last / f"{file}.safetensors").write_bytes(weights)
        (last / "state.json").write_text("{}")
        (tmp_path / name / "metrics.jsonl").write_text("")
    found = kills.differences(tmp_path / "one", tmp_path / "other")
    assert len(found) == 3
    assert all(name.endswith("safetensors") for name in found)


def test_a_table_names_a_revision_that_can_be_measured_again(tmp_path):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    table = tmp_path / "benchmarks/results/table.csv"
    table.parent.mkdir(parents=True)
    for path in (table, tmp_path / "code.py"):
        path.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    name = harness.revision(tmp_path, dirty=False)
    table.write_text("2")
    (tmp_path / "untracked.py").write_text("2")
    assert harness.revision(tmp_path, dirty=False) == name
    (tmp_path / "code.py").write_text("2")
    with pytest.raises(SystemExit, match=r"clean git tree, got changes in code\.py: .*--dirty"):
        harness.revision(tmp_path, dirty=False)
    assert harness.revision(tmp_path, dirty=True) == f"{name}-dirty"
