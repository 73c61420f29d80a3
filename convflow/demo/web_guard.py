"""What stands between the network and the web page: long requests end here, others too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_FORM_BYTES = 2**20
"""Of a request; forms are short."""

MOST_UPLOAD_BYTES = 2**24
"""Of a request that uploads a picture."""

OTHER_MACHINES = ("file=http:", "file=https:", "proxy=")
"""What asks gradio to fetch a file of another machine, in a path of lower case."""

REASONS = {
    403: b"the page fetches nothing from other machines\n",
    411: b"the length of the request is not given\n",
    413: b"the request is too long\n",
}
"""By status, why a request is refused."""

HEADERS = {
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""The page loads nothing from elsewhere, and says nowhere where it was opened."""


class Guard:
    """An ASGI application around another one.

    It refuses requests for what lies on other machines (403), and those whose length is unknown
    (411) or too large (413), before it reads them, and adds `HEADERS` to all answers.

    Args:
        app: the application.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if status := _refusal(scope):
            await send({"type": "http.response.start", "status": status, "headers": _headers()})
            await send({"type": "http.response.body", "body": REASONS[status]})
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_headers()]
            await send(message)

        await self.app(scope, receive, answer)


def _refusal(scope: Message) -> int | None:
    """Return the status that refuses a request, None for one that may pass."""
    if any(word in scope["path"].lower() for word in OTHER_MACHINES):
        return 403
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return 411
    length = headers.get(b"content-length", b"0")
    most = MOST_UPLOAD_BYTES if scope["path"].rstrip("/").endswith("/upload") else MOST_FORM_BYTES
    return None if length.isdigit() and len(length) < 12 and int(length) <= most else 413


def _headers() -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in HEADERS.items()]
