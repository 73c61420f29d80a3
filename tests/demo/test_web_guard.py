"""The guard of the page: short requests pass, long ones end before they are read."""

from __future__ import annotations

import asyncio

import pytest

from convflow.demo.web_guard import HEADERS, MOST_FORM_BYTES, MOST_UPLOAD_BYTES, REASONS, Guard


def visit(path="/api", kind="http", **headers):
    """The status of an answer, its headers, and whether the page was asked."""
    asked, sent = [], []

    async def page(scope, receive, send):
        asked.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"hello"})

    async def send(message):
        sent.append(message)

    lines = [(name.replace("_", "-").encode(), str(v).encode()) for name, v in headers.items()]
    scope = {"type": kind, "path": path, "headers": lines}
    asyncio.run(Guard(page)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), bool(asked)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 200),
        ("/api", {"content_length": MOST_FORM_BYTES}, 200),
        ("/api", {"content_length": MOST_FORM_BYTES + 1}, 413),
        ("/gradio_api/upload", {"content_length": MOST_FORM_BYTES + 1}, 200),
        ("/gradio_api/upload", {"content_length": MOST_UPLOAD_BYTES + 1}, 413),
        ("/api", {"content_length": -1}, 413),
        ("/api", {"content_length": "9" * 5000}, 413),
        ("/api", {"transfer_encoding": "chunked"}, 411),
        ("/gradio_api/file=/tmp/http.png", {}, 200),
        ("/gradio_api/file=https://example.com/big", {}, 403),
        ("/gradio_api/file=HTTP://example.com/big", {}, 403),
        ("/gradio_api/proxy=https://me-pets.hf.space/a", {}, 403),
    ],
)
def test_long_requests_end_here(path, headers, status):
    found, answered, asked = visit(path, **headers)
    assert found == status
    assert asked == (status == 200)
    assert all(answered[name.encode()] == value.encode() for name, value in HEADERS.items())


@pytest.mark.parametrize(
    ("headers", "words"),
    [({"content_length": 10**9}, b"too long"), ({"transfer_encoding": "chunked"}, b"not given")],
)
def test_the_answer_says_why(headers, words):
    assert words in REASONS[visit(**headers)[0]]


def test_what_is_no_request_passes():
    assert visit(kind="websocket")[1] == {b"a": b"b"}
