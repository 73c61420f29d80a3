"""What visitors ask for: every bad form is refused in a line, and good ones give their command."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from PIL import Image

from convflow.bundle.config import SamplingConfig
from convflow.cli.main import main
from convflow.demo.request import Limits, PictureRequest, read_request, read_whole
from convflow.pipeline import Pipeline
from convflow.samplers.solvers import create_solver
from convflow.types import InputError

FORM = {"labels": [], "size": (4, 6), "num": 2, "seed": 0}


def asked(pipe, **changes):
    return read_request(pipe, Limits(), solvers=["heun", "ab2", "euler"], **FORM | changes)


def test_what_the_model_does_by_itself_is_left_out(pipe):
    form = {"solver": "heun", "steps": 6, "guidance": 1.5, "labels": None}
    assert asked(pipe, **form) == PictureRequest(2, {"seed": 0})


def test_what_differs_is_kept(pipe):
    form = {
        "solver": "ab2",
        "steps": 6,
        "guidance": 2,
        "labels": "cat",
        "size": (8.0, 6),
        "num": 3.0,
    }
    found = asked(pipe, **form, seed=7)
    options = {
        "labels": ["cat"], "size": (8, 6), "solver": "ab2", "steps": 6, "guidance": 2.0, "seed": 7
    }  # fmt: skip
    assert found == PictureRequest(3, options)


def test_the_model_s_own_solver_without_steps_is_given_none(pipe):
    pipe.sampling = SamplingConfig(create_solver("dopri5"))
    assert asked(pipe, solver="dopri5", steps=9).options == {"seed": 0}


HUGE = "x" * 20_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (10**6, 6)}, "height: expected a whole number from 1 to 1,024, got 1000000"),
        ({"size": (4, None)}, "width: expected a whole number .* got nothing; change it"),
        ({"size": (4, 1.5)}, "width: expected a whole number .* got 1.5"),
        ({"size": (4, float("nan"))}, "width: expected a whole number .* got nan"),
        ({"size": (4, 10**5000)}, "width: .* got a number of very many digits"),
        ({"num": 17}, "number: expected a whole number from 1 to 16, got 17"),
        ({"num": True}, "number: expected a whole number .* got True"),
        ({"num": HUGE}, "number: .* got 20,000,000 letters"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"seed": float("inf")}, "seed: .* got inf"),
        ({"steps": 251}, "steps: expected a whole number from 1 to 250"),
        ({"size": (1024, 1024), "num": 2}, "at most 1,048,576 pixels in all pictures together"),
        ({"labels": HUGE}, "classes: expected at most 64 names of at most 200 letters"),
        ({"labels": ["cat"] * 65}, "classes: expected at most 64 names"),
        ({"labels": [3]}, r"classes: expected names, got \[3\]"),
        ({"labels": {"cat": 1}}, "classes: expected names"),
        ({"solver": "os:system"}, "solver: expected one of the list, got 'os:system'"),
        ({"solver": "dopri5"}, "solver: expected one of the list, got 'dopri5'"),
        ({"solver": ["heun"]}, "solver: expected one of the list"),
        ({"guidance": 1e9}, "guidance: expected a number from -100 to 100"),
        ({"guidance": float("nan")}, "guidance: expected a number"),
        ({"guidance": "2"}, "guidance: expected a number .* got '2'"),
    ],
)
def test_bad_forms_are_refused_in_a_short_line(pipe, changes, message):
    with pytest.raises(InputError, match=message) as refusal:
        asked(pipe, **changes)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("bad", [{"num": 65}, {"side": 0}])
def test_limits_have_limits(bad):
    with pytest.raises(InputError, match="expected limits of at least 1 and at most 64"):
        Limits(**bad)


def test_whole_numbers():
    assert read_whole("n", 3.0, 1, 3) == 3


def run(command, folder, monkeypatch):
    """What a shell would do with a command."""
    monkeypatch.chdir(folder)
    assert main(shlex.split(command)[1:]) == 0
    return [np.asarray(Image.open(path)) for path in sorted((folder / "pictures").iterdir())]


def test_the_command_and_the_lines_make_the_same(model_folder, tmp_path, monkeypatch):
    pipe = Pipeline.from_pretrained(model_folder, device="cpu")
    form = {"labels": ["fat, frog", "2"], "size": (6, 4), "steps": 3, "guidance": 2.5, "seed": 5}
    request = asked(pipe, **form, num=3)
    made = pipe.samples(**request.options).read(range(3)).permute(0, 2, 3, 1).numpy()
    pictures = run(request.command(str(model_folder)), tmp_path, monkeypatch)
    assert len(pictures) == 3
    assert all(map(np.array_equal, pictures, made))
    space = {}
    exec(request.python(str(model_folder)), space)
    assert np.array_equal(np.asarray(Image.open("picture.png")), made[0])


def test_the_command_of_inpainting(model_folder, tmp_path, monkeypatch):
    pipe = Pipeline.from_pretrained(model_folder, device="cpu")
    Image.new("RGB", (6, 4), "orange").save(tmp_path / "image.png")
    mask = np.zeros((4, 6), np.uint8)
    mask[:2, :2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    request = asked(pipe, num=2)
    images = {"image": tmp_path / "image.png", "mask": tmp_path / "mask.png"}
    made = pipe.samples(**request.options, **images).read(range(2)).permute(0, 2, 3, 1).numpy()
    command = request.command(str(model_folder), inpaint=True)
    assert all(map(np.array_equal, run(command, tmp_path, monkeypatch), made))
    assert made[0, 3, 5].tolist() == [255, 165, 0]
    assert "image='image.png', mask='mask.png'" in request.python("m", inpaint=True)
