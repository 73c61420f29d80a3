"""Serving the page: what visitors can reach, and how it ends."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.parse
import urllib.request

import pytest

from convflow.demo.studio import Studio
from convflow.types import InputError

web = pytest.importorskip("convflow.demo.web")


def test_a_port_that_is_taken_is_told(model_folder):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another --port"):
            web.serve(str(model_folder), device="cpu", port=taken.getsockname()[1])


@pytest.fixture
def kept_downloads(monkeypatch):
    """What gradio fetched while a page was served; its functions are put back in the end."""
    from gradio import processing_utils

    fetched = []
    for name in web.DOWNLOADS:
        monkeypatch.setattr(processing_utils, name, lambda *words, **_: fetched.append(words))
    return fetched


FORM = [["cat"], 1, 4, 6, 0, "heun", 2, 1.5]


@pytest.fixture
def place(pipe, kept_downloads):
    """The address of a page; whoever downloads fails the test."""
    studio = Studio(pipe, "tiny")
    blocks = web.WebPage(studio).blocks.queue()
    web.launch(blocks, "127.0.0.1", None)
    yield blocks.local_url
    studio.close()
    blocks.close(verbose=False)
    assert kept_downloads == []


def ask(address, content=None):
    """The status and the text of an answer."""
    head = {"Content-Type": "application/json"}
    data = None if content is None else json.dumps(content).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, head)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def call(place, name, values):
    """What comes of a click."""
    _, answer = ask(f"{place}gradio_api/call/{name}", {"data": values})
    return ask(f"{place}gradio_api/call/{name}/{json.loads(answer)['event_id']}")[1]


def paint(place, path):
    """What comes of painting on a file."""
    edited = {"background": {"path": path, "meta": {"_type": "gradio.FileData"}}, "layers": []}
    return call(place, "paint", [*FORM, edited | {"composite": None}])


def test_the_page_fetches_nothing_and_opens_no_other_file(place, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_text("a secret")
    for path in ("https://example.com/big", "http://127.0.0.1/", "HTTPS://example.com/"):
        status, words = ask(f"{place}gradio_api/file={path}")
        assert (status, "fetches nothing" in words) == (403, True)
        assert ask(f"{place}gradio_api/file={urllib.parse.quote(path, safe='')}")[0] == 403
    assert ask(f"{place}gradio_api/proxy=https://example.com/")[0] == 403
    assert ask(f"{place}gradio_api/file=/etc/passwd")[0] == 403
    assert ask(f"{place}gradio_api/file={secret}")[0] == 403
    for path in ("https://example.com/a.png", "/etc/passwd", str(secret), "../../etc/passwd"):
        said = paint(place, path)
        assert "event: error" in said
        assert "complete" not in said


def test_nothing_is_left_of_the_pictures_when_the_page_ends(
    model_folder, tmp_path, monkeypatch, kept_downloads
):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    drawn = []

    def visit(place):
        drawn.append(call(place, "draw", [*FORM, False]))
        drawn.extend(tmp_path.rglob("*.png"))
        raise KeyboardInterrupt

    web.serve(str(model_folder), device="cpu", tell=visit)
    assert "event: complete" in drawn[0]
    assert len(drawn) > 1
    assert [*tmp_path.glob("convflow-web-*"), *tmp_path.glob("gradio")] == []
    assert tempfile.tempdir == str(tmp_path)
