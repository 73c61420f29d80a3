"""The page in headless Chromium: pictures, seeds, errors, a phone, and nobody else is asked."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convflow.cli.main import main

CHROMIUM = Path("/usr/bin/chromium")
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
if not CHROMIUM.exists():
    pytest.skip("there is no Chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def served(model_folder):
    """The address of a page."""
    from benchmarks.reliability.web import serving

    with serving(str(model_folder), "--device", "cpu") as page:
        yield page.place
    assert page.program.returncode == 0


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture
def visit(served, browser):
    """A window with the page, and the addresses that it asked."""
    opened = []

    def open_page(viewport):
        window = browser.new_page(viewport=viewport)
        opened.append(window)
        asked: list[str] = []
        window.on("request", lambda request: asked.append(request.url))
        window.goto(served)
        window.get_by_role("button", name="Draw", exact=True).wait_for()
        return window, asked

    yield open_page
    for window in opened:
        window.close()


def draw(window):
    """Press Draw, wait, and return the pictures' pixels."""
    window.get_by_role("button", name="Draw", exact=True).click()
    window.get_by_text("in 6 steps.").wait_for(timeout=120_000)
    images = window.locator("#pictures img")
    files = [window.request.get(images.nth(i).get_attribute("src")) for i in range(images.count())]
    return [np.asarray(Image.open(io.BytesIO(file.body()))) for file in files]


def set_number(window, label, value):
    field = window.get_by_label(label, exact=True)
    field.fill(str(value))
    field.press("Tab")


def test_pictures_are_drawn_and_equal_those_of_the_command(visit, tmp_path, monkeypatch):
    window, asked = visit({"width": 1280, "height": 900})
    pictures = draw(window)
    assert len(pictures) == 4
    command = window.locator(".cm-content").first.inner_text()
    assert command.startswith("convflow sample ")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    files = sorted((tmp_path / "pictures").iterdir())
    assert all(
        np.array_equal(np.asarray(Image.open(f)), p) for f, p in zip(files, pictures, strict=True)
    )
    set_number(window, "Seed", 1)
    window.get_by_text("in 6 steps.").evaluate("node => node.remove()")
    assert not np.array_equal(np.stack(draw(window)), np.stack(pictures))
    window.get_by_role("tab", name="How they are made").click()
    assert window.locator("#strips img").count() == 1
    assert {url.split("/")[2].split(":")[0] for url in asked if url.startswith("http")} == {
        "127.0.0.1"
    }


def test_errors_are_shown(visit):
    window, _ = visit({"width": 1280, "height": 900})
    set_number(window, "Height in pixels", 10**6)
    window.get_by_role("button", name="Draw", exact=True).click()
    message = "height: expected a whole number from 1 to 1,024, got 1000000"
    window.get_by_text(message).first.wait_for(timeout=60_000)
    toast = window.locator(".toast-body")
    toast.first.wait_for(state="hidden", timeout=30_000)
    assert window.get_by_text(message).is_visible()


def test_the_list_of_sizes_follows_what_is_typed(visit):
    window, _ = visit({"width": 1280, "height": 900})
    size = window.get_by_label("Size", exact=True)
    assert size.input_value() == "as trained"
    set_number(window, "Height in pixels", 6)
    set_number(window, "Width in pixels", 6)
    sync_api.expect(size).to_have_value("tall")
    set_number(window, "Width in pixels", 8)
    sync_api.expect(size).to_have_value("other")


def test_a_phone_shows_all_of_the_page(visit):
    window, _ = visit(PHONE)
    assert len(draw(window)) == 4
    assert window.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
