"""Processes that run one `python -m MODULE WORDS` after another, so that torch comes in once.

    from benchmarks.quality.warm import run
    run("convflow", "info", "cifar10.dico", threads=1)

Each thread that calls `run` has a process of its own. What a command leaves behind in its process,
such as graphs that were compiled, is dropped before the next one.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from contextlib import redirect_stderr, redirect_stdout

_held = threading.local()


def run(*words: str, threads: int) -> None:
    """Run a command as `python -m` would; only what goes wrong is shown.

    Args:
        words: the module and its words.
        threads: of torch; those of the first call of a thread hold for the later ones.

    Raises:
        SystemExit: the command failed; its last lines say why.
    """
    process: subprocess.Popen[str] | None = getattr(_held, "process", None)
    if process is None or process.poll() is not None:
        _held.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        process = _held.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=_held.errors,
            text=True,
        )
        atexit.register(process.terminate)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(words) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    failed = json.loads(answer) if answer else _last_words(process.wait())
    if failed:
        raise SystemExit(f"{' '.join(words)}\n{failed[-2000:]}")


def _last_words(code: int) -> str:
    """Return what a process that has ended wrote, and its exit code."""
    _held.errors.seek(0)
    return f"{_held.errors.read()}its process ended with {code}"


def serve() -> None:
    """Run commands from standard input, and answer each with what went wrong, or an empty text."""
    answers, told = os.fdopen(os.dup(1), "w"), sys.stdin
    with open(os.devnull, "w+") as nothing:
        for number in (0, 1):  # a command of a command neither reads ours nor answers for us
            told = os.fdopen(os.dup(0)) if number == 0 else told
            os.dup2(nothing.fileno(), number)
    for line in told:
        answers.write(json.dumps(failure(json.loads(line))) + "\n")
        answers.flush()


def failure(words: list[str]) -> str:
    """Run a command here, and return its errors where it failed, else an empty text."""
    sys.argv, errors = list(words), io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                return f"{errors.getvalue()}{end.code}"
        except Exception:
            return errors.getvalue() + traceback.format_exc()
        finally:
            if "torch._dynamo" in sys.modules:
                sys.modules["torch._dynamo"].reset()
    return ""


if __name__ == "__main__":
    serve()
