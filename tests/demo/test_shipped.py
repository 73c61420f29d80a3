"""The page of the shipped models: a panel for each size, a column for each class or text."""

import numpy as np
import pytest
from PIL import Image

from convflow.data.grid import tile
from convflow.demo.shipped import draw_sizes, num_shown, write_page
from convflow.pipeline import Pipeline
from convflow.shipped import SHIPPED
from convflow.types import InputError
from tests.stand_in import put_stand_in


def test_every_size_is_asked_for_and_every_image_counted(tmp_path, monkeypatch):
    for name in SHIPPED:
        put_stand_in(tmp_path / "models", monkeypatch, name)
    asked, told = [], []
    honest = Pipeline.__call__

    def call(self, *words, **options):
        asked.append((options["num"], options["size"], options["seed"], bool(options["prompts"])))
        return honest(self, *words, **options)

    monkeypatch.setattr(Pipeline, "__call__", call)
    out = tmp_path / "new" / "page.png"
    write_page(out, seed=3, progress=told.append)
    sizes = [(32, 32), (48, 48), (32, 48), (48, 32), (64, 64), (48, 48), (64, 96), (96, 64)]
    numbers, texts = [20, 10, 10, 10] * 2, [False] * 4 + [True] * 4
    assert asked == [*zip(numbers, sizes, [3] * 8, texts, strict=True)]
    assert sum(told) == pytest.approx(num_shown()) == 100
    with Image.open(out) as page:
        assert page.mode == "RGB"
        pixels = np.asarray(page)
    assert 0.05 < (pixels == 255).all(-1).mean() < 0.7
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def test_a_column_has_its_text(tmp_path, monkeypatch):
    put_stand_in(tmp_path / "models", monkeypatch, "emoji")
    pipe = Pipeline.from_pretrained("shipped:emoji", device="cpu")
    model = SHIPPED["emoji"]._replace(prompts=("red heart", "rose"), sizes=((64, 64),))
    ((title, panel),) = draw_sizes(pipe, model, seed=1)
    assert title == "64x64: red heart, rose"
    wanted = pipe(prompts=["red heart", "rose"] * 2, seed=1, precision="auto").pixels
    assert np.array_equal(np.asarray(panel), np.asarray(tile(wanted, columns=2)))


def test_nothing_is_drawn_where_a_size_does_not_fit(tmp_path, monkeypatch):
    put_stand_in(tmp_path / "models", monkeypatch)
    pipe = Pipeline.from_pretrained("shipped:cifar10", device="cpu")
    with pytest.raises(InputError, match="multiples of 2, got 3x3"):
        draw_sizes(pipe, SHIPPED["cifar10"]._replace(sizes=((3, 3),)))


def test_nothing_is_drawn_where_a_model_is_missing(tmp_path, monkeypatch):
    put_stand_in(tmp_path / "models", monkeypatch)
    with pytest.raises(InputError, match="expected the shipped model emoji in"):
        write_page(tmp_path / "page.png", progress=pytest.fail)
    assert not (tmp_path / "page.png").exists()
