"""When a run warns that it shows its images too often."""

from pathlib import Path

import pytest

from convflow.recipes import create_config
from convflow.training.repeats import advise_repeats


def test_a_long_run_on_few_images_is_warned_of_with_ways_out(tiny):
    warning = advise_repeats(tiny("--images 48000"), 8, Path("runs/a"))
    assert warning is not None
    assert "8 images are few for this run: each is shown 6,000 times" in warning
    for way in ("--images 12000", "--data.augment 0.12", "--init", "convflow nearest runs/a"):
        assert way in warning
    warning = advise_repeats(tiny("--images 48000 --data.augment 0.1"), 8, Path("a"))
    assert warning is not None
    assert "--images 32000" in warning
    assert "--data.augment" not in warning
    assert advise_repeats(tiny("--images 12000"), 8, Path("a")) is None
    assert advise_repeats(tiny("--images 32000 --data.augment 0.1"), 8, Path("a")) is None


@pytest.mark.parametrize("name", ["imagenet.flowdcn_xl", "imagenet.dit_xl"])
def test_recipes_of_papers_are_not_warned_of(name):
    assert advise_repeats(create_config(name), 1_281_167, Path("a")) is None
