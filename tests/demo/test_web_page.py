"""The page without a browser: what a click yields, what a visitor is told, what can be reached."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convflow.demo.studio import Studio
from tests.demo.test_studio import training_images

gr = pytest.importorskip("gradio")
web = pytest.importorskip("convflow.demo.web_page")

FORM = [["cat"], 2, 4, 6, 0, "heun", 6, 1.5]
"""Classes, number, height, width, seed, solver, steps, guidance."""


@pytest.fixture
def page(pipe):
    studio = Studio(pipe, "models/tiny")
    yield web.WebPage(studio)
    studio.close()


def form(**changes):
    names = ["labels", "num", "height", "width", "seed", "solver", "steps", "guidance"]
    return [changes.get(name, usual) for name, usual in zip(names, FORM, strict=True)]


def pixels(pictures):
    return np.stack([np.asarray(image) for image, _ in pictures])


def drawn(page, **changes):
    return list(page.draw(*form(**changes), False))


def test_a_click_yields_running_pictures_then_all(page):
    shown = drawn(page)
    assert [update[page.status] for update in shown[:-1]] == [
        f"Step {i} of 6." for i in range(1, 6)
    ]
    last = shown[-1]
    made = page.studio.pipe("cat", num=2)
    assert np.array_equal(pixels(last[page.gallery]), made.pixels.permute(0, 2, 3, 1))
    assert [name for _, name in last[page.gallery]] == ["cat", "cat"]
    assert last[page.status] == "2 of 4x6 (height x width) in 6 steps."
    assert "after the steps 1, 2, 3, 4, 5, 6 of 6" in last[page.making]
    assert last[page.strips].height == 2 * (4 * 16 + 2) + 2
    assert last[page.command].startswith("convflow sample models/tiny --num 2 --label cat --seed 0")
    assert "Pipeline.from_pretrained('models/tiny')" in last[page.python]


def test_another_seed_gives_other_pictures(page):
    first, other, again = (pixels(drawn(page, seed=s)[-1][page.gallery]) for s in (0, 1, 0))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["dgo"]}, "did you mean 'dog'"),
        ({"height": 5}, "multiples of 2"),
        ({"height": 10**6}, "height: expected a whole number from 1 to 1,024"),
        ({"num": None}, "number: expected a whole number"),
        ({"solver": "ddpm"}, "solver: expected one of the list"),
    ],
)
def test_visitors_are_told_what_cannot_be(page, changes, message):
    with pytest.raises(gr.Error, match=message):
        drawn(page, **changes)


def test_the_reason_stays_below_the_toast(page):
    for line, work in (
        (page.status, page.draw(*form(height=None), False)),
        (page.paint_status, page.paint(*form(height=None), None)),
    ):
        ((place, words),) = next(work).items()
        assert place is line
        assert words == "height: expected a whole number from 1 to 1,024, got nothing; change it"
        with pytest.raises(gr.Error):
            next(work)
    assert all(
        line not in event.show_progress_on
        for event in page.blocks.fns.values()
        for line in (page.status, page.paint_status)
        if event.api_name in ("draw", "paint")
    )


def test_the_list_of_sizes_follows_what_is_typed(page):
    choices = [name for name, _ in page.shape.choices]
    assert choices == [*page.studio.sizes(), "other"]
    (typed,) = [f for f in page.blocks.fns.values() if [*f.outputs] == [page.shape]]
    assert set(typed.targets) == {(page.height._id, "input"), (page.width._id, "input")}
    assert (typed.fn(6, 6), typed.fn(6, 8), typed.trigger_mode) == ("tall", "other", "always_last")
    (chosen,) = [f for f in page.blocks.fns.values() if [*f.outputs] == [page.height, page.width]]
    assert chosen.fn("tall") == (6, 6)
    assert [*chosen.fn("other")] == [gr.skip()] * 2


@pytest.mark.parametrize("name", ["seed", "height", "width"])
def test_numbers_that_are_not_whole_reach_the_check(page, name):
    value = getattr(page, name).preprocess(1.5)
    with pytest.raises(gr.Error, match=f"{name}: expected a whole number from .* got 1.5"):
        drawn(page, **{name: value})


def test_the_next_seed_is_whole():
    assert [web.next_seed(seed) for seed in (0, 1.5, None, -1, 2**40)] == [1, 2, 1, 0, 2**40 + 1]


def test_nearest_training_pictures_stand_beside(pipe, tmp_path):
    training_images(tmp_path / "data")
    page = web.WebPage(Studio(pipe, "tiny", str(tmp_path / "data")))
    *_, last = page.draw(*form(), True)
    assert len(last[page.neighbours]) == 2
    pair, words = last[page.neighbours][0]
    assert pair.size == (2 * 8 + 2, 4 + 4)
    assert words.endswith("levels apart")
    assert "data" not in words
    page.studio.close()


def editor(*layers, background="orange", size=(48, 32)):
    return {"background": Image.new("RGBA", size, background), "layers": list(layers)}


def painted(box, size=(48, 32)):
    layer = Image.new("RGBA", size)
    layer.paste((255, 0, 0, 90), box)
    return layer


def test_painting_draws_the_painted_part_anew(page):
    *_, last = page.paint(*form(), editor(painted((0, 0, 16, 32))))
    *pictures, (image, _), (mask, _) = last[page.painted]
    assert np.array_equal(np.asarray(mask) > 0, np.arange(6)[None].repeat(4, 0) < 2)
    for picture, _ in pictures:
        assert np.asarray(picture)[:, 2:].reshape(-1, 3).tolist() == [[255, 165, 0]] * 16
    again = page.studio.pipe("cat", num=2, image=image, mask=mask)
    assert np.array_equal(pixels(pictures), again.pixels.permute(0, 2, 3, 1))
    assert "--image image.png --mask mask.png" in last[page.paint_command]


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        (None, "expected a picture to paint on, got none"),
        ("text", "expected a picture to paint on, got none"),
        ({"background": None, "layers": []}, "expected a picture to paint on, got none"),
        (editor(painted((0, 0, 1, 1), (8, 8))), "got another size"),
        (editor("text"), "got another size"),
        (editor(), "white somewhere"),
    ],
)
def test_broken_paintings_are_told(page, edited, message):
    with pytest.raises(gr.Error, match=message):
        list(page.paint(*form(), edited))


def test_the_first_picture_is_taken_to_the_editor_and_back(page):
    gallery = drawn(page)[-1][page.gallery]
    taken = web.take_first(gallery)
    assert max(taken.size) >= web.PAINTED_SIDE
    layer = painted((0, 0, taken.width // 2, taken.height), taken.size)
    *_, last = page.paint(*form(), {"background": taken.convert("RGBA"), "layers": [layer]})
    image = np.asarray(last[page.painted][-2][0])
    assert np.array_equal(image, np.asarray(gallery[0][0]))
    with pytest.raises(gr.Error, match="draw some first"):
        web.take_first(None)


def test_enlargements_are_powers_of_two():
    assert [web.enlargement(size, 64) for size in [(4, 6), (64, 8), (65, 9), (8, 8)]] == [
        16,
        1,
        1,
        8,
    ]


def test_nothing_is_told_to_others(page):
    assert page.blocks.analytics_enabled is False
