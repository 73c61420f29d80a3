"""Two or more processes that meet through gloo, as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start_two(words: list[str], **environment: str) -> list[tuple[int, str, str]]:
    """Run `python WORDS` twice, as ranks 0 and 1: exit code, output and complaints of each."""
    return start_many(2, words, 60, **environment)


def start_many(
    num: int, words: list[str], seconds: float, **environment: str
) -> list[tuple[int, str, str]]:
    """Run `python WORDS` as ranks 0 to `num` - 1, for at most so many seconds, as `start_two`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    } | environment
    each = [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]
    try:
        answers = [process.communicate(timeout=seconds) for process in each]
    finally:
        for process in each:
            process.kill()
    return [(p.returncode, *answer) for p, answer in zip(each, answers, strict=True)]


def run_two(words: list[str]) -> list[str]:
    """Run `python WORDS` twice, as ranks 0 and 1, and return what each printed.

    Raises:
        AssertionError: one failed; the message is what it complained of.
    """
    answers = start_two(words)
    for code, _, complained in answers:
        assert code == 0, complained
    return [said for _, said, _ in answers]
