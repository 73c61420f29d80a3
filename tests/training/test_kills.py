"""The short form of benchmarks/reliability/kills.py, which kills twenty times."""

import random

import pytest

from benchmarks.reliability import kills


@pytest.mark.slow
def test_a_training_killed_four_times_ends_like_an_undisturbed_one(tmp_path):
    data = str(kills.make_pictures(tmp_path / "data"))
    given = ["pictures.flowdcn", "--data", data, "--images", "2400", *kills.SETTINGS]
    often = ["--checkpoint.every-minutes", "0"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    undisturbed = kills.start([*given, "--run", str(straight)])
    deaths = list(
        kills.train_with_kills([*given, *often, "--run", str(killed)], killed, 4, random.Random(0))
    )
    kills.finish(undisturbed)
    assert kills.differences(straight, killed) == []
    assert [death.moment for death in deaths] == ["training", "writing", "starting", "training"]
    assert len({death.step_after for death in deaths}) >= 3
    leftovers = [path.name for path in killed.rglob(".writing-*")]
    assert leftovers == []


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
