"""Serving the page: what visitors can reach, and how it ends."""

from __future__ import annotations

import pytest

from convflow.types import InputError

web = pytest.importorskip("convflow.demo.web")


def test_a_port_that_is_taken_is_told(model_folder):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another --port"):
            web.serve(str(model_folder), device="cpu", port=taken.getsockname()[1])
