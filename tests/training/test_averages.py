"""More averages than one: against their formulas, stored, resumed, and made of snapshots."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from convflow.bundle.averages import (
    PowerSum,
    exponent_of,
    file_of,
    list_snapshots,
    snapshot_folder,
)
from convflow.bundle.weights import export_average
from convflow.cli.main import main
from convflow.models.zoo import load_model
from convflow.pipeline import Pipeline
from convflow.storage import begin_folder, read_tensors
from convflow.training import averages, checkpoint, launch
from convflow.training.averages import Averages, describe_averages, is_due, names_of
from convflow.training.config import EMAConfig
from convflow.types import InputError

KEPT = "--ema.half-lives 30,100 --ema.sigma-rel 0.05,0.1 --device cpu"
WIDTHS = (0.05, 0.1)


def walk(config, counts):
    """The averages of a number that walks, and its values after each step."""
    model, seen, values = nn.Linear(1, 1, bias=False), 0, []
    averages = Averages(model, config)
    generator = torch.Generator().manual_seed(0)
    for count in counts:
        with torch.no_grad():
            model.weight.add_(torch.randn(1, 1, generator=generator))
        averages.update(model, seen, seen + count)
        seen += count
        values.append((seen, count, model.weight.item()))
    return {name: float(some["weight"]) for name, some in averages.tensors.items()}, values


def test_shares_are_those_of_the_formulas_whatever_the_batches():
    config = EMAConfig(half_lives=(30, 500), sigma_rel=WIDTHS)
    found, values = walk(config, [8, 8, 16, 4, 8, 40, 8] * 6)
    last = values[-1][0]
    assert [*found] == names_of(config) == ["ema-30", "ema-500", "ema-0.05", "ema-0.1"]
    for half_life in config.half_lives:
        # Each image counts for the weights after its step, and half as much a half-life earlier.
        shares = [
            sum(0.5 ** ((last - n) / half_life) for n in range(seen - count + 1, seen + 1))
            for seen, count, _ in values
        ]
        truth = sum(s * v for s, (*_, v) in zip(shares, values, strict=True)) / sum(shares)
        assert found[f"ema-{half_life}"] == pytest.approx(truth, rel=1e-4)
    for width in WIDTHS:
        power = exponent_of(width) + 1
        shares = [(seen / last) ** power - ((seen - n) / last) ** power for seen, n, _ in values]
        truth = sum(s * v for s, (*_, v) in zip(shares, values, strict=True))
        assert sum(shares) == pytest.approx(1)
        assert found[f"ema-{width}"] == pytest.approx(truth, rel=1e-4)


def test_when_snapshots_are_due_and_what_they_take():
    config = EMAConfig(sigma_rel=WIDTHS, snapshots=100)
    pairs = [(0, 64), (64, 128), (128, 192), (192, 256), (256, 260)]
    assert [is_due(config, *pair, 260) for pair in pairs] == [False, True, False, True, True]
    assert not is_due(EMAConfig(sigma_rel=WIDTHS), 64, 128, 128)
    line = describe_averages(config, 1_000_000, 950)
    assert "ema-0.05, ema-0.1, 8.0 MB in memory and in each checkpoint" in line
    assert "in float16 every 100 images takes 4.0 MB, 10 of them 40 MB" in line
    assert describe_averages(EMAConfig(), 1_000_000, 950) == ""
    with pytest.raises(InputError, match=r"--ema\.snapshots: expected --ema.sigma-rel with it"):
        EMAConfig(snapshots=5)
    with pytest.raises(InputError, match=r"--ema\.half-lives: expected different numbers"):
        EMAConfig(half_lives=(5, 5))


def test_a_resumed_run_keeps_them_bit_for_bit_and_others_are_made_of_snapshots(
    tiny, tmp_path, capsys
):
    """16 snapshots of two averages stand for a third, which is held against the steps' weights."""
    words = f"{KEPT} --ema.snapshots 16 --ema.snapshot-dtype float32 --optim.lr 3e-3 --images 256"
    config, straight, parts = tiny(words), tmp_path / "straight", tmp_path / "parts"
    config = replace(config, checkpoint=replace(config.checkpoint, keep=200))
    history = []
    update = Averages.update

    def noted(self, model, before, images):
        update(self, model, before, images)
        history.append(
            (before, images, {n: p.detach().clone() for n, p in model.named_parameters()})
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Averages, "update", noted)
        assert launch.train(config, straight)
    assert launch.train(replace(config, images=152), parts)
    shutil.copytree(parts / "averages/images_000000000144", parts / "averages/images_000000000999")
    state = parts / "averages/images_000000000999/snapshot.json"
    state.write_text(
        state.read_text().replace('"images": 144', '"images": 999')
    )  # of a lost future
    assert launch.train(config, parts)
    last = [checkpoint.folder_of(run, 32) for run in (straight, parts)]
    first, second = (folder / "averages.safetensors" for folder in last)
    assert first.read_bytes() == second.read_bytes()
    images = [[s.images for s in list_snapshots(run)] for run in (straight, parts)]
    assert images[0] == [*range(16, 257, 16)]
    assert images[1] == sorted([*images[0], 152])
    assert main(["info", str(parts), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["averages"]
    assert found["kept"] == ["ema-0.05", "ema-0.1", "ema-100", "ema-30"]
    assert (found["snapshots"], found["to images"], found["dtype"]) == (17, 256, "float32")

    out = tmp_path / "out"
    export = ["export", str(straight), "--out", str(out), "--sigma-rel"]
    assert main([*export, "0.15"]) == 0
    assert "at 256 images, of 16 snapshots; its shares differ by" in capsys.readouterr().out
    made, power = load_model(out).state_dict(), exponent_of(0.15) + 1
    shares = [(n / 256) ** power - (before / 256) ** power for before, n, _ in history]
    direct = {
        name: sum(
            share * weights[name] for share, (*_, weights) in zip(shares, history, strict=True)
        )
        for name in made
    }
    other = read_tensors(first)
    for name, truth in direct.items():
        moved = (history[-1][2][name] - truth).square().mean().sqrt()
        assert (made[name] - truth).square().mean().sqrt() <= 0.02 * moved + 1e-7, name
    # And it is none of those that were kept.
    name = "blocks.0.mlp.out.weight"
    assert (other[f"ema-0.1/{name}"] - direct[name]).abs().max() > 10 * (
        made[name] - direct[name]
    ).abs().max()

    kept = Pipeline.from_pretrained(straight, weights="ema-0.1").model.state_dict()
    assert all(kept[name].equal(other[f"ema-0.1/{name}"]) for name in kept)
    sample = ["sample", str(straight), "--num", "1", "--device", "cpu", "--steps", "1"]
    assert main([*sample, "--weights", "ema-30", "--out", str(tmp_path / "a.png")]) == 0
    refused = {
        ("sample", *sample[1:], "--weights", "ema-0.2"): "among ema, raw, ema-0.05, ema-0.1, ema-1",
        (*export[:3], str(tmp_path / "x"), "--sigma-rel", "0.5"): "a relative width from 0.001",
        (
            *export[:3],
            str(tmp_path / "x"),
            "--sigma-rel",
            "0.1",
            "--images",
            "700",
        ): "at most the 256",
        ("export", str(straight), "--sigma-rel", "0.1"): "expected --out FOLDER with it",
        ("export", str(straight), "--images", "5"): "expected --sigma-rel with it",
    }
    for words, message in refused.items():
        assert main(list(words)) == 2
        assert message in capsys.readouterr().err
    file = straight / "averages/images_000000000256/sigma-0.1.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="is damaged: its size or SHA-256"):
        PowerSum(straight, 0.1)
    with pytest.raises(InputError, match=r"ema.sigma_rel \(\[0.05, 0.1\], now \[0.05\]\)"):
        launch.train(replace(config, ema=replace(config.ema, sigma_rel=(0.05,))), straight)


@pytest.mark.parametrize("images", [80, 160])
def test_a_snapshot_that_a_full_disk_prevented_is_taken_when_the_run_goes_on(
    tiny, tmp_path, images
):
    config = tiny("--ema.sigma-rel 0.05,0.1 --ema.snapshots 40 --device cpu")
    run, straight, missed = tmp_path / "run", tmp_path / "straight", snapshot_folder(Path(), images)

    def begin(folder):
        if folder.name == missed.name:
            raise InputError("the disk is full")
        begin_folder(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averages, "begin_folder", begin)
        with pytest.raises(InputError, match="the disk is full; saved before"):
            launch.train(config, run)
    assert [s.images for s in list_snapshots(run)] == [*range(40, images, 40)]
    assert launch.train(config, run)
    assert launch.train(config, straight)
    assert [s.images for s in list_snapshots(run)] == [40, 80, 120, 160]
    for width in WIDTHS:
        one, other = (place / missed / file_of(width) for place in (run, straight))
        assert one.read_bytes() == other.read_bytes()


def test_snapshots_in_half_precision(tiny, tmp_path):
    """Post-hoc averages of float16 snapshots differ by roundings of float16."""
    made = {}
    for dtype in ("float32", "float16"):
        run = tmp_path / dtype
        words = f"--ema.sigma-rel 0.05,0.1 --ema.snapshots 40 --ema.snapshot-dtype {dtype}"
        assert launch.train(tiny(f"{words} --images 160 --device cpu"), run)
        export_average(run, tmp_path / f"{dtype}-out", 0.12)
        made[dtype] = load_model(tmp_path / f"{dtype}-out").state_dict()
    for name, exact in made["float32"].items():
        error = (made["float16"][name] - exact).square().mean().sqrt()
        assert error <= 1e-3 * exact.square().mean().sqrt() + 1e-6, name
    assert any(not made["float16"][name].equal(exact) for name, exact in made["float32"].items())
