"""The table of targets: every writer is there, and the help costs no torch."""

import subprocess
import sys

import pytest

from convflow.cli.main import main
from convflow.integrations.targets import EXPORT_TARGETS
from convflow.types import InputError
from tests.integrations.models import create_pipe


@pytest.mark.parametrize("name", EXPORT_TARGETS)
def test_a_writer_can_be_loaded(name):
    assert callable(EXPORT_TARGETS[name].load())


@pytest.mark.parametrize("name", ["diffusers", "web"])
def test_what_holds_pictures_alone_refuses_videos(name, tmp_path):
    pipe = create_pipe("flowdcn", settings={"temporal": "conv"}, size=(4, 8, 8))
    with pytest.raises(InputError, match=r"expected a model of images for a .*, got one of videos"):
        [*EXPORT_TARGETS[name].load()(pipe, tmp_path / "out", name="moving")]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name",
    [
        "safetensors",
        pytest.param("torch", marks=pytest.mark.slow),
        pytest.param("onnx", marks=pytest.mark.slow),
    ],
)
def test_networks_of_videos_are_written(name, tmp_path):
    pipe = create_pipe("sit", settings={"temporal": "factorised"}, size=(4, 8, 8))
    assert [*EXPORT_TARGETS[name].load()(pipe, tmp_path / "out", name="moving")]


def test_the_help_tells_every_target(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = capsys.readouterr().out
    assert all(f"  {name:12} {target.about}" in said for name, target in EXPORT_TARGETS.items())


def test_the_table_needs_no_torch():
    code = "import sys, convflow.integrations.targets; print({'torch', 'numpy'} & {*sys.modules})"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True).stdout.strip() == "set()"
