"""How long a page of `convflow export --to web` takes to its first picture, in Chromium.

python benchmarks/quality/browser.py MODEL [--runtime FOLDER] [--rounds N] [--shot FILE] [--dirty]

Each round opens the page in a browser without a cache, from a file server on this machine, and
draws one picture with the defaults of the page. "open" is the time until the network is ready,
"draw" that of the picture. Needs `pip install playwright` and Chromium. The table is `browser.csv`.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.cli.main import main as convflow

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000
"""Milliseconds until a page that does not answer is given up."""
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 390, "height": 900}
"""Windows of a desktop and of a phone."""


class QuietServer(http.server.SimpleHTTPRequestHandler):
    """A plain file server that says nothing."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Give the address at which a plain file server has a folder."""
    handler = functools.partial(QuietServer, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def find_chromium() -> str | None:
    """Return the program of Chromium on this machine, None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """Give Chromium without a window, as playwright drives it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield found
        found.close()


def wait_for(page: Any, words: str) -> None:
    """Wait until the page says one of some words in its line of state."""
    code = "words => new RegExp(words).test(document.getElementById('status').textContent)"
    page.wait_for_function(code, arg=words, timeout=PATIENCE)


def first_picture(browser: Any, address: str) -> tuple[float, float]:
    """Return seconds until the page is ready, and of its first picture."""
    page = browser.new_context().new_page()
    began = time.perf_counter()
    page.goto(address)
    wait_for(page, "Ready|not work")
    ready = time.perf_counter()
    page.click("#draw")
    wait_for(page, "Drawn in|not work")
    drawn = time.perf_counter()
    if "Drawn" not in (said := page.inner_text("#status")):
        raise SystemExit(f"expected a picture, got: {said}")
    page.context.close()
    return ready - began, drawn - ready


def shoot(browser: Any, address: str, path: Path) -> None:
    """Write an image of the page with nine pictures: wide and light beside narrow and dark."""
    from PIL import Image

    shots = []
    for window, scheme in ((WIDE, "light"), (NARROW, "dark")):
        page = browser.new_context(viewport=window, color_scheme=scheme).new_page()
        page.goto(address)
        wait_for(page, "Ready|not work")
        page.fill("#num", "9")
        page.select_option("#label", index=0)
        page.click("#draw")
        wait_for(page, "Drawn in|not work")
        page.screenshot(path=path)
        shots.append(Image.open(path).convert("RGB"))
        page.context.close()
    whole = Image.new("RGB", (sum(s.width for s in shots), WIDE["height"]), "white")
    for shot, left in zip(shots, (0, shots[0].width), strict=True):
        whole.paste(shot, (left, 0))
    whole.save(path)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what `convflow export --to web` takes")
    parser.add_argument("--runtime", help="folder of onnxruntime-web")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shot", type=Path, help="also write an image of the page")
    parser.add_argument(harness.DIRTY, action="store_true", help="allow files of no revision")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "page"
        words = ["export", options.model, "--to", "web", "--out", str(out)]
        if convflow([*words, *(["--runtime", options.runtime] if options.runtime else [])]):
            raise SystemExit(2)
        told = json.loads((out / "model.json").read_text())
        with serving(out) as address, chromium() as browser:
            rounds = [first_picture(browser, address) for _ in range(options.rounds)]
            if options.shot:
                shoot(browser, address, options.shot)
        row = {
            "model": told["name"],
            "size": "x".join(map(str, told["size"])),
            "solver": told["page"]["solver"],
            "steps": told["page"]["steps"],
            "guidance": told["page"]["guidance"],
            "network_mb": round((out / "network.onnx").stat().st_size / 1e6, 2),
            "open_s": round(statistics.median(opened for opened, _ in rounds), 2),
            "draw_s": round(statistics.median(drew for _, drew in rounds), 2),
            "longest_s": round(max(map(sum, rounds)), 2),
        }
    print(row)
    harness.write_table(harness.RESULTS / "browser.csv", [row])


if __name__ == "__main__":
    main()
