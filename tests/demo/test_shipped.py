"""The page of a shipped model: a panel for each size, a column for each class."""

import numpy as np
import pytest
from PIL import Image

from convflow.demo.shipped import draw_sizes, num_shown, write_page
from convflow.pipeline import Pipeline
from convflow.shipped import path
from convflow.types import InputError
from tests.stand_in import put_stand_in


def test_every_size_is_asked_for_and_every_image_counted(tmp_path, monkeypatch):
    folder = put_stand_in(tmp_path / "models", monkeypatch)
    assert path() == folder
    asked, told = [], []
    honest = Pipeline.__call__

    def call(self, *words, **options):
        asked.append((options["num"], options["size"], options["seed"]))
        return honest(self, *words, **options)

    monkeypatch.setattr(Pipeline, "__call__", call)
    out = tmp_path / "new" / "page.png"
    write_page("cifar10", out, seed=3, progress=told.append)
    assert asked == [(20, (32, 32), 3), (10, (48, 48), 3), (10, (32, 48), 3), (10, (48, 32), 3)]
    assert sum(told) == pytest.approx(num_shown("cifar10")) == 50
    with Image.open(out) as page:
        assert page.mode == "RGB"
        pixels = np.asarray(page)
    assert 0.05 < (pixels == 255).all(-1).mean() < 0.6
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def test_nothing_is_written_where_a_size_does_not_fit(tmp_path, monkeypatch):
    put_stand_in(tmp_path / "models", monkeypatch)
    pipe = Pipeline.from_pretrained("shipped:cifar10", device="cpu")
    with pytest.raises(InputError, match="multiples of 2, got 3x3"):
        draw_sizes(pipe, [(3, 3)])
