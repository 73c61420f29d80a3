"""Each contender is a training; the ranking is what one would compute by hand."""

import argparse
import json
import math
from pathlib import Path

import pytest

from benchmarks.quality import contest
from benchmarks.quality import race as module
from convflow.recipes import create_config
from convflow.training.overrides import override

OPTIONS = argparse.Namespace(jobs=2, images=[512, 1024], budget="full", data="x")
CONTENDERS = {each.name: each for each in module.contenders_of(OPTIONS)}


def config_of(contender):
    words = ["--batch-size", "32", *contender.options]
    return override(create_config(contender.recipe), words)


@pytest.mark.parametrize("name", CONTENDERS)
def test_each_contender_is_a_training_that_differs_from_the_plain_one(name):
    network, _, change = name.partition(" ")
    if network == "unet":
        pytest.importorskip("diffusers")
    contender, plain = CONTENDERS[name], CONTENDERS[network]
    assert config_of(contender) != config_of(plain) or name == network
    assert config_of(contender).ema == config_of(plain).ema
    assert contender.at_end == (change == "wsd")
    assert contender.module == plain.module


def test_small_races_have_the_same_contenders():
    small = argparse.Namespace(images=[2048], budget="small", data="x")
    found = {each.name: each for each in module.contenders_of(small)}
    assert found.keys() == CONTENDERS.keys()
    assert config_of(found["flowdcn muon"]).model["width"] == 32
    assert [way.name for way in found["dico data"].ways] == ["guidance 1"]


def rows_of(name, seed, distances, seconds, way="guidance 1", **more):
    return [
        {"contender": name, "seed": seed, "images": str(images), "way": way, "draw": "0",
         "FD": str(fd), "seconds": str(time), **more}
        for images, fd, time in zip((512, 1024), distances, seconds, strict=True)
    ]  # fmt: skip


def test_the_ranking_is_by_distance_at_equal_images_and_in_time():
    rows = [
        *rows_of("dico", "0", (8, 6), (50, 100), error="0.25"),
        *rows_of("dico", "1", (8, 5), (50, 110), error="0.35"),
        *rows_of("dico", "0", (8, 4), (50, 100), way="guidance 2"),
        *rows_of("dico muon", "0", (7, 3), (50, 200), error="0.2"),
        *rows_of("dico compile", "0", (7, 6), (30, 60)),
        *rows_of("dico compile", "1", (7, 6.5), (30, 70)),
        *rows_of("flowdcn", "0", (9, 7), (50, 100)),
        {"contender": contest.FLOOR, "images": "", "way": "", "FD": "0.1"},
    ]
    head, _, *lines, floor = module.ranking(rows)
    assert "after 1,024 images" in head
    assert lines == [
        "| flowdcn | 7.00 (7.00 to 7.00) | 7.00 | 100 | 7.00 with 1 | - |",
        "| dico muon | 3.00 (3.00 to 3.00) | 5.00 | 200 | 3.00 with 1 | 0.2000 |",
        "| dico | 5.50 (5.00 to 6.00) | 5.50 | 105 | 4.00 with 2 | 0.3000 |",
        "| dico compile | 6.25 (6.00 to 6.50) | <= 6.25 | 65 | 6.25 with 1 | - |",
    ]
    assert floor == f"| {contest.FLOOR} | 0.1 | | | | |"


def test_a_distance_in_time_is_known_between_scores_alone():
    rows = rows_of("dico", "0", (8, 4), (10, 1000))
    assert module.fd_after(rows, 100) == pytest.approx(6)
    assert module.fd_after(rows, 10) == 8
    assert module.fd_after(rows, 1000) == 4
    assert math.isnan(module.fd_after(rows, 1001))
    assert math.isnan(module.fd_after(rows, 9))


def test_errors_are_measured_once_and_not_for_scales(tmp_path, monkeypatch):
    calls = []

    def run(*words, threads):
        calls.append(words)
        Path(words[words.index("--out") + 1]).write_text(json.dumps({"error": "0.3"}))

    monkeypatch.setattr(module, "run", run)
    for _ in range(2):
        assert module.look(OPTIONS, tmp_path, CONTENDERS["unet"], 512) == {"error": "0.3"}
    assert len(calls) == 1
    assert calls[0][calls[0].index("--import") + 1] == module.UNET
    assert not any(module.look(OPTIONS, tmp_path, CONTENDERS["sit dfm dct"], 512).values())
    assert len(calls) == 1
