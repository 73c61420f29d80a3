"""Strips of running images: which steps they show, and what their files hold."""

import numpy as np
import pytest
import torch
from PIL import Image

from convflow.bundle.config import SamplingConfig
from convflow.cli.main import main
from convflow.cli.strips import Strips, file_name
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.samplers.solvers import create_solver
from tests.cases import build


def watched(folder, every=None, **options):
    sampling = SamplingConfig(create_solver("euler", steps=40), 1.0)
    pipe = Pipeline(build("flowdcn-patch-1"), PixelCodec(), (4, 6), sampling=sampling)
    samples = pipe.samples(**options)
    return samples, Strips(folder, samples, str, every=every, zoom=1)


@pytest.mark.parametrize(
    ("steps", "every", "shown"),
    [
        (40, None, [5, 10, 15, 20, 25, 30, 35, 40]),
        (20, None, [3, 6, 9, 12, 15, 18, 20]),
        (5, None, [1, 2, 3, 4, 5]),
        (10, 4, [4, 8, 10]),
        (3, 50, [3]),
    ],
)
def test_about_eight_steps_are_shown_and_always_the_last(tmp_path, steps, every, shown):
    assert watched(tmp_path, every, steps=steps)[1].steps == shown


def test_a_strip_shows_the_running_pictures_and_ends_with_the_result(tmp_path):
    samples, previews = watched(tmp_path / "new", 2, steps=5, seed=3)
    seen = []

    def watch(step, of, x):
        seen.append(samples.codec.decode(x))
        previews(step, of, x)

    pixels = torch.cat([samples.read([0, 1], watch=watch), samples.read([2], watch=watch)])
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [f"0000{i}_{i}_seed3.png" for i in range(3)]
    for i, name in enumerate(names):
        strip = np.asarray(Image.open(tmp_path / "new" / name))
        assert strip.shape == (4 + 4, 3 * (6 + 2) + 2)
        running = (seen[step][i] if i < 2 else seen[5 + step][0] for step in (1, 3, 4))
        for place, expected in enumerate(running):
            tile = strip[2:6, 2 + 8 * place : 8 + 8 * place]
            assert np.array_equal(tile, expected[0].numpy())
        assert np.array_equal(tile, pixels[i, 0].numpy())


def test_every_solver_can_be_watched(tmp_path):
    for solver, more in (("heun", {"steps": 4}), ("euler-maruyama", {"steps": 4}), ("dopri5", {})):
        samples, previews = watched(tmp_path / solver, solver=solver, **more)
        samples.read([0], watch=previews)
        assert len(list((tmp_path / solver).iterdir())) == 1


def test_names_hold_number_label_and_seed():
    assert file_name(7, "salt, pepper", 1) == "00007_salt-pepper_seed1.png"
    assert file_name(7, "", 1) == "00007_seed1.png"
    assert len(file_name(7, 100 * "\u732b", 1).encode()) < 255


def test_the_default_folder(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(tiny_run), "--num", "2", "--steps", "2", "--previews"]) == 0
    assert len(list((tmp_path / "previews").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preview-every", "2"], "--preview-every: expected --previews with it, got none"),
        (["--previews", "file"], "--previews: expected a folder, got the file file"),
        (["--stage-steps", "3,x"], "--stage-steps: expected several numbers such as 2,2, got"),
        (["--thresholds", "0.9,0"], "trained with the process dfm for thresholds"),
        (["--stop-scale", "1"], "trained with the process dfm for stop-scale"),
        (["--out", "a", "--previews", "b/../a"], "--previews: expected another folder than --out"),
        (["--single", "--previews", "samples"], "--previews: expected another folder than --out"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["sample", str(tiny_run), "--num", "2", "--steps", "2", *words]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
