"""The site builds, needs nothing from elsewhere, finds settings, and fits on a phone."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("nbconvert")

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site behind a plain file server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            if 'rel="canonical"' not in tag:
                assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), f"{page}: {tag}"


def test_examples_of_docstrings_are_code(site: Path) -> None:
    text = (site / "api/index.html").read_text(encoding="utf-8")
    assert text.count('<span class="gp">&gt;&gt;&gt; </span>') > 10
    assert "<blockquote>\n<blockquote>" not in text


def test_search_knows_every_page_and_the_settings(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert places >= {"reference/solvers/", "notebooks/flow/", "gallery/", "api/"}
    texts = [entry["text"] for entry in index["docs"]]
    for word in ("--process.end-location", "--parallel.shard-size", "--objectives.repa.block"):
        assert any(word in text for text in texts), word


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_site_in_a_browser(site: Path, address: str) -> None:
    """No page is wider than a phone, nothing comes from elsewhere, and search works."""
    sync_api = pytest.importorskip("playwright.sync_api")
    places = [p.parent.relative_to(site).as_posix() for p in sorted(site.rglob("index.html"))]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=PHONE)
        foreign, wide = list[str](), list[str]()
        page.on(
            "request",
            lambda r: None if r.url.startswith((address, "data:")) else foreign.append(r.url),
        )
        for place in places:
            page.goto(f"{address}{place}/", wait_until="load")
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append(place)
        assert (foreign, wide) == ([], [])
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(address)
        page.locator("input.md-search__input").click()
        page.keyboard.type("end-location")
        found = page.locator("a.md-search-result__link", has_text="MeanFlow").or_(
            page.locator("a.md-search-result__link[href*='reference/processes']")
        )
        found.first.wait_for(timeout=20_000)
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("window", [PHONE, {"width": 1280, "height": 900}], ids=["narrow", "wide"])
def test_the_page_that_draws_gives_a_picture(site: Path, address: str, window: Any) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not (site / "draw").is_dir():
        pytest.skip("the extra onnx or npm is missing")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=window)
        page.goto(f"{address}browser/")
        page.get_by_role("link", name="Draw in this browser").click()
        page.locator("#draw:enabled").click(timeout=120_000)
        page.locator("#pictures canvas").first.wait_for(timeout=120_000)
        page.locator("#draw:enabled").wait_for(timeout=120_000)
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        browser.close()
