"""Write the screenshots of the documentation: the web page and the page without a server.

    python scripts/site/screens.py MODEL [--runtime FOLDER] [--only web | browser]

`docs/images/web_wide.png` and `web_phone.png` show `convflow demo web MODEL` in a window of 1280
pixels and on a phone of 390, `docs/images/browser.png` what `convflow export --to web` makes of it.
Needs playwright, Chromium and the extras `web` and `onnx`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.quality import browser  # noqa: E402
from benchmarks.reliability import web  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WINDOWS = {
    "web_wide.png": {"width": 1280, "height": 900},
    "web_phone.png": {"width": 390, "height": 1500},
}
"""By the name of a screenshot, its window in pixels."""


def shoot_web(chromium: Any, address: str, folder: Path) -> list[Path]:
    """Write how the web page looks with pictures drawn.

    Args:
        chromium: the browser, of playwright.
        address: of the page.
        folder: of the files.
    """
    for name, window in WINDOWS.items():
        page = chromium.new_context(viewport=window, color_scheme="light").new_page()
        page.goto(address)
        page.get_by_role("button", name="Draw", exact=True).click()
        page.get_by_text("(height x width) in").first.wait_for(timeout=browser.PATIENCE)
        page.locator("#pictures img").first.wait_for()
        if "phone" in name:  # the form comes first there, the pictures below it
            page.locator("#pictures").scroll_into_view_if_needed()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / name)
        page.context.close()
    return [folder / name for name in WINDOWS]


def shoot_browser(chromium: Any, model: str, runtime: str | None, folder: Path) -> Path:
    """Write how the page without a server looks with pictures drawn; arguments as above."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "page"
        words = ["export", model, "--to", "web", "--out", str(out)]
        words += ["--runtime", runtime] if runtime else []
        subprocess.run([sys.executable, "-m", "convflow", *words], check=True)
        with browser.serving(out) as address:
            browser.shoot(chromium, address, folder / "browser.png")
    return folder / "browser.png"


def main(words: Sequence[str] | None = None) -> None:
    """Write the screenshots that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="what `convflow demo web` takes")
    parser.add_argument("--runtime", help="folder of onnxruntime-web")
    parser.add_argument("--only", choices=("web", "browser"), help="default: both")
    parser.add_argument("--out", type=Path, default=IMAGES, help="default: docs/images")
    options = parser.parse_args(words)
    options.out.mkdir(parents=True, exist_ok=True)
    with browser.chromium() as chromium:
        if options.only != "browser":
            with web.serving(options.model, "--device", "cpu") as page:
                for path in shoot_web(chromium, page.place, options.out):
                    print(path)
        if options.only != "web":
            print(shoot_browser(chromium, options.model, options.runtime, options.out))


if __name__ == "__main__":
    main()
