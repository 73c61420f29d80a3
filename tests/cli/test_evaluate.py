"""`convflow evaluate` as a user types it: models, folders, files, kills, processes, comparisons."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convflow.cli.main import main
from convflow.pipeline import Pipeline
from convflow.storage import claimed
from tests.two_processes import run_two

ROOT = Path(__file__).parents[2]
DETECTOR = ["--detector", str(ROOT / "tests/extending/detector.py:load"), "--device", "cpu"]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Statistics of the digits."""
    path = tmp_path_factory.mktemp("real") / "digits.npz"
    command = ["evaluate", "digits", "--save-statistics", str(path), "--channels", "1", *DETECTOR]
    assert main(command) == 0
    return str(path)


def test_a_model_and_its_card(tiny_run, real, tmp_path, capsys):
    out, samples = tmp_path / "card.json", tmp_path / "samples.npz"
    words = ["--num", "30", "--seed", "5", "--steps", "2", "--label-policy", "random"]
    command = ["evaluate", str(tiny_run), "--reference", real, *words, *DETECTOR]
    assert main([*command, "--out", str(out), "--save-samples", str(samples)]) == 0
    said = capsys.readouterr().out
    assert "FD-30 " in said
    assert said.rstrip().endswith(f"result card in {out}")
    card = json.loads(out.read_text())
    assert card["sampling"]["steps"] == 2
    assert card["sampling"]["seed"] == 5
    assert card["sampling"]["labels"] == {"policy": "random", "classes": "all"}
    assert card["sampling"]["codec"] == "PixelCodec"
    assert card["sampling"]["guidance"] == {
        "kind": "cfg", "scale": 1.5, "interval": [0.0, 1.0], "channels": "all", "weaker": None
    }  # fmt: skip
    assert card["model"]["process"]["kind"] == "flow"
    assert card["detector"]["name"] == "detector.py:load"
    assert card["model"]["name"] == tiny_run.name
    assert card["model"]["weights"] == "ema"
    pipe = Pipeline.from_pretrained(tiny_run, device="cpu")
    pixels = pipe(num=30, seed=5, steps=2, label_policy="random").pixels
    with np.load(samples) as file:
        assert np.array_equal(file["arr_0"][..., :1], pixels.permute(0, 2, 3, 1).numpy())


def test_a_folder_a_zip_and_an_npz_agree(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 8, 8, 3), np.uint8)
    (tmp_path / "data").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"data/{i:02d}.png")
    np.savez(tmp_path / "data.npz", arr_0=pixels)
    cards = []
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted((tmp_path / "data").iterdir()):
            archive.write(path, path.name)
    for name in ("data", "data.npz", "data.zip"):
        out = tmp_path / f"{name}.json"
        command = [
            "evaluate",
            str(tmp_path / name),
            "--reference",
            str(tmp_path / "data.npz"),
            "--out",
            str(out),
        ]
        assert main([*command, *DETECTOR]) == 0
        cards.append(json.loads(out.read_text()))
    assert cards[0]["scores"] == cards[1]["scores"] == cards[2]["scores"]
    assert len({card["samples_sha256"] for card in cards}) == 1
    assert cards[0]["sampling"] is None
    assert [card["model"] for card in cards] == [
        {"name": name} for name in ("data", "data.npz", "data.zip")
    ]


def test_rectangles_resized(tmp_path, capsys):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{i}.png")
    command = ["evaluate", str(tmp_path / "a"), "--reference", str(tmp_path / "b"), *DETECTOR]
    assert main([*command, "--out", str(tmp_path / "x.json")]) == 2
    assert "give --size to bring all to one size" in capsys.readouterr().err
    command += ["--size", "12x16", "--out", str(tmp_path / "y.json")]
    assert main(command) == 0
    card = json.loads((tmp_path / "y.json").read_text())
    assert card["pictures"]["size"] == card["reference"]["size"] == [12, 16]
    assert "bicubic" in card["pictures"]["resize"]
    assert card["scores"]["FD-8"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("asked", "size"), [("13x18", (12, 18)), ("4x6", (4, 6))])
def test_a_model_at_another_size_than_trained(tiny_run, tmp_path, asked, size):
    """Samples and reference have that size, and a reference of another one is refused."""
    out, samples = tmp_path / "card.json", tmp_path / "samples.npz"
    command = ["evaluate", str(tiny_run), "--reference", "digits", "--num", "8", "--size", asked]
    words = ["--reference-num", "20", "--save-samples", str(samples), "--out", str(out), *DETECTOR]
    assert main([*command, *words]) == 0
    card = json.loads(out.read_text())
    found = [card[part]["size"] for part in ("sampling", "pictures", "reference")]
    assert found == [list(size)] * 3
    pixels = Pipeline.from_pretrained(tiny_run, device="cpu")(num=8, size=size).pixels
    with np.load(samples) as file:
        assert np.array_equal(file["arr_0"][..., :1], pixels.permute(0, 2, 3, 1).numpy())


def test_cards_are_compared_or_refused(tiny_run, real, tmp_path, capsys):
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "10", *DETECTOR]
    for name, more in (("a", ()), ("b", ("--weights", "raw")), ("c", ("--steps", "3"))):
        assert main([*command, *more, "--out", str(tmp_path / f"{name}.json")]) == 0
    a, b, c = (str(tmp_path / f"{name}.json") for name in "abc")
    capsys.readouterr()
    assert main(["evaluate", "--compare", a, b]) == 0
    assert "FD-10" in capsys.readouterr().out
    assert main(["evaluate", "--compare", a, c]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "differ in sampling.steps; score both" in said.err
    assert [line.split() for line in said.out.splitlines()] == [
        ["setting", a, c],
        ["sampling.steps", "1", "3"],
    ]
    assert main(["evaluate", "--compare", a, c, "--allow", "sampling.steps"]) == 0
    assert "sampling.steps  1" in (said := capsys.readouterr().out)
    assert "the scores compare but for these differences" in said


def test_pictures_and_their_own_statistics_are_one_reference(tiny_run, real, tmp_path):
    out = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, reference in zip(out, ("digits", real), strict=True):
        command = ["evaluate", str(tiny_run), "--reference", reference, "--num", "10", *DETECTOR]
        assert main([*command, "--out", str(path)]) == 0
    assert main(["evaluate", "--compare", *map(str, out)]) == 0


def test_columns_of_one_model_are_told_apart(tiny_run, real, tmp_path, capsys):
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "10", *DETECTOR]
    for name in ("a", "b"):
        more = ["--weights", "raw"] if name == "b" else []
        assert main([*command, *more, "--out", str(tmp_path / f"{name}.json")]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--compare", *(str(tmp_path / f"{n}.json") for n in "ab")]) == 0
    assert "run (a)" in capsys.readouterr().out


@pytest.mark.parametrize("moment", ["write_samples", "Card.write", "shutil.rmtree"])
def test_killed_in_the_last_moments(tiny_run, real, tmp_path, monkeypatch, moment):
    """After the samples are written, after the card is, and before the parts are gone."""
    from convflow.evaluation import evaluate as module

    out, samples = tmp_path / "card.json", tmp_path / "samples.npz"
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "10", *DETECTOR]
    command += ["--out", str(out), "--save-samples", str(samples)]
    owner = {"Card.write": module.Card, "shutil.rmtree": module.shutil}.get(moment, module)
    name = moment.rpartition(".")[2]
    done = getattr(owner, name)

    def killed(*words, **more):
        if moment != "shutil.rmtree":
            done(*words, **more)
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        if moment != "shutil.rmtree":
            patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            main(command)
    assert (tmp_path / "card.json.parts").is_dir()
    assert main(command) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json", "samples.npz"]
    assert json.loads(out.read_text())["scores"]
    assert main(command) == 2


def test_two_evaluations_do_not_share_a_card(tiny_run, real, tmp_path, capsys):
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "10", *DETECTOR]
    command += ["--out", str(tmp_path / "card.json")]
    with claimed(tmp_path / "card.json.parts", "evaluation", "--out"):
        assert main(command) == 2
    assert "another evaluation is writing to" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_as_the_help_says(tiny_run, real, tmp_path):
    """Its parser takes --num for its own unless two dashes stand before the program."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29731"]
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "10", *DETECTOR]
    out = ["--out", str(tmp_path / "card.json")]
    run = [sys.executable, *words, "-m", "--", "convflow", *command, *out]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True, timeout=240)
    assert json.loads((tmp_path / "card.json").read_text())["scores"]


def test_no_part_of_unfinished_work_is_left(tiny_run, real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "10", *DETECTOR]
    assert main(command) == 0
    assert [p.suffix for p in (tmp_path / "scores").iterdir()] == [".json"]
    assert main(command) == 2


def start(words):
    return subprocess.Popen(
        [sys.executable, "-m", "convflow", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_same_card(tiny_run, real, tmp_path):
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "400", "--batch-size", "4"]
    command += DETECTOR

    def out(name):
        return ["--out", str(tmp_path / f"{name}/card.json")]

    whole = start([*command, *out("a")])
    assert whole.wait(timeout=120) == 0, whole.stderr.read()
    killed = start([*command, *out("b")])
    parts = tmp_path / "b/card.json.parts/samples"
    while len(list(parts.glob("part_*"))) < 30:
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60)
    there = len(list(parts.glob("part_*")))
    assert 30 <= there < 100
    assert not (tmp_path / "b/card.json").exists()
    again = start([*command, *out("b")])
    assert again.wait(timeout=120) == 0, again.stderr.read()
    assert (tmp_path / "b/card.json").read_bytes() == (tmp_path / "a/card.json").read_bytes()


@pytest.mark.slow
def test_two_processes_write_the_card_of_one(tiny_run, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(40):
        Image.effect_noise((8, 8), 90).save(pictures / f"{number}.png")
    command = ["evaluate", str(tiny_run), "--reference", str(pictures), "--num", "37", *DETECTOR]
    command += ["--batch-size", "5"]
    one = start([*command, "--out", str(tmp_path / "one.json")])
    assert one.wait(timeout=120) == 0, one.stderr.read()
    run_two(["-m", "convflow", *command, "--out", str(tmp_path / "two.json")])
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.slow
def test_ctrl_c_says_that_the_work_is_kept(tiny_run, real, tmp_path):
    command = ["evaluate", str(tiny_run), "--reference", real, "--num", "4000", *DETECTOR]
    stopped = start([*command, "--batch-size", "4", "--out", str(tmp_path / "card.json")])
    parts = tmp_path / "card.json.parts/samples"
    while not list(parts.glob("part_*")):
        assert stopped.poll() is None, stopped.stderr.read()
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(timeout=60) == 130
    said = stopped.stderr.read()
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert not (tmp_path / "card.json").exists()


def test_a_program_that_holds_more_than_a_network_ends_in_one_line(tmp_path, capsys):
    class Sum(torch.nn.Module):
        def forward(self, images):
            return images.cumsum(0)

    images, path = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), tmp_path / "x.pt2"
    good = tmp_path / "good.pt2"
    torch.export.save(torch.export.export(Sum(), (images,)), good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"aten.cumsum.", b"aten.resize_."))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = ["--detector", str(path), "--device", "cpu", "--out", str(tmp_path / "card.json")]
    assert main(["evaluate", str(tmp_path), "--reference", str(tmp_path), *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "got target 'torch.ops.aten.resize_.default' in its graph; it was not opened" in said[0]
    assert not (tmp_path / "card.json").exists()
